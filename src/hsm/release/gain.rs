//! Does releasing make room? Compared per batch, because a snapshot or a clone below may keep every
//! block that is punched (P3, end).

use crate::hsm::backing::{Backing, BackingError};

/// Bytes punched below which a batch says nothing: other users' writes are louder.
const TELLING: u64 = 64 << 20;

/// A batch of releases being watched.
#[derive(Debug)]
pub struct Gain {
    free_before: u64,
    punched: u64,
}

/// The batch freed much less than it punched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{punched} bytes were punched but only {gained} came free: a snapshot or clone of the backing seems to keep them, or somebody writes as fast"
)]
pub struct Shortfall {
    /// Bytes punched.
    pub punched: u64,
    /// Bytes by which free space grew.
    pub gained: u64,
}

fn free(backing: &Backing) -> Result<u64, BackingError> {
    let stat = rustix::fs::fstatvfs(backing.root())
        .map_err(|why| BackingError::of("statfs", || "the backing".to_owned(), why))?;
    Ok(stat.f_bfree.saturating_mul(stat.f_frsize))
}

impl Gain {
    /// Starts a batch.
    ///
    /// # Errors
    /// `statfs` failed.
    pub fn begin(backing: &Backing) -> Result<Self, BackingError> {
        Ok(Self {
            free_before: free(backing)?,
            punched: 0,
        })
    }

    /// Counts a release that freed `bytes` of its file's blocks.
    pub fn add(&mut self, bytes: u64) {
        self.punched = self.punched.saturating_add(bytes);
    }

    /// Looks at the free space. `Ok(Some)`: releases should stop, and why.
    ///
    /// # Errors
    /// `statfs` failed.
    pub fn end(self, backing: &Backing) -> Result<Option<Shortfall>, BackingError> {
        let gained = free(backing)?.saturating_sub(self.free_before);
        Ok(judge(self.punched, gained))
    }
}

fn judge(punched: u64, gained: u64) -> Option<Shortfall> {
    (punched >= TELLING && gained < punched / 2).then_some(Shortfall { punched, gained })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p3_a_batch_that_frees_less_than_half_says_so() {
        assert!(judge(TELLING, TELLING / 2 - 1).is_some());
        assert!(judge(TELLING, TELLING / 2).is_none());
        assert!(judge(TELLING - 1, 0).is_none());
    }
}
