//! A rebuild that read tiers, and a file without a record: it may be one whose record was lost.
//!
//! Invariant: only the sum of all its bytes makes a file archived, and only a file that holds nothing
//! can be lost.

use super::super::super::rebuild::{Lookalike, the_only};
use super::{Comparison, EngineError};
use crate::catalog::{Durability, FileState, Known, Node, Proven, Remembrance};
use crate::hsm::backing::{BackingError, How, data_bytes};
use crate::hsm::engine::tree::Looked;
use crate::hsm::version::{Rebound, rebind};
use cairn_mover::Crc32c;
use std::os::fd::AsFd;

/// What the catalog says of a lost one.
const NOTE: &str =
    "a rebuild found its data on a tier, and neither a stub nor data on disk: only holes are left";

impl Comparison<'_> {
    pub(super) fn by_looks(&mut self, looked: &Looked, node: &Node) -> Result<(), EngineError> {
        // A further name of what is known already.
        if node.version.is_some() {
            return Ok(());
        }
        let (shared, stat) = (self.shared, &looked.stat);
        let found = shared.lookalikes(node, stat)?;
        if found.is_empty() {
            return Ok(());
        }
        let file = match shared.backing.reopen(looked.fd.as_fd(), How::Read) {
            Ok(file) => file,
            Err(BackingError::Busy { .. }) => return Ok(()),
            Err(why) => return Err(why.into()),
        };
        let holds_nothing = stat.size > 0 && data_bytes(file.as_fd(), stat.size, 1)? == 0;
        let zeros = Crc32c::of_zeros(stat.size);
        if holds_nothing && found.iter().all(|l| l.it.version.crc != zeros) {
            let Some(it) = the_only(&found, stat) else {
                return Ok(());
            };
            self.learn_as(looked, node, &it, FileState::Lost)?;
            let (lost, note) = (FileState::Lost, Some(NOTE.to_owned()));
            return Ok(shared
                .catalog
                .set_state(node.id, lost, note, Durability::Relaxed)?);
        }
        drop(file);
        self.by_sum(looked, node, &found)
    }

    fn by_sum(
        &mut self,
        looked: &Looked,
        node: &Node,
        found: &[Lookalike],
    ) -> Result<(), EngineError> {
        let backing = &self.shared.backing;
        let mut sum = None;
        for Lookalike { it, .. } in found {
            if sum.is_some_and(|sum| sum != it.version.crc) {
                continue;
            }
            let file = backing.reopen(looked.fd.as_fd(), How::Read)?;
            match rebind(backing, file, None, it.size, it.version.crc) {
                Ok(Rebound::Same(quiet)) => {
                    let proven = Proven {
                        size: quiet.seen().size,
                        ctime: quiet.seen().ctime,
                        boot: self.shared.incarnation.boot,
                    };
                    self.same(node, it.version, proven);
                    return self.learn_as(looked, node, it, FileState::Archived);
                }
                Ok(Rebound::Dirty { found, .. }) => sum = found.or(sum),
                Err(why) => {
                    tracing::debug!(%why, "whether it is an archived file cannot be told now");
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Told at once: the next file must not be taken for the same.
    fn learn_as(
        &mut self,
        looked: &Looked,
        node: &Node,
        it: &Remembrance,
        state: FileState,
    ) -> Result<(), EngineError> {
        self.known.push(Known {
            node: node.id,
            state,
            version: it.version,
            // They are in the catalog, and live from here on.
            copies: Vec::new(),
            under: Some((node.planned(), looked.stat.ctime)),
        });
        self.tell()
    }
}
