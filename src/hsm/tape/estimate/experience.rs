//! What waits came to beside what the queue, played forward, had said: the part of a wait that those bring who
//! come later and go before.
//!
//! That part cannot be seen in the queue, but it is much the same from one hour to the next. So what was foretold is
//! compared with what it came to, for readers and for other work apart, and what is told is corrected by a line through the
//! logarithms of both, in which what was learned long ago counts less and less. Only waits that are over are learned
//! from; with none, nothing is corrected.

use super::Moment;
use crate::hsm::tape::queue::Urgency;
use std::time::Duration;

/// After so long a wait that was learned from counts half.
const HALF_LIFE: Duration = Duration::from_secs(20 * 60);
/// Waits that the line without correction counts as, for its level and for its slope.
const PRIOR: (f64, f64) = (5.0, 50.0);
/// A wait is longer or shorter than foretold by this factor at most, as far as is learned from it.
const MOST: f64 = 8.0;
/// Where the line has its level.
const MIDDLE: f64 = 600.0;

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Experience {
    readers: Line,
    work: Line,
}

/// Sums of what was learned, weighed by age: `x` is the logarithm of what was foretold, `y` that of what it came to, as a
/// multiple of that.
#[derive(Debug, Clone, Default)]
struct Line {
    at: Moment,
    n: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

impl Experience {
    fn line(&self, urgency: Urgency) -> &Line {
        match urgency {
            Urgency::Reader => &self.readers,
            Urgency::Work => &self.work,
        }
    }

    /// At `now` a wait was over, for which `foretold` (uncorrected) was left when it began.
    pub fn learn(&mut self, urgency: Urgency, foretold: Duration, waited: Duration, now: Moment) {
        let line = match urgency {
            Urgency::Reader => &mut self.readers,
            Urgency::Work => &mut self.work,
        };
        line.learn(foretold.as_secs_f64(), waited.as_secs_f64(), now);
    }

    /// What is to be told where the queue alone foretells this. More is never told for less.
    #[must_use]
    pub fn correct(&self, urgency: Urgency, foretold: Duration) -> Duration {
        let factor = self.line(urgency).factor(foretold.as_secs_f64());
        foretold.mul_f64(factor)
    }
}

fn logarithm(foretold: f64) -> f64 {
    (foretold.max(1.0) / MIDDLE).ln()
}

impl Line {
    fn learn(&mut self, foretold: f64, waited: f64, now: Moment) {
        let age = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        let keep = 0.5_f64.powf(age / HALF_LIFE.as_secs_f64());
        let x = logarithm(foretold);
        let y = (waited.max(1.0) / foretold.max(1.0))
            .clamp(1.0 / MOST, MOST)
            .ln();
        let sums = [
            &mut self.n,
            &mut self.x,
            &mut self.y,
            &mut self.xx,
            &mut self.xy,
        ];
        for (sum, new) in sums.into_iter().zip([1.0, x, y, x * x, x * y]) {
            *sum = *sum * keep + new;
        }
    }

    /// Level and slope of the line that misses least, drawn towards no correction at all.
    fn fit(&self) -> (f64, f64) {
        let (n, xx) = (self.n + PRIOR.0, self.xx + PRIOR.1);
        // Above 0, because of the prior.
        let determinant = n * xx - self.x * self.x;
        let level = (self.y * xx - self.x * self.xy) / determinant;
        let slope = (n * self.xy - self.x * self.y) / determinant;
        // Steeper downwards, and more would be told for less.
        (level, slope.clamp(-0.9, 0.9))
    }

    fn factor(&self, foretold: f64) -> f64 {
        let (level, slope) = self.fit();
        (level + slope * logarithm(foretold))
            .exp()
            .clamp(1.0 / MOST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// So many waits, one a minute, that took `waited` times what was foretold.
    fn learned(experience: &mut Experience, from: u32, waits: u32, waited: f64) {
        for n in from..from + waits {
            let foretold = MINUTE * (1 + n * 7 % 50);
            experience.learn(
                Urgency::Reader,
                foretold,
                foretold.mul_f64(waited),
                MINUTE * n,
            );
        }
    }

    fn factor(experience: &Experience, foretold: Duration) -> f64 {
        let told = experience.correct(Urgency::Reader, foretold);
        told.as_secs_f64() / foretold.as_secs_f64()
    }

    #[test]
    fn what_was_never_learned_is_not_corrected() {
        let mut experience = Experience::default();
        learned(&mut experience, 0, 100, 2.0);
        let told = experience.correct(Urgency::Work, MINUTE * 30);
        assert_eq!(told, MINUTE * 30, "readers teach nothing about other work");
    }

    #[test]
    fn waits_that_take_twice_as_long_are_told_so_and_forgotten_when_that_is_over() {
        let mut experience = Experience::default();
        learned(&mut experience, 0, 200, 2.0);
        for minutes in [2, 10, 60, 240] {
            let factor = factor(&experience, MINUTE * minutes);
            assert!((1.6..2.1).contains(&factor), "{minutes}: {factor}");
        }
        learned(&mut experience, 200, 200, 1.0);
        let factor = factor(&experience, MINUTE * 10);
        assert!((0.95..1.05).contains(&factor), "{factor}");
    }

    #[test]
    fn one_odd_wait_moves_little() {
        let mut experience = Experience::default();
        experience.learn(Urgency::Reader, MINUTE * 10, MINUTE * 10_000, MINUTE);
        assert!(factor(&experience, MINUTE * 10) < 1.5);
        experience.learn(Urgency::Reader, Duration::ZERO, Duration::ZERO, MINUTE * 2);
        assert!(factor(&experience, MINUTE * 10) < 1.5);
    }

    #[test]
    fn more_is_never_told_for_less() {
        let mut experience = Experience::default();
        // What is near took eight times as long, what is far an eighth.
        for n in 0..500 {
            let (foretold, waited) = if n % 2 == 0 { (2, 16) } else { (400, 50) };
            experience.learn(
                Urgency::Reader,
                MINUTE * foretold,
                MINUTE * waited,
                MINUTE * n,
            );
        }
        assert!(factor(&experience, MINUTE * 2) > 2.0);
        assert!(factor(&experience, MINUTE * 400) < 0.5);
        let told: Vec<_> = (1..2000)
            .map(|minutes| experience.correct(Urgency::Reader, MINUTE * minutes))
            .collect();
        assert!(told.is_sorted());
    }
}
