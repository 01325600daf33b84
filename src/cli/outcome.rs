//! What a command exits with when some files failed.

use crate::error::Failure;
use crate::server::wire::{Problem, RequestState, RequestView};

/// All was done, or accepted.
pub(crate) const OK: u8 = 0;
/// Some files failed.
pub(crate) const SOME_FAILED: u8 = 1;
/// Still running.
pub(crate) const STILL_RUNNING: u8 = 4;

/// For failed files of which `others` were not: the failures' own code if nothing else happened
/// and they agree, else [`SOME_FAILED`].
pub(crate) fn of_problems<'a>(problems: impl IntoIterator<Item = &'a str>, others: bool) -> u8 {
    let code = |name: &str| {
        Failure::parse(name)
            .unwrap_or(Failure::Internal)
            .exit_code()
    };
    let mut codes = problems.into_iter().map(code);
    match codes.next() {
        None => OK,
        Some(first) if !others && codes.all(|c| c == first) => first,
        Some(_) => SOME_FAILED,
    }
}

/// For a request that is final.
pub(crate) fn of_request(view: &RequestView, not_handed_over: &[Problem]) -> u8 {
    let problems = view
        .problems
        .iter()
        .chain(not_handed_over)
        .map(|p| p.code.as_str());
    match view.state {
        RequestState::Done => of_problems(problems, view.files_done > 0),
        RequestState::Failed => match of_problems(problems, view.files_done > 0) {
            OK => SOME_FAILED,
            code => code,
        },
        RequestState::Cancelled => SOME_FAILED,
        RequestState::Queued | RequestState::Running => STILL_RUNNING,
    }
}

/// For two requests that were waited for together: what is still running counts most, then that
/// something failed.
pub(crate) fn together(one: u8, other: u8) -> u8 {
    match (one, other) {
        (STILL_RUNNING, _) | (_, STILL_RUNNING) => STILL_RUNNING,
        _ if one == other => one,
        _ => SOME_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_that_agree_give_their_code_unless_something_was_done() {
        assert_eq!(of_problems([], true), 0);
        assert_eq!(of_problems(["not-permitted", "not-permitted"], false), 5);
        assert_eq!(of_problems(["not-permitted"], true), 1);
        assert_eq!(of_problems(["not-permitted", "tier-unavailable"], false), 1);
        assert_eq!(
            of_problems(["tier-unavailable", "cartridge-absent"], false),
            6
        );
        assert_eq!(of_problems(["what is this"], false), 1);
    }

    #[test]
    fn several_requests_end_as_the_one_to_act_on() {
        assert_eq!(together(OK, OK), OK);
        assert_eq!(together(6, 6), 6);
        assert_eq!(together(6, OK), SOME_FAILED);
        assert_eq!(together(STILL_RUNNING, 6), STILL_RUNNING);
    }
}
