//! How many streams pay: a policy over measured rates, without I/O and without a clock.
//!
//! It doubles the streams while that brings a gain, goes back to the fewest that brought it, and stays
//! there; it tries more again after a pause that grows, and starts over when the path has changed.
//!
//! Invariants kept here: the answer is from 1 to the most; between two tries the answer does not change.

use std::time::Duration;

/// Doubling must bring that much more to be kept.
const GAIN: f64 = 1.15;
/// The first pause before more streams are tried again; it doubles with each try that fails.
const PAUSE: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_secs(16 * 60);
/// A rate below this part of the best, as often as [`CHANGED`] says, is another path.
const FALLEN: f64 = 0.5;
const CHANGED: u32 = 3;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Climbing,
    Holding { until: Duration },
}

/// The policy of one transfer.
#[derive(Debug, Clone)]
pub struct Width {
    most: usize,
    now: usize,
    /// The fewest streams that brought the best rate so far, and that rate in bytes a second.
    best: Option<(usize, f64)>,
    phase: Phase,
    pause: Duration,
    fallen: u32,
}

impl Width {
    /// Begins with `first` streams; never more than `most`. Both at least 1.
    #[must_use]
    pub fn new(first: usize, most: usize) -> Self {
        let most = most.max(1);
        Self {
            most,
            now: first.clamp(1, most),
            best: None,
            phase: Phase::Climbing,
            pause: PAUSE,
            fallen: 0,
        }
    }

    /// How many streams there should be.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.now
    }

    /// `rate` bytes a second were measured with as many streams as it asked for, up to `now`. Answers how many there
    /// should be.
    pub fn measured(&mut self, rate: f64, now: Duration) -> usize {
        match self.phase {
            Phase::Climbing => self.climb(rate, now),
            Phase::Holding { until } => self.hold(rate, now, until),
        }
        self.now
    }

    fn climb(&mut self, rate: f64, now: Duration) {
        let gained = self.best.is_none_or(|(_, best)| rate >= best * GAIN);
        if gained {
            self.best = Some((self.now, rate));
            if self.now < self.most {
                self.now = (self.now * 2).min(self.most);
                return;
            }
        } else if let Some((streams, _)) = self.best {
            self.now = streams;
        }
        let until = now.saturating_add(self.pause);
        self.phase = Phase::Holding { until };
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn hold(&mut self, rate: f64, now: Duration, until: Duration) {
        let Some((streams, best)) = self.best else {
            self.phase = Phase::Climbing;
            return;
        };
        self.fallen = if rate < best * FALLEN {
            self.fallen + 1
        } else {
            0
        };
        if self.fallen >= CHANGED {
            *self = Self::new(streams, self.most);
            return;
        }
        // What is usual here, so that one lucky measure is not what all others are held against.
        self.best = Some((streams, best * 0.8 + rate * 0.2));
        if now >= until && self.now < self.most {
            self.now = (self.now * 2).min(self.most);
            self.phase = Phase::Climbing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A path on which each stream brings `each`, up to `all`, with noise of a few per cent.
    fn drive(width: &mut Width, each: f64, all: f64, noise: &[f64], from: u64) -> Vec<usize> {
        let measure = |(second, noise): (usize, &f64)| {
            let rate = (width.streams() as f64 * each).min(all) * noise;
            width.measured(rate, Duration::from_secs(from + second as u64))
        };
        noise.iter().enumerate().map(measure).collect()
    }

    proptest! {
        #[test]
        fn it_converges_and_stays(
            each in 1.0_f64..100.0,
            times in 1.0_f64..40.0,
            noise in proptest::collection::vec(0.97_f64..1.03, 600),
        ) {
            let mut width = Width::new(1, 32);
            let path = drive(&mut width, each, each * times, &noise, 0);
            // Enough to fill the path but for what is not worth a doubling, and not twice as many as that.
            let held = path[20];
            let reached = (held as f64).min(times);
            prop_assert!(reached * 1.25 >= times.min(32.0), "{held} of {times}");
            prop_assert!(held < 2 || (held as f64) < times * 2.0, "{held} of {times}");
            let changes = path[20..].windows(2).filter(|w| w[0] != w[1]).count();
            // Ten minutes hold at most four tries (30 s, 60 s, 120 s, 240 s), each up and back; one
            // that just pays goes up once more.
            prop_assert!(changes <= 10, "{changes} changes: {path:?}");
            prop_assert!(path.iter().all(|n| (1..=32).contains(n)));
        }
    }

    #[test]
    fn a_path_that_changed_is_climbed_anew() {
        let mut width = Width::new(1, 32);
        let steady = [1.0; 20];
        assert_eq!(drive(&mut width, 10.0, 40.0, &steady, 0)[19], 4);
        // Each stream is slower now, and all together are not.
        assert_eq!(drive(&mut width, 2.0, 30.0, &steady, 20)[19], 16);
    }

    #[test]
    fn more_than_there_may_be_are_not_asked_for() {
        let mut width = Width::new(9, 3);
        assert_eq!(width.streams(), 3);
        assert_eq!(width.measured(1.0, Duration::ZERO), 3);
        assert_eq!(Width::new(0, 0).streams(), 1);
    }
}
