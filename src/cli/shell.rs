//! `cairn completions` and `cairn man`.

use super::CliError;
use clap::Args;
use std::io::{self, Write};
use std::path::PathBuf;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    shell: clap_complete::Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Write a page for each command into DIR; else the main page to stdout.
    dir: Option<PathBuf>,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "cairn", &mut script);
        io::stdout().write_all(&script)?;
        Ok(0)
    }
}

impl Man {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        match &self.dir {
            Some(dir) => clap_mangen::generate_to(super::command(), dir)
                .map_err(|e| CliError::system(format!("write to {}", dir.display()), &e))?,
            None => clap_mangen::Man::new(super::command()).render(&mut io::stdout())?,
        }
        Ok(0)
    }
}
