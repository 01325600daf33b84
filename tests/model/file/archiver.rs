//! P2: quiescent point, bytes, quiescent point, receipt, commit, record.

use super::Next;
use super::disk::{Record, bit};
use super::state::{Archiver, Filed, Lease, Object, Recall, Releaser, Rules, State, VERSIONS};

pub(super) fn steps(next: &mut Next<'_>) {
    let rules = *next.rules;
    match next.from.archiver {
        Archiver::Idle => begins(next),
        Archiver::Quiet(v) => next.step("the archiver reads the first block", |s| {
            s.archiver = Archiver::Half(v, s.disk.data[0]);
        }),
        Archiver::Half(v, first) => next.step("the archiver reads the second block", |s| {
            s.archiver = Archiver::Read(v, [first, s.disk.data[1]]);
        }),
        Archiver::Read(v, bytes) => next.step("the archiver's second quiescent point", |s| {
            let quiet = s.is_quiet() && s.disk.ctime == v;
            s.wait_a_tick(&rules);
            s.archiver = if quiet || !rules.second_point {
                s.identify(v, bytes)
            } else {
                Archiver::Idle
            };
        }),
        Archiver::Proven(v, version) => next.step("the tier takes bytes", |s| {
            s.objects[usize::from(version) - 1] = Object::Partial;
            s.archiver = Archiver::Putting(v, version);
        }),
        Archiver::Putting(v, version) => next.step("the object gets its name", |s| {
            s.objects[usize::from(version) - 1] = Object::Visible;
            s.archiver = Archiver::Named(v, version);
        }),
        Archiver::Named(v, version) => next.step("the tier gives its receipt", |s| {
            if rules.tier_syncs && rules.sync_works {
                s.objects[usize::from(version) - 1] = Object::Durable;
            }
            s.archiver = Archiver::Receipt(v, version);
        }),
        Archiver::Receipt(v, version) => next.step("the catalog commits the copy", |s| {
            s.commit_copy(rules.commit_full, v, version);
            s.archiver = Archiver::Committed(v, version);
        }),
        Archiver::Committed(v, version) => records(next, v, version),
    }
}

fn begins(next: &mut Next<'_>) {
    let (from, rules) = (next.from, *next.rules);
    if !from.owed && from.left.archives > 0 {
        next.step("a request to archive is accepted and answered", |s| {
            s.catalog.commit(rules.accept_full, |c| c.request = true);
            s.owed = true;
        });
    }
    let free = from.releaser == Releaser::Idle && from.recall == Recall::Idle;
    let data = from.record().stub().is_none() && !from.disk.is_cut() && !from.lost();
    if from.catalog.now.request && free && data && from.left.archives > 0 && from.is_quiet() {
        next.step("the archiver's first quiescent point", |s| {
            s.left.archives -= 1;
            s.wait_a_tick(&rules);
            s.archiver = Archiver::Quiet(s.disk.ctime);
        });
    }
}

/// The record goes onto the file if that is still what was copied; its new ctime is proven under the
/// same lease.
fn records(next: &mut Next<'_>, v: u8, version: u8) {
    let (from, rules) = (next.from, *next.rules);
    let same = from.disk.ctime == v || !rules.record_compared;
    let fits = from.is_quiet() && same && from.record().stub().is_none();
    if fits {
        next.step(
            "the record is set, and a kill comes before its ctime is noted",
            |s| {
                s.set_resident(version);
                s.archiver = Archiver::Idle;
            },
        );
        next.step("the record is set and its ctime noted", |s| {
            s.set_resident(version);
            let ctime = s.disk.ctime;
            s.catalog.commit(false, |c| {
                (c.proven, c.sound, c.request) = (ctime, true, false);
            });
            s.archiver = Archiver::Idle;
        });
    } else {
        next.step("the file changed before it got its record", |s| {
            s.catalog.commit(false, |c| {
                c.request = false;
                if c.filed == Filed::Archived {
                    c.filed = Filed::Dirty;
                }
            });
            s.archiver = Archiver::Idle;
        });
    }
}

impl State {
    /// P1: nobody can write.
    pub(super) fn is_quiet(&self) -> bool {
        !self.writer_has_it() && self.lease == Lease::None
    }

    /// P1: the clock has passed the ctime, or is waited for.
    pub(super) fn wait_a_tick(&mut self, rules: &Rules) {
        if rules.clock_passed {
            self.clock = self.clock.max(self.disk.ctime + 1);
        }
    }

    /// Which version the bytes are: the last one, or a new one. A copy that is there is not made again.
    fn identify(&mut self, v: u8, bytes: [u8; 2]) -> Archiver {
        let known = &self.catalog.now;
        let last = self.record().version().max(known.version);
        if last > 0 && self.content(last) == bytes {
            if known.copies & bit(last) != 0 && self.readable(last) {
                return Archiver::Committed(v, last);
            }
            return Archiver::Proven(v, last);
        }
        if usize::from(last) == VERSIONS {
            return Archiver::Idle;
        }
        self.contents[usize::from(last)] = bytes;
        Archiver::Proven(v, last + 1)
    }

    fn commit_copy(&mut self, full: bool, v: u8, version: u8) {
        self.catalog.commit(full, |c| {
            c.filed = if c.told > v {
                Filed::Dirty
            } else {
                Filed::Archived
            };
            (c.version, c.proven, c.sound) = (version, v, true);
            c.copies |= bit(version);
        });
    }

    fn set_resident(&mut self, version: u8) {
        self.disk.set_record(Record::Resident(version), self.clock);
        // The lease is kept until the clock has passed.
        self.clock = self.clock.max(self.disk.ctime + 1);
    }
}
