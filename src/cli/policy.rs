//! `cairn policy check` and `cairn policy run`.

use super::acting::show_plan;
use super::output::Output;
use super::{CliError, Session, outcome, progress};
use crate::config::units::parse_duration;
use crate::config::units::shown::counted;
use crate::server::wire::PolicyRun;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Arguments of `policy`.
#[derive(Debug, Args)]
pub(crate) struct Policy {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Check a policy file, or read the one in force aloud.
    #[command(after_help = "Example: cairn policy check new.policy")]
    Check {
        /// A policy file; without it the policy in force.
        file: Option<PathBuf>,
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Run a rule now, or all rules, as if their triggers had fired.
    #[command(after_help = "Example: cairn policy run --dry-run")]
    Run(Run),
}

/// Arguments of `policy run`.
#[derive(Debug, Args)]
struct Run {
    /// The rule; without it all.
    name: Option<String>,
    /// Only say what would be done and why.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait until it is done and list what failed.
    #[arg(short, long, conflicts_with = "dry_run")]
    wait: bool,
    /// Stop waiting after DUR (90s, 2h); the requests go on.
    #[arg(long, value_name = "DUR", requires = "wait", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Policy {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        match &self.what {
            What::Check { file, json } => check(session, file.as_ref(), *json),
            What::Run(args) => args.run(session),
        }
    }
}

fn check(session: &Session, file: Option<&PathBuf>, json: bool) -> Result<u8, CliError> {
    let read = |file: &PathBuf| {
        let text = std::fs::read_to_string(file)
            .map_err(|e| CliError::system(format!("read {}", file.display()), &e))?;
        Ok::<_, CliError>((file.display().to_string(), text))
    };
    let text = file.map(read).transpose()?;
    let report = session.client()?.policy_check(text)?;
    let mut output = Output::new(json);
    let good = report.problems.is_empty();
    if json {
        output.object(report)?;
    } else {
        for problem in &report.problems {
            let place = format!("{}:{}:{}", problem.file, problem.line, problem.column);
            eprintln!("{place}: {}", problem.message);
            problem
                .hint
                .iter()
                .for_each(|hint| eprintln!("hint: {hint}"));
        }
        for rule in &report.rules {
            output.line(format!("{}: {}", rule.name, rule.says))?;
        }
        if good {
            let rules = counted(report.rules.len() as u64, "rule");
            output.line(format!("{}: good, {rules}", report.source))?;
        }
    }
    output.finish()?;
    Ok(u8::from(!good))
}

impl Run {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mut client = session.client()?;
        let runs = client.policy_run(self.name.clone(), self.dry_run)?;
        let mut output = Output::new(self.json);
        let mut requests = Vec::new();
        for run in runs {
            requests.extend(run.request);
            if self.json {
                output.object(run)?;
            } else {
                show(&mut output, run)?;
            }
        }
        let mut code = outcome::OK;
        if self.wait {
            let begun = Instant::now();
            for (already, id) in requests.into_iter().enumerate() {
                // One time for all of them together.
                let left = self.timeout.map(|t| t.saturating_sub(begun.elapsed()));
                let ended = progress::wait(&mut client, &mut output, id, left, false, &[])?;
                code = if already == 0 {
                    ended
                } else {
                    outcome::together(code, ended)
                };
            }
        }
        output.finish()?;
        Ok(code)
    }
}

fn show(output: &mut Output, run: PolicyRun) -> Result<(), CliError> {
    let request = run
        .request
        .map_or_else(String::new, |id| format!(" (request {id})"));
    output.line(format!("{}: {}{request}", run.rule, run.because))?;
    match run.plan {
        Some(plan) if run.request.is_none() => show_plan(output, plan),
        Some(_) | None => Ok(()),
    }
}
