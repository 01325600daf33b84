//! The verbs that act on files: archive, release, stage, verify, pin, unpin, set, clear.

use super::output::Output;
use super::subjects::Subjects;
use super::{CliError, Session, outcome, progress};
use crate::client::Submittal;
use crate::config::units::parse_duration;
use crate::config::units::shown::{Bytes, files, seconds};
use crate::error::Failure;
use crate::server::wire::{Cost, Flag, Plan, SubmitOptions, Submitted, Verb};
use clap::{Args, ValueEnum};
use std::time::Duration;

/// What all acting verbs share.
#[derive(Debug, Clone, Args)]
pub(crate) struct Acting {
    #[command(flatten)]
    pub(super) subjects: Subjects,
    /// Only say what would be done: files, bytes, time, cost, whether it fits.
    #[arg(short = 'n', long)]
    pub(super) dry_run: bool,
    /// Wait until it is done and list what failed.
    #[arg(short, long, conflicts_with = "dry_run")]
    pub(super) wait: bool,
    /// Stop waiting after DUR (90s, 2h); the request goes on.
    #[arg(long, value_name = "DUR", requires = "wait", value_parser = parse_duration)]
    pub(super) timeout: Option<Duration>,
    /// Say nothing but errors.
    #[arg(short, long)]
    pub(super) quiet: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(super) json: bool,
    /// Idempotency key: asking again with the same KEY gives the same request.
    #[arg(long, value_name = "KEY")]
    pub(super) key: Option<String>,
    /// Use this tier only.
    #[arg(long, value_name = "NAME")]
    pub(super) tier: Option<String>,
}

/// Arguments of `pin`.
#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// How long (90s, 2h, 7d).
    #[arg(long = "for", value_name = "DUR", value_parser = parse_duration)]
    lasting: Duration,
    #[command(flatten)]
    acting: Acting,
}

/// Arguments of `set` and `clear`.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Which flag.
    flag: FlagName,
    #[command(flatten)]
    acting: Acting,
}

/// A flag's name on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum FlagName {
    /// Never archive.
    #[value(name = "noarchive")]
    NoArchive,
    /// Never release.
    #[value(name = "norelease")]
    NoRelease,
}

impl Pin {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let pin_for_s = Some(self.lasting.as_secs().max(1));
        self.acting.submit(
            session,
            Verb::Pin,
            SubmitOptions {
                pin_for_s,
                ..Default::default()
            },
        )
    }
}

impl Flags {
    pub(crate) fn run(&self, session: &Session, verb: Verb) -> Result<u8, CliError> {
        let flags = vec![match self.flag {
            FlagName::NoArchive => Flag::NoArchive,
            FlagName::NoRelease => Flag::NoRelease,
        }];
        self.acting.submit(
            session,
            verb,
            SubmitOptions {
                flags,
                ..Default::default()
            },
        )
    }
}

impl Acting {
    pub(crate) fn run(&self, session: &Session, verb: Verb) -> Result<u8, CliError> {
        self.submit(session, verb, SubmitOptions::default())
    }

    /// Was a tier named?
    pub(crate) fn names_a_tier(&self) -> bool {
        self.tier.is_some()
    }

    pub(crate) fn submit(
        &self,
        session: &Session,
        verb: Verb,
        options: SubmitOptions,
    ) -> Result<u8, CliError> {
        let options = SubmitOptions {
            tier: self.tier.clone(),
            key: self.key.clone(),
            dry_run: self.dry_run,
            ..options
        };
        let mut output = Output::new(self.json);
        let mut paths = self.subjects.paths()?;
        let Some(first) = paths.next() else {
            return match paths.failed {
                Some(error) => Err(CliError::system("read the list of files", &error)),
                None => Ok(outcome::OK),
            };
        };
        let mut client = session.client_at(&first)?;
        let mut all = std::iter::once(first).chain(paths.by_ref());
        let Submittal {
            submitted,
            problems,
        } = client.submit(verb, &mut all, &options)?;
        drop(all);
        let mut codes: Vec<&str> = problems.iter().map(|p| p.code.as_str()).collect();
        for problem in &problems {
            output.problem(problem.clone())?;
        }
        if let Some(error) = paths.failed {
            eprintln!("cairn: read the list of files: {error}; the rest of it was left out");
            codes.push(Failure::Internal.as_str());
        }
        let code = match submitted {
            None => outcome::of_problems(codes, false),
            Some(Submitted::Plan(plan)) => {
                show_plan(&mut output, plan)?;
                outcome::of_problems(codes, true)
            }
            Some(Submitted::Accepted(accepted)) if self.wait => {
                let id = accepted.request;
                let timeout = self.timeout;
                progress::wait(&mut client, &mut output, id, timeout, self.quiet, &problems)?
            }
            Some(Submitted::Accepted(accepted)) => {
                if output.json {
                    output.object(accepted)?;
                } else {
                    output.line(accepted.request)?;
                }
                outcome::of_problems(codes, true)
            }
        };
        output.finish()?;
        Ok(code)
    }
}

/// What it would cost in one currency, in a line.
fn price(cost: &Cost) -> String {
    let (once, monthly) = (cost.once.rounded(), cost.monthly.rounded());
    let currency = &cost.currency;
    let kept = match monthly.is_zero() {
        true => String::new(),
        false => format!(", and {monthly} {currency} each month"),
    };
    format!("would cost about {once} {currency}{kept}")
}

/// What would be done.
pub(crate) fn show_plan(output: &mut Output, mut plan: Plan) -> Result<(), CliError> {
    if output.json {
        return output.object(plan);
    }
    let time = plan
        .eta_s
        .map_or_else(String::new, |s| format!(", about {}", seconds(s)));
    let fits = match (plan.fits, plan.room) {
        (true, Some(room)) => format!("; fits ({} free)", Bytes(room)),
        (true, None) => "; fits".to_owned(),
        (false, Some(room)) => format!("; does not fit ({} free)", Bytes(room)),
        (false, None) => "; does not fit".to_owned(),
    };
    let work = format!("{}, {}", files(plan.files), Bytes(plan.bytes));
    output.line(format!("would {} {work}{time}{fits}", plan.verb))?;
    for cost in &plan.cost {
        output.line(price(cost))?;
    }
    if plan.skipped_files > 0 {
        output.line(format!("would leave out {}", files(plan.skipped_files)))?;
    }
    plan.skipped
        .drain(..)
        .try_for_each(|skipped| output.problem(skipped))
}
