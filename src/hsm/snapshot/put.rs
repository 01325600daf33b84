//! One aggregate on its way to several tiers: a tier that fails drops out, the others go on.

use super::{Order, SnapshotError};
use crate::format::aggregate::{AggregateError, AggregateWriter};
use crate::format::member::{DataIdentity, Extent, Kind, Member, MemberPath};
use crate::format::namespace;
use crate::id::{AggregateId, DataVersion, FileId, Timestamp};
use crate::tier::{Put as TierPut, Receipt, TierError};
use cairn_mover::Crc32cHasher;
use std::io::{self, Write};

/// A tier's side of it.
type Target = Result<Box<dyn TierPut>, TierError>;

/// Writes to all that still go on.
struct Fan {
    snapshot: AggregateId,
    targets: Vec<Target>,
    sum: Crc32cHasher,
}

impl Write for Fan {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for target in &mut self.targets {
            if let Ok(put) = target
                && let Err(why) = put.write_all(bytes)
            {
                *target = Err(TierError::from_write(why, "a tier", self.snapshot));
            }
        }
        self.sum.update(bytes);
        if self.targets.iter().any(Result::is_ok) {
            Ok(bytes.len())
        } else {
            Err(io::Error::other("every tier failed"))
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        for target in &mut self.targets {
            if let Ok(put) = target
                && let Err(why) = put.flush()
            {
                *target = Err(TierError::from_write(why, "a tier", self.snapshot));
            }
        }
        Ok(())
    }
}

/// The aggregate being written. Dropping it abandons it.
pub(super) struct Put {
    writer: AggregateWriter<io::BufWriter<Fan>>,
    snapshot: AggregateId,
    begun: Timestamp,
    parts: u64,
}

impl Put {
    pub(super) fn begin(order: &Order<'_>, begun: Timestamp) -> Result<Self, SnapshotError> {
        let size = u64::try_from(namespace::PART).unwrap_or(0);
        let put = |tier: &&dyn crate::tier::Tier| tier.put(order.snapshot, size);
        let targets: Vec<Target> = order.tiers.iter().map(put).collect();
        let fan = Fan {
            snapshot: order.snapshot,
            targets,
            sum: Crc32cHasher::default(),
        };
        if !fan.targets.iter().any(Result::is_ok) {
            return Err(all_failed(fan, order.snapshot));
        }
        let sink = io::BufWriter::with_capacity(1 << 20, fan);
        let fs = order.backing.fs();
        Ok(Self {
            writer: AggregateWriter::new(sink, order.snapshot, fs, begun),
            snapshot: order.snapshot,
            begun,
            parts: 0,
        })
    }

    /// The next part of the listing.
    pub(super) fn part(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.parts += 1;
        let snapshot = self.snapshot;
        let path = namespace::part_path(snapshot, self.parts);
        let path = MemberPath::new(path.into_bytes()).map_err(|why| SnapshotError::Compose {
            snapshot,
            source: AggregateError::DamagedIndex(why.to_string()),
        })?;
        let size = bytes.len() as u64;
        let run = Extent {
            offset: 0,
            len: size,
        };
        let member = Member {
            path,
            kind: Kind::Regular {
                size,
                extents: vec![run],
            },
            // It tells all names: not for everybody.
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: self.begun,
            atime: self.begun,
            ctime: self.begun,
            xattrs: Vec::new(),
            identity: Some(DataIdentity {
                file: FileId::random(),
                version: DataVersion(1),
                crc: None,
            }),
        };
        let added = self.writer.add(&member, &mut &*bytes);
        added
            .map(drop)
            .map_err(|source| SnapshotError::Compose { snapshot, source })
    }

    /// The end: what each tier says.
    pub(super) fn finish(self) -> Result<Vec<Result<Receipt, TierError>>, SnapshotError> {
        let snapshot = self.snapshot;
        let compose = |source| SnapshotError::Compose { snapshot, source };
        let (sink, _, trailer) = self.writer.finish().map_err(compose)?;
        let fan = sink.into_inner().map_err(|why| {
            compose(AggregateError::Io {
                step: "writing the aggregate",
                source: why.into_error(),
            })
        })?;
        let (sum, len) = (fan.sum.sum(), fan.sum.len());
        let mut receipts = Vec::new();
        for target in fan.targets {
            receipts.push(target.and_then(|put| put.finish(sum)).and_then(|receipt| {
                let fits = (receipt.aggregate, receipt.len, receipt.crc)
                    == (snapshot, trailer.total_len, sum)
                    && len == trailer.total_len;
                if fits {
                    Ok(receipt)
                } else {
                    Err(TierError::Corrupt {
                        tier: "a tier".to_owned(),
                        object: snapshot,
                        expected: sum,
                        found: receipt.crc,
                    })
                }
            }));
        }
        if receipts.iter().any(Result::is_ok) {
            return Ok(receipts);
        }
        let first = receipts.into_iter().find_map(Result::err);
        Err(first.map_or_else(|| nothing(snapshot), SnapshotError::Tiers))
    }
}

fn all_failed(fan: Fan, snapshot: AggregateId) -> SnapshotError {
    let first = fan.targets.into_iter().find_map(Result::err);
    first.map_or_else(|| nothing(snapshot), SnapshotError::Tiers)
}

fn nothing(snapshot: AggregateId) -> SnapshotError {
    SnapshotError::Compose {
        snapshot,
        source: AggregateError::DamagedIndex("there is no tier to put it on".to_owned()),
    }
}
