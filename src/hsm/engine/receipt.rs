//! A receipt: what copies of a file exist, where, since when, and by which sums they can be proven
//! without Cairn.
//!
//! Invariant: a SHA-256 is given only of bytes whose CRC32C is that of the recorded version.

use super::report::FileReport;
use super::{Engine, EngineError, Shared, Slot};
use crate::catalog::{Aggregate, Copy, CopyState};
use crate::error::Failure;
use crate::format::aggregate::{Index, IndexEntry};
use crate::format::record::CopyHint;
use crate::hsm::archive::{Origin, Verified};
use crate::hsm::backing::{ContentDigest, How, NodeKind};
use crate::id::{DataVersion, FileId};
use crate::tier::Kind;
use cairn_mover::{Crc32c, Crc32cHasher};
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes summed at once.
const CHUNK: usize = 1 << 20;

/// A file's data version and its copies.
#[derive(Debug)]
pub struct Receipt {
    /// The file.
    pub file: FileId,
    /// The last archived data version.
    pub version: DataVersion,
    /// Its size, bytes.
    pub size: u64,
    /// CRC32C of its whole content, holes as zeros.
    pub crc: Crc32c,
    /// The file is still this version, as far as its times tell.
    pub current: bool,
    /// Its copies, good ones first.
    pub copies: Vec<CopyReceipt>,
    /// SHA-256 of its content, where it was asked for.
    pub sha256: Option<Digested>,
}

/// A digest that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digested {
    /// The digest, or why there is none.
    pub sum: Result<[u8; 32], String>,
    /// What was read for it: `the disk`, or a tier's name.
    pub from: String,
}

/// One copy.
#[derive(Debug)]
pub struct CopyReceipt {
    /// Its row.
    pub copy: Copy,
    /// The tier's name.
    pub tier: String,
    /// The tier's URL.
    pub url: String,
    /// The aggregate's row.
    pub aggregate: Option<Aggregate>,
    /// The aggregate's file, where the tier is a directory.
    pub object: Option<PathBuf>,
    /// Where it lies in the aggregate, or why that cannot be told now.
    pub member: Result<MemberPlace, String>,
}

/// A member's place in its aggregate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberPlace {
    /// Its name as tar shows it.
    pub name: Vec<u8>,
    /// Offset of the first byte of its data in the object.
    pub data: u64,
    /// Bytes of data there.
    pub stored: u64,
    /// They are the whole content; else holes are left out.
    pub dense: bool,
    /// Parts of the file that lie in other objects, before this one.
    pub parts: u16,
}

/// Asked while something is read: is the answer still wanted?
type Wanted<'a> = &'a (dyn Fn() -> bool + Sync);

impl Engine {
    /// The receipt of a file; `fd`: any descriptor of it. `sha256`: with that digest, for which the file
    /// is read, or a copy if it is released. May wait for tiers.
    ///
    /// # Errors
    /// [`EngineError`]: it was never archived, or is no file.
    pub fn receipt(
        &self,
        fd: BorrowedFd<'_>,
        sha256: bool,
        wanted: Wanted<'_>,
    ) -> Result<Receipt, EngineError> {
        self.shared.receipt(fd, self.report(fd)?, sha256, wanted)
    }
}

impl Shared {
    fn receipt(
        &self,
        fd: BorrowedFd<'_>,
        report: FileReport,
        sha256: bool,
        wanted: Wanted<'_>,
    ) -> Result<Receipt, EngineError> {
        if report.stat.kind != NodeKind::Regular {
            return Err(EngineError::refused(
                Failure::NotAFile,
                "it is no regular file",
            ));
        }
        let node = report.node.as_ref();
        let known = node.and_then(|n| n.version);
        let of_record = report.record.as_ref().map(|r| (r.file, r.version, r.crc));
        let of_node = known.map(|v| (v.file, v.version, v.crc));
        let Some((file, version, crc)) = of_record.or(of_node) else {
            return Err(
                EngineError::refused(Failure::NoGoodCopy, "it was never archived")
                    .hint("`cairn archive` makes copies"),
            );
        };
        let size = match (&report.record, node.and_then(|n| n.proven)) {
            (Some(record), _) => record.size,
            (None, Some(proven)) => proven.size,
            (None, None) => report.stat.size,
        };
        let copies = report.copies.iter().filter_map(|copy| self.one(copy));
        let mut receipt = Receipt {
            file,
            version,
            size,
            crc,
            current: !report.is_dirty() && !report.foreign && !report.is_lost(),
            copies: copies.collect(),
            sha256: None,
        };
        if sha256 {
            receipt.sha256 = Some(self.digest(fd, &report, &receipt, wanted)?);
        }
        Ok(receipt)
    }

    fn one(&self, copy: &Copy) -> Option<CopyReceipt> {
        let slot = self.slot(copy.tier)?;
        let about = slot.tier.describe();
        let root = about.root.filter(|_| about.kind == Kind::Dir);
        let object = root.map(|r| crate::tier::dir::object_path(&r.path, copy.aggregate));
        let aggregate = self.catalog.aggregate(copy.tier, copy.aggregate);
        let member = self.index_of(slot, copy).and_then(|index| {
            let entry = entry(&index, copy).ok_or("its index does not name this version")?;
            Ok(MemberPlace {
                name: entry.tar_name(),
                data: entry.data,
                stored: entry.own_stored_len(),
                dense: entry.is_dense(),
                parts: u16::try_from(entry.parts().len()).unwrap_or(u16::MAX),
            })
        });
        Some(CopyReceipt {
            copy: *copy,
            tier: slot.name.clone(),
            url: slot.url.clone(),
            aggregate: aggregate.ok().flatten(),
            object,
            member,
        })
    }

    fn index_of(&self, slot: &Slot, copy: &Copy) -> Result<Arc<Index>, String> {
        let recaller = self.recaller().ok_or("the instance is starting")?;
        let loaded = recaller
            .indexes()
            .load(&*slot.tier, copy.tier, copy.aggregate)
            .map_err(|why| why.to_string())?;
        Ok(Arc::new(loaded.index().clone()))
    }

    fn digest(
        &self,
        fd: BorrowedFd<'_>,
        report: &FileReport,
        receipt: &Receipt,
        wanted: Wanted<'_>,
    ) -> Result<Digested, EngineError> {
        if !report.is_released() && receipt.current {
            let open = self.backing.reopen(fd, How::Read)?;
            return Ok(Digested {
                sum: of_file(open, receipt.crc, wanted),
                from: "the disk".into(),
            });
        }
        let mut last = Digested {
            sum: Err("no good copy can be read".into()),
            from: "no copy".into(),
        };
        let good = |c: &&CopyReceipt| c.copy.state == CopyState::Good && c.copy.crc == receipt.crc;
        for one in receipt.copies.iter().filter(good) {
            let Some(slot) = self.slot(one.copy.tier) else {
                continue;
            };
            let sum = self.index_of(slot, &one.copy).and_then(|index| {
                let entry = entry(&index, &one.copy).ok_or("its index does not name it")?;
                of_copy(slot, &one.copy, entry, receipt.crc, wanted)
            });
            let done = sum.is_ok();
            last = Digested {
                sum,
                from: one.tier.clone(),
            };
            if done || !wanted() {
                break;
            }
        }
        Ok(last)
    }
}

fn entry<'a>(index: &'a Index, copy: &Copy) -> Option<&'a IndexEntry> {
    let by_place = || {
        let at = index.position_by_place(copy.header, copy.crc)?;
        index.entries.get(at)
    };
    index.by_identity(copy.file, copy.version).or_else(by_place)
}

/// Both sums of a content that is given piece by piece.
#[derive(Default)]
struct Sums {
    sha: ContentDigest,
    crc: Crc32cHasher,
}

impl Sums {
    fn update(&mut self, bytes: &[u8]) {
        self.sha.update(bytes);
        self.crc.update(bytes);
    }

    /// Zeros up to this offset of the content.
    fn zeros_to(&mut self, end: u64, wanted: Wanted<'_>) -> Result<(), String> {
        let zeros = vec![0; CHUNK];
        while self.crc.len() < end {
            if !wanted() {
                return Err("nobody waits for it any more".into());
            }
            let len = (end - self.crc.len()).min(CHUNK as u64) as usize;
            self.update(&zeros[..len]);
        }
        Ok(())
    }

    fn finish(self, expected: Crc32c) -> Result<[u8; 32], String> {
        let found = self.crc.sum();
        if found != expected {
            return Err(format!(
                "what was read has the CRC32C {found}, and the version that is on record {expected}"
            ));
        }
        Ok(self.sha.finish())
    }
}

fn of_file(file: OwnedFd, crc: Crc32c, wanted: Wanted<'_>) -> Result<[u8; 32], String> {
    let (mut sums, mut buffer) = (Sums::default(), vec![0; CHUNK]);
    let mut file = std::fs::File::from(file);
    loop {
        if !wanted() {
            return Err("nobody waits for it any more".into());
        }
        match file.read(&mut buffer) {
            Ok(0) => return sums.finish(crc),
            Ok(len) => sums.update(&buffer[..len]),
            Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why.to_string()),
        }
    }
}

fn of_copy(
    slot: &Slot,
    copy: &Copy,
    entry: &IndexEntry,
    crc: Crc32c,
    wanted: Wanted<'_>,
) -> Result<[u8; 32], String> {
    let hint = CopyHint {
        tier: copy.tier,
        aggregate: copy.aggregate,
        header: copy.header,
    };
    let origin = Origin {
        tier: Arc::clone(&slot.tier),
        copy: hint,
    };
    let stop = || !wanted();
    let mut data = Verified::new(&origin, entry, &stop);
    let (mut sums, mut buffer) = (Sums::default(), vec![0; CHUNK]);
    for run in entry.member.kind.runs() {
        sums.zeros_to(run.offset, wanted)?;
        let mut left = run.len;
        while left > 0 {
            let len = left.min(CHUNK as u64) as usize;
            data.read_exact(&mut buffer[..len])
                .map_err(|why| why.to_string())?;
            sums.update(&buffer[..len]);
            left -= len as u64;
        }
    }
    if let crate::format::member::Kind::Regular { size, .. } = &entry.member.kind {
        sums.zeros_to(*size, wanted)?;
    }
    sums.finish(crc)
}
