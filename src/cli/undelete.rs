//! `cairn undelete`: what was deleted, listed or brought back.

use super::output::{Output, harmless, table};
use super::{CliError, Session, outcome, progress};
use crate::client::Undeleting;
use crate::config::units::shown::Bytes;
use crate::server::wire::{DeletedBy, DeletedView, GivenPath, UndeletedView, When};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Rows of a listing that are lined up with each other.
const TOGETHER: usize = 500;

/// Arguments of `undelete`.
#[derive(Debug, Args)]
pub(crate) struct Undelete {
    /// What was deleted, by the path that it had.
    #[arg(value_name = "PATH", required_unless_present = "list")]
    paths: Vec<OsString>,
    /// List what can be had at PATH and below it, and until when.
    #[arg(
        short,
        long,
        conflicts_with_all = ["to", "at", "version", "recursive", "stage", "wait"]
    )]
    list: bool,
    /// Bring it back under this name, or into this directory.
    #[arg(long, value_name = "OTHER")]
    to: Option<OsString>,
    /// What was there at TIME (2026-01-31 12:00:00, UTC).
    #[arg(long, value_name = "TIME", value_parser = When::parse, conflicts_with = "version")]
    at: Option<When>,
    /// The version of this number.
    #[arg(long, value_name = "N")]
    version: Option<u64>,
    /// All that lay below PATH, and its directories.
    #[arg(short, long)]
    recursive: bool,
    /// Bring the data back to disk, too.
    #[arg(long)]
    stage: bool,
    /// Wait until they are there.
    #[arg(short, long, requires = "stage")]
    wait: bool,
    /// Say nothing but errors.
    #[arg(short, long, conflicts_with = "list")]
    quiet: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Undelete {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let here = || vec![OsString::from(".")];
        let paths = if self.paths.is_empty() {
            here()
        } else {
            self.paths.clone()
        };
        if self.to.is_some() && paths.len() > 1 {
            return Err(CliError::usage("--to takes one PATH"));
        }
        let mut output = Output::new(self.json);
        let mut code = None;
        for path in paths {
            let path = path.into_vec();
            let one = if self.list {
                list(session, &path, &mut output)
            } else {
                self.bring_back(session, &path, &mut output)
            }?;
            code = Some(code.map_or(one, |code| outcome::together(code, one)));
        }
        output.finish()?;
        Ok(code.unwrap_or(outcome::OK))
    }

    fn bring_back(
        &self,
        session: &Session,
        path: &[u8],
        output: &mut Output,
    ) -> Result<u8, CliError> {
        let mut client = session.client_at(path)?;
        let how = Undeleting {
            to: self.to.as_ref().map(|to| to.as_bytes()),
            at: self.at,
            version: self.version,
            recursive: self.recursive,
            stage: self.stage,
        };
        let (mut codes, mut back) = (Vec::new(), false);
        let staging = client.undelete(path, &how, |one| match one {
            Ok(view) => {
                back = true;
                if self.quiet {
                    return Ok(());
                }
                show(output, view)
            }
            Err(problem) => {
                codes.push(problem.code.clone());
                output.problem(problem)
            }
        })?;
        let code = outcome::of_problems(codes.iter().map(String::as_str), back);
        Ok(match staging {
            None => code,
            Some(accepted) if self.wait => {
                let id = accepted.request;
                let waited = progress::wait(&mut client, output, id, None, self.quiet, &[])?;
                outcome::together(code, waited)
            }
            Some(accepted) => {
                if output.json {
                    output.object(accepted)?;
                } else if !self.quiet {
                    output.line(format!("request {} stages them", accepted.request))?;
                }
                code
            }
        })
    }
}

fn show(output: &mut Output, view: UndeletedView) -> Result<(), CliError> {
    if output.json {
        return output.object(view);
    }
    let (size, modified) = (Bytes(view.size), view.modified.to_seconds());
    let what = match view.by {
        DeletedBy::Unlink | DeletedBy::Unknown => "",
        // Whatever came later is another version, or was never archived.
        DeletedBy::Overwrite | DeletedBy::Truncate | DeletedBy::Remove => {
            &format!(", as it was until {}", view.deleted.to_seconds())
        }
    };
    output.path_line(
        "",
        &view.now.bytes(),
        &format!(": released, {size}, modified {modified}{what}"),
    )
}

fn list(session: &Session, path: &[u8], output: &mut Output) -> Result<u8, CliError> {
    let mut client = session.client_at(path)?;
    let mut rows: Vec<DeletedView> = Vec::new();
    let mut first = true;
    client.deleted(path, |view| {
        if output.json {
            return output.object(view);
        }
        rows.push(view);
        if rows.len() < TOGETHER {
            return Ok(());
        }
        print(
            output,
            std::mem::take(&mut rows),
            std::mem::take(&mut first),
        )
    })?;
    print(output, rows, first)?;
    Ok(outcome::OK)
}

fn print(output: &mut Output, views: Vec<DeletedView>, heading: bool) -> Result<(), CliError> {
    if views.is_empty() {
        return Ok(());
    }
    let head = [
        "DELETED", "BY", "VERSION", "SIZE", "UNTIL", "COPIES", "PATH",
    ];
    let mut rows = Vec::new();
    rows.extend(heading.then(|| head.map(str::to_owned).to_vec()));
    rows.extend(views.iter().map(|view| {
        let mut tiers: Vec<&str> = view.copies.iter().map(|c| c.tier.as_str()).collect();
        tiers.dedup();
        let tiers = if tiers.is_empty() {
            "none".to_owned()
        } else {
            tiers.join(",")
        };
        vec![
            view.deleted.to_seconds(),
            view.by.to_string(),
            view.version.to_string(),
            Bytes(view.size).to_string(),
            view.until.to_seconds(),
            tiers,
            harmless(GivenPath::text(&view.path)),
        ]
    }));
    table(&rows, &[2, 3])
        .into_iter()
        .try_for_each(|line| output.line(line))
}
