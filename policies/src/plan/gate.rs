//! Whether a rule runs at all, and where it must stop.

use crate::facts::{RunInput, Select, Usage};
use crate::policy::{Rule, Trigger, Verb};
use crate::quantity::{ByteCount, Moment, Percent, rough_size, rough_span};
use serde::Serialize;

/// Why a rule takes no more, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Stop {
    /// No further file satisfies it.
    NothingLeft,
    /// Its limit of files, or [`crate::MOST_FILES`].
    FileLimit {
        /// The limit.
        files: u64,
    },
    /// Its limit of bytes.
    ByteLimit {
        /// The limit.
        bytes: ByteCount,
    },
    /// Usage is at or below its low mark.
    WatermarkReached {
        /// The low mark, in percent.
        low: Percent,
    },
    /// Usage is not above its high mark.
    BelowWatermark {
        /// The high mark, in percent.
        high: Percent,
    },
    /// The size of the filesystem is not known.
    UsageUnknown,
    /// Its timer has not run out.
    NotDue {
        /// When it will.
        next: Moment,
    },
    /// It runs only when named.
    Manual,
    /// It never runs.
    Never,
    /// Others were named.
    NotNamed,
    /// Releasing is not allowed now.
    NotAllowed {
        /// Why.
        reason: String,
    },
}

impl Stop {
    /// In words, as of `now` and this usage.
    #[must_use]
    pub fn say(&self, now: Moment, usage: Usage) -> String {
        match self {
            Self::NothingLeft => "nothing is left to take".to_owned(),
            Self::FileLimit { files } => format!("the limit of {files} files is reached"),
            Self::ByteLimit { bytes } => format!("the limit of {bytes} is reached"),
            Self::WatermarkReached { low } => format!("usage is at {low} or below"),
            Self::BelowWatermark { high } => {
                format!("it runs when usage is above {high} (now {})", share(usage))
            }
            Self::UsageUnknown => "the size of the filesystem is not known".to_owned(),
            Self::NotDue { next } => {
                format!("it runs again in {}", rough_span(now.wait_until(*next)))
            }
            Self::Manual => "it runs only when named".to_owned(),
            Self::Never => "it never runs".to_owned(),
            Self::NotNamed => "other rules were named".to_owned(),
            Self::NotAllowed { reason } => format!("nothing may be released: {reason}"),
        }
    }
}

/// Usage as a share, cut to tenths of a percent, or as bytes where the whole is not known.
pub(crate) fn share(usage: Usage) -> String {
    if usage.total.0 == 0 {
        return rough_size(usage.used);
    }
    let tenths = u128::from(usage.used.0) * 1000 / u128::from(usage.total.0);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Whether a rule runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It does not.
    Shut(Stop),
    /// It does; a watermark rule until this many bytes are in use.
    Open {
        /// High mark (passed over when the rule is named), low mark, usage at the start.
        marks: Option<(Option<Percent>, Percent, Usage)>,
    },
}

impl Gate {
    /// Most bytes that the rule can need: what lies above its low mark.
    pub(super) fn most_bytes(&self) -> Option<ByteCount> {
        match self {
            Self::Open {
                marks: Some((_, low, usage)),
            } => {
                let target = low.of(usage.total);
                Some(ByteCount(usage.used.0.saturating_sub(target.0)))
            }
            _ => None,
        }
    }

    /// Is it unnecessary at its turn, because rules before it made the room already?
    pub(super) fn stop_before(&self, usage: Usage) -> Option<Stop> {
        match self {
            Self::Open {
                marks: Some((Some(high), _, _)),
            } if !above(*high, usage) => Some(Stop::BelowWatermark { high: *high }),
            _ => self.stop_at(usage),
        }
    }

    /// Must it stop before it takes another file, at this usage?
    pub(super) fn stop_at(&self, usage: Usage) -> Option<Stop> {
        match self {
            Self::Shut(stop) => Some(stop.clone()),
            Self::Open {
                marks: Some((_, low, _)),
            } if usage.used <= low.of(usage.total) => Some(Stop::WatermarkReached { low: *low }),
            Self::Open { .. } => None,
        }
    }
}

/// Is usage above this mark?
fn above(mark: Percent, usage: Usage) -> bool {
    u128::from(usage.used.0) * 10_000 > u128::from(usage.total.0) * u128::from(mark.hundredths())
}

/// Whether `rule` runs in this run.
pub(crate) fn gate(rule: &Rule, input: &RunInput) -> Gate {
    let named = match &input.select {
        Select::Named(names) if !names.contains(&rule.name) => return Gate::Shut(Stop::NotNamed),
        Select::Named(_) => true,
        Select::Due(_) => false,
    };
    if rule.trigger == Trigger::Never {
        return Gate::Shut(Stop::Never);
    }
    if let (Verb::Release, Err(reason)) = (rule.verb, &input.release_allowed) {
        let reason = reason.clone();
        return Gate::Shut(Stop::NotAllowed { reason });
    }
    match (rule.trigger, &input.select) {
        (Trigger::Watermark { .. }, _) if input.usage.total.0 == 0 => {
            Gate::Shut(Stop::UsageUnknown)
        }
        (Trigger::Watermark { high, .. }, _) if !named && !above(high, input.usage) => {
            Gate::Shut(Stop::BelowWatermark { high })
        }
        (Trigger::Watermark { high, low }, _) => Gate::Open {
            marks: Some(((!named).then_some(high), low, input.usage)),
        },
        (Trigger::Manual, _) if !named => Gate::Shut(Stop::Manual),
        (Trigger::Every(span), Select::Due(last_runs)) => {
            let next = last_runs.get(&rule.name).map(|last| last.after(span));
            match next.filter(|next| *next > input.now) {
                Some(next) => Gate::Shut(Stop::NotDue { next }),
                None => Gate::Open { marks: None },
            }
        }
        (Trigger::Every(_) | Trigger::Manual | Trigger::Never, _) => Gate::Open { marks: None },
    }
}
