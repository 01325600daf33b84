//! The queue that a job waits in, by whichever door it is reached: Slurm's commands, or slurmrestd.
//!
//! Invariant: a job counts as ended only by a word that says so, never because nothing is understood.

mod commands;
mod rest;

pub(super) use commands::{Commands, Submitted, Taken};
pub(super) use rest::{Door, Rest, TOKEN};

use super::super::CliError;
use super::waiter::Stand;
use std::ffi::OsString;

/// What a comment of ours begins with.
const OURS: &str = "cairn: ";
/// Longest comment, characters.
const LONGEST: usize = 250;

/// A way to the queue.
#[derive(Debug)]
pub(super) enum Queue {
    Slurm(Commands),
    Rest(Box<Rest>),
}

impl Queue {
    pub(super) fn stand(&self, job: &str) -> Result<Stand, CliError> {
        match self {
            Self::Slurm(slurm) => slurm.stand(job),
            Self::Rest(rest) => rest.stand(job),
        }
    }

    /// Lets the job run.
    pub(super) fn release(&self, job: &str) -> Result<(), CliError> {
        match self {
            Self::Slurm(slurm) => slurm.release(job),
            Self::Rest(rest) => rest.release(job),
        }
    }

    pub(super) fn cancel(&self, job: &str) -> Result<(), CliError> {
        match self {
            Self::Slurm(slurm) => slurm.cancel(job),
            Self::Rest(rest) => rest.cancel(job),
        }
    }

    /// Shows the text beside the job, if its user left the comment to us.
    pub(super) fn comment(&self, job: &str, text: &str) -> Result<(), CliError> {
        let there = match self {
            Self::Slurm(slurm) => slurm.commented(job)?,
            Self::Rest(rest) => rest.commented(job)?,
        };
        let there = there.trim();
        if !(there.is_empty() || there == "(null)" || there.starts_with(OURS)) {
            return Ok(());
        }
        let text = comment(text);
        match self {
            Self::Slurm(slurm) => slurm.comment(job, &text),
            Self::Rest(rest) => rest.comment(job, &text),
        }
    }

    /// What another process of this program needs to come to the same queue.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        match self {
            Self::Slurm(slurm) => slurm.arguments(),
            Self::Rest(rest) => rest.arguments(),
        }
    }
}

/// A text as a comment may be.
fn comment(text: &str) -> String {
    let plain = |c: char| match c {
        '"' | '\'' => ' ',
        c if c.is_control() => ' ',
        c => c,
    };
    let text = format!("{OURS}{text}");
    text.chars().take(LONGEST).map(plain).collect()
}

/// How one job (or one task of an array) stands, by Slurm's word for it.
fn stand_of(state: &str, priority: u64) -> Stand {
    match state {
        "PENDING" if priority == 0 => Stand::Held,
        "PENDING" | "REQUEUED" | "REQUEUE_FED" => Stand::Waits,
        "REQUEUE_HOLD" | "SPECIAL_EXIT" => Stand::Held,
        "BOOT_FAIL" | "CANCELLED" | "COMPLETED" | "DEADLINE" | "FAILED" | "NODE_FAIL"
        | "OUT_OF_MEMORY" | "PREEMPTED" | "TIMEOUT" | "REVOKED" | "LAUNCH_FAILED"
        | "RECONFIG_FAIL" => Stand::Ended,
        _ => Stand::Runs,
    }
}

/// All tasks together: over when all are, held when all that are left are.
fn together(stands: impl IntoIterator<Item = Stand>) -> Stand {
    let rank = |stand: &Stand| match stand {
        Stand::Unknown => 0,
        Stand::Ended => 1,
        Stand::Held => 2,
        Stand::Waits => 3,
        Stand::Runs => 4,
    };
    stands
        .into_iter()
        .max_by_key(rank)
        .unwrap_or(Stand::Unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_ended_only_by_a_word_that_says_so() {
        assert_eq!(stand_of("PENDING", 0), Stand::Held);
        assert_eq!(stand_of("PENDING", 7), Stand::Waits);
        for alive in ["RUNNING", "COMPLETING", "STAGE_OUT", "A_NEW_WORD", ""] {
            assert_eq!(stand_of(alive, 0), Stand::Runs, "{alive}");
        }
        for over in ["CANCELLED", "COMPLETED", "TIMEOUT"] {
            assert_eq!(stand_of(over, 7), Stand::Ended, "{over}");
        }
    }

    #[test]
    fn an_array_is_over_when_its_last_task_is() {
        use Stand::*;
        assert_eq!(together([Ended, Ended]), Ended);
        assert_eq!(together([Ended, Held]), Held);
        assert_eq!(together([Held, Waits]), Waits);
        assert_eq!(together([Runs, Waits, Ended]), Runs);
        assert_eq!(together([]), Unknown);
    }

    #[test]
    fn a_comment_is_one_short_line_without_quotes() {
        assert_eq!(comment("a\n'b' \"c\""), "cairn: a  b   c ");
        assert_eq!(comment(&"\u{e4}".repeat(1000)).chars().count(), LONGEST);
    }
}
