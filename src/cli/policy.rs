//! `cairn policy check` and `cairn policy run`.

use super::acting::show_plan;
use super::output::Output;
use super::units::counted;
use super::{CliError, Session};
use crate::server::wire::PolicyRun;
use clap::{Args, Subcommand};
use std::path::PathBuf;

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
    Run {
        /// The rule; without it all.
        name: Option<String>,
        /// Only say what would be done and why.
        #[arg(short = 'n', long)]
        dry_run: bool,
        /// Print one JSON object a line.
        #[arg(long)]
        json: bool,
    },
}

impl Policy {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        match &self.what {
            What::Check { file, json } => check(session, file.as_ref(), *json),
            What::Run {
                name,
                dry_run,
                json,
            } => run(session, name.clone(), *dry_run, *json),
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

fn run(session: &Session, name: Option<String>, dry_run: bool, json: bool) -> Result<u8, CliError> {
    let runs = session.client()?.policy_run(name, dry_run)?;
    let mut output = Output::new(json);
    for run in runs {
        if json {
            output.object(run)?;
        } else {
            show(&mut output, run)?;
        }
    }
    output.finish()?;
    Ok(0)
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
