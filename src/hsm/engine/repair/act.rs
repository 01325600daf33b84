//! The mending, and what the catalog hears of it.

use super::beside::{self, Beside};
use super::{Case, Ill, Remedy, Went};
use crate::catalog::{Copy, Durability, FileState, Known, Sighting, TombstoneWhy, Version};
use crate::error::Failure;
use crate::format::record::Record;
use crate::hsm::backing::How;
use crate::hsm::engine::{EngineError, Shared, tree};
use crate::hsm::release::{MendError, Patient, Refusal, drop_stub, make_stub_whole, put_stub};
use crate::hsm::version::Stamp;
use std::os::fd::AsFd;

impl Shared {
    /// Mends one file; everything is looked at once more.
    pub(super) fn mend(&self, case: &Case, hint: Option<&[u8]>) -> Went {
        let failed = |code, why: &str| Went::Failed(code, why.to_owned());
        let Some(gate) = self.late.gate.get() else {
            return failed(
                Failure::NoInstance,
                "there is no mount to shut users out of",
            );
        };
        let node = &case.node.handle;
        let Some(_claim) = self.lanes.claim(node) else {
            return failed(Failure::Busy, "another action works on it");
        };
        if self.recaller().is_some_and(|r| r.is_running(node)) {
            return failed(Failure::Busy, "it is being recalled");
        }
        let Some(record) = &case.record else {
            return failed(Failure::Lost, "no stub is known for it");
        };
        let patient = Patient {
            backing: &self.backing,
            gate: &**gate,
            node,
            hint,
            judged: case.stat.ctime,
        };
        let mut kept: Option<Beside> = None;
        let done = match case.remedy {
            Remedy::PutStubBack => {
                self.believed.forget(node);
                put_stub(patient, record).map(Some)
            }
            Remedy::KeepDisk => drop_stub(patient, record, &mut |fd, stat, record| {
                // A foreign one's data are the other file's, which has them still.
                if case.ill == Ill::Conflict {
                    let beside = beside::stub(self, &case.path, (fd, stat), record)?;
                    self.note_stub_beside(&beside)?;
                    kept = Some(beside);
                }
                // First: a file without a record is lost to a catalog that takes it for released.
                let (id, why) = (case.node.id, TombstoneWhy::Overwrite);
                self.catalog
                    .dirtied(id, why, self.now(), Durability::Full)
                    .map_err(|e| e.to_string())
            })
            .map(|()| None),
            Remedy::KeepArchive => make_stub_whole(patient, record, &mut |fd, stat, _| {
                let beside = beside::data(self, &case.path, (fd, stat))?;
                self.catalog
                    .note(vec![beside.sighting()], Durability::Relaxed)
                    .map_err(|e| e.to_string())?;
                kept = Some(beside);
                Ok(())
            })
            .map(Some),
            Remedy::Nothing(_) => return Went::Planned,
        };
        let stamp = match done {
            Ok(stamp) => stamp,
            Err(why) => return Went::Failed(code_of(&why), why.to_string()),
        };
        if let Err(why) = self.note_mended(case, record, stamp) {
            tracing::warn!(%why, "a repair could not be noted; the next scan finds it");
        }
        Went::Done(kept.map(|beside| beside.path))
    }

    fn note_mended(
        &self,
        case: &Case,
        record: &Record,
        stamp: Option<Stamp>,
    ) -> Result<(), EngineError> {
        let (id, handle) = (case.node.id, &case.node.handle);
        let hint = tree::hint(self, handle)?;
        let fd = self.backing.open_node(handle, hint.as_deref(), How::Path)?;
        let seen = Sighting {
            handle: handle.clone(),
            attributes: tree::attributes(&self.backing.stat(fd.as_fd())?),
            place: None,
        };
        self.catalog.note(vec![seen], Durability::Relaxed)?;
        if stamp.is_some() {
            let known = Known {
                node: id,
                state: FileState::Released,
                version: version_of(record),
                copies: self.copies_of_record(record),
                under: None,
            };
            self.catalog
                .learn(vec![known], self.now(), Durability::Full)?;
        } else {
            let (why, now) = (TombstoneWhy::Overwrite, self.now());
            self.catalog.dirtied(id, why, now, Durability::Full)?;
        }
        if let Some(settle) = stamp.and_then(|stamp| stamp.settle) {
            let _ = self.settles.send(settle);
        }
        Ok(self
            .catalog
            .set_trouble(vec![(id, None)], Durability::Relaxed)?)
    }

    /// A stub beside: its copies are those of the file that it stands for.
    fn note_stub_beside(&self, beside: &Beside) -> Result<(), String> {
        let Some(record) = &beside.record else {
            return Ok(());
        };
        let copies: Vec<Copy> = self.copies_of_record(record);
        self.catalog
            .adopt(beside.sighting(), version_of(record), copies, self.now())
            .map_err(|e| e.to_string())
    }
}

fn version_of(record: &Record) -> Version {
    Version {
        file: record.file,
        version: record.version,
        crc: record.crc,
        blocks_crc: record.blocks_crc,
    }
}

fn code_of(why: &MendError) -> Failure {
    match why {
        MendError::Changed => Failure::Changed,
        MendError::Refused(Refusal::InUse) => Failure::Busy,
        MendError::Refused(Refusal::Backing(why)) if why.is_full() => Failure::NoSpace,
        MendError::Refused(Refusal::Vanished) => Failure::NotFound,
        MendError::Refused(_) | MendError::Kept(_) => Failure::Internal,
    }
}
