//! `cairn receipt`: what copies of a file exist, and how to prove them without Cairn.

use super::output::{Output, harmless, table};
use super::{CliError, Session};
use crate::config::units::shown::{Bytes, grouped};
use crate::server::wire::{CopyProof, Receipt as Wire};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Arguments of `receipt`.
#[derive(Debug, Args)]
pub(crate) struct Receipt {
    /// The file.
    path: OsString,
    /// Compute its SHA-256 now: the file is read, or a copy of it if it is released.
    #[arg(long)]
    sha256: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Receipt {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let path = self.path.as_bytes();
        let receipt = session.client_at(path)?.receipt(path, self.sha256)?;
        let mut output = Output::new(self.json);
        if output.json {
            output.object(receipt)?;
        } else {
            show(&mut output, &receipt)?;
        }
        output.finish()?;
        Ok(0)
    }
}

fn show(output: &mut Output, receipt: &Wire) -> Result<(), CliError> {
    output.path_line("", &receipt.path.bytes(), "")?;
    let mut rows = vec![
        row("id", receipt.id.clone()),
        row("version", receipt.version.to_string()),
        row(
            "size",
            format!("{} bytes ({})", grouped(receipt.size), Bytes(receipt.size)),
        ),
        row("crc32c", receipt.crc32c.clone()),
    ];
    if let Some(sum) = &receipt.sha256 {
        rows.push(row("sha256", sum.clone()));
    }
    if let Some(note) = &receipt.sha256_note {
        rows.push(row("", format!("({note})")));
    }
    if !receipt.current {
        let changed = "the file was changed since; this is of what was archived last";
        rows.push(row("", changed.to_owned()));
    }
    if receipt.copies.is_empty() {
        rows.push(row("copies", "none".to_owned()));
    }
    lines(output, &rows)?;
    for copy in &receipt.copies {
        output.line("")?;
        lines(output, &of_copy(copy))?;
    }
    if let Some(setup) = &receipt.setup {
        output.line("\n# What proves the copies without Cairn, for bash:")?;
        output.line(setup)?;
        for copy in &receipt.copies {
            for check in &copy.checks {
                let tier = harmless(&copy.tier);
                output.line(format!("# tier {tier}: {}", check.of))?;
                // Quoted by the instance: nothing in it drives a terminal.
                output.line(&check.command)?;
                if let Some(prints) = &check.prints {
                    output.line(format!("# {prints}"))?;
                }
            }
        }
    }
    Ok(())
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

fn lines(output: &mut Output, rows: &[Vec<String>]) -> Result<(), CliError> {
    table(rows, &[])
        .into_iter()
        .try_for_each(|line| output.line(harmless(&line)))
}

fn of_copy(copy: &CopyProof) -> Vec<Vec<String>> {
    let place = copy
        .url
        .as_ref()
        .map_or_else(String::new, |url| format!(", {url}"));
    let mut rows = vec![row(
        "tier",
        format!("{} ({}{place})", copy.tier, copy.state),
    )];
    let how = copy
        .proof
        .as_ref()
        .map_or_else(String::new, |how| format!(", by {how}"));
    rows.push(row("since", format!("{}{how}", copy.since)));
    if let Some(at) = copy.verified {
        rows.push(row("verified", at.to_string()));
    }
    let sums = match (copy.aggregate_len, &copy.aggregate_crc32c) {
        (Some(len), Some(crc)) => format!(" ({} bytes, crc32c {crc})", grouped(len)),
        _ => String::new(),
    };
    rows.push(row("aggregate", format!("{}{sums}", copy.aggregate)));
    if let Some(object) = &copy.object {
        rows.push(row("object", object.text().to_owned()));
    }
    if let Some(member) = &copy.member {
        rows.push(row("member", member.text().to_owned()));
    }
    if let (Some(at), Some(len)) = (copy.data_offset, copy.data_len) {
        rows.push(row(
            "data",
            format!("{} bytes at {}", grouped(len), grouped(at)),
        ));
    }
    if let Some(note) = &copy.note {
        rows.push(row("", format!("({note})")));
    }
    rows
}
