//! The verdict of `cairn status --check`.

use crate::config::units::shown::{counted, files, seconds};
use crate::server::wire::{Level, Status, TierHealth};
use std::fmt;

/// Exit code of "critical".
pub(super) const CRITICAL: u8 = 2;
/// Exit code of "cannot tell".
pub(super) const UNKNOWN: u8 = 3;

/// A recall that waits longer is worth a look, seconds.
const LONG_WAIT_S: u64 = 3600;
/// Longer yet: somebody must act.
const TOO_LONG_WAIT_S: u64 = 6 * 3600;
/// A changelog further behind is worth a look, seconds.
const LONG_LAG_S: u64 = 600;

/// How bad it is, and why.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The worst of the reasons.
    pub(super) level: Level,
    reasons: Vec<(Level, String)>,
}

/// Exit code by level.
pub(super) const fn exit_code(level: Level) -> u8 {
    match level {
        Level::Ok => 0,
        Level::Warning => 1,
        Level::Critical => CRITICAL,
    }
}

/// Judges a status.
pub(super) fn verdict(status: &Status) -> Verdict {
    let mut reasons: Vec<(Level, String)> = Vec::new();
    let mut add = |level, when: bool, reason: String| {
        if when {
            reasons.push((level, reason));
        }
    };
    let copies = &status.copies;
    add(
        Level::Critical,
        copies.lost > 0,
        format!("{} lost", files(copies.lost)),
    );
    add(
        Level::Critical,
        copies.conflict > 0,
        format!("{} in conflict", files(copies.conflict)),
    );
    add(
        Level::Warning,
        copies.foreign > 0,
        format!("{} with the stub of another", files(copies.foreign)),
    );
    for tier in &status.tiers {
        let level = match tier.state {
            TierHealth::Ok => Level::Ok,
            TierHealth::Full => Level::Warning,
            TierHealth::Unavailable => Level::Critical,
        };
        let reason = format!("tier {} is {}", tier.name, tier.state.as_str());
        add(level, level > Level::Ok, reason);
    }
    if let Some(oldest) = status.recalls.oldest_s {
        let level = if oldest > TOO_LONG_WAIT_S {
            Level::Critical
        } else {
            Level::Warning
        };
        let reason = format!("a recall has waited for {}", seconds(oldest));
        add(level, oldest > LONG_WAIT_S, reason);
    }
    let few = copies.fewer_than_asked;
    add(
        Level::Warning,
        few > 0,
        format!("{} with fewer copies than asked", files(few)),
    );
    if let Some(lag) = status.changelog.lag_s {
        let reason = format!("the changelog is {} behind", seconds(lag));
        add(Level::Warning, lag > LONG_LAG_S, reason);
    }
    let rescans = status.changelog.rescans;
    let reason = format!("{} to scan again", counted(rescans, "subtree"));
    add(Level::Warning, rescans > 0, reason);
    for warning in &status.warnings {
        let reason = format!("{}: {}", warning.code, warning.message);
        add(warning.level, warning.level > Level::Ok, reason);
    }
    reasons.sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    let level = reasons.first().map_or(Level::Ok, |(level, _)| *level);
    Verdict { level, reasons }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
        })?;
        let reasons: Vec<&str> = self
            .reasons
            .iter()
            .map(|(_, reason)| reason.as_str())
            .collect();
        if reasons.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", reasons.join("; "))
        }
    }
}
