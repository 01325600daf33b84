//! The end of a job: its staging ends and its pins go, also if Cairn is down just then.

use super::super::output::Output;
use super::super::{CliError, Session, outcome};
use super::{Places, Scheduled, view, with_slurm};
use crate::client::ClientError;
use crate::config::units::shown::counted;
use crate::config::units::{format_duration, parse_duration};
use crate::error::Failure;
use crate::server::wire::{JobAct, JobHeld, JobOrder};
use clap::Args;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long it is waited between two looks for an instance.
const AWAY: Duration = Duration::from_secs(1);

/// Arguments of `job release`.
#[derive(Debug, Args)]
pub(super) struct Release {
    /// The job.
    job: String,
    #[command(flatten)]
    places: Places,
    /// Wait for so long (90s, 2h) for an instance that does not answer.
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Not now: what it holds ends after so long (90s, 2h), unless it is staged again.
    #[arg(long = "in", value_name = "DUR", value_parser = parse_duration)]
    later: Option<Duration>,
    #[command(flatten)]
    scheduled: Scheduled,
}

impl Release {
    pub(super) fn run(&self, session: &Session) -> Result<u8, CliError> {
        if self.scheduled.slurm {
            let option = |name: &str, time: Option<Duration>| {
                time.map(|time| [name.into(), format_duration(time).into()])
            };
            let options = [option("--wait", self.wait), option("--in", self.later)];
            return with_slurm::Order {
                session,
                verb: "release",
                job: &self.job,
                script: self.places.text()?,
                wait: false,
                arguments: options.into_iter().flatten().flatten().collect(),
                json: self.scheduled.json,
            }
            .run();
        }
        self.scheduled.become_them()?;
        let held = self.patiently(session, &self.places.paths()?)?;
        let mut output = Output::new(self.scheduled.json);
        if output.json {
            output.object(held)?;
        } else if let Some(later) = self.later {
            let (job, files) = (&self.job, counted(held.files, "file"));
            let time = format_duration(later);
            output.line(format!("job {job} keeps {files}, for {time} at most"))?;
        } else {
            let requests = counted(held.cancelled, "request");
            let pins = counted(held.dropped, "pin");
            let job = &self.job;
            output.line(format!(
                "job {job} released: {requests} cancelled, {pins} dropped"
            ))?;
        }
        output.finish()?;
        Ok(outcome::OK)
    }

    /// Asks until all that are meant have answered, or the time is over.
    fn patiently(&self, session: &Session, places: &[PathBuf]) -> Result<JobHeld, CliError> {
        let until = self.wait.and_then(|time| Instant::now().checked_add(time));
        let act = match self.later {
            Some(later) => (JobAct::Lapse, Some(later.as_secs().max(1))),
            None => (JobAct::Release, None),
        };
        loop {
            match order(session, places, &self.job, act, true) {
                Err(why) if is_away(&why) && until.is_some_and(|until| Instant::now() < until) => {}
                answer => return answer,
            }
            std::thread::sleep(AWAY);
        }
    }
}

fn is_away(why: &CliError) -> bool {
    matches!(why, CliError::Client(error)
        if matches!(error, ClientError::NoInstance { .. }) || error.failure() == Failure::NoInstance)
}

/// Gives an order about the job to every instance at hand; what it holds in all.
pub(super) fn order(
    session: &Session,
    places: &[PathBuf],
    job: &str,
    (act, pin_for_s): (JobAct, Option<u64>),
    all_of: bool,
) -> Result<JobHeld, CliError> {
    let order = JobOrder {
        job: job.to_owned(),
        act,
        pin_for_s,
        generation: None,
        need: None,
    };
    let mut all = JobHeld::default();
    for held in view::each(session, (places, all_of), |client| Ok(client.job(&order)?))? {
        all.cancelled += held.cancelled;
        all.dropped += held.dropped;
        all.files += held.files;
        all.bytes += held.bytes;
        all.until = all.until.max(held.until);
    }
    Ok(all)
}
