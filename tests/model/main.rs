//! The protocols, small enough that all their states can be looked at (docs/faults.md).

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests, also the functions they share"
)]

mod explorer;
mod file;

use explorer::explore;
use file::{Bounds, File, Rules};

#[test]
fn try_it() {
    let n = |k: &str, d: u8| std::env::var(k).ok().map_or(d, |v| v.parse().unwrap());
    let file = File {
        rules: Rules::ALL,
        bounds: Bounds {
            writes: n("W", 1), archives: n("A", 1), releases: n("R", 1), recalls: n("C", 1), scans: n("S", 1),
            kills: n("K", 0), losses: n("L", 1), strips: n("T", 0), beside: n("B", 0) == 1,
        },
    };
    let begun = std::time::Instant::now();
    let report = explore(&file, 3_000_000);
    println!("{report}\n{:?}", begun.elapsed());
    for t in &report.taken { println!("   {t}"); }
}
