//! The index of one cartridge: which file lies where, and which are dead. One JSON object a line.
//!
//! ```text
//! {"format":"cairn-tape-files","version":1,"volume":"CRN001L8"}
//! {"file":{"name":"e0000002a-000000000017","object":1,"bytes":80,"offset":88,...}}
//! {"dead":{"object":1,"name":"e0000002a-000000000017"}}
//! ```
//! Invariants kept here:
//! - It is a cache of the medium, but for the dead: whatever is wrong with it, it is made anew from the
//!   cartridge. If it is lost, what was deleted is there again until it is deleted again (P8 finds
//!   that nobody knows it).
//! - A line that says *dead* is durable before anybody is told so; a torn last line is ignored.

use super::image::Place;
use super::label::Barcode;
use super::state::write_whole;
use super::volume::TapeFile;
use crate::id::AggregateId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const FORMAT: &str = "cairn-tape-files";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: String,
    version: u32,
    volume: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Line {
    File(TapeFile),
    Dead(Dead),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Dead {
    object: u64,
    name: String,
}

/// The files of a cartridge, in their order, and which of them are dead.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    barcode: Barcode,
    files: Vec<TapeFile>,
    /// By the object of their HDR1; the name, so that another file there is not taken for dead.
    dead: BTreeMap<u64, AggregateId>,
    log: Option<File>,
}

impl Files {
    /// Reads a cartridge's index below `dir`. One that is missing or of no use is empty.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(dir: &Path, barcode: Barcode) -> io::Result<Self> {
        let mut index = Self {
            dir: dir.to_owned(),
            barcode,
            files: Vec::new(),
            dead: BTreeMap::new(),
            log: None,
        };
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(index.path())
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(index),
            other => other?,
        };
        let mut lines = BufReader::new(file).lines();
        let head = lines.next().transpose();
        let head: Option<Head> = head
            .ok()
            .flatten()
            .and_then(|l| serde_json::from_str(&l).ok());
        let ours = |h: &Head| {
            h.format == FORMAT && h.version == VERSION && h.volume == barcode.to_string()
        };
        if !head.as_ref().is_some_and(ours) {
            tracing::warn!(%barcode, "the index of a cartridge is of no use and is made anew");
            return Ok(index);
        }
        for line in lines {
            match line.ok().and_then(|l| serde_json::from_str(&l).ok()) {
                Some(Line::File(file)) if index.follows(&file) => index.files.push(file),
                Some(Line::Dead(Dead { object, name })) => {
                    index
                        .dead
                        .extend(name.parse().ok().map(|name| (object, name)));
                }
                // Torn, or of no use: what lies behind is found on the medium. The dead are kept.
                _ => tracing::warn!(%barcode, "a line in the index of a cartridge is of no use"),
            }
        }
        Ok(index)
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.file_name())
    }

    fn file_name(&self) -> String {
        format!("{}.jsonl", self.barcode)
    }

    /// Can the file lie behind those known?
    fn follows(&self, file: &TapeFile) -> bool {
        let (object, bytes) = self
            .files
            .last()
            .map_or((1, 80), |f| (f.end(), f.end_bytes()));
        file.block > 0 && (file.object, file.bytes) == (object, bytes)
    }

    /// All files, dead ones too, in the order in which they lie.
    #[must_use]
    pub fn all(&self) -> &[TapeFile] {
        &self.files
    }

    /// Files that are not dead.
    pub fn live(&self) -> impl Iterator<Item = &TapeFile> {
        self.files.iter().filter(|f| !self.is_dead(f))
    }

    /// Was it deleted?
    #[must_use]
    pub fn is_dead(&self, file: &TapeFile) -> bool {
        self.dead.get(&file.object) == Some(&file.name)
    }

    /// Places for [`super::drive::Drive::know`].
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        self.files.iter().filter_map(TapeFile::place).collect()
    }

    /// Forgets all files, because the medium does not have them so; the dead are kept. Nothing is
    /// written before the next [`Self::rewrite`].
    pub fn forget(&mut self) {
        self.files.clear();
    }

    /// Adds files that were found behind the last one, or written there.
    ///
    /// # Errors
    /// They are known all the same; the index on disk is behind, and is made anew when the
    /// cartridge is looked at again.
    pub fn add(&mut self, files: &[TapeFile]) -> io::Result<()> {
        self.files.extend_from_slice(files);
        if self.log.is_none() {
            // Written anew, they are in it.
            return self.log().map(|_| ());
        }
        self.append(files.iter().map(|f| Line::File(*f)))
    }

    /// Marks a file as dead, durably.
    ///
    /// # Errors
    /// It is not marked.
    pub fn bury(&mut self, file: &TapeFile) -> io::Result<()> {
        self.log()?;
        self.append([Self::dead_line(file.object, file.name)].into_iter())?;
        self.log()?.sync_data()?;
        self.dead.insert(file.object, file.name);
        Ok(())
    }

    fn dead_line(object: u64, name: AggregateId) -> Line {
        let name = name.to_string();
        Line::Dead(Dead { object, name })
    }

    /// The cartridge was freed: nothing is on it.
    ///
    /// # Errors
    /// The old index stays.
    pub fn clear(&mut self) -> io::Result<()> {
        let (files, dead) = (
            std::mem::take(&mut self.files),
            std::mem::take(&mut self.dead),
        );
        let written = self.rewrite();
        if written.is_err() {
            (self.files, self.dead) = (files, dead);
        }
        written
    }

    /// Writes the index anew, durably.
    ///
    /// # Errors
    /// The old one stays.
    pub fn rewrite(&mut self) -> io::Result<()> {
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            volume: self.barcode.to_string(),
        };
        let mut text = serde_json::to_vec(&head)?;
        text.push(b'\n');
        let files = self.files.iter().map(|f| Line::File(*f));
        let dead = self.files.iter().filter(|f| self.is_dead(f));
        let dead = dead.map(|f| Self::dead_line(f.object, f.name));
        for line in files.chain(dead) {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        self.log = None;
        write_whole(&self.dir, &self.file_name(), &text)
    }

    fn append(&mut self, lines: impl Iterator<Item = Line>) -> io::Result<()> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        let written = self.log()?.write_all(&text);
        if written.is_err() {
            // Perhaps half a line: the next one begins a file of its own.
            self.log = None;
        }
        written
    }

    /// The file to append to. It is opened after it was written anew once, so that it ends with a
    /// whole line.
    fn log(&mut self) -> io::Result<&mut File> {
        if self.log.is_none() {
            self.rewrite()?;
            let mut options = OpenOptions::new();
            options.append(true).custom_flags(libc::O_NOFOLLOW);
            self.log = Some(options.open(self.path())?);
        }
        self.log
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_mover::Crc32c;
    use tempfile::TempDir;

    fn barcode() -> Barcode {
        "CRN001L8".parse().expect("barcode")
    }

    fn file(after: Option<&TapeFile>, seq: u64) -> TapeFile {
        TapeFile {
            name: AggregateId { epoch: 1, seq },
            object: after.map_or(1, TapeFile::end),
            bytes: after.map_or(80, TapeFile::end_bytes),
            offset: seq * 100,
            block: 1000,
            len: seq * 900,
            crc: Crc32c(7),
        }
    }

    fn three(place: &TempDir) -> Files {
        let mut index = Files::read(place.path(), barcode()).expect("none yet");
        let mut last = None;
        for seq in 1..=3 {
            let next = file(last.as_ref(), seq);
            index.add(&[next]).expect("is added");
            last = Some(next);
        }
        index
    }

    #[test]
    fn files_and_the_dead_are_read_again() {
        let place = TempDir::new().expect("temporary directory");
        let mut index = three(&place);
        let second = index.all()[1];
        index.bury(&second).expect("is buried");
        let again = Files::read(place.path(), barcode()).expect("read");
        assert_eq!(again.all(), index.all());
        let live: Vec<u64> = again.live().map(|f| f.name.seq).collect();
        assert_eq!(live, [1, 3]);
        index.clear().expect("is freed");
        let again = Files::read(place.path(), barcode()).expect("read");
        assert!(again.all().is_empty() && !again.is_dead(&second));
    }

    #[test]
    fn whatever_is_cut_off_leaves_a_beginning_and_goes_on_whole() {
        let place = TempDir::new().expect("temporary directory");
        let index = three(&place);
        let (path, all) = (index.path(), index.all().to_vec());
        let text = std::fs::read(&path).expect("text");
        for cut in 0..text.len() {
            std::fs::write(&path, &text[..cut]).expect("is cut");
            let mut found = Files::read(place.path(), barcode()).expect("read");
            let count = found.all().len();
            assert_eq!(found.all(), &all[..count], "{cut}");
            found.add(&all[count..]).expect("goes on");
            let again = Files::read(place.path(), barcode()).expect("read");
            assert_eq!(again.all(), all, "{cut}");
        }
    }

    #[test]
    fn an_index_of_another_cartridge_or_version_is_of_no_use() {
        let place = TempDir::new().expect("temporary directory");
        let index = three(&place);
        let text = std::fs::read_to_string(index.path()).expect("text");
        for (from, to) in [
            ("CRN001L8\"}", "CRN002L8\"}"),
            ("version\":1", "version\":2"),
        ] {
            std::fs::write(index.path(), text.replacen(from, to, 1)).expect("write");
            let found = Files::read(place.path(), barcode()).expect("read");
            assert!(found.all().is_empty(), "{to}");
        }
    }
}
