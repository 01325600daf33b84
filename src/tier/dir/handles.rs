//! Open descriptors of objects, few and reused: a recall reads one aggregate many times.

use super::layout;
use super::place::Entered;
use crate::id::AggregateId;
use lru::LruCache;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Open at once at most; they also keep the tier's filesystem from being unmounted, so few.
const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// Open descriptors, each from the filesystem seen under `generation`.
pub(super) struct Handles {
    open: Mutex<LruCache<AggregateId, (u64, Arc<File>)>>,
}

impl Default for Handles {
    fn default() -> Self {
        Self {
            open: Mutex::new(LruCache::new(CAPACITY)),
        }
    }
}

impl Handles {
    /// The object's descriptor and its present length.
    pub(super) fn get(&self, at: &Entered, name: AggregateId) -> io::Result<(Arc<File>, u64)> {
        let cached = self.open.lock().get(&name).cloned();
        if let Some((generation, file)) = cached {
            let meta = file.metadata()?;
            // Removed behind our back, or of a filesystem that was mounted here before.
            let gone = std::os::unix::fs::MetadataExt::nlink(&meta) == 0;
            if generation == at.generation && !gone {
                return Ok((file, meta.len()));
            }
            self.forget(name);
        }
        let shard = layout::open_shard(&at.root, name)?;
        // Not blocked by a FIFO that a stranger put there.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&shard, layout::file_name(name), flags, Mode::empty())?;
        let file = Arc::new(File::from(file));
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.open
            .lock()
            .put(name, (at.generation, Arc::clone(&file)));
        Ok((file, meta.len()))
    }

    /// Closes the object's descriptor, so that its blocks are freed when it is deleted.
    pub(super) fn forget(&self, name: AggregateId) {
        self.open.lock().pop(&name);
    }
}
