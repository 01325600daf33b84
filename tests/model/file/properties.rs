//! What must be true of the file in every state.

use super::State;
use super::disk::{EMPTY, HOLE, Record, bit};
use super::state::{Filed, Object, Recall, VERSIONS};

/// What a reader of the mount gets of a block now, or why nothing.
pub(super) fn view(state: &State, block: usize) -> Result<u8, &'static str> {
    let disk = &state.disk;
    let Some(version) = disk.record.stub() else {
        return if state.lost() {
            Err("lost")
        } else {
            Ok(disk.data[block])
        };
    };
    // The truncation is finished before anybody is answered.
    if disk.is_cut() {
        return Ok(EMPTY);
    }
    let working = state.recall != Recall::Idle || state.gate_held();
    if disk.record == Record::Released(version) && disk.has_data() && !working {
        return Err("conflict");
    }
    if state.readable(version) {
        Ok(state.content(version)[block])
    } else {
        Err("no copy")
    }
}

pub(super) fn broken(state: &State) -> Option<&'static str> {
    for block in 0..2 {
        let may_be = state.truth[block];
        // Readers of the mount wait for the gate; they get what is there behind it.
        let seen = if state.gate_held() {
            state.truth_of(block)
        } else {
            view(state, block)
        };
        match seen {
            Ok(found) if may_be & bit(found) != 0 => {}
            Ok(HOLE) => return Some("a reader gets zeros where blocks were punched"),
            Ok(_) => return Some("a reader gets other bytes than the file's"),
            Err(_) if state.stripped => {}
            Err("lost") => return Some("a file is called lost that is not"),
            Err("conflict") => return Some("a stub is in conflict that nobody wrote into"),
            Err(_) => return Some("a released file has no copy that can be read"),
        }
        let open = state.reader || state.writer_has_it();
        if open
            && state
                .record()
                .stub()
                .is_none_or(|_| state.left.beside || state.reader)
        {
            match state.disk.data[block] {
                found if may_be & bit(found) != 0 => {}
                HOLE => return Some("an open descriptor reads zeros"),
                _ => return Some("an open descriptor reads other bytes than the file's"),
            }
        }
    }
    if state.disk.has_hole() && !has_proven_copy(state) && !state.stripped {
        return Some("blocks are gone, and no durable copy of these bytes is durably known");
    }
    if state.owed && !state.catalog.now.request && state.catalog.now.copies == 0 {
        return Some("an accepted request is forgotten");
    }
    None
}

fn has_proven_copy(state: &State) -> bool {
    (0..VERSIONS).any(|at| {
        let is = |block: usize| state.truth[block] & bit(state.contents[at][block]) != 0;
        let known = state.catalog.durable().copies & bit(at as u8 + 1) != 0;
        state.objects[at] == Object::Durable && known && is(0) && is(1)
    })
}

impl State {
    fn truth_of(&self, block: usize) -> Result<u8, &'static str> {
        super::disk::contents(self.truth[block])
            .next()
            .ok_or("nothing")
    }

    /// P6: no stub, or a record that was overtaken, and less data than were released.
    pub(super) fn lost(&self) -> bool {
        let (disk, row) = (&self.disk, &self.catalog.now);
        if disk.is_cut() {
            return false;
        }
        let data = disk.data.iter().filter(|b| **b != HOLE).count();
        let needs = match (disk.record, row.filed) {
            (Record::None, Filed::Released) => 2,
            (Record::None, Filed::Archived) => 1,
            (Record::Resident(version), Filed::Released) if version <= row.version => 1,
            _ => 0,
        };
        data < needs
    }
}
