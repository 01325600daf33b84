//! Measures mounts against each other and against the directory below them: see `tests/long/bench.sh`.
//!
//! `bench [--pairs=N] [--files=N] [--entries=N] [--mib=N] [--tree=DIR] [--rows=A,B] SIDE...`, where a side is
//! `NAME=DIR` (a plain directory) or `NAME=DIR=COMMAND` (a mount made by a command that stays in the foreground).
//! The first side is the yardstick. All sides do each row in every repetition, in an order that turns, so that
//! whatever else the machine does meets all of them; a ratio is always one of two runs of the same repetition.

mod data;
mod names;
mod report;
mod rows;
mod side;

use anyhow::{Context, bail};
use report::Table;
use rows::{ROWS, Sizes};
use side::Side;

fn main() -> anyhow::Result<()> {
    let mut sizes = Sizes::default();
    let mut pairs = 30_usize;
    let mut wanted: Option<Vec<String>> = None;
    let mut sides: Vec<Side> = Vec::new();
    for arg in std::env::args().skip(1) {
        let (key, value) = arg.split_once('=').context("every argument has a `=`")?;
        match key {
            "--pairs" => pairs = value.parse()?,
            "--files" => sizes.files = value.parse()?,
            "--entries" => sizes.entries = value.parse()?,
            "--mib" => sizes.mib = value.parse()?,
            "--tree" => sizes.tree = value.into(),
            "--rows" => wanted = Some(value.split(',').map(str::to_owned).collect()),
            option if option.starts_with("--") => bail!("unknown option {option}"),
            name => sides.push(Side::new(name, value)?),
        }
    }
    if sides.len() < 2 || pairs == 0 {
        bail!("a measurement needs two sides and at least one repetition");
    }
    let mut table = Table::new(&sides, pairs);
    for row in ROWS {
        if wanted
            .as_ref()
            .is_some_and(|names| !names.iter().any(|n| n == row.name))
        {
            continue;
        }
        for side in &mut sides {
            side.start()?;
            (row.prepare)(side, &sizes)
                .with_context(|| format!("{}: preparing {}", side.name, row.name))?;
        }
        let mut runs = vec![Vec::with_capacity(pairs); sides.len()];
        for repetition in 0..pairs {
            for turn in 0..sides.len() {
                let which = (repetition + turn) % sides.len();
                let side = &mut sides[which];
                let run = row
                    .run(side, &sizes)
                    .with_context(|| format!("{}: {}", side.name, row.name))?;
                runs[which].push(run);
            }
        }
        table.add(row, &runs);
        for side in &mut sides {
            side.clear()?;
        }
    }
    for side in &mut sides {
        side.stop()?;
    }
    Ok(())
}
