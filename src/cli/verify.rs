//! `cairn verify`: copies of files, or of the whole archive.

use super::acting::{self, Acting};
use super::output::Output;
use super::subjects::Subjects;
use super::{CliError, Session, outcome, progress};
use crate::config::units::parse_duration;
use crate::server::wire::{Selection, SubmitOptions, Submitted, Verb, Verifying};
use clap::Args;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// Arguments of `verify`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("whole").args(["all", "sample", "older_than"]).multiple(true))]
pub(crate) struct Verify {
    /// Files and directories; a directory stands for everything below it.
    #[arg(value_name = "PATH", required_unless_present_any = ["files_from", "whole"], conflicts_with = "whole")]
    paths: Vec<OsString>,
    /// Also take paths from FILE, one a line (- for standard input).
    #[arg(long, value_name = "FILE", conflicts_with = "whole")]
    files_from: Option<PathBuf>,
    /// Paths in --files-from end in a NUL byte, not a newline (find -print0).
    #[arg(short = '0', long = "null", requires = "files_from")]
    null: bool,
    /// All copies of the archive (root).
    #[arg(long)]
    all: bool,
    /// N copies of the archive by chance, or a share of them (P%).
    #[arg(long, value_name = "N|P%", value_parser = sample)]
    sample: Option<Sample>,
    /// Copies of the archive that were not read for DUR (30d).
    #[arg(long, value_name = "DUR", value_parser = parse_duration)]
    older_than: Option<Duration>,
    /// Take the sample that this seed gave before.
    #[arg(long, value_name = "SEED", requires = "sample")]
    seed: Option<u64>,
    /// Use this tier only.
    #[arg(long, value_name = "NAME")]
    tier: Option<String>,
    /// Only say what would be read: copies, bytes.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait until it is done and list what is bad.
    #[arg(short, long, conflicts_with = "dry_run")]
    wait: bool,
    /// Stop waiting after DUR (90s, 2h); the request goes on.
    #[arg(long, value_name = "DUR", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Say nothing but errors.
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
    /// Idempotency key: asking again with the same KEY gives the same request.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

/// How many copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sample {
    Copies(u64),
    Millionths(u32),
}

fn sample(text: &str) -> Result<Sample, String> {
    let bad = || format!("{text:?} is neither a number of copies nor a share from 0.0001% to 100%");
    let Some(share) = text.strip_suffix('%') else {
        let copies = text.parse().map_err(|_| bad())?;
        return if copies == 0 {
            Err(bad())
        } else {
            Ok(Sample::Copies(copies))
        };
    };
    let (whole, part) = share.split_once('.').unwrap_or((share, ""));
    let digits = part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
    let part: u32 = format!("{part:0<4}").parse().map_err(|_| bad())?;
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let millionths = whole.saturating_mul(10_000).saturating_add(part);
    if digits && (1..=1_000_000).contains(&millionths) {
        Ok(Sample::Millionths(millionths))
    } else {
        Err(bad())
    }
}

impl Verify {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        if self.all || self.sample.is_some() || self.older_than.is_some() {
            return self.whole(session);
        }
        let subjects = Subjects {
            paths: self.paths.clone(),
            files_from: self.files_from.clone(),
            null: self.null,
        };
        let acting = Acting {
            subjects,
            dry_run: self.dry_run,
            wait: self.wait,
            timeout: self.timeout,
            quiet: self.quiet,
            json: self.json,
            key: self.key.clone(),
            tier: self.tier.clone(),
        };
        acting.run(session, Verb::Verify)
    }

    fn whole(&self, session: &Session) -> Result<u8, CliError> {
        let seed = self.sample.map(|_| self.seed.unwrap_or_else(any_seed));
        let selection = Selection {
            older_than_s: self.older_than.map(|age| age.as_secs()),
            copies: match self.sample {
                Some(Sample::Copies(copies)) => Some(copies),
                _ => None,
            },
            millionths: match self.sample {
                Some(Sample::Millionths(share)) => Some(share),
                _ => None,
            },
            seed: seed.unwrap_or(0),
        };
        let options = SubmitOptions {
            tier: self.tier.clone(),
            key: self.key.clone(),
            dry_run: self.dry_run,
            selection: Some(selection),
            ..SubmitOptions::default()
        };
        let mut client = session.client()?;
        let mut output = Output::new(self.json);
        if let (Some(seed), false) = (seed, self.json || self.quiet) {
            eprintln!("cairn: the sample is that of --seed {seed}");
        }
        let code = match client.submit_selection(&options)? {
            Submitted::Plan(plan) => {
                acting::show_plan(&mut output, plan)?;
                outcome::OK
            }
            Submitted::Accepted(accepted) => {
                let request = accepted.request;
                if self.json {
                    output.object(Verifying { request, seed })?;
                }
                if self.wait {
                    let (timeout, quiet) = (self.timeout, self.quiet);
                    progress::wait(&mut client, &mut output, request, timeout, quiet, &[])?
                } else {
                    if !self.json {
                        output.line(request)?;
                    }
                    outcome::OK
                }
            }
        };
        output.finish()?;
        Ok(code)
    }
}

/// Short enough to be typed again.
fn any_seed() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let nanos = since.map_or(1, |since| u64::from(since.subsec_nanos()));
    (nanos ^ u64::from(std::process::id()) << 20) % 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_numbers_or_shares() {
        assert_eq!(sample("100"), Ok(Sample::Copies(100)));
        assert_eq!(sample("5%"), Ok(Sample::Millionths(50_000)));
        assert_eq!(sample("0.01%"), Ok(Sample::Millionths(100)));
        assert_eq!(sample("100%"), Ok(Sample::Millionths(1_000_000)));
        for bad in ["0", "0%", "101%", "-1", "x", "%", "1.23456%", "1.x%", ""] {
            assert!(sample(bad).is_err(), "{bad}");
        }
    }
}
