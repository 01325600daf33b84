//! A tape library as doors show it, and what can be asked of it: the same for the running instance
//! and for a command that opened a library which nothing uses.

use super::control::ControlError;
use super::wire::{
    StrangeImage, TapeAct, TapeCartridge, TapeDrive, TapeErrors, TapeFileView, TapeLibrary,
    TapeRun, TapeTrouble, TapeView, When,
};
use crate::config::units::shown::Bytes;
use crate::error::Failure;
use crate::tier::tape::drive::DriveNumber;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::library::{
    Audit, CartridgeStatus, DriveStatus, FileStatus, Import, Library, LibraryError,
};
use crate::tier::tape::state::Errors;
use std::path::Path;

/// Barcodes that a tier gives its cartridges have three digits.
const STICKERS: u32 = 999;

/// All of a library.
#[must_use]
pub fn library(tier: String, url: String, library: &Library) -> TapeLibrary {
    let strange = library.strangers();
    TapeLibrary {
        tier,
        url,
        error: strange.as_ref().err().map(ToString::to_string),
        drives: library.drive_states().iter().map(drive).collect(),
        cartridges: library.cartridges().iter().map(cartridge).collect(),
        strange: strange
            .unwrap_or_default()
            .into_iter()
            .map(|(image, why)| StrangeImage { image, why })
            .collect(),
        unseen: library.unseen(),
    }
}

/// One cartridge, and what is on it.
///
/// # Errors
/// The library does not have it.
pub fn view(tier: String, library: &Library, barcode: &str) -> Result<TapeView, ControlError> {
    let (status, files) = library.cartridge(parse(barcode)?).map_err(told)?;
    Ok(TapeView {
        tier,
        wraps: status.entry.generation.parameters().wraps,
        cartridge: cartridge(&status),
        contents: files.iter().map(file).collect(),
    })
}

/// Does at once what can be; what was done, one line each.
///
/// # Errors
/// Why it was not.
pub fn carry_out(library: &Library, act: &TapeAct) -> Result<Vec<String>, ControlError> {
    match act {
        TapeAct::Label { barcodes, count } => label(library, barcodes, *count),
        TapeAct::Retire {
            barcode,
            drive,
            undo,
        } => retire(library, barcode.as_deref(), *drive, *undo),
        TapeAct::Export { barcode, to } => {
            let barcode = parse(barcode)?;
            let to = to.as_deref().map(Path::new);
            let at = library.export(barcode, to).map_err(told)?;
            Ok(vec![format!(
                "{barcode} is out of the library: {}",
                at.display()
            )])
        }
        TapeAct::Import { what, take } => {
            let what = match what.parse() {
                Ok(barcode) => Import::Known(barcode),
                Err(_) => Import::At(what.into()),
            };
            let taken = library.import(&what, *take).map_err(told)?;
            let from = taken
                .from
                .map_or(String::new(), |tier| format!("; tier {tier} wrote it"));
            Ok(vec![format!(
                "{} is in the library: {} files, {}{from}",
                taken.barcode,
                taken.files,
                Bytes(taken.bytes)
            )])
        }
        TapeAct::Verify { .. } | TapeAct::Repack { .. } => Err(ControlError::new(
            Failure::Usage,
            "that is not done at once",
        )),
    }
}

fn label(library: &Library, barcodes: &[String], count: u32) -> Result<Vec<String>, ControlError> {
    let named = barcodes.iter().map(|b| parse(b).map(Some));
    let mut wanted = named.collect::<Result<Vec<_>, _>>()?;
    if count > STICKERS {
        let why = format!("a library has {STICKERS} barcodes of its own at most");
        return Err(ControlError::new(Failure::Usage, why));
    }
    if wanted.is_empty() {
        wanted.extend((0..count.max(1)).map(|_| None));
    }
    let mut made = Vec::new();
    for barcode in wanted {
        let entry = library.label(barcode).map_err(told)?;
        made.push(format!(
            "{} in slot {}: {}, {}",
            entry.barcode,
            entry.slot,
            entry.generation,
            Bytes(entry.capacity)
        ));
    }
    Ok(made)
}

fn retire(
    library: &Library,
    barcode: Option<&str>,
    drive: Option<u32>,
    undo: bool,
) -> Result<Vec<String>, ControlError> {
    let why = (!undo).then(|| "by an administrator".to_owned());
    let state = if undo { "is used again" } else { "is retired" };
    match (barcode, drive) {
        (Some(barcode), None) => {
            let barcode = parse(barcode)?;
            library.retire(barcode, why).map_err(told)?;
            Ok(vec![format!("{barcode} {state}")])
        }
        (None, Some(number)) => {
            let drive = DriveNumber(number);
            library.retire_drive(drive, why).map_err(told)?;
            Ok(vec![format!("{drive} {state}")])
        }
        _ => Err(ControlError::new(
            Failure::Usage,
            "a cartridge or a drive, and one of them",
        )),
    }
}

/// What reading a cartridge showed, as a run.
#[must_use]
pub fn audit(tier: String, barcode: String, audit: &Audit) -> TapeRun {
    TapeRun {
        act: "verify".to_owned(),
        tier,
        barcode,
        files: audit.files,
        bytes: audit.bytes,
        trouble: audit
            .bad
            .iter()
            .map(|(file, why)| TapeTrouble {
                object: file.name.to_string(),
                why: why.clone(),
            })
            .collect(),
        ..TapeRun::default()
    }
}

/// A barcode that somebody typed.
///
/// # Errors
/// It is none.
pub fn parse(barcode: &str) -> Result<Barcode, ControlError> {
    barcode
        .parse()
        .map_err(|why| ControlError::new(Failure::Usage, why))
}

/// What a library said, for a caller.
#[must_use]
pub fn told(why: LibraryError) -> ControlError {
    let code = match &why {
        LibraryError::Absent { .. } | LibraryError::Exported { .. } => Failure::CartridgeAbsent,
        LibraryError::InUse => Failure::Busy,
        LibraryError::NoSuchDrive(_) => Failure::NotFound,
        LibraryError::Declined { .. }
        | LibraryError::OtherPool { .. }
        | LibraryError::Blank { .. }
        | LibraryError::Volume { .. } => Failure::Usage,
        LibraryError::NoRoom(_) => Failure::NoSpace,
        _ => Failure::TierUnavailable,
    };
    ControlError::new(code, why)
}

fn cartridge(status: &CartridgeStatus) -> TapeCartridge {
    let entry = &status.entry;
    let words = [
        ("scratch", status.scratch),
        ("empty", status.files == 0 && !status.scratch),
        ("full", entry.full),
        ("write-protected", entry.write_protected),
        ("away", entry.away.is_some()),
        ("retired", entry.retired.is_some()),
        ("read-only", entry.read_only.is_some()),
        ("failing", !entry.failed_on.is_empty()),
        ("unusable", status.unusable && entry.away.is_none()),
        ("damaged", status.damaged),
        ("repacking", entry.repack),
        ("foreign", entry.taken_from.is_some()),
    ];
    let said = words.iter().filter(|(_, is)| *is);
    let why = status.trouble.clone().filter(|_| entry.away.is_none());
    TapeCartridge {
        barcode: entry.barcode.to_string(),
        generation: entry.generation.to_string(),
        capacity: entry.capacity,
        used: status.used,
        files: status.files as u64,
        live: status.live_bytes,
        dead: status.dead,
        bad: entry.bad.len() as u64,
        slot: entry.slot,
        pool: status.pool.clone(),
        drive: status.drive.map(|d| d.0),
        away: entry.away.as_ref().map(|away| away.path.clone()),
        state: said.map(|(word, _)| (*word).to_owned()).collect(),
        why: why
            .or_else(|| entry.read_only.clone())
            .or_else(|| entry.retired.clone()),
        mounts: entry.mounts,
        freed: entry.freed,
        errors: errors(&entry.errors),
    }
}

fn drive(status: &DriveStatus) -> TapeDrive {
    let (bay, tally) = (&status.bay, status.bay.tally);
    TapeDrive {
        drive: bay.number.0,
        holds: bay.holds.map(|b| b.to_string()),
        busy: bay.busy,
        failed: bay.failed.clone().filter(|_| status.retired.is_none()),
        retired: status.retired.clone(),
        mounts: tally.mounts,
        locates: tally.locates,
        read: tally.read,
        written: tally.written,
        busy_s: tally.busy.as_secs(),
        errors: errors(&status.errors),
    }
}

fn errors(errors: &Errors) -> TapeErrors {
    let last = errors.last.as_ref();
    TapeErrors {
        read: errors.read,
        write: errors.write,
        load: errors.load,
        last: last.map(|last| When::from_unix(last.at)),
        why: last.map(|last| format!("{} with {}: {}", last.fault, last.with, last.why)),
    }
}

fn file(status: &FileStatus) -> TapeFileView {
    let file = &status.file;
    TapeFileView {
        object: file.name.to_string(),
        block: file.data(),
        blocks: file.blocks(),
        at: file.bytes,
        len: file.len,
        crc32c: format!("{:08x}", file.crc.0),
        dead: status.dead,
        bad: status.bad.clone(),
    }
}
