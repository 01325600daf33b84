//! What came of all damages, by where they lay.

use crate::site::Seen;
use crate::targets::Target;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Default)]
struct Row {
    damages: u64,
    at_start: u64,
    by_reads: u64,
    by_verify: u64,
    harmless: u64,
    healed: u64,
    errors: u64,
    wrong: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Table(BTreeMap<Target, Row>);

impl Table {
    pub(crate) fn note(&mut self, target: Target, seen: &Seen) {
        let row = self.0.entry(target).or_default();
        row.damages += 1;
        match (seen.refused, seen.told_by_reads, seen.told_by_verify) {
            (true, ..) => row.at_start += 1,
            (_, true, _) => row.by_reads += 1,
            (_, _, true) => row.by_verify += 1,
            _ => row.harmless += 1,
        }
        row.healed += seen.healed;
        row.errors += seen.errors.len() as u64;
        row.wrong += seen.wrong.len() as u64;
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<16} {:>8} {:>9} {:>9} {:>10} {:>9} {:>7} {:>12} {:>6}",
            "where",
            "damages",
            "at start",
            "by reads",
            "by verify",
            "harmless",
            "healed",
            "reads failed",
            "wrong"
        )?;
        let mut all = Row::default();
        for (target, row) in &self.0 {
            let how = if target.cut { "cut" } else { "bit" };
            line(f, &format!("{:?}, {how}", target.part), row)?;
            all.damages += row.damages;
            all.at_start += row.at_start;
            all.by_reads += row.by_reads;
            all.by_verify += row.by_verify;
            all.harmless += row.harmless;
            all.healed += row.healed;
            all.errors += row.errors;
            all.wrong += row.wrong;
        }
        line(f, "all", &all)
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, row: &Row) -> fmt::Result {
    writeln!(
        f,
        "{name:<16} {:>8} {:>9} {:>9} {:>10} {:>9} {:>7} {:>12} {:>6}",
        row.damages,
        row.at_start,
        row.by_reads,
        row.by_verify,
        row.harmless,
        row.healed,
        row.errors,
        row.wrong
    )
}
