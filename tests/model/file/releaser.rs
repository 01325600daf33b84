//! P3: lease, proof, note, mark, punch, stub; and the way back when nothing comes of it.

use super::Next;
use super::disk::{Record, bit};
use super::state::{Archiver, Filed, Lease, Recall, Releaser, Rules, State};

pub(super) fn steps(next: &mut Next<'_>) {
    let rules = *next.rules;
    match next.from.releaser {
        Releaser::Idle => begins(next),
        Releaser::Leased => proves(next),
        Releaser::Proven => compares(next),
        Releaser::Compared => notes(next),
        Releaser::Noted => next.step("the release looks at its lease", |s| {
            s.releaser = if s.lease == Lease::Held || !rules.lease_checked {
                Releaser::Cleared
            } else {
                Releaser::TakesBack
            };
        }),
        Releaser::Cleared => marks(next),
        Releaser::Marked => next.step("the mark is synced", |s| {
            s.sync(rules.mark_synced && rules.sync_works);
            s.releaser = Releaser::MarkSynced;
        }),
        Releaser::MarkSynced => next.step("the release looks at its lease again", |s| {
            s.releaser = if s.lease == Lease::Held || !rules.lease_checked {
                Releaser::Punching
            } else {
                Releaser::Undoes
            };
        }),
        Releaser::Punching => next.step("the first block is punched", |s| {
            s.disk.punch(0, s.clock);
            s.releaser = Releaser::Half;
        }),
        Releaser::Half => next.step("the second block is punched", |s| {
            s.disk.punch(1, s.clock);
            s.releaser = Releaser::Punched;
        }),
        Releaser::Punched => next.step("the stub is set", |s| {
            s.disk.set_record(Record::Released(s.releasing), s.clock);
            s.releaser = Releaser::Stubbed;
        }),
        Releaser::Stubbed => next.step("punch and stub are synced", |s| {
            s.sync(rules.sync_works);
            s.releaser = Releaser::Synced;
        }),
        Releaser::Synced => ends(next),
        Releaser::Undoes => next.step("the record is resident again", |s| {
            s.disk.set_record(Record::Resident(s.releasing), s.clock);
            s.releaser = Releaser::Undone;
        }),
        Releaser::Undone => next.step("that is synced", |s| {
            s.sync(rules.sync_works);
            s.releaser = Releaser::TakesBack;
        }),
        Releaser::TakesBack => next.step("the catalog takes the release back", |s| {
            let planned = s.planned;
            s.catalog.commit(false, |c| {
                if c.filed == Filed::Released {
                    c.filed = planned;
                }
            });
            s.let_go();
        }),
        Releaser::Whole | Releaser::WholeSynced | Releaser::WholeSet => mends_whole(next),
    }
}

fn begins(next: &mut Next<'_>) {
    let (from, rules) = (next.from, *next.rules);
    let Record::Resident(version) = from.record() else {
        return;
    };
    let others = from.archiver == Archiver::Idle && from.recall == Recall::Idle;
    let alone = !from.writer_has_it() && !from.reader;
    if from.left.releases > 0 && others && !from.disk.is_cut() && (alone || !rules.alone) {
        next.step("a release takes the lease", |s| {
            s.left.releases -= 1;
            s.lease = Lease::Held;
            s.wait_a_tick(&rules);
            s.releasing = version;
            s.planned = s.catalog.now.filed;
            s.releaser = Releaser::Leased;
        });
    }
}

fn proves(next: &mut Next<'_>) {
    let version = next.from.releasing;
    let good = next.from.catalog.now.copies & bit(version) != 0 && next.from.readable(version);
    next.step("the release asks for proven copies", |s| {
        if good {
            s.releaser = Releaser::Proven;
        } else {
            s.let_go();
        }
    });
}

fn compares(next: &mut Next<'_>) {
    let (from, rules) = (next.from, *next.rules);
    let row = &from.catalog.now;
    let same_point = row.version == from.releasing && row.proven == from.disk.ctime;
    let equal = from.disk.data == from.content(from.releasing);
    let is_it = (same_point && (row.sound || !rules.suspects)) || equal || !rules.compared;
    let held = from.lease == Lease::Held || !rules.lease_checked;
    next.step("the release compares the file with the version", |s| {
        if is_it && held {
            s.releaser = Releaser::Compared;
            return;
        }
        if held {
            s.catalog.commit(false, |c| {
                if c.filed == Filed::Archived {
                    c.filed = Filed::Dirty;
                }
            });
        }
        s.let_go();
    });
}

fn notes(next: &mut Next<'_>) {
    let rules = *next.rules;
    next.step("the catalog is told: released", |s| {
        if s.catalog.now.filed != s.planned {
            return s.let_go();
        }
        if rules.noted_first {
            s.catalog.commit(false, |c| c.filed = Filed::Released);
        }
        s.releaser = Releaser::Noted;
    });
}

fn marks(next: &mut Next<'_>) {
    let rules: Rules = *next.rules;
    if !rules.mark_first {
        return next.step("(no mark is made)", |s| s.releaser = Releaser::Punching);
    }
    next.step("the file is marked", |s| {
        let record = if rules.mark_is_recalling {
            Record::Recalling(s.releasing)
        } else {
            Record::Released(s.releasing)
        };
        s.disk.set_record(record, s.clock);
        s.releaser = Releaser::Marked;
    });
}

fn ends(next: &mut Next<'_>) {
    next.step("the catalog notes the stub, the lease goes", |s| {
        let (version, ctime) = (s.releasing, s.disk.ctime);
        s.catalog.commit(false, |c| {
            if c.version == version && c.filed == Filed::Released {
                (c.proven, c.sound) = (ctime, true);
            }
        });
        s.let_go();
    });
}

/// After a crash: all data are there under the mark, so the file is resident.
fn mends_whole(next: &mut Next<'_>) {
    let works = next.rules.sync_works;
    next.step("whole data under the mark: resident again", |s| {
        match s.releaser {
            Releaser::Whole => {
                s.sync(works);
                s.releaser = Releaser::WholeSynced;
            }
            Releaser::WholeSynced => {
                s.disk.set_record(Record::Resident(s.releasing), s.clock);
                s.releaser = Releaser::WholeSet;
            }
            _ => {
                s.sync(works);
                let version = s.releasing;
                s.catalog.commit(false, |c| {
                    if c.filed == Filed::Released && c.version == version {
                        c.filed = Filed::Archived;
                    }
                });
                s.let_go();
            }
        }
    });
}

impl State {
    /// The lease and the gate go; nothing is under way any more.
    pub(super) fn let_go(&mut self) {
        self.lease = Lease::None;
        self.releaser = Releaser::Idle;
        self.releasing = 0;
        self.planned = Filed::Never;
    }
}
