//! `cairn repair`: lost, foreign and conflicting files; what would mend each, and the mending.

use super::output::{Output, harmless};
use super::{CliError, Session};
use crate::config::units::shown::files;
use crate::server::wire::{RepairKeep, RepairView};
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// What stays in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Keep {
    /// What is on disk; what was archived goes beside it.
    Disk,
    /// What was archived; what is on disk goes beside it.
    Archive,
}

/// Arguments of `repair`.
#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// Files, and directories for all below them; none: everything.
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
    /// Do it; without it only say what would be done, and why.
    #[arg(long)]
    apply: bool,
    /// Where somebody wrote into a stub: what stays in place.
    #[arg(long, value_enum, value_name = "WHAT")]
    keep: Option<Keep>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl RepairArgs {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let paths: Vec<Vec<u8>> = self.paths.iter().cloned().map(OsString::into_vec).collect();
        let mut client = match paths.first() {
            Some(first) => session.client_at(first)?,
            None => session.client()?,
        };
        let keep = self.keep.map(|keep| match keep {
            Keep::Disk => RepairKeep::Disk,
            Keep::Archive => RepairKeep::Archive,
        });
        let mut output = Output::new(self.json);
        let (mut ill, mut mended, mut could) = (0_u64, 0_u64, 0_u64);
        client.repair(paths, self.apply, keep, |repair| {
            ill += 1;
            mended += u64::from(repair.result == "done");
            could += u64::from(repair.result == "planned" && repair.remedy != "none");
            if self.json {
                output.object(repair)
            } else {
                show(&mut output, &repair)
            }
        })?;
        if !self.json && ill == 0 {
            output.line("nothing is wrong, as far as the last scan saw")?;
        }
        output.finish()?;
        if could > 0 {
            eprintln!(
                "hint: {} can be mended: the same with --apply",
                files(could)
            );
        }
        Ok(u8::from(mended < ill))
    }
}

fn show(output: &mut Output, repair: &RepairView) -> Result<(), CliError> {
    let head = format!(": {}: {}", repair.trouble, harmless(&repair.why));
    output.path_line("", &repair.path.bytes(), &head)?;
    let what = match repair.remedy.as_str() {
        "put-stub-back" => "put its stub back: a tier has its data",
        "keep-disk" => "keep what is on disk, drop the stub",
        "keep-archive" => "go back to the archived data",
        _ => "",
    };
    if let Some(advice) = &repair.advice {
        output.line(format!("    {}", harmless(advice)))?;
    }
    match repair.result.as_str() {
        "planned" if what.is_empty() => {}
        "planned" => output.line(format!("    would {what}"))?,
        "done" => output.line(format!("    done: {what}"))?,
        word => {
            let message = repair.message.as_deref().unwrap_or_default();
            output.line(format!("    not done ({word}): {}", harmless(message)))?;
        }
    }
    if let Some(kept) = &repair.kept {
        output.path_line("    the other is kept: ", &kept.bytes(), "")?;
    }
    Ok(())
}
