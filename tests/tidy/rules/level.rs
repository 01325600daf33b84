//! The one direction: a room uses only what stands below it.

use super::Source;

/// Rooms of src/ by level, lowest first. Rooms on one level do not know each other, but for the
/// top one, whose rooms are the program's faces.
const LEVELS: &[&[&str]] = &[
    &["id", "error", "config"],
    &["format"],
    &["catalog", "tier", "parcel"],
    &["hsm"],
    &["server"],
    &["client"],
    &["cli"],
];

/// Leaf crates must not know each other or the root.
const LEAVES: &[(&str, &[&str])] = &[
    ("fuse/", &["cairn::", "cairn_mover", "cairn_policies"]),
    ("mover/", &["cairn::", "cairn_fuse", "cairn_policies"]),
    ("policies/", &["cairn::", "cairn_fuse", "cairn_mover"]),
];

pub(crate) fn check(source: &Source) -> Vec<String> {
    let mut complaints = Vec::new();
    for (leaf, strangers) in LEAVES {
        if source.path.starts_with(leaf) {
            for (number, line) in source.code() {
                for stranger in strangers.iter().filter(|s| line.contains(**s)) {
                    complaints.push(format!(
                        "{}:{number}: a leaf crate does not know `{stranger}`; pass what it needs in",
                        source.path
                    ));
                }
            }
        }
    }
    let Some(room) = source.path.strip_prefix("src/").map(room_of) else {
        return complaints;
    };
    let Some(own) = level_of(room) else {
        return complaints;
    };
    for (number, line) in source.code() {
        for at in line.match_indices("crate::").map(|(at, m)| at + m.len()) {
            let used = room_of(&line[at..]);
            let Some(theirs) = level_of(used) else {
                continue;
            };
            let allowed = used == room || theirs < own || (own == 0 && theirs == 0);
            if !allowed {
                complaints.push(format!(
                    "{}:{number}: {room}/ uses {used}/, which does not stand below it; define a trait or pass a value",
                    source.path
                ));
            }
        }
    }
    complaints
}

fn room_of(path: &str) -> &str {
    let end = path
        .find(|c: char| !(c.is_alphanumeric() || c == '_'))
        .unwrap_or(path.len());
    &path[..end]
}

fn level_of(room: &str) -> Option<usize> {
    LEVELS.iter().position(|rooms| rooms.contains(&room))
}
