//! Where commands write: results on stdout (text, or one JSON object a line), the rest on stderr.

use super::CliError;
use crate::server::wire::{GivenPath, Problem, Schema, Tagged};
use serde::Serialize;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

/// Results.
#[derive(Debug)]
pub(crate) struct Output {
    to: BufWriter<Stdout>,
    /// One JSON object a line.
    pub(crate) json: bool,
    terminal: bool,
}

impl Output {
    /// To stdout.
    pub(crate) fn new(json: bool) -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            to: BufWriter::new(stdout),
            json,
        }
    }

    /// One line of text.
    pub(crate) fn line(&mut self, line: impl std::fmt::Display) -> Result<(), CliError> {
        writeln!(self.to, "{line}")?;
        Ok(self.settle()?)
    }

    /// One line that ends in a path: exact bytes, unless a terminal would act on them.
    pub(crate) fn path_line(
        &mut self,
        before: &str,
        path: &[u8],
        after: &str,
    ) -> Result<(), CliError> {
        self.to.write_all(before.as_bytes())?;
        if self.terminal {
            self.to
                .write_all(harmless(&String::from_utf8_lossy(path)).as_bytes())?;
        } else {
            self.to.write_all(path)?;
        }
        writeln!(self.to, "{after}")?;
        Ok(self.settle()?)
    }

    /// One name for a program: its exact bytes, and a NUL.
    pub(crate) fn name_and_nul(&mut self, path: &[u8]) -> Result<(), CliError> {
        self.to.write_all(path)?;
        self.to.write_all(b"\0")?;
        Ok(self.settle()?)
    }

    /// One object.
    pub(crate) fn object<T: Schema + Serialize>(&mut self, value: T) -> Result<(), CliError> {
        let text = serde_json::to_string(&Tagged::from(value)).map_err(io::Error::from)?;
        self.line(text)
    }

    /// What is written so far is seen now.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        Ok(self.to.flush()?)
    }

    fn settle(&mut self) -> io::Result<()> {
        if self.terminal {
            self.to.flush()
        } else {
            Ok(())
        }
    }

    /// A file that could not be done: on stderr, or as an object among the results.
    pub(crate) fn problem(&mut self, problem: Problem) -> Result<(), CliError> {
        if self.json {
            return self.object(problem);
        }
        let path = problem
            .path
            .as_ref()
            .map_or("(another user's file)", GivenPath::text);
        eprintln!(
            "cairn: {}: {} ({})",
            harmless(path),
            harmless(&problem.message),
            problem.code
        );
        Ok(())
    }

    /// Everything is written.
    pub(crate) fn finish(mut self) -> Result<(), CliError> {
        Ok(self.to.flush()?)
    }
}

/// Control characters replaced, so that a file's name cannot drive the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// Words in columns: each as wide as its widest cell, two spaces between, the last one ragged;
/// columns marked in `right` flush right.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|r| r.get(column))
            .map(|c| c.chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(at, (cell, width))| {
                if right.contains(&at) {
                    format!("{cell:>width$}")
                } else {
                    format!("{cell:<width$}")
                }
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}
