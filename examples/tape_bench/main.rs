//! Measures the order of tape reads and the queue of a tape library, on the timing model, in virtual time: no
//! library, no disk and no waiting, only CPU.
//!
//! `tape_bench [orders] [plan] [day] [--seeds=N]`: what is named, or all of it, as Markdown tables for docs/benchmarks.md.
//!
//! - `orders`: random members on one full cartridge, read in the order they came in, in that in which they lie, by always
//!   going to the nearest, in ours, and in the best order that is known;
//! - `plan`: what finding our order costs, and what estimates for a long queue cost;
//! - `day`: a day of recalls through the queue and through a library that serves whoever came first; what
//!   readers were told against what they then waited.

mod best;
mod day;
mod library;
mod orders;
mod plan;
mod random;
mod report;
mod trace;

use anyhow::{Context, bail};

/// What members are made of on the medium, bytes.
const BLOCK: u64 = 256 << 10;

fn main() -> anyhow::Result<()> {
    let mut seeds = 11;
    let mut wanted: Vec<String> = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.strip_prefix("--seeds=") {
            Some(value) => seeds = value.parse().context("--seeds takes a number")?,
            None if ["orders", "plan", "day"].contains(&arg.as_str()) => wanted.push(arg),
            None => bail!("{arg:?}: orders, plan, day, --seeds=N"),
        }
    }
    if seeds == 0 {
        bail!("a measurement needs at least one seed");
    }
    let all = wanted.is_empty();
    let is_wanted = |what: &str| all || wanted.iter().any(|w| w == what);
    if is_wanted("orders") {
        orders::run(seeds);
    }
    if is_wanted("plan") {
        plan::run(seeds);
    }
    if is_wanted("day") {
        day::run(seeds);
    }
    Ok(())
}
