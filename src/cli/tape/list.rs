//! `cairn tape list`: all cartridges and drives, as a table.

use super::direct::At;
use crate::cli::output::{Output, harmless, table};
use crate::cli::{CliError, outcome};
use crate::config::units::shown::{Bytes, grouped, seconds};
use crate::server::wire::{TapeCartridge, TapeDrive, TapeErrors, TapeLibrary};

/// Lists them.
pub(super) fn list(at: &At<'_>, json: bool) -> Result<u8, CliError> {
    let list = at.list()?;
    let mut output = Output::new(json);
    if json {
        output.object(list)?;
        output.finish()?;
        return Ok(outcome::OK);
    }
    if list.libraries.is_empty() {
        output.line("the running instance has no tape library")?;
    }
    for (number, library) in list.libraries.iter().enumerate() {
        if number > 0 {
            output.line("")?;
        }
        one(&mut output, library)?;
    }
    output.finish()?;
    Ok(outcome::OK)
}

fn one(output: &mut Output, library: &TapeLibrary) -> Result<(), CliError> {
    output.line(format!("{}: {}", library.tier, harmless(&library.url)))?;
    if let Some(why) = &library.error {
        output.line(format!("it cannot be looked at: {}", harmless(why)))?;
    }
    let head = [
        "CARTRIDGE",
        "TYPE",
        "CAPACITY",
        "USED",
        "LIVE",
        "DEAD",
        "BAD",
        "MOUNTS",
        "ERRORS",
        "STATE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(library.cartridges.iter().map(row));
    for line in table(&rows, &[2, 3, 4, 5, 6, 7, 8]) {
        output.line(line)?;
    }
    if !library.drives.is_empty() {
        output.line("")?;
    }
    let head = [
        "DRIVE", "HOLDS", "MOUNTS", "LOCATES", "READ", "WRITTEN", "BUSY", "ERRORS", "STATE",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(library.drives.iter().map(drive));
    if rows.len() > 1 {
        for line in table(&rows, &[2, 3, 4, 5, 6, 7]) {
            output.line(line)?;
        }
    }
    let lines = remarks(library);
    if !lines.is_empty() {
        output.line("")?;
    }
    for line in lines {
        output.line(harmless(&line))?;
    }
    Ok(())
}

fn row(cartridge: &TapeCartridge) -> Vec<String> {
    let bytes = |n: u64| match n {
        0 => "-".to_owned(),
        n => Bytes(n).to_string(),
    };
    vec![
        cartridge.barcode.clone(),
        cartridge.generation.clone(),
        bytes(cartridge.capacity),
        bytes(if cartridge.files == 0 {
            0
        } else {
            cartridge.used
        }),
        bytes(cartridge.live),
        bytes(cartridge.dead),
        some(cartridge.bad),
        some(cartridge.mounts),
        errors(&cartridge.errors),
        state(cartridge),
    ]
}

/// Where it is, and what else is to be known.
pub(super) fn state(cartridge: &TapeCartridge) -> String {
    let place = match (&cartridge.away, cartridge.drive) {
        (Some(_), _) => None,
        (None, Some(drive)) => Some(format!("in drive {drive}")),
        (None, None) => Some(format!("in slot {}", cartridge.slot)),
    };
    let pool = cartridge.pool.iter().map(|pool| format!("pool {pool}"));
    let words = place.into_iter().chain(pool);
    let words = words.chain(cartridge.state.iter().cloned());
    words.collect::<Vec<_>>().join(", ")
}

fn some(count: u64) -> String {
    match count {
        0 => "-".to_owned(),
        n => grouped(n),
    }
}

/// As in `2r 1w`.
fn errors(errors: &TapeErrors) -> String {
    let kinds = [(errors.read, "r"), (errors.write, "w"), (errors.load, "l")];
    let some = kinds.iter().filter(|(n, _)| *n > 0);
    let words: Vec<String> = some.map(|(n, kind)| format!("{n}{kind}")).collect();
    match words.is_empty() {
        true => "-".to_owned(),
        false => words.join(" "),
    }
}

fn drive(drive: &TapeDrive) -> Vec<String> {
    let state = match (&drive.retired, &drive.failed, drive.busy) {
        (Some(_), ..) => "retired",
        (None, Some(_), _) => "failed",
        (None, None, true) => "busy",
        (None, None, false) => "idle",
    };
    vec![
        drive.drive.to_string(),
        drive.holds.clone().unwrap_or_else(|| "-".to_owned()),
        grouped(drive.mounts),
        grouped(drive.locates),
        Bytes(drive.read).to_string(),
        Bytes(drive.written).to_string(),
        seconds(drive.busy_s),
        errors(&drive.errors),
        state.to_owned(),
    ]
}

/// What somebody should know, one line each.
fn remarks(library: &TapeLibrary) -> Vec<String> {
    let mut lines = Vec::new();
    for cartridge in &library.cartridges {
        let barcode = &cartridge.barcode;
        if let Some(away) = &cartridge.away {
            lines.push(format!("{barcode} is away: {away}"));
        }
        if let Some(why) = &cartridge.why {
            lines.push(format!("{barcode}: {why}"));
        } else if let (Some(at), Some(why)) = (cartridge.errors.last, &cartridge.errors.why) {
            lines.push(format!("{barcode}: last error {}: {why}", at.to_seconds()));
        }
    }
    for drive in &library.drives {
        let why = drive.retired.as_ref().or(drive.failed.as_ref());
        let why = why.or(drive.errors.why.as_ref());
        lines.extend(why.map(|why| format!("drive {}: {why}", drive.drive)));
    }
    for strange in &library.strange {
        lines.push(format!("{} is left alone: {}", strange.image, strange.why));
    }
    for unseen in &library.unseen {
        if !lines.iter().any(|line| unseen.contains(line.as_str())) {
            lines.push(format!("not all can be seen: {unseen}"));
        }
    }
    lines
}
