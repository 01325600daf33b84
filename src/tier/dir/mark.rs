//! The mark of a directory tier, `cairn-tier.json`: written once, whole, and never changed by
//! Cairn afterwards.

use super::layout::{self, MARK};
use super::place::refused;
use crate::id::{InstanceId, TierId};
use crate::tier::{Mark, TierError};
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::SystemTime;

const FORMAT: &str = "cairn-tier";
const VERSION: u32 = 1;
/// A mark is some 300 bytes; anything much larger is none.
pub(in crate::tier) const LONGEST: u64 = 64 << 10;
/// What a directory tier's mark says to people.
pub(in crate::tier) const NOTE: &str = "A tier of Cairn. Every file below aggregates/ is a plain tar archive; \
                    extract them in the order of their names. Do not change this directory by hand.";

#[derive(Serialize, Deserialize)]
struct MarkFile {
    format: String,
    version: u32,
    /// Eight hex digits, as everywhere.
    tier: String,
    owner: String,
    /// Seconds since 1970.
    created: u64,
    #[serde(default)]
    note: String,
}

/// Why a mark could not be had.
#[derive(Debug, thiserror::Error)]
pub(in crate::tier) enum MarkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{MARK} is no mark of a tier ({0}); restore it, or choose an empty directory")]
    Damaged(String),
    #[error("{MARK} is of version {0}, this program knows {VERSION}: use a newer Cairn")]
    Newer(u32),
}

impl MarkError {
    pub(in crate::tier) fn is_absent(&self) -> bool {
        matches!(self, Self::Io(e) if e.kind() == io::ErrorKind::NotFound)
    }
}

/// Reads the mark below `root`.
pub(in crate::tier) fn read(root: impl AsFd) -> Result<Mark, MarkError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(root, MARK, flags, Mode::empty()).map_err(io::Error::from)?;
    let mut text = Vec::new();
    File::from(file).take(LONGEST).read_to_end(&mut text)?;
    parse(&text)
}

/// The mark that a file or an object with this text is.
pub(in crate::tier) fn parse(text: &[u8]) -> Result<Mark, MarkError> {
    let damaged = |why: String| MarkError::Damaged(why);
    // The version first: a newer mark may have other fields.
    let value: serde_json::Value =
        serde_json::from_slice(text).map_err(|e| damaged(e.to_string()))?;
    if value.get("format").and_then(|f| f.as_str()) != Some(FORMAT) {
        return Err(damaged(format!("its \"format\" is not {FORMAT:?}")));
    }
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(1) => {}
        Some(n) if n > u64::from(VERSION) => {
            return Err(MarkError::Newer(u32::try_from(n).unwrap_or(u32::MAX)));
        }
        _ => return Err(damaged("its \"version\" is no number above 0".to_owned())),
    }
    let file: MarkFile = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
    let owner: InstanceId = file
        .owner
        .parse()
        .map_err(|_| damaged("owner".to_owned()))?;
    let tier = u32::from_str_radix(&file.tier, 16).map_err(|e| damaged(e.to_string()))?;
    if tier == 0 {
        return Err(damaged("tier 0 is no number of a tier".to_owned()));
    }
    Ok(Mark {
        tier: TierId(tier),
        owner,
    })
}

/// Finds `wanted.owner`'s tier at `root`, or makes an empty directory one.
pub(in crate::tier) fn establish(
    root: &Path,
    label: &str,
    wanted: Mark,
    note: &str,
) -> Result<Mark, TierError> {
    let away = |step: &'static str, why: String| TierError::Unavailable {
        tier: label.to_owned(),
        step,
        why,
    };
    if wanted.tier.0 == 0 {
        return Err(refused(root, "0 is no number of a tier"));
    }
    let dir = open_or_make(root).map_err(|error| match error.kind() {
        io::ErrorKind::NotADirectory => refused(root, "it is no directory"),
        io::ErrorKind::NotFound => away(
            "opening",
            format!(
                "neither {} nor the directory above it is there",
                root.display()
            ),
        ),
        _ => away("opening", error.to_string()),
    })?;
    settle(&dir, root, (wanted, note), away, || ())
}

/// Reads the mark, or writes it into a directory that is empty. Others may be at the same thing:
/// the mark that is there in the end counts. `meanwhile`: what happens after the mark was not
/// found and before anything is made of that.
fn settle(
    dir: &OwnedFd,
    root: &Path,
    (wanted, note): (Mark, &str),
    away: impl Fn(&'static str, String) -> TierError,
    mut meanwhile: impl FnMut(),
) -> Result<Mark, TierError> {
    let mut tries = 0;
    loop {
        match read(dir) {
            Ok(mark) => {
                check_owner(root, mark, wanted.owner)?;
                return Ok(mark);
            }
            Err(error) if error.is_absent() && tries < 3 => tries += 1,
            Err(MarkError::Io(error)) => return Err(away("reading the mark", error.to_string())),
            Err(error) => return Err(refused(root, &error.to_string())),
        }
        meanwhile();
        let empty = check_empty(dir, root)
            .map_err(|error| away("reading the directory", error.to_string()))?;
        match empty {
            Ok(()) => {
                write(dir, wanted, note)
                    .map_err(|error| away("writing the mark", error.to_string()))?;
            }
            // A tier gets its mark before anything else. If there is one now, what was found came
            // after it, from an opener that was quicker.
            Err(_) if !matches!(read(dir), Err(error) if error.is_absent()) => {}
            Err(refusal) => return Err(refusal),
        }
    }
}

/// The mark at `root`, whoever's it is.
pub(in crate::tier) fn at(root: &Path, label: &str) -> Result<Mark, TierError> {
    let away = |error: io::Error| TierError::Unavailable {
        tier: label.to_owned(),
        step: "reading the mark",
        why: error.to_string(),
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(root, flags, Mode::empty()).map_err(|e| away(e.into()))?;
    read(&dir).map_err(|error| match error {
        MarkError::Io(error) => away(error),
        other => refused(root, &other.to_string()),
    })
}

/// Refuses another instance's tier and says the way out.
pub(in crate::tier) fn check_owner(
    root: &Path,
    mark: Mark,
    ours: InstanceId,
) -> Result<(), TierError> {
    if mark.owner == ours {
        return Ok(());
    }
    let why = format!(
        "it belongs to instance {}, this is {ours}. Choose another directory; or, if that \
         instance will never write here again: cairn tier owner {} --state DIR --take {}",
        mark.owner,
        root.display(),
        mark.owner
    );
    Err(refused(root, &why))
}

fn open_or_make(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(root, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    // Only the last directory: a longer path that is missing is a filesystem that is not mounted.
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(io::ErrorKind::NotFound.into());
    };
    let parent = rustix::fs::open(parent, flags, Mode::empty())?;
    match rustix::fs::mkdirat(&parent, name, layout::DIR_MODE) {
        Ok(()) | Err(Errno::EXIST) => layout::sync_dir(&parent)?,
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(CWD, root, flags, Mode::empty())?)
}

/// The inner error: the directory holds other things.
fn check_empty(dir: &OwnedFd, root: &Path) -> io::Result<Result<(), TierError>> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        // Our own mark, half written by a process that died: it never got its name.
        if matches!(&*name, "." | ".." | "lost+found") || name.starts_with(&half_written("")) {
            continue;
        }
        let why = format!(
            "it is not empty (it holds {name:?}) and has no {MARK}. Choose an empty directory; or, \
             if this was a tier, restore its {MARK}"
        );
        return Ok(Err(refused(root, &why)));
    }
    Ok(Ok(()))
}

fn half_written(nonce: &str) -> String {
    format!(".{MARK}.{nonce}")
}

fn write(root: &OwnedFd, mark: Mark, note: &str) -> io::Result<()> {
    let (temporary, fd) = prepare(root, mark, note)?;
    let placed = super::put::move_exclusively(root, &temporary, root, MARK, &fd);
    if !matches!(placed, Ok(true)) {
        // It may be gone already: removing it is a courtesy.
        let _ = rustix::fs::unlinkat(root, &temporary, AtFlags::empty());
    }
    placed?;
    layout::sync_dir(root)
}

/// Puts another mark in the place of the one that is there.
pub(super) fn replace(root: &OwnedFd, mark: Mark, note: &str) -> io::Result<()> {
    let (temporary, _) = prepare(root, mark, note)?;
    let placed = rustix::fs::renameat(root, &temporary, root, MARK);
    if placed.is_err() {
        let _ = rustix::fs::unlinkat(root, &temporary, AtFlags::empty());
    }
    placed?;
    layout::sync_dir(root)
}

/// What stands in the file, or the object, of a mark.
pub(in crate::tier) fn text(mark: Mark, note: &str) -> io::Result<Vec<u8>> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let file = MarkFile {
        format: FORMAT.to_owned(),
        version: VERSION,
        tier: mark.tier.to_string(),
        owner: mark.owner.to_string(),
        created: since.map_or(0, |t| t.as_secs()),
        note: note.to_owned(),
    };
    let mut text = serde_json::to_vec_pretty(&file)?;
    text.push(b'\n');
    Ok(text)
}

/// The mark under a name of its own, durable.
fn prepare(root: &OwnedFd, mark: Mark, note: &str) -> io::Result<(String, File)> {
    let text = text(mark, note)?;
    let temporary = half_written(&InstanceId::random().to_string());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(root, &temporary, flags, Mode::RUSR | Mode::WUSR)?;
    let mut fd = File::from(fd);
    if let Err(why) = fd.write_all(&text).and_then(|()| fd.sync_all()) {
        let _ = rustix::fs::unlinkat(root, &temporary, AtFlags::empty());
        return Err(why);
    }
    Ok((temporary, fd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quicker_opener_between_two_looks_is_no_stranger() {
        let place = tempfile::tempdir().expect("temporary directory");
        let owner = InstanceId([7; 16]);
        let mark = |tier| Mark {
            tier: TierId(tier),
            owner,
        };
        let away = |step: &'static str, why| TierError::Unavailable {
            tier: "t".into(),
            step,
            why,
        };
        let dir = open_or_make(place.path()).expect("directory");
        let mut quicker = Some(());
        let found = settle(&dir, place.path(), (mark(2), NOTE), away, || {
            if quicker.take().is_some() {
                write(&dir, mark(1), NOTE).expect("the other's mark");
                layout::make_dir(&dir, layout::INCOMING).expect("the other's directory");
            }
        });
        assert_eq!(found.expect("opens").tier, TierId(1));
        // Without a mark it is still somebody's directory.
        std::fs::remove_file(place.path().join(MARK)).expect("removed");
        let refused = settle(&dir, place.path(), (mark(2), NOTE), away, || ());
        assert!(
            matches!(refused, Err(TierError::Refused { .. })),
            "{refused:?}"
        );
    }

    #[test]
    fn marks_that_are_none_are_refused_with_a_reason() {
        let owner = InstanceId([7; 16]);
        let good = format!(
            r#"{{"format":"cairn-tier","version":1,"tier":"0000002a","owner":"{owner}","created":1}}"#
        );
        assert_eq!(parse(good.as_bytes()).expect("good").tier, TierId(42));
        let newer = r#"{"format":"cairn-tier","version":9,"shape":[]}"#;
        assert!(matches!(parse(newer.as_bytes()), Err(MarkError::Newer(9))));
        for bad in [
            "",
            "{}",
            "[1]",
            r#"{"format":"cairn-tier","version":0}"#,
            r#"{"format":"cairn-tier","version":1}"#,
            &good.replace("0000002a", "00000000"),
            &good.replace("0000002a", "x"),
            &good.replace(&owner.to_string(), "me"),
        ] {
            assert!(
                matches!(parse(bad.as_bytes()), Err(MarkError::Damaged(_))),
                "{bad}"
            );
        }
    }
}
