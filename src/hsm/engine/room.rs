//! How full the filesystems are: the emergency mark of the backing, and the ballast (P13).

use super::Shared;
use crate::catalog::Class;
use crate::hsm::ballast::Ballast;
use crate::hsm::emergency::{Emergency, Space, Verdict};
use rustix::fs::StatVfs;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the filesystems are asked.
const LOOK: Duration = Duration::from_millis(250);
/// How often releases are called for while the emergency lasts, and ballast is laid again.
const AGAIN: Duration = Duration::from_secs(5);
/// With less room on its filesystem than this the catalog's log gets the ballast.
const LOG: u64 = 4 << 20;
/// The backing's ballast is at most this share of it.
const SHARE: u64 = 100;

/// Room in reserve: for stubs and records in the backing, for the catalog's log beside it.
pub(super) struct Reserve {
    pub(super) backing: Ballast,
    pub(super) state: Ballast,
    /// The state directory.
    at: OwnedFd,
}

impl Reserve {
    /// Lays what there is room for. `size`: the setting.
    pub(super) fn lay(
        backing: std::os::fd::BorrowedFd<'_>,
        state: &crate::hsm::state_dir::StateDir,
        size: u64,
    ) -> std::io::Result<Self> {
        let at = OwnedFd::from(std::fs::File::open(state.path())?);
        let whole = rustix::fs::fstatvfs(backing)?;
        let share = whole.f_blocks.saturating_mul(whole.f_frsize) / SHARE;
        let reserve = Self {
            backing: Ballast::nameless(backing, size.min(share))?,
            state: state.ballast(size),
            at,
        };
        reserve.backing.lay(room(&whole))?;
        let beside = rustix::fs::fstatvfs(&reserve.at)?;
        reserve.state.lay(room(&beside))?;
        Ok(reserve)
    }
}

/// Gives up what an earlier process left of the state directory's ballast, if the disk is full: the
/// start itself needs room. `size`: the setting.
pub(super) fn make_way(state: &crate::hsm::state_dir::StateDir, size: u64) -> std::io::Result<()> {
    let stat = rustix::fs::statvfs(state.path())?;
    if room(&stat) < LOG.min(size) && state.ballast(size).give_up() {
        tracing::warn!("the state directory's disk is full: its ballast is given up");
    }
    Ok(())
}

fn room(stat: &StatVfs) -> u64 {
    stat.f_bavail.saturating_mul(stat.f_frsize)
}

fn space(stat: &StatVfs) -> Space {
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    Space {
        used: used.saturating_mul(stat.f_frsize),
        room: room(stat),
    }
}

/// The thread that looks, until the engine stops.
pub(super) fn work(shared: &Arc<Shared>) {
    let mut emergency = Emergency::new(shared.settings.emergency_mark);
    let mut called: Option<Instant> = None;
    while !shared.stopping() {
        let now = Instant::now();
        let due = called.is_none_or(|c| now.duration_since(c) >= AGAIN);
        let asked = rustix::fs::fstatvfs(shared.backing.root());
        heed(shared, &mut emergency, asked, due, now);
        tend_log(shared, due);
        if due {
            called = Some(now);
        }
        std::thread::sleep(LOOK);
    }
    shared.room.tell(Verdict::Open, Instant::now());
}

/// Acts on how full the backing is.
pub(super) fn heed(
    shared: &Shared,
    emergency: &mut Emergency,
    asked: rustix::io::Result<StatVfs>,
    due: bool,
    now: Instant,
) {
    let stat = match asked {
        Ok(stat) => stat,
        Err(why) => {
            tracing::warn!(%why, "how full the backing is cannot be found out");
            // Nobody waits for what nobody sees.
            shared.room.tell(Verdict::Open, now);
            return;
        }
    };
    let was = emergency.is_on();
    let releasing = was && is_releasing(shared);
    let verdict = emergency.hear(space(&stat), releasing, now);
    if emergency.is_on() && (due || !was) {
        call_for_releases(shared, was);
    }
    let held = verdict == Verdict::Hold && shared.release_allowed().is_ok();
    let verdict = if held { verdict } else { Verdict::Open };
    shared.room.tell(verdict, now);
    if !emergency.is_on() && due {
        lay(&shared.reserve.backing, room(&stat), "the backing");
    }
}

/// Policy looks at its triggers at once: a watermark lies below the emergency mark.
fn call_for_releases(shared: &Shared, again: bool) {
    if !again {
        tracing::warn!(
            "the backing is above the emergency mark: opens for writing wait for releases"
        );
    }
    shared.bell.ring();
}

pub(super) fn is_releasing(shared: &Shared) -> bool {
    let counted = shared.catalog.status(1).map(|snapshot| {
        let mut classes = snapshot.backlog.iter();
        let release = classes.find(|b| b.class == Class::Release);
        // One that waits is tried again soon: somebody had the file open.
        release.map_or(0, |b| b.queued.files + b.running.files + b.waiting.files)
    });
    counted.is_ok_and(|files| files > 0)
}

fn tend_log(shared: &Shared, due: bool) {
    let reserve = &shared.reserve;
    let Ok(stat) = rustix::fs::fstatvfs(reserve.at.as_fd()) else {
        return;
    };
    let room = room(&stat);
    if room < LOG.min(reserve.state.size()) {
        if reserve.state.give_up() {
            tracing::warn!("the state directory's disk is full: its ballast is given up");
        }
    } else if due {
        lay(&reserve.state, room, "the state directory");
    }
}

fn lay(ballast: &Ballast, room: u64, place: &str) {
    if let Err(why) = ballast.lay(room) {
        tracing::warn!(%why, place, "no ballast could be laid");
    }
}
