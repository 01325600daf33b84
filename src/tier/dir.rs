//! A directory as a tier: another filesystem, an NFS appliance, a big slow disk. Aggregates are
//! files that anybody can find and untar; docs/tiers.md draws the layout.
//!
//! Invariants kept here (and in `dir/`):
//! - An object becomes visible whole: written in `incoming/`, fsynced, read back past the cache and
//!   compared, and only then moved to its name, which is never replaced; the receipt follows the
//!   fsync of every directory on the way to it (P2, P9).
//! - Nothing is ever written, and nothing called missing, unless the tier's own mark was seen at
//!   its root in the same operation, through the same descriptor: an empty mount point is never
//!   taken for the tier (see `dir/place.rs`). It comes back without reopening.
//! - A temporary is removed when its writer is gone, never while it lives (see `dir/incoming.rs`).

mod handles;
mod incoming;
mod layout;
mod list;
pub(super) mod mark;
pub(super) mod place;
mod put;
mod readback;
mod take;

pub(super) use take::{owner_of, take};

pub(super) use mark::at as mark_at;

pub use layout::object_path;

use super::{Description, Expect, Kind, Mark, OpenHow, Put, Root, Space, Tier, TierError};
use crate::id::AggregateId;
use bytes::Bytes;
use place::Place;
use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A directory as a tier.
pub struct DirTier {
    place: Arc<Place>,
    handles: handles::Handles,
}

/// Does a directory carry a tier's mark?
pub(super) fn is_marked(root: &Path) -> std::io::Result<bool> {
    root.join(layout::MARK).try_exists()
}

impl DirTier {
    /// Opens the tier at the absolute path `root`; see [`Expect`] for what may be there.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn open(root: &Path, how: OpenHow) -> Result<Self, TierError> {
        let label = super::TierUrl::Dir {
            path: root.to_owned(),
            pace: super::throttle::Pace::default(),
        }
        .to_string();
        let expected = match how.expect {
            Expect::New(id) => {
                let wanted = Mark {
                    tier: id,
                    owner: how.owner,
                };
                mark::establish(root, &label, wanted, mark::NOTE)?
            }
            Expect::Known(tier) => Mark {
                tier,
                owner: how.owner,
            },
        };
        let is_new = matches!(how.expect, Expect::New(_));
        let place = Arc::new(Place::new(root.to_owned(), label, expected, is_new));
        match place.look("opening") {
            Err(error @ TierError::Unavailable { .. })
                if matches!(how.expect, Expect::Known(_)) =>
            {
                tracing::warn!(%error, "tier is away; it is used when it is back");
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        let handles = handles::Handles::default();
        Ok(Self { place, handles })
    }

    /// The directory of an object, if it exists below a root that was just verified.
    fn shard(&self, root: &OwnedFd, name: AggregateId) -> std::io::Result<OwnedFd> {
        layout::open_shard(root, name)
    }
}

impl Tier for DirTier {
    fn mark(&self) -> Mark {
        self.place.expected()
    }

    fn describe(&self) -> Description {
        Description {
            kind: Kind::Dir,
            url: self.place.label().to_owned(),
            root: Some(Root {
                path: self.place.path().to_owned(),
                dev: self.place.dev(),
            }),
            notes: Vec::new(),
        }
    }

    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        let put = put::DirPut::start(&self.place, name, size_hint)?;
        Ok(Box::new(put))
    }

    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        const STEP: &str = "reading";
        let entered = self.place.enter(STEP)?;
        let fail = |error| self.place.fail(STEP, name, error);
        let (file, size) = self.handles.get(&entered, name).map_err(fail)?;
        let wanted = offset.saturating_add(len);
        let short = |size| TierError::Short {
            tier: self.place.label().to_owned(),
            object: name,
            len: size,
            wanted,
        };
        if wanted > size {
            return Err(short(size));
        }
        // Bounded by the object's own size.
        let mut data = Vec::new();
        let count =
            usize::try_from(len).map_err(|_| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        data.try_reserve_exact(count)
            .map_err(|_| fail(std::io::ErrorKind::OutOfMemory.into()))?;
        data.resize(count, 0);
        match file.read_exact_at(&mut data, offset) {
            Ok(()) => Ok(data.into()),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                Err(short(file.metadata().map_err(fail)?.len()))
            }
            Err(error) => {
                self.handles.forget(name);
                Err(fail(error))
            }
        }
    }

    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        const STEP: &str = "looking up";
        let entered = self.place.enter(STEP)?;
        let fail = |error| self.place.fail(STEP, name, error);
        let shard = self.shard(&entered.root, name).map_err(fail)?;
        let stat = rustix::fs::statat(&shard, layout::file_name(name), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| fail(e.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(fail(std::io::ErrorKind::NotFound.into()));
        }
        Ok(u64::try_from(stat.st_size).unwrap_or(0))
    }

    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        const STEP: &str = "deleting";
        let entered = self.place.enter(STEP)?;
        self.handles.forget(name);
        let gone = self.shard(&entered.root, name).and_then(|shard| {
            match rustix::fs::unlinkat(&shard, layout::file_name(name), AtFlags::empty()) {
                // Also by an earlier try whose sync failed: without one it comes back with the power.
                Ok(()) | Err(Errno::NOENT) => layout::sync_dir(&shard),
                Err(error) => Err(error.into()),
            }
        });
        match gone.map_err(|error| self.place.fail(STEP, name, error)) {
            Err(TierError::Missing { .. }) => Ok(()),
            other => other,
        }
    }

    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        const STEP: &str = "listing";
        let entered = self.place.enter(STEP)?;
        list::names(&entered.root, after, limit).map_err(|error| self.place.fail_whole(STEP, error))
    }

    fn space(&self) -> Result<Space, TierError> {
        const STEP: &str = "asking for space";
        let entered = self.place.enter(STEP)?;
        let stat = rustix::fs::fstatvfs(&entered.root)
            .map_err(|error| self.place.fail_whole(STEP, error.into()))?;
        Ok(Space {
            free: Some(stat.f_bavail.saturating_mul(stat.f_frsize)),
            total: Some(stat.f_blocks.saturating_mul(stat.f_frsize)),
        })
    }
}

#[cfg(test)]
mod tests;
