//! P13: when the backing is nearly full, opens for writing wait while releases make room.
//!
//! Invariants:
//! - An open waits only while there is hope: something is being released, or was asked for a moment
//!   ago; and never longer than the patience that was set. Then it goes on, and meets what it meets.
//! - Who waits is told exactly once, unless they gave up; never under a lock.

use crate::config::Percent;
use cairn_fuse::{WaitDone, WaitToken};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long an emergency holds opens back when nothing is seen to be released.
const HOPE: Duration = Duration::from_secs(10);
/// Set in the tokens of this room, so that they are none of the recaller's.
const OURS: u64 = 1 << 63;

/// How full a filesystem is, as `df` counts: room that users cannot have is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes taken.
    pub used: u64,
    /// Bytes that users can still take.
    pub room: u64,
}

/// What is to be done with opens for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They go on.
    Open,
    /// They wait.
    Hold,
}

/// Decides whether there is an emergency. No clock, no filesystem.
#[derive(Debug)]
pub struct Emergency {
    mark: Percent,
    /// While it is on: when it began, or something was last seen to be released.
    hope: Option<Instant>,
}

impl Emergency {
    /// Begins below the mark: a share of what users can have in all.
    #[must_use]
    pub fn new(mark: Percent) -> Self {
        Self { mark, hope: None }
    }

    /// Is the filesystem above the mark? Once it was, until one percent below it.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.hope.is_some()
    }

    /// Takes note of how full it is now, and of whether something is being released.
    pub fn hear(&mut self, space: Space, releasing: bool, now: Instant) -> Verdict {
        let total = space.used.saturating_add(space.room);
        let above = total > 0 && space.used >= self.mark.of(total);
        let below = Percent::new(self.mark.get() - 1)
            .map_or(space.used == 0, |lower| space.used < lower.of(total));
        match self.hope {
            None if above => self.hope = Some(now),
            Some(_) if below => self.hope = None,
            Some(_) if releasing => self.hope = Some(now),
            _ => {}
        }
        match self.hope {
            Some(hope) if now.saturating_duration_since(hope) < HOPE => Verdict::Hold,
            _ => Verdict::Open,
        }
    }
}

struct Waiting {
    token: u64,
    until: Instant,
    done: WaitDone,
}

#[derive(Default)]
struct Waits {
    last: u64,
    list: Vec<Waiting>,
}

/// Where opens for writing wait.
pub struct Room {
    held: AtomicBool,
    patience: Duration,
    waits: Mutex<Waits>,
}

impl Room {
    /// Nobody waits longer than `patience`; zero: nobody waits at all.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            held: AtomicBool::new(false),
            patience,
            waits: Mutex::default(),
        }
    }

    /// May opens for writing go on at once?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.patience.is_zero() || !self.held.load(Ordering::Acquire)
    }

    /// Calls `done` when opens may go on, or when patience is over; perhaps before this returns.
    pub fn wait(&self, done: WaitDone) -> WaitToken {
        let mut waits = self.waits.lock();
        waits.last += 1;
        let token = OURS | waits.last;
        // Asked under the lock that whoever opens the room takes afterwards: nobody is forgotten.
        if self.is_open() {
            drop(waits);
            done(Ok(()));
        } else {
            let until = Instant::now() + self.patience;
            waits.list.push(Waiting { token, until, done });
        }
        WaitToken(token)
    }

    /// Forgets a wait. `false`: the token is not of this room.
    pub fn give_up(&self, token: WaitToken) -> bool {
        if token.0 & OURS == 0 {
            return false;
        }
        self.waits.lock().list.retain(|w| w.token != token.0);
        true
    }

    /// How many wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waits.lock().list.len()
    }

    /// Acts on a verdict, and lets go on whose patience is over at `now`.
    pub fn tell(&self, verdict: Verdict, now: Instant) {
        self.held.store(verdict == Verdict::Hold, Ordering::Release);
        let go: Vec<Waiting> = {
            let mut waits = self.waits.lock();
            let all = verdict == Verdict::Open;
            waits
                .list
                .extract_if(.., |w| all || w.until <= now)
                .collect()
        };
        for waiting in go {
            (waiting.done)(Ok(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    fn emergency() -> Emergency {
        Emergency::new(Percent::new(97).unwrap())
    }

    fn space(used: u64) -> Space {
        Space {
            used,
            room: 1000 - used,
        }
    }

    #[test]
    fn between_the_mark_and_one_percent_below_it_nothing_changes() {
        let (mut emergency, now) = (emergency(), Instant::now());
        let mut hear = |used| emergency.hear(space(used), true, now);
        assert_eq!(hear(965), Verdict::Open);
        assert_eq!(hear(970), Verdict::Hold);
        assert_eq!(hear(965), Verdict::Hold);
        assert_eq!(hear(959), Verdict::Open);
        assert_eq!(hear(965), Verdict::Open);
    }

    #[test]
    fn without_hope_nobody_is_held() {
        let (mut emergency, now) = (emergency(), Instant::now());
        assert_eq!(emergency.hear(space(980), false, now), Verdict::Hold);
        let later = now + HOPE;
        assert_eq!(emergency.hear(space(980), false, later), Verdict::Open);
        assert!(emergency.is_on());
        assert_eq!(emergency.hear(space(980), true, later), Verdict::Hold);
    }

    #[test]
    fn what_users_cannot_have_counts_as_taken() {
        let reserved = Space { used: 950, room: 0 };
        assert_eq!(
            emergency().hear(reserved, true, Instant::now()),
            Verdict::Hold
        );
        let empty = Space { used: 0, room: 0 };
        assert_eq!(emergency().hear(empty, true, Instant::now()), Verdict::Open);
    }

    fn counted(room: &Room, told: &Arc<AtomicU32>) -> WaitToken {
        let told = told.clone();
        room.wait(Box::new(move |result| {
            assert!(result.is_ok());
            told.fetch_add(1, Ordering::Relaxed);
        }))
    }

    #[test]
    fn who_waits_goes_on_when_there_is_room_and_once_alone() {
        let (room, told) = (Room::new(Duration::from_secs(60)), Arc::default());
        let now = Instant::now();
        room.tell(Verdict::Hold, now);
        assert!(!room.is_open());
        counted(&room, &told);
        let gone = counted(&room, &told);
        assert!(room.give_up(gone) && !room.give_up(WaitToken(1)));
        room.tell(Verdict::Hold, now);
        assert_eq!((told.load(Ordering::Relaxed), room.waiting()), (0, 1));
        room.tell(Verdict::Open, now);
        room.tell(Verdict::Open, now);
        assert_eq!((told.load(Ordering::Relaxed), room.waiting()), (1, 0));
        counted(&room, &told);
        assert_eq!(told.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn patience_ends() {
        let (room, told) = (Room::new(Duration::from_secs(60)), Arc::default());
        let now = Instant::now();
        room.tell(Verdict::Hold, now);
        counted(&room, &told);
        room.tell(Verdict::Hold, now + Duration::from_secs(3600));
        assert_eq!((told.load(Ordering::Relaxed), room.waiting()), (1, 0));
        let none = Room::new(Duration::ZERO);
        none.tell(Verdict::Hold, now);
        assert!(none.is_open());
    }
}
