//! The protocols, small enough that all their states can be looked at (docs/faults.md).

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests, also the functions they share"
)]

mod deletion;
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
            kills: n("K", 0), losses: n("L", 1), strips: n("T", 0), beside: n("B", 0) == 1, reader: n("D",0)==1, maps: n("M",0)==1, ticks: n("I",0)==1,
        },
    };
    let begun = std::time::Instant::now();
    let report = explore(&file, 3_000_000);
    println!("{report}\n{:?}", begun.elapsed());
    for t in &report.taken { println!("   {t}"); }
}

#[test]
fn try_deletion() {
    let n = |k: &str, d: u8| std::env::var(k).ok().map_or(d, |v| v.parse().unwrap());
    let file = deletion::Deletion {
        rules: deletion::Rules::ALL,
        bounds: deletion::Bounds {
            unlinks: n("UN", 1), opens: n("OP", 0), overwrites: n("OV", 0), touches: n("TO", 0), releases: n("RE", 1),
            recalls: n("RC", 0), scans: n("SC", 1), renames: n("RN", 0), ticks: n("TI", 1), deletions: n("DE", 1),
            repacks: n("RP", 0), undeletes: n("UD", 0), restores: n("RS", 0), kills: n("KI", 0), losses: n("LO", 0),
        },
    };
    let begun = std::time::Instant::now();
    let report = explore(&file, 1_000_000);
    println!("{report}\n{:?}", begun.elapsed());
    for t in &report.taken { println!("   {t}"); }
}
