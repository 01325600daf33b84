//! What happens at a point.

use crate::point::{Class, Point};
use crate::seccomp::{Answer, Asked};
use std::fmt;

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fault {
    /// The call fails with this error, once.
    Fails(i32),
    /// The same, and when the work has ended the power goes: what a failed sync did not write is
    /// gone.
    FailsThenPower(i32),
    /// kill -9 before the call.
    Crash,
    /// All disks stop before the call, at one instant, with nothing flushed.
    Power,
}

impl Fault {
    /// Those that make sense at this point.
    pub(crate) fn at(point: &Point) -> Vec<Self> {
        let mut all = vec![Self::Fails(libc::EIO), Self::Crash, Self::Power];
        if point.takes_room() {
            all.push(Self::Fails(libc::ENOSPC));
            // The backing is where owners have quotas.
            if point.class == Class::Backing {
                all.push(Self::Fails(libc::EDQUOT));
            }
        }
        if point.is_sync() {
            all.push(Self::FailsThenPower(libc::EIO));
        }
        all
    }

    /// Does the process live on?
    pub(crate) fn is_survived(self) -> bool {
        matches!(self, Self::Fails(_) | Self::FailsThenPower(_))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |errno: i32| match errno {
            libc::EIO => "EIO",
            libc::ENOSPC => "ENOSPC",
            libc::EDQUOT => "EDQUOT",
            _ => "an error",
        };
        match self {
            Self::Fails(errno) => f.write_str(name(*errno)),
            Self::FailsThenPower(errno) => write!(f, "{}, then power loss", name(*errno)),
            Self::Crash => f.write_str("crash"),
            Self::Power => f.write_str("power loss"),
        }
    }
}

/// Answers a call without making it, if it likes.
pub(crate) type Lie = Box<dyn FnMut(&Point, &Asked) -> Option<Answer> + Send>;

/// What the supervisor is told to do.
pub(crate) enum Aim {
    /// To count.
    Count,
    /// To strike at the n-th point, counted from 1.
    At { n: u64, fault: Fault },
    /// To answer some calls without making them: the negative controls, and named finds.
    Lie(Lie),
}

impl fmt::Debug for Aim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count => f.write_str("count"),
            Self::At { n, fault } => write!(f, "{fault} at {n}"),
            Self::Lie(_) => f.write_str("lie"),
        }
    }
}
