//! Work of many users for a few threads, so that none of them waits for another's alone: users come
//! in turn, each with their own work in its order, and no user has more threads than are idle.

use parking_lot::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// The work that waits, and who works.
pub(super) struct Turns<T> {
    threads: usize,
    state: Mutex<State<T>>,
    changed: Condvar,
}

struct State<T> {
    waiting: HashMap<u32, VecDeque<T>>,
    /// Users with work that waits; the next one first.
    order: VecDeque<u32>,
    /// Threads at work, by user.
    busy: HashMap<u32, usize>,
}

/// Work that was begun; the thread counts as its user's until this is dropped.
pub(super) struct Turn<'a, T> {
    /// The work.
    pub(super) job: T,
    _place: Place<'a, T>,
}

struct Place<'a, T> {
    turns: &'a Turns<T>,
    uid: u32,
}

impl<T> Turns<T> {
    /// For that many threads.
    pub(super) fn new(threads: usize) -> Self {
        let state = State {
            waiting: HashMap::new(),
            order: VecDeque::new(),
            busy: HashMap::new(),
        };
        Self {
            threads,
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Adds work of a user.
    pub(super) fn push(&self, uid: u32, job: T) {
        self.push_up_to(uid, job, usize::MAX);
    }

    /// Adds work of a user, unless so much of it waits already; `false` then.
    pub(super) fn push_up_to(&self, uid: u32, job: T, most: usize) -> bool {
        let mut state = self.state.lock();
        let theirs = state.waiting.entry(uid).or_default();
        if theirs.len() >= most {
            return false;
        }
        theirs.push_back(job);
        if theirs.len() == 1 {
            state.order.push_back(uid);
        }
        drop(state);
        self.changed.notify_one();
        true
    }

    /// The next work, if some comes within `patience` that a thread may be given to.
    pub(super) fn next(&self, patience: Duration) -> Option<Turn<'_, T>> {
        let end = Instant::now() + patience;
        let mut state = self.state.lock();
        loop {
            if let Some((uid, job)) = state.take(self.threads) {
                let _place = Place { turns: self, uid };
                return Some(Turn { job, _place });
            }
            if self.changed.wait_until(&mut state, end).timed_out() {
                return None;
            }
        }
    }
}

impl<T> State<T> {
    fn take(&mut self, threads: usize) -> Option<(u32, T)> {
        let working: usize = self.busy.values().sum();
        let idle = threads.saturating_sub(working);
        let has = |uid: &u32| self.busy.get(uid).copied().unwrap_or(0);
        let at = self.order.iter().position(|uid| has(uid) < idle)?;
        let uid = self.order.remove(at)?;
        let theirs = self.waiting.get_mut(&uid)?;
        let job = theirs.pop_front()?;
        if theirs.is_empty() {
            self.waiting.remove(&uid);
        } else {
            self.order.push_back(uid);
        }
        *self.busy.entry(uid).or_default() += 1;
        Some((uid, job))
    }
}

impl<T> Turn<'_, T> {
    /// Gives the work back; the thread is free for others.
    pub(super) fn end(self) -> T {
        self.job
    }
}

impl<T> Drop for Place<'_, T> {
    fn drop(&mut self) {
        let mut state = self.turns.state.lock();
        if let Some(count) = state.busy.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                state.busy.remove(&self.uid);
            }
        }
        drop(state);
        self.turns.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::ZERO;

    #[test]
    fn one_users_walks_leave_threads_to_others() {
        let turns = Turns::new(4);
        for job in 0..10 {
            turns.push(1, job);
        }
        let first = turns.next(NOW).unwrap();
        let second = turns.next(NOW).unwrap();
        assert_eq!((first.job, second.job), (0, 1));
        assert!(turns.next(NOW).is_none(), "two threads are kept for others");
        turns.push(2, 20);
        turns.push(3, 30);
        let third = turns.next(NOW).unwrap();
        assert_eq!(third.job, 20);
        let fourth = turns.next(NOW).unwrap();
        assert_eq!(fourth.job, 30);
        assert_eq!(first.end(), 0);
        assert!(turns.next(NOW).is_none(), "one idle, and this user has one");
        drop((third, fourth));
        assert_eq!(turns.next(NOW).unwrap().job, 2);
    }

    #[test]
    fn users_come_in_turn_and_nothing_is_left_behind() {
        let turns = Turns::new(1);
        for job in [10, 11, 12] {
            turns.push(1, job);
        }
        turns.push(2, 20);
        let order: Vec<i32> =
            std::iter::from_fn(|| turns.next(NOW).map(|turn| turn.end())).collect();
        assert_eq!(order, [10, 20, 11, 12]);
        let state = turns.state.lock();
        assert!(state.waiting.is_empty() && state.order.is_empty() && state.busy.is_empty());
    }

    #[test]
    fn what_may_wait_is_bounded_for_each() {
        let turns = Turns::new(1);
        assert!(turns.push_up_to(1, (), 2) && turns.push_up_to(1, (), 2));
        assert!(!turns.push_up_to(1, (), 2));
        assert!(turns.push_up_to(2, (), 2));
    }
}
