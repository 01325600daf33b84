//! What of an error, or of a reason, a caller is told.
//!
//! Invariant: texts that come from below may name the backing directory, files by the names they
//! have by now, and what lies on tiers. Only who rules the instance reads those; others get the
//! word and one sentence for it.

use crate::error::Failure;
use crate::hsm::engine::EngineError;
use crate::server::control::ControlError;

/// A refusal is the engine's own words to its caller; whatever else failed is for the
/// administrator.
pub(super) fn error(why: EngineError, rules: bool) -> ControlError {
    let code = why.code();
    match why {
        EngineError::Refused {
            code,
            message,
            hint,
        } => ControlError {
            code,
            message: reason(code, message, rules),
            hint,
        },
        other if rules => ControlError::new(code, other),
        other => {
            tracing::warn!(%other, "a call failed");
            ControlError::new(code, sentence(code)).hint("the instance's log says more")
        }
    }
}

/// A reason as it was written down. A text without a slash holds no path.
pub(super) fn reason(code: Failure, text: String, rules: bool) -> String {
    if rules || !text.contains('/') {
        text
    } else {
        sentence(code).to_owned()
    }
}

/// As [`reason`], of a word that was written down, too.
pub(super) fn written(code: &str, text: &str, rules: bool) -> String {
    let code = Failure::parse(code).unwrap_or(Failure::Internal);
    reason(code, text.to_owned(), rules)
}

/// What went wrong, without naming anything.
const fn sentence(code: Failure) -> &'static str {
    match code {
        Failure::NoGoodCopy => "no good copy is left",
        Failure::Conflict => "somebody wrote into the released file around the mount",
        Failure::Foreign => "it carries the stub of another file: it was copied or restored",
        Failure::Lost => "no copy is known",
        Failure::TierUnavailable => "the tier does not answer",
        Failure::CartridgeAbsent => "the cartridge is not in the library",
        Failure::TimedOut => "it took too long",
        Failure::OverBudget => "too much of yours is under way",
        Failure::NoSpace => "there is no room",
        Failure::QuotaExceeded => "its owner's quota is used up",
        Failure::NotPermitted => "you may not",
        Failure::NotFound => "it is gone",
        Failure::Exists => "the name is taken",
        Failure::NotAFile => "it is no regular file",
        Failure::Busy => "it is in use",
        Failure::Changed => "it changed meanwhile",
        Failure::Interrupted => "it was interrupted",
        Failure::Cancelled => "it was cancelled",
        Failure::Usage => "that cannot be asked for",
        Failure::NoInstance => "the instance is ending",
        Failure::AlreadyRunning => "another instance has it",
        Failure::Newer => "a newer Cairn wrote it",
        Failure::Internal => "a step failed inside Cairn",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p15_texts_with_paths_are_for_who_rules_alone() {
        let io = || EngineError::Io {
            step: "open /srv/.cairn-data/backing/secret/plan.txt",
            source: std::io::ErrorKind::Other.into(),
        };
        assert!(error(io(), true).message.contains("secret/plan.txt"));
        let told = error(io(), false);
        assert_eq!(told.message, "a step failed inside Cairn");
        let refused = |message: &str| EngineError::Refused {
            code: Failure::Busy,
            message: message.to_owned(),
            hint: None,
        };
        assert_eq!(error(refused("pinned"), false).message, "pinned");
        assert_eq!(
            error(refused("/a/b is open"), false).message,
            "it is in use"
        );
        assert_eq!(
            written("lost", "secret/plan.txt has no copy", false),
            "no copy is known"
        );
        for code in Failure::ALL {
            assert!(!sentence(code).contains('/'), "{code:?}");
        }
    }
}
