//! P4: the stub's checks, the mark, the data, the record; and giving the room back.

use super::Next;
use super::disk::{Record, bit};
use super::state::{Archiver, Filed, Lease, Recall, State};

pub(super) fn steps(next: &mut Next<'_>) {
    let rules = *next.rules;
    match next.from.recall {
        Recall::Idle => begins(next),
        Recall::Checked => next.step("the recall marks the stub", |s| {
            if rules.recall_marks {
                s.disk.set_record(Record::Recalling(s.recalling), s.clock);
            }
            s.recall = Recall::Marked;
        }),
        Recall::Marked => next.step("the recall's mark is synced", |s| {
            s.sync(rules.sync_works);
            s.recall = Recall::Ready;
        }),
        Recall::Ready => {
            next.step("the first block is back", |s| {
                s.bring_back(0);
                s.recall = Recall::Half;
            });
            gives_back(next);
        }
        Recall::Half => {
            next.step("the second block is back", |s| {
                s.bring_back(1);
                s.recall = Recall::Back;
            });
            gives_back(next);
        }
        Recall::Back => next.step("the recalled data are synced", |s| {
            s.sync(rules.recall_syncs && rules.sync_works);
            s.recall = Recall::Synced;
        }),
        Recall::Synced => next.step("the record says resident", |s| {
            s.disk.set_record(Record::Resident(s.recalling), s.clock);
            s.recall = Recall::Set;
        }),
        Recall::Set => next.step("that record is synced", |s| {
            s.sync(rules.sync_works);
            s.recall = Recall::SetSynced;
        }),
        Recall::SetSynced => ends(next),
        Recall::Punching => next.step("the second block is given back", |s| {
            s.disk.punch(1, s.clock);
            s.recall = Recall::Punched;
        }),
        Recall::Punched => next.step("what was given back is synced", |s| {
            s.sync(rules.sync_works);
            s.recall = Recall::PunchSynced;
        }),
        Recall::PunchSynced => next.step("the record says released again", |s| {
            s.disk.set_record(Record::Released(s.recalling), s.clock);
            s.recall = Recall::Stubbed;
        }),
        Recall::Stubbed => next.step("that stub is synced", |s| {
            s.sync(rules.sync_works);
            s.recall_over();
        }),
    }
}

fn begins(next: &mut Next<'_>) {
    let from = next.from;
    let Some(version) = from.record().stub() else {
        return;
    };
    if from.gate_held() || from.lease != Lease::None || from.writer_has_it() {
        return;
    }
    if from.disk.is_cut() {
        return next.step("a truncation that was cut short is finished", |s| {
            s.disk.set_record(Record::None, s.clock);
        });
    }
    let conflict = from.record() == Record::Released(version) && from.disk.has_data();
    let idle = from.archiver == Archiver::Idle;
    if from.left.recalls > 0 && idle && !conflict && from.readable(version) {
        next.step("a reader opens the stub: a recall begins", |s| {
            s.left.recalls -= 1;
            s.recalling = version;
            s.recall = Recall::Checked;
        });
    }
}

/// No room: readers are streamed to, and the file is released as it was.
fn gives_back(next: &mut Next<'_>) {
    next.step("no room: the first block is given back", |s| {
        s.disk.punch(0, s.clock);
        s.recall = Recall::Punching;
    });
}

fn ends(next: &mut Next<'_>) {
    let rules = *next.rules;
    next.step("the catalog notes the recall", |s| {
        let (version, ctime) = (s.recalling, s.disk.ctime);
        let same = s.record() == Record::Resident(version);
        // A write since has moved mtime, which lies before the recall.
        let untouched = same && !s.writer_has_it() && s.disk.data == s.content(version);
        if untouched {
            s.wait_a_tick(&rules);
        }
        s.catalog.commit(false, |c| {
            if c.version == version && !(c.filed == Filed::Dirty && c.told >= ctime) {
                c.filed = Filed::Archived;
                (c.proven, c.sound) = (if untouched { ctime } else { 0 }, true);
                c.copies |= bit(version);
            }
        });
        s.recall_over();
    });
}

impl State {
    /// A block, verified, from the tier.
    fn bring_back(&mut self, block: u8) {
        let content = self.content(self.recalling)[usize::from(block)];
        self.disk.stamp(self.clock);
        self.disk.store(block, content);
    }

    fn recall_over(&mut self) {
        self.recall = Recall::Idle;
        self.recalling = 0;
    }
}
