//! Three clocks for the timing model: real time, time that runs so many times faster, and virtual
//! time that nobody waits for.
//!
//! A [`Pacer`] charges what an operation takes, one for each drive: drives run beside each other, so
//! their virtual times do too. It sleeps when a little is owed, not for every block of a stream.

use crate::tier::clock::{Clock, SystemClock};
use parking_lot::Mutex;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// How fast the model's seconds pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Speed {
    /// So many times as fast as a real drive: above 0; 1 is real time.
    Times(f64),
    /// Nobody waits; seconds are only counted.
    Max,
}

/// Text that is no speed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no speed: a number from 0.01 to 1000000, or max")]
pub struct SpeedError {
    /// What stood there.
    pub text: String,
}

impl FromStr for Speed {
    type Err = SpeedError;
    fn from_str(text: &str) -> Result<Self, SpeedError> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse() {
            Ok(times) if (0.01..=1e6).contains(&times) => Ok(Self::Times(times)),
            _ => Err(SpeedError {
                text: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Times(times) => write!(f, "{times}"),
            Self::Max => f.write_str("max"),
        }
    }
}

/// Another clock, so many times faster.
pub struct ScaledClock {
    inner: Arc<dyn Clock>,
    times: f64,
}

impl ScaledClock {
    /// `times` must be above 0.
    #[must_use]
    pub fn new(inner: Arc<dyn Clock>, times: f64) -> Self {
        Self { inner, times }
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Duration {
        seconds(self.inner.now().as_secs_f64() * self.times)
    }
    fn sleep(&self, time: Duration) {
        self.inner.sleep(seconds(time.as_secs_f64() / self.times));
    }
}

/// A clock that moves only when somebody sleeps on it, and then at once.
#[derive(Debug, Default)]
pub struct SimulatedClock {
    now: Mutex<Duration>,
}

impl Clock for SimulatedClock {
    fn now(&self) -> Duration {
        *self.now.lock()
    }
    fn sleep(&self, time: Duration) {
        let mut now = self.now.lock();
        *now = now.saturating_add(time);
    }
}

impl Speed {
    /// A clock of this speed.
    #[must_use]
    pub fn clock(self) -> Arc<dyn Clock> {
        match self {
            Self::Times(times) => {
                Arc::new(ScaledClock::new(Arc::new(SystemClock::default()), times))
            }
            Self::Max => Arc::new(SimulatedClock::default()),
        }
    }
}

/// What is owed is slept for when it reaches this much of the model's time.
const OWED: Duration = Duration::from_millis(20);

/// Charges one drive's operations to its clock.
pub struct Pacer {
    clock: Arc<dyn Clock>,
    /// When the drive is through with what was charged.
    through: Duration,
    charged: Duration,
}

impl Pacer {
    /// A drive that is idle now.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            through: clock.now(),
            clock,
            charged: Duration::ZERO,
        }
    }

    /// The drive is busy for so many seconds; the caller waits until it is nearly through.
    pub fn charge(&mut self, time: f64) {
        let time = seconds(time);
        self.charged = self.charged.saturating_add(time);
        let now = self.clock.now();
        self.through = self.through.max(now).saturating_add(time);
        let owed = self.through.saturating_sub(now);
        if owed >= OWED {
            self.clock.sleep(owed);
        }
    }

    /// All that was charged: how long the drive was busy.
    #[must_use]
    pub fn charged(&self) -> Duration {
        self.charged
    }
}

/// Seconds of the model as a duration; nothing for what is no time.
fn seconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time.max(0.0)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::clock::VirtualClock;

    #[test]
    fn speeds_print_and_parse_back() {
        for text in ["max", "1", "100", "0.5", "1000000"] {
            assert_eq!(text.parse::<Speed>().expect(text).to_string(), text);
        }
        for text in ["", "0", "-1", "NaN", "inf", "fast", "1e9"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_scaled_clock_sleeps_less_and_shows_more() {
        let below = Arc::new(VirtualClock::default());
        let clock = ScaledClock::new(below.clone(), 100.0);
        clock.sleep(Duration::from_secs(60));
        assert_eq!(below.sleeps(), [Duration::from_millis(600)]);
        assert_eq!(clock.now(), Duration::from_secs(60));
    }

    #[test]
    fn a_pacer_charges_all_and_sleeps_in_pieces_worth_it() {
        let clock = Arc::new(VirtualClock::default());
        let mut pacer = Pacer::new(clock.clone());
        for _ in 0..100 {
            pacer.charge(0.001);
        }
        assert_eq!(pacer.charged(), Duration::from_millis(100));
        assert_eq!(clock.sleeps(), [OWED; 5]);
        pacer.charge(90.0);
        assert_eq!(clock.now(), Duration::from_millis(90_100));
        pacer.charge(f64::NAN);
        pacer.charge(-1.0);
        assert_eq!(pacer.charged(), Duration::from_millis(90_100));
    }
}
