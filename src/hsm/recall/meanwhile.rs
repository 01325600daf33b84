//! What users do to the status of a released file while its stub stands or a recall runs: their
//! mode, owner and times must survive the recall, which itself writes the file and its times.

use super::Recaller;
use crate::format::record::{Record, State as Data};
use crate::hsm::backing::{BackingError, How, SetHow, belongs_to};
use crate::hsm::version::{Stamp, coarse_now};
use crate::id::{NodeHandle, Timestamp};
use std::os::fd::AsFd;

impl Recaller {
    /// A user changed attributes of a node. A modification time that they set becomes the stub's:
    /// P4 (1) compares it, and the recall puts it back. Quick: reads one attribute; writes it only
    /// if the time of a released file was set.
    pub fn attributes_changed(&self, node: &NodeHandle) {
        let running = self.shared.table.lock().recalls.get(node).cloned();
        if let Some(recall) = running {
            recall.state.lock().touched = Some(coarse_now());
            // A modification time is noticed by the recall itself: see `Writer::look`.
            return;
        }
        match self.follow_mtime(node) {
            Ok(()) | Err(BackingError::Gone { .. } | BackingError::Unnamed { .. }) => {}
            Err(why) => tracing::warn!(%why, "a time set on a released file is not in its stub"),
        }
    }

    fn follow_mtime(&self, node: &NodeHandle) -> Result<(), BackingError> {
        let backing = &self.shared.backing;
        let fd = backing.open_node(node, None, How::Path)?;
        let Some(record) = backing.record(fd.as_fd())? else {
            return Ok(());
        };
        let stat = backing.stat(fd.as_fd())?;
        let same_file = record.size == stat.size && belongs_to(&record, backing.fs(), node);
        if record.state != Data::Released || record.mtime == stat.mtime || !same_file {
            return Ok(());
        }
        let data = backing.reopen(fd.as_fd(), How::Read)?;
        if backing.has_data(data.as_fd())? {
            // Not only its time was changed: P4 (1) will call it a conflict.
            return Ok(());
        }
        let record = Record {
            mtime: stat.mtime,
            user_ctime: stat.ctime,
            ..record
        };
        let stamp = Stamp::set(backing, fd.as_fd(), None, &record, SetHow::Replace)?;
        if let Some(settle) = stamp.settle {
            self.shared.asks.settle(settle);
        }
        Ok(())
    }

    /// The ctime that users see while the file is being recalled, if one of them changed it
    /// meanwhile.
    #[must_use]
    pub fn touched(&self, node: &NodeHandle) -> Option<Timestamp> {
        let recall = self.shared.table.lock().recalls.get(node).cloned()?;
        recall.state.lock().touched
    }
}
