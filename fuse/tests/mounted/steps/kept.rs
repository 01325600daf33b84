//! What stays open from step to step: descriptors, and mappings that outlive theirs.

use super::data::{MAPPED, loaded, punch, store_within};
use super::{Act, Outcome, Step, all_of, look_of};
use crate::mapping::{Mapping, Stores};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

#[derive(Debug, Clone, Copy)]
pub(super) enum KeptAct {
    Open,
    Map,
    Use,
    Close,
}

impl KeptAct {
    pub(super) const ALL: &[Self] = &[
        Self::Open,
        Self::Map,
        Self::Use,
        Self::Use,
        Self::Use,
        Self::Close,
    ];
}

pub(crate) enum Kept {
    Open(File),
    /// A mapping, and a descriptor that is no open: it only tells the file's size.
    Mapped(Mapping, File),
}

/// Does a step open something to keep, use it, or close it?
pub(crate) enum Keeps {
    Opens,
    Uses,
    Closes,
}

impl Step {
    pub(crate) fn keeps(&self) -> Option<Keeps> {
        match self.act {
            Act::Kept(KeptAct::Open | KeptAct::Map) => Some(Keeps::Opens),
            Act::Kept(KeptAct::Use) => Some(Keeps::Uses),
            Act::Kept(KeptAct::Close) => Some(Keeps::Closes),
            _ => None,
        }
    }

    /// Which of so many that are kept it is about.
    pub(crate) fn which(&self, kept: usize) -> usize {
        self.variant as usize % kept
    }

    /// Opens or maps what is to be kept.
    pub(crate) fn open(&self, root: &Path) -> std::io::Result<Kept> {
        let path = root.join(&self.name);
        let writes = self.variant.is_multiple_of(2);
        let flags = match (self.act, self.variant % 5) {
            (Act::Kept(KeptAct::Open), 0) => libc::O_APPEND,
            (Act::Kept(KeptAct::Open), 1) if writes => libc::O_TRUNC,
            _ => 0,
        };
        let mut options = File::options();
        options.read(true).write(writes).custom_flags(flags);
        let file = options.open(path)?;
        if !matches!(self.act, Act::Kept(KeptAct::Map)) {
            return Ok(Kept::Open(file));
        }
        let stores = if writes { Stores::Shared } else { Stores::None };
        let mapping = Mapping::new(&file, MAPPED, stores)?;
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        let sized = rustix::fs::open(same, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Kept::Mapped(mapping, File::from(sized)))
    }
}

impl Kept {
    /// Uses what was opened by an earlier step.
    pub(super) fn used(&self, step: &Step) -> Outcome {
        match self {
            Self::Open(file) => used_open(step, file),
            Self::Mapped(mapping, sized) => {
                let size = sized.metadata()?.len();
                if step.variant.is_multiple_of(2) {
                    store_within(step, mapping, size)?;
                    mapping.sync()?;
                }
                let mut seen = loaded(mapping, size)?;
                seen.extend(look_of(&sized.metadata()?).bytes());
                Ok(seen)
            }
        }
    }
}

fn used_open(step: &Step, file: &File) -> Outcome {
    match step.variant % 9 {
        0..=1 => file.write_all_at(&step.data, step.offset)?,
        2 => file.set_len(step.offset)?,
        3 => punch(step, file)?,
        4 => file.sync_all()?,
        5 => file.set_permissions(PermissionsExt::from_mode(
            0o600 + step.data.len() as u32 % 64,
        ))?,
        6 => {
            let mut seen = look_of(&file.metadata()?);
            seen += &format!(" {}", file.metadata()?.nlink());
            return Ok(seen.into());
        }
        _ => {}
    }
    all_of(file)
}
