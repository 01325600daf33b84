//! Names come from the field, and the text speaks of Cairn alone.

use super::Source;

/// A file name that says nothing of what is in it.
pub(crate) fn name(source: &Source) -> Option<String> {
    let stem = source
        .path
        .rsplit('/')
        .next()
        .and_then(|f| f.strip_suffix(".rs"))?;
    let bad = match stem {
        "mod" => "use `x.rs` beside the folder `x/`",
        "utils" | "util" | "helpers" | "helper" | "misc" | "common" | "manager" => {
            "name the noun of the field that it is about"
        }
        _ => return None,
    };
    Some(format!("{}: {bad}", source.path))
}

/// Words that do not belong. The list is written in pieces, so that it does not find itself.
pub(crate) fn text(source: &Source) -> Vec<String> {
    let banned = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimple", "mented!("),
        concat!("/wo", "rk/"),
    ];
    source
        .text
        .lines()
        .enumerate()
        .flat_map(|(n, line)| {
            banned
                .iter()
                .filter(|b| line.contains(**b))
                .map(move |b| (n + 1, *b))
        })
        .map(|(n, b)| {
            format!(
                "{}:{n}: `{b}`: finish it, or say elsewhere why it stands",
                source.path
            )
        })
        .collect()
}
