//! `cairn job submit --rest URL`: as a workflow service submits, by slurmrestd and a token. The job is submitted held,
//! and let run when its files are on disk.
//!
//! Invariant: nothing is submitted before the token was taken, the directives read and the files looked at.

mod description;

use super::super::output::Output;
use super::super::{CliError, Session, outcome};
use super::queue::{Door, Queue};
use super::resume::{Handing, records};
use super::sbatch::{cancelled, words};
use super::{check, directory, parse, read};
use clap::Args;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Arguments of `job submit`.
#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The batch script (- for standard input).
    script: PathBuf,
    #[command(flatten)]
    door: Door,
    /// A JSON object with what slurmrestd calls the job's properties; it counts more than the script's #SBATCH lines.
    #[arg(long, value_name = "FILE")]
    description: Option<PathBuf>,
    /// Stay until the job may run.
    #[arg(short, long)]
    wait: bool,
    /// Submit also if files cannot be had now, or have no room.
    #[arg(long)]
    force: bool,
}

impl Submit {
    pub(super) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let text = read(&self.script)?;
        let directives = parse(&self.script, &text)?;
        let given = words::of_script(&text)
            .map_err(|why| CliError::usage(format!("{}: {why}", super::shown(&self.script))))?;
        let here = directory(None)?;
        let own = self.own()?;
        let properties = description::of(&given, &own, &here)?;
        let keep_held = properties["hold"] == true;
        let place = properties["current_working_directory"].as_str();
        let place = here.join(place.unwrap_or_default());
        let script = String::from_utf8(text)
            .map_err(|_| CliError::usage("slurmrestd takes no script that is not UTF-8"))?;
        let rest = self.door.open(true)?;
        if let Err(error) = check::before_submission(session, &directives, &place, &self.script) {
            if !self.force {
                return Err(error);
            }
            error.report();
        }
        records()?;
        let job = rest.submit(&script, properties)?;
        let queue = Queue::Rest(Box::new(rest));
        let handing = Handing {
            session,
            queue: &queue,
            job: &job,
            script: script.as_bytes(),
            directory: &place,
            keep_held,
        };
        let left = handing
            .start()
            .map_err(|error| cancelled(&queue, &job, error))?;
        let mut output = Output::new(false);
        output.line(format!("Submitted batch job {job}"))?;
        output.finish()?;
        if self.wait {
            return left.until_released();
        }
        eprintln!("cairn: {}", left.told());
        Ok(outcome::OK)
    }

    /// The caller's own properties.
    fn own(&self) -> Result<Map<String, Value>, CliError> {
        let Some(file) = &self.description else {
            return Ok(Map::new());
        };
        let wrong = |why: &dyn std::fmt::Display| {
            let why = format!("{}: {why}", super::shown(file));
            CliError::usage(why).with_hint("write an object: {\"partition\": \"main\"}")
        };
        match serde_json::from_slice(&read(file)?) {
            Ok(Value::Object(own)) => Ok(own),
            Ok(_) => Err(wrong(&"it is no JSON object")),
            Err(error) => Err(wrong(&error)),
        }
    }
}
