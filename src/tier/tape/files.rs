//! The index of one cartridge: which file lies where, and which are dead. One JSON object a line.
//!
//! ```text
//! {"format":"cairn-tape-files","version":1,"volume":"CRN001L8"}
//! {"file":{"name":"e0000002a-000000000017","object":1,"bytes":80,"offset":88,...}}
//! {"dead":{"object":1,"name":"e0000002a-000000000017"}}
//! ```
//! Invariants kept here:
//! - It is a cache of the medium, but for the dead: if it is damaged or lost, it is made anew from the
//!   cartridge, and what was deleted is there again until it is deleted again (P8 finds that nobody
//!   knows it). One that cannot be read now is left alone.
//! - A file that it knows and that is not dead had its closing labels proven: if the medium does not
//!   show it, the medium is damaged, and the entry stays.
//! - A line that says *dead* is durable before anybody is told so; a torn last line is ignored.

use super::image::{LONGEST, Place};
use super::label::Barcode;
use super::state::write_whole;
use super::volume::TapeFile;
use crate::id::AggregateId;
use cairn_mover::{Crc32c, Crc32cHasher};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const FORMAT: &str = "cairn-tape-files";
const VERSION: u32 = 1;
/// A line has some 200 bytes.
const LINE: u64 = 4096;

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
    /// Why the one on disk could not be read: nothing is written in its place.
    unreadable: Option<String>,
    /// There is one on disk, or was when this was read, of which no line was of no use: what is on
    /// the cartridge is known, whether it can be seen or not.
    known: bool,
    /// Of the files, once it was asked for.
    sum: OnceLock<Crc32c>,
}

impl Files {
    fn empty(dir: &Path, barcode: Barcode) -> Self {
        Self {
            dir: dir.to_owned(),
            barcode,
            files: Vec::new(),
            dead: BTreeMap::new(),
            log: None,
            unreadable: None,
            known: false,
            sum: OnceLock::new(),
        }
    }

    /// Is it known what is on the cartridge, though it cannot be seen?
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.known
    }

    /// The cartridge was seen whole: an index that is not on disk is put there.
    ///
    /// # Errors
    /// There is none.
    pub fn settle(&mut self) -> io::Result<()> {
        if self.known { Ok(()) } else { self.secure() }
    }

    /// The cartridge was seen whole: the index is put on disk as it is known, durably.
    ///
    /// # Errors
    /// The old one stays.
    pub fn secure(&mut self) -> io::Result<()> {
        self.rewrite()?;
        self.known = true;
        Ok(())
    }

    /// Sum of its files, dead ones too: an index with another one has not the same files.
    #[must_use]
    pub fn sum(&self) -> Crc32c {
        *self.sum.get_or_init(|| {
            let mut sum = Crc32cHasher::default();
            for file in &self.files {
                let name = [u64::from(file.name.epoch), file.name.seq];
                let numbers = [file.object, file.bytes, u64::from(file.block), file.len];
                for number in name.into_iter().chain(numbers) {
                    sum.update(&number.to_le_bytes());
                }
                sum.update(&file.crc.0.to_le_bytes());
            }
            sum.sum()
        })
    }

    /// Reads a cartridge's index below `dir`. One that is there and cannot be read is empty, is
    /// never written, and [says so](Self::unreadable).
    #[must_use]
    pub fn open(dir: &Path, barcode: Barcode) -> Self {
        Self::read(dir, barcode).unwrap_or_else(|error| {
            tracing::error!(%barcode, %error, "the index of a cartridge cannot be read");
            Self {
                unreadable: Some(format!("its index cannot be read: {error}")),
                ..Self::empty(dir, barcode)
            }
        })
    }

    /// Why the index on disk could not be read.
    #[must_use]
    pub fn unreadable(&self) -> Option<&str> {
        self.unreadable.as_deref()
    }

    /// Reads a cartridge's index below `dir`. One that is missing or of no use is empty.
    ///
    /// # Errors
    /// It is there and cannot be read.
    pub fn read(dir: &Path, barcode: Barcode) -> io::Result<Self> {
        let mut index = Self::empty(dir, barcode);
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(index.path())
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(index),
            other => other?,
        };
        let (mut reader, mut line) = (BufReader::new(file), Vec::new());
        next_line(&mut reader, &mut line)?;
        let head: Option<Head> = serde_json::from_slice(&line).ok();
        let ours = |h: &Head| {
            h.format == FORMAT && h.version == VERSION && h.volume == barcode.to_string()
        };
        if !head.as_ref().is_some_and(ours) {
            tracing::warn!(%barcode, "the index of a cartridge is of no use and is made anew");
            return Ok(index);
        }
        index.known = true;
        while next_line(&mut reader, &mut line)? {
            match serde_json::from_slice(&line).ok() {
                Some(Line::File(file)) if index.follows(&file) => index.files.push(file),
                Some(Line::Dead(Dead { object, name })) => {
                    index
                        .dead
                        .extend(name.parse().ok().map(|name| (object, name)));
                }
                // Torn, or of no use: what lies behind is found on the medium. The dead are kept.
                _ => {
                    tracing::warn!(%barcode, "a line in the index of a cartridge is of no use");
                    // A torn one is the last, and what it was to say was told to nobody.
                    index.known &= line.last() != Some(&b'\n') && line.len() < LINE as usize;
                }
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
        (1..=LONGEST).contains(&file.block) && (file.object, file.bytes) == (object, bytes)
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

    /// Puts the files that the medium has in the place of those that are known, and forgets the dead
    /// that it does not have, or not with these bytes: another file may have their place and name.
    ///
    /// # Errors
    /// They are known all the same; the index on disk is the old one.
    pub fn replace(&mut self, files: &[TapeFile]) -> io::Result<()> {
        let known = &self.files;
        self.dead.retain(|object, name| {
            let there = at(files, *object).filter(|f| f.name == *name);
            let same = |f| at(known, *object).is_none_or(|known| is_same(known, f));
            there.is_some_and(same)
        });
        files.clone_into(&mut self.files);
        self.sum = OnceLock::new();
        self.secure()
    }

    /// Adds files that were found behind the last one, or written there.
    ///
    /// # Errors
    /// They are known all the same; the index on disk is behind, and is made anew when the
    /// cartridge is looked at again.
    pub fn add(&mut self, files: &[TapeFile]) -> io::Result<()> {
        self.files.extend_from_slice(files);
        self.sum = OnceLock::new();
        if self.log.is_none() {
            // Written anew, they are in it.
            return self.log().map(|_| ());
        }
        self.append(files.iter().map(|f| Line::File(*f)))
    }

    /// Adds a file that was just written behind the last one: it is not dead, whatever was there.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn wrote(&mut self, file: TapeFile) -> io::Result<()> {
        if self.dead.remove(&file.object).is_some() {
            self.log = None;
        }
        self.add(&[file])
    }

    /// Does it know the file?
    #[must_use]
    pub fn has(&self, file: &TapeFile) -> bool {
        lies_among(&self.files, file)
    }

    /// Does it know exactly this file, in this place?
    #[must_use]
    pub fn holds(&self, file: &TapeFile) -> bool {
        at(&self.files, file.object) == Some(file)
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
        let written = self.secure();
        if written.is_err() {
            (self.files, self.dead) = (files, dead);
        }
        self.sum = OnceLock::new();
        written
    }

    /// Writes the index anew, durably.
    fn rewrite(&mut self) -> io::Result<()> {
        if let Some(why) = &self.unreadable {
            return Err(io::Error::other(why.clone()));
        }
        let head = Head {
            format: FORMAT.to_owned(),
            version: VERSION,
            volume: self.barcode.to_string(),
        };
        let mut text = serde_json::to_vec(&head)?;
        text.push(b'\n');
        let files = self.files.iter().map(|f| Line::File(*f));
        // Also those of files that no index has, because their labels cannot be read now.
        let dead = self.dead.iter();
        let dead = dead.map(|(object, name)| Self::dead_line(*object, *name));
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

/// Is the file one of these, which are in the order in which they lie?
#[must_use]
pub fn lies_among(files: &[TapeFile], file: &TapeFile) -> bool {
    at(files, file.object).is_some_and(|f| is_same(f, file))
}

/// The file whose HDR1 is that object.
fn at(files: &[TapeFile], object: u64) -> Option<&TapeFile> {
    let at = files.binary_search_by_key(&object, |f| f.object).ok()?;
    files.get(at)
}

/// Have two in one place the same name and bytes?
fn is_same(one: &TapeFile, other: &TapeFile) -> bool {
    (one.name, one.len, one.crc) == (other.name, other.len, other.crc)
}

/// Gives the index of a cartridge, if there is one, another name, under which nobody looks for it.
///
/// # Errors
/// It has its name still.
pub fn set_aside(dir: &Path, barcode: Barcode) -> io::Result<()> {
    let index = dir.join(format!("{barcode}.jsonl"));
    if !index.try_exists()? {
        return Ok(());
    }
    for number in 1_u64.. {
        let aside = dir.join(format!("{barcode}.jsonl.{number}"));
        if !aside.try_exists()? {
            std::fs::rename(&index, &aside)?;
            break;
        }
    }
    File::open(dir)?.sync_all()
}

/// Reads the next line, or a piece of one that is too long to be one; `false` at the end.
fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(reader.take(LINE).read_until(b'\n', line)? > 0)
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
    fn lines_that_are_too_long_or_no_text_are_passed_over() {
        let place = TempDir::new().expect("temporary directory");
        let index = three(&place);
        let mut bytes = std::fs::read(index.path()).expect("text");
        bytes.extend([b'x'; 3 * LINE as usize]);
        bytes.extend(b"\n\xff\xfe\n");
        std::fs::write(index.path(), bytes).expect("write");
        let mut found = Files::read(place.path(), barcode()).expect("read");
        assert_eq!(found.all(), index.all());
        let next = file(index.all().last(), 4);
        found.add(&[next]).expect("goes on");
        let again = Files::read(place.path(), barcode()).expect("read");
        assert_eq!(again.all().last(), Some(&next));
    }

    #[test]
    fn one_with_a_line_of_no_use_does_not_know_what_is_on_the_cartridge() {
        let place = TempDir::new().expect("temporary directory");
        let mut index = three(&place);
        index.secure().expect("is durable");
        let sum = index.sum();
        let text = std::fs::read(index.path()).expect("text");
        let read = || Files::read(place.path(), barcode()).expect("read");
        assert!(read().is_known() && read().sum() == sum);
        // A torn last line is none; the sum says that something is missing.
        std::fs::write(index.path(), &text[..text.len() - 20]).expect("is torn");
        assert!(read().is_known() && read().sum() != sum);
        let lines: Vec<usize> = (0..text.len()).filter(|n| text[*n] == b'\n').collect();
        for at in lines[..3].iter().map(|n| n + 2) {
            let mut flipped = text.clone();
            flipped[at] ^= 1;
            std::fs::write(index.path(), &flipped).expect("is flipped");
            let mut found = read();
            assert!(!found.is_known() && found.sum() != sum, "{at}");
            // Nor after something was marked in it.
            found.bury(&index.all()[0]).expect("is buried");
            assert!(!found.is_known() && read().sum() != sum, "{at}");
        }
    }

    #[test]
    fn one_that_cannot_be_read_is_never_written() {
        let place = TempDir::new().expect("temporary directory");
        // Reading a directory fails.
        let path = place.path().join(format!("{}.jsonl", barcode()));
        std::fs::create_dir(&path).expect("directory");
        let mut index = Files::open(place.path(), barcode());
        assert!(index.unreadable().is_some());
        let first = file(None, 1);
        assert!(index.add(&[first]).is_err() && index.bury(&first).is_err());
        assert_eq!(index.all(), [first], "known all the same");
        assert!(path.is_dir());
    }

    #[test]
    fn what_takes_the_place_of_a_dead_file_is_alive() {
        let place = TempDir::new().expect("temporary directory");
        for replaced in [true, false] {
            let mut index = three(&place);
            let (first, last) = (index.all()[0], index.all()[2]);
            index.bury(&last).expect("is buried");
            if replaced {
                // The medium does not have it any more.
                let two = index.all()[..2].to_vec();
                index.replace(&two).expect("is replaced");
            } else {
                index.files.pop();
            }
            index.wrote(last).expect("is written again");
            let again = Files::read(place.path(), barcode()).expect("read");
            assert!(!again.is_dead(&last) && !again.is_dead(&first));
            std::fs::remove_file(index.path()).expect("removes");
        }
    }

    #[test]
    fn another_file_in_the_place_of_a_dead_one_is_alive_though_it_has_its_name() {
        let place = TempDir::new().expect("temporary directory");
        let mut index = three(&place);
        let all = index.all().to_vec();
        index.bury(&all[0]).expect("is buried");
        index.bury(&all[1]).expect("is buried");
        let other = TapeFile {
            crc: Crc32c(8),
            ..all[1]
        };
        assert!(index.has(&all[1]) && !index.has(&other));
        index.replace(&[all[0], other]).expect("is replaced");
        assert!(index.is_dead(&all[0]) && !index.is_dead(&other));
    }

    #[test]
    fn an_index_that_is_set_aside_is_in_nobodys_way() {
        let place = TempDir::new().expect("temporary directory");
        for _ in 0..2 {
            three(&place);
            set_aside(place.path(), barcode()).expect("is set aside");
            assert!(Files::open(place.path(), barcode()).all().is_empty());
        }
        set_aside(place.path(), barcode()).expect("there is none");
        let left = std::fs::read_dir(place.path()).expect("directory").count();
        assert_eq!(left, 2, "none was replaced");
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
