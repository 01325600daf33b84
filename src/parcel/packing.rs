//! The sending end of an archive: names and files here, read as if they were one tar file with its index behind it.
//!
//! Invariants kept here:
//! - every byte has its place before the first is read, so blocks are read in any order, by several streams, and again;
//! - a file is what it was when the archive was laid out, before its first byte is read and after the last one was
//!   acknowledged; else the whole fails, by its name;
//! - the index has sums of what was read. Bytes that did not pass here (an earlier transfer moved them) are read for it;
//! - the same files give the same bytes, byte for byte, and the same [`Outgoing::version`]: so an archive is resumed.

use super::ends::Outgoing;
use super::opened::{Opened, Trouble, changed, fill, look_again, open};
use super::tally::{Tally, length};
use super::tree::{Found, Tree};
use crate::format::aggregate::{AggregateError, BLOCK};
use crate::format::draft::{Draft, Stretch, Summed};
use crate::format::member::{DataIdentity, Extent, Kind, Member, MemberPath, whole_runs};
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};
use parking_lot::Mutex;
use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// Whose archive it is, where an aggregate has its name: no instance gives this one.
const NOBODYS: AggregateId = AggregateId { epoch: 0, seq: 0 };

/// One name that is to be packed.
#[derive(Debug, Clone)]
pub struct Named {
    /// The directory here.
    pub tree: Arc<Tree>,
    /// Where it lies below that.
    pub local: Vec<u8>,
    /// What it is called in the archive; nothing: what lies in the archive's root.
    pub name: Vec<u8>,
    /// What it was when it was looked at.
    pub found: Found,
}

/// See the module.
#[derive(Debug)]
pub struct Packing {
    /// By the draft's numbers.
    sources: Vec<Source>,
    draft: Draft,
    version: [u8; 32],
    open: Opened,
    tally: Tally,
    end: Mutex<Option<Arc<Vec<u8>>>>,
    troubles: Mutex<BTreeMap<usize, Trouble>>,
}

#[derive(Debug)]
struct Source {
    tree: Arc<Tree>,
    local: Vec<u8>,
    found: Found,
}

fn time(time: super::Time) -> Timestamp {
    Timestamp {
        sec: time.seconds,
        nsec: time.nanos,
    }
}

/// What is where in a file: all of it, or what the filesystem says are no holes.
fn kind_of(file: &File, found: &Found) -> io::Result<Kind> {
    if found.blocks.saturating_mul(512) >= found.size {
        return Ok(Kind::dense(found.size));
    }
    let (mut runs, mut at) = (Vec::new(), 0);
    while at < found.size {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            // The filesystem does not tell.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Kind::dense(found.size)),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(found.size);
        if end <= start {
            return Err(changed());
        }
        runs.push(Extent {
            offset: start,
            len: end - start,
        });
        at = end;
    }
    Ok(Kind::Regular {
        size: found.size,
        extents: whole_runs(found.size, runs),
    })
}

/// Names a file by where it lies here: two names of one file have the same.
fn identity(found: &Found) -> DataIdentity {
    let mut file = [0; 16];
    file[..4].copy_from_slice(&found.device.0.to_le_bytes());
    file[4..8].copy_from_slice(&found.device.1.to_le_bytes());
    file[8..].copy_from_slice(&found.inode.to_le_bytes());
    DataIdentity {
        file: FileId(file),
        version: DataVersion(1),
        crc: None,
    }
}

impl Named {
    /// `names`: the files with more than one name that came before.
    fn member(&self, names: &HashMap<FileId, MemberPath>) -> io::Result<Member> {
        let path = MemberPath::new(self.name.clone())
            .map_err(|bad| io::Error::new(io::ErrorKind::InvalidFilename, bad))?;
        let found = &self.found;
        let own = identity(found);
        let kind = match found.kind {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink {
                target: self.tree.link(&self.local)?,
            },
            FileType::RegularFile => match names.get(&own.file).filter(|_| found.links > 1) {
                Some(target) => Kind::HardLink {
                    target: target.clone(),
                },
                // Better known now than when the first byte is wanted.
                None => kind_of(&open(&self.tree, &self.local, found)?, found)?,
            },
            _ => return Err(io::Error::other("it is neither file, directory nor link")),
        };
        let regular = matches!(kind, Kind::Regular { .. });
        Ok(Member {
            path,
            kind,
            mode: found.mode & 0o7777,
            uid: found.owner.0,
            gid: found.owner.1,
            mtime: time(found.modified),
            // Reading would change it, and with it what a second transfer is to resume.
            atime: time(found.modified),
            ctime: time(found.changed),
            xattrs: Vec::new(),
            identity: regular.then_some(own),
        })
    }
}

/// As a key: all below a name follow it, and nothing comes between.
fn key(name: &[u8]) -> Vec<u8> {
    name.iter()
        .map(|b| if *b == b'/' { 0 } else { *b })
        .collect()
}

/// Names that cannot be in an archive, and why.
pub type LeftOut = Vec<(Vec<u8>, io::Error)>;

impl Packing {
    /// Lays an archive of these names out, and tells which of them cannot be in it, and why.
    ///
    /// # Errors
    /// [`AggregateError`]: there can be no such archive.
    pub fn new(mut names: Vec<Named>) -> Result<(Self, LeftOut), AggregateError> {
        names.sort_by_cached_key(|named| key(&named.name));
        let (mut members, mut sources, mut left_out) = (Vec::new(), Vec::new(), Vec::new());
        let mut several = HashMap::new();
        let mut digest = Sha256::new();
        let mut newest = Timestamp { sec: 0, nsec: 0 };
        for named in names {
            let member = match named.member(&several) {
                Ok(member) => member,
                Err(error) => {
                    left_out.push((named.name, error));
                    continue;
                }
            };
            if let (Some(identity), true) = (member.identity, named.found.links > 1) {
                several.insert(identity.file, member.path.clone());
            }
            digest.update((named.name.len() as u64).to_le_bytes());
            digest.update(&named.name);
            digest.update(named.found.version());
            digest.update(identity(&named.found).file.0);
            // Where a file has holes may be told otherwise later, although nobody changed it.
            for run in member.kind.runs() {
                digest.update(run.offset.to_le_bytes());
                digest.update(run.len.to_le_bytes());
            }
            digest.update([0; 16]);
            newest = newest.max(member.ctime);
            members.push(member);
            sources.push(Source {
                tree: named.tree,
                local: named.local,
                found: named.found,
            });
        }
        let version: [u8; 32] = digest.finalize().into();
        let mut own = [0; 16];
        own.copy_from_slice(&version[..16]);
        let packing = Self {
            sources,
            draft: Draft::new(members, NOBODYS, FsUuid(own), newest)?,
            version,
            open: Opened::default(),
            tally: Tally::default(),
            end: Mutex::default(),
            troubles: Mutex::default(),
        };
        Ok((packing, left_out))
    }

    /// Is there nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Files and links in it.
    #[must_use]
    pub fn files(&self) -> u64 {
        let members = self.draft.members().iter();
        members
            .filter(|entry| entry.member.kind != Kind::Directory)
            .count() as u64
    }

    fn file(&self, number: usize) -> io::Result<Arc<File>> {
        let source = &self.sources[number];
        let (tree, local) = (&source.tree, &source.local);
        self.open.file(number, tree, local, &source.found)
    }

    /// Reads stored bytes of a member.
    fn stored(&self, number: usize, at: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.file(number)?;
        let entry = &self.draft.members()[number];
        if entry.is_dense() {
            return fill(&file, buffer, at);
        }
        let (mut before, mut rest, mut at) = (0, buffer, at);
        for run in entry.member.kind.runs() {
            let end = before + run.len;
            if at < end && !rest.is_empty() {
                let len = usize::try_from(end - at)
                    .unwrap_or(usize::MAX)
                    .min(rest.len());
                let (here, behind) = rest.split_at_mut(len);
                fill(&file, here, run.offset + (at - before))?;
                at += len as u64;
                rest = behind;
            }
            before = end;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// What a member's data sum to: what passed here counts, the rest is read.
    fn summed(&self, number: usize) -> io::Result<Summed> {
        let entry = &self.draft.members()[number];
        let stored = entry.stored_len();
        if !entry.is_dense() {
            let mut reader = Stored {
                of: self,
                number,
                at: 0,
                left: stored,
            };
            return Summed::of(&entry.member.kind, &mut reader);
        }
        let mut blocks = Vec::with_capacity(stored.div_ceil(BLOCK) as usize);
        let mut buffer = Vec::new();
        for n in 0..stored.div_ceil(BLOCK) {
            if self.tally.block(number, n).is_none() {
                buffer.resize(length(stored, n) as usize, 0);
                self.stored(number, n * BLOCK, &mut buffer)?;
                self.tally.take(number, stored, n * BLOCK, &buffer);
            }
            let sum = self.tally.block(number, n);
            blocks.push(sum.ok_or_else(changed)?);
        }
        Ok(Summed::dense(stored, blocks))
    }

    /// Index and trailer: made once, when its first byte is wanted, which is when most of the rest was read.
    fn end(&self) -> Result<Arc<Vec<u8>>, (usize, io::Error)> {
        let mut end = self.end.lock();
        if let Some(end) = &*end {
            return Ok(Arc::clone(end));
        }
        let mut sums = Vec::with_capacity(self.sources.len());
        for number in 0..self.sources.len() {
            sums.push(self.summed(number).map_err(|error| (number, error))?);
        }
        let made = self.draft.end(&sums);
        let made = made.map_err(|error| (0, io::Error::other(error)))?;
        Ok(Arc::clone(end.insert(Arc::new(made))))
    }

    /// Notes what is wrong with a member, and says its name.
    fn trouble(&self, number: usize, error: &io::Error) -> io::Error {
        let trouble = Trouble::of(error);
        self.troubles.lock().entry(number).or_insert(trouble);
        let name = &self.draft.members()[number].member.path;
        io::Error::new(error.kind(), format!("{name}: {error}"))
    }
}

/// Stored bytes of a member, in order.
struct Stored<'a> {
    of: &'a Packing,
    number: usize,
    at: u64,
    left: u64,
}

impl Read for Stored<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        self.of.stored(self.number, self.at, &mut buffer[..len])?;
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

impl cairn_mover::Source for Packing {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut rest = buffer;
        for stretch in self.draft.stretches(offset, rest.len()) {
            let here = match stretch {
                Stretch::Known(bytes) => {
                    let (here, behind) = rest.split_at_mut(bytes.len());
                    here.copy_from_slice(&bytes);
                    behind
                }
                Stretch::Data { member, at, len } => {
                    let (here, behind) = rest.split_at_mut(len);
                    self.stored(member, at, here)
                        .map_err(|error| self.trouble(member, &error))?;
                    let stored = self.draft.members()[member].stored_len();
                    self.tally.take(member, stored, at, here);
                    behind
                }
                Stretch::End { at, len } => {
                    let end = self.end();
                    let end = end.map_err(|(member, error)| self.trouble(member, &error))?;
                    let (here, behind) = rest.split_at_mut(len);
                    here.copy_from_slice(&end[at..at + len]);
                    behind
                }
            };
            rest = here;
        }
        if rest.is_empty() {
            Ok(())
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }

    /// A directory may get new names meanwhile: those are not in it.
    fn unchanged(&self) -> io::Result<bool> {
        for (number, source) in self.sources.iter().enumerate() {
            if source.found.kind == FileType::Directory {
                continue;
            }
            if let Err(error) = look_again(&source.tree, &source.local, &source.found) {
                let told = self.trouble(number, &error);
                if Trouble::of(&error) != Trouble::Changed {
                    return Err(told);
                }
            }
        }
        Ok(self.changed().is_none())
    }
}

impl Outgoing for Packing {
    fn size(&self) -> u64 {
        self.draft.size()
    }

    fn version(&self) -> Vec<u8> {
        self.version.to_vec()
    }

    /// The receiver knows one entry, the archive.
    fn troubles(&self) -> BTreeMap<usize, Trouble> {
        let first = self.troubles.lock().values().next().cloned();
        first.map(|trouble| (0, trouble)).into_iter().collect()
    }

    fn changed(&self) -> Option<Vec<u8>> {
        let troubles = self.troubles.lock();
        let first = troubles.iter().find(|(_, t)| **t == Trouble::Changed)?.0;
        let name = &self.draft.members()[*first].member.path;
        Some(name.to_string().into_bytes())
    }
}

#[cfg(test)]
mod tests;
