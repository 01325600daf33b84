//! `cairn tape verify` and `cairn tape repack`: a run over a whole cartridge, waited for.

use super::direct::At;
use crate::cli::output::Output;
use crate::cli::{CliError, outcome};
use crate::config::units::shown::{Bytes, counted};
use crate::error::Failure;
use crate::server::wire::{TapeAct, TapeRun};
use clap::Args;
use std::time::Duration;

/// How often a run is asked after.
const LOOK: Duration = Duration::from_millis(300);

/// Arguments of both.
#[derive(Debug, Args)]
pub(super) struct Run {
    /// Its barcode.
    barcode: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn run(&self, at: &At<'_>, act: &str) -> Result<u8, CliError> {
        let run = match at {
            At::Instance(session, _) => {
                let barcode = self.barcode.clone();
                let order = match act {
                    "verify" => TapeAct::Verify { barcode },
                    _ => TapeAct::Repack { barcode },
                };
                let number = at.order(order)?.run.unwrap_or_default();
                let mut client = session.client()?;
                loop {
                    let run = client.tape_run(number)?;
                    if run.ended.is_some() {
                        break run;
                    }
                    std::thread::sleep(LOOK);
                }
            }
            At::Library(library, tier, _) if act == "verify" => {
                At::audit(library, tier, &self.barcode)?
            }
            At::Library(..) => {
                let why = "a cartridge is repacked by the instance that knows what is needed of it";
                return Err(
                    CliError::usage(why).with_hint("start the instance, and leave --tier out")
                );
            }
        };
        let failed = run.error.is_some() || !run.trouble.is_empty();
        let mut output = Output::new(self.json);
        if self.json {
            output.object(run)?;
        } else {
            tell(&mut output, &run)?;
        }
        output.finish()?;
        Ok(if failed { 1 } else { outcome::OK })
    }
}

fn tell(output: &mut Output, run: &TapeRun) -> Result<(), CliError> {
    let (barcode, bytes) = (&run.barcode, Bytes(run.bytes));
    let verify = run.act == "verify";
    let line = if verify {
        let files = counted(run.files, "file");
        let bad = run.trouble.len();
        format!("{barcode}: {files} read, {bytes}, {bad} bad")
    } else {
        let objects = counted(run.files, "object");
        format!("{barcode}: {objects} copied to other cartridges, {bytes}")
    };
    output.line(line)?;
    for trouble in &run.trouble {
        let word = if verify { "bad" } else { "stays" };
        output.line(format!("  {} {word}: {}", trouble.object, trouble.why))?;
    }
    if run.bad_copies > 0 {
        let copies = run.bad_copies;
        output.line(format!(
            "{copies} copies of files are bad by that; they are made again from others if there are any"
        ))?;
    }
    if run.waiting > 0 {
        let old = counted(run.waiting, "old object");
        output.line(format!(
            "{old} wait for their deletion (delete-delay); when nothing on it is needed, it is made empty"
        ))?;
    }
    match &run.error {
        Some(why) => Err(CliError::new(Failure::TierUnavailable, why)),
        None => Ok(()),
    }
}
