//! `cairn tape show`: what lies on a cartridge, as a table, as a map, and as a picture.

use super::direct::At;
use super::list::state;
use super::{map, svg};
use crate::cli::output::{Output, harmless, table};
use crate::cli::{CliError, outcome};
use crate::config::units::shown::{Bytes, counted, grouped};
use crate::server::wire::{TapeFileView, TapeView};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `tape show`.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// Its barcode.
    barcode: String,
    /// Draw the tape: what is needed, dead, bad and free along it.
    #[arg(long)]
    map: bool,
    /// Draw the same into a file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn run(&self, at: &At<'_>) -> Result<u8, CliError> {
        let view = at.show(&self.barcode)?;
        if let Some(path) = &self.svg {
            std::fs::write(path, svg::draw(&view))?;
        }
        let mut output = Output::new(self.json);
        if self.json {
            output.object(view)?;
        } else {
            tell(&mut output, &view, self.map)?;
        }
        output.finish()?;
        Ok(outcome::OK)
    }
}

fn tell(output: &mut Output, view: &TapeView, draw: bool) -> Result<(), CliError> {
    let cartridge = &view.cartridge;
    output.line(format!(
        "{}: {}, {} of {} used, {} live, {} dead, {}; {}",
        cartridge.barcode,
        cartridge.generation,
        Bytes(cartridge.used),
        Bytes(cartridge.capacity),
        Bytes(cartridge.live),
        Bytes(cartridge.dead),
        counted(cartridge.files, "file"),
        state(cartridge)
    ))?;
    let whys = [cartridge.why.as_ref(), cartridge.errors.why.as_ref()];
    for why in whys.into_iter().flatten() {
        output.line(harmless(why))?;
    }
    if draw {
        for line in map::draw(view) {
            output.line(line)?;
        }
        return Ok(());
    }
    if view.contents.is_empty() {
        return Ok(());
    }
    let head = ["OBJECT", "BLOCK", "BLOCKS", "BYTES", "CRC32C", "STATE"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(view.contents.iter().map(row));
    for line in table(&rows, &[1, 2, 3]) {
        output.line(line)?;
    }
    Ok(())
}

fn row(file: &TapeFileView) -> Vec<String> {
    let alive = if file.dead { "dead" } else { "live" };
    let state = match &file.bad {
        Some(why) => format!("{alive}, bad: {}", harmless(why)),
        None => alive.to_owned(),
    };
    vec![
        file.object.clone(),
        file.block.to_string(),
        grouped(file.blocks),
        Bytes(file.len).to_string(),
        file.crc32c.clone(),
        state,
    ]
}
