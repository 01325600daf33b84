//! Medians, paired ratios with their intervals, and the table.

use crate::rows::{Row, Run};
use crate::side::Side;
use std::time::Duration;

/// A Markdown table that is printed row by row.
pub(crate) struct Table;

impl Table {
    /// The first side is what ratios are of; ratios to each further side are printed for the second.
    pub(crate) fn new(sides: &[Side], pairs: usize) -> Self {
        println!(
            "n = {pairs} repetitions; ratio of times above 1: faster; ratio of CPU times above 1: needs more; in \
             brackets the 95 % interval of the median ratio.\n"
        );
        let mut head = vec!["row".to_owned()];
        head.extend(sides.iter().map(|side| format!("{} us", side.name)));
        for other in others(sides.len()) {
            head.push(format!("{} / {}", sides[1].name, sides[other].name));
        }
        for other in others(sides.len()) {
            head.push(format!("CPU: {} / {}", sides[1].name, sides[other].name));
        }
        head.extend(sides.iter().map(|side| format!("{} CPU us", side.name)));
        println!("| {} |", head.join(" | "));
        println!("|{}", "---|".repeat(head.len()));
        Self
    }

    pub(crate) fn add(&mut self, row: &Row, runs: &[Vec<Run>]) {
        let mut cells = vec![row.name.to_owned()];
        cells.extend(runs.iter().map(|runs| each(runs, |run| run.wall)));
        cells.extend(others(runs.len()).map(|i| ratio(&runs[i], &runs[1], |run| run.wall)));
        // What ours needs more than theirs: above 1 is more.
        cells.extend(others(runs.len()).map(|i| ratio(&runs[1], &runs[i], |run| run.cpu)));
        cells.extend(runs.iter().map(|runs| each(runs, |run| run.cpu)));
        println!("| {} |", cells.join(" | "));
    }
}

/// All sides but the second.
fn others(sides: usize) -> impl Iterator<Item = usize> {
    (0..sides).filter(|side| *side != 1)
}

/// Median of the ratios of runs of the same repetition, with its interval.
fn ratio(above: &[Run], below: &[Run], of: impl Fn(&Run) -> Duration) -> String {
    let pairs = above.iter().zip(below);
    let mut ratios: Vec<f64> = pairs
        .map(|(a, b)| of(a).as_secs_f64() / of(b).as_secs_f64().max(1e-9))
        .collect();
    let (low, high) = interval(&mut ratios);
    format!("{:.2} [{low:.2}, {high:.2}]", median(&mut ratios))
}

/// Median time of one operation, in microseconds.
fn each(runs: &[Run], of: impl Fn(&Run) -> Duration) -> String {
    let mut times: Vec<f64> = runs
        .iter()
        .map(|run| of(run).as_secs_f64() * 1e6 / run.operations.max(1) as f64)
        .collect();
    format!("{:.2}", median(&mut times))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

/// Bounds of the median by order statistics, which ask nothing of how the values are distributed.
/// With fewer than six values that is all of them, at less than 95 %.
fn interval(values: &mut [f64]) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    let (mut tail, mut term, mut rank) = (0.0, 0.5_f64.powi(n as i32), 0);
    while tail + term <= 0.025 {
        tail += term;
        term *= (n - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    let low = rank.saturating_sub(1);
    (values[low], values[n - 1 - low])
}
