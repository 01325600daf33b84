//! The columns of `cairn ls -l`:
//!
//! ```text
//! mode links owner group size month day time-or-year state on-disk name
//!   1    2     3     4    5     6    7       8         9     10     11
//! ```

use super::word;
use crate::cli::names::Names;
use crate::cli::output::table;
use crate::cli::sys::local_time;
use crate::server::wire::{NodeState, NodeType, When};
use std::time::UNIX_EPOCH;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Half a year: what is older, or lies ahead, is shown with its year, as ls does.
const RECENT: i64 = 15_778_476;

/// One line a node, up to where the name begins.
pub(super) fn lines(nodes: &[NodeState], names: &mut Names) -> Vec<String> {
    let now = When::now()
        .0
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let rows: Vec<Vec<String>> = nodes
        .iter()
        .map(|node| {
            let (month, day, time) = date(node.mtime_s, now);
            vec![
                mode(node),
                node.nlink.to_string(),
                names.user(node.uid).to_owned(),
                names.group(node.gid).to_owned(),
                node.size.to_string(),
                month,
                day,
                time,
                word(node).to_owned(),
                node.on_disk.to_string(),
            ]
        })
        .collect();
    let mut lines = table(&rows, &[1, 4, 6, 7, 9]);
    lines.iter_mut().for_each(|line| line.push_str("  "));
    lines
}

fn date(mtime: i64, now: i64) -> (String, String, String) {
    let Some(local) = local_time(mtime) else {
        return ("?".to_owned(), "?".to_owned(), mtime.to_string());
    };
    let month = MONTHS.get(local.month).copied().unwrap_or("?");
    let age = now.saturating_sub(mtime);
    let time = if (0..RECENT).contains(&age) {
        format!("{:02}:{:02}", local.hour, local.minute)
    } else {
        local.year.to_string()
    };
    (month.to_owned(), local.day.to_string(), time)
}

/// `drwxr-sr-x`.
fn mode(node: &NodeState) -> String {
    let kind = match node.kind {
        NodeType::File => '-',
        NodeType::Directory => 'd',
        NodeType::Symlink => 'l',
        NodeType::Special => '?',
    };
    let mut text = String::from(kind);
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    for (at, (bit, with_x, without_x)) in special.into_iter().enumerate() {
        let bits = node.mode >> (6 - 3 * at);
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (node.mode & bit != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => with_x,
            (true, false) => without_x,
        });
    }
    text
}
