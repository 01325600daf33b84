//! Measures the order of tape reads, the queue of a tape library, and what writing costs, on the timing model, in virtual
//! time: no library, no waiting, and but for `writes` no disk.
//!
//! `tape_bench [orders] [plan] [day] [writes] [--seeds=N]`: what is named, or all of it, as Markdown tables for docs/benchmarks.md.
//!
//! - `orders`: random members on one full cartridge, read in the order they came in, in that in which they lie, by always
//!   going to the nearest, in ours, and in the best order that is known;
//! - `plan`: what finding our order costs, and what estimates for a long queue cost;
//! - `day`: a day of recalls through the queue and through a library that serves whoever came first; what
//!   readers were told against what they then waited;
//! - `writes`: objects written one by one, and several behind one synchronisation.

mod best;
mod day;
mod library;
mod orders;
mod plan;
mod random;
mod report;
mod trace;
mod writes;

use anyhow::{Context, bail};

/// What members are made of on the medium, bytes.
const BLOCK: u64 = 256 << 10;

fn main() -> anyhow::Result<()> {
    let mut seeds = 11;
    let mut wanted: Vec<String> = Vec::new();
    for arg in std::env::args().skip(1) {
        match arg.strip_prefix("--seeds=") {
            Some(value) => seeds = value.parse().context("--seeds takes a number")?,
            None if ["orders", "plan", "day", "writes"].contains(&arg.as_str()) => wanted.push(arg),
            None => bail!("{arg:?}: orders, plan, day, writes, --seeds=N"),
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
    if is_wanted("writes") {
        writes::run()?;
    }
    Ok(())
}
