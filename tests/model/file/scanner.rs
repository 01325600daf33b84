//! The scan: what a crash left half done is set in order, and the catalog hears what the file says.

use super::Next;
use super::disk::{Record, bit};
use super::state::{Archiver, Filed, Lease, Recall, Releaser, State};

pub(super) fn steps(next: &mut Next<'_>) {
    let from = next.from;
    let free = from.releaser == Releaser::Idle
        && from.recall == Recall::Idle
        && from.archiver == Archiver::Idle;
    if from.left.scans == 0 || !free || from.disk.is_cut() {
        return;
    }
    if let Record::Recalling(version) = from.record() {
        if from.is_quiet() && !from.reader {
            mends(next, version);
        }
        return;
    }
    let rules = *next.rules;
    next.step("a scan compares the file with the catalog", |s| {
        s.left.scans -= 1;
        let quiet = s.is_quiet();
        if quiet {
            s.wait_a_tick(&rules);
        }
        s.compare(quiet);
    });
}

/// A mark without anybody at work: whole data make a resident file, anything else a released one.
fn mends(next: &mut Next<'_>, version: u8) {
    next.step("a scan finds a mark, and takes the lease", |s| {
        s.left.scans -= 1;
        s.lease = Lease::Held;
        s.releasing = version;
        s.planned = s.catalog.now.filed;
        s.releaser = if s.disk.data == s.content(version) {
            Releaser::Whole
        } else {
            Releaser::Punching
        };
    });
}

impl State {
    fn compare(&mut self, quiet: bool) {
        let (record, ctime, lost) = (self.record(), self.disk.ctime, self.lost());
        let version = record.version();
        let equal = quiet && version > 0 && self.disk.data == self.content(version);
        let readable = self.readable(version);
        self.catalog.commit(false, |c| match record {
            // Looked at and noted as lost, in words that change nothing here.
            Record::None | Record::Resident(_) if lost => {}
            Record::None => {
                if c.filed == Filed::Archived {
                    c.filed = Filed::Dirty;
                }
            }
            Record::Resident(_) => {
                if c.version > version && c.filed != Filed::Released {
                    return;
                }
                let same = c.version == version;
                if same
                    && (c.filed == Filed::Dirty
                        || c.filed == Filed::Archived && c.proven == ctime && c.sound)
                {
                    return;
                }
                c.version = version;
                c.filed = if equal { Filed::Archived } else { Filed::Dirty };
                (c.proven, c.sound) = (if equal { ctime } else { 0 }, equal);
                if readable {
                    c.copies |= bit(version);
                }
            }
            Record::Released(_) | Record::Recalling(_) => {
                if c.filed == Filed::Released && c.version == version {
                    return;
                }
                (c.filed, c.version, c.proven, c.sound) = (Filed::Released, version, 0, false);
                if readable {
                    c.copies |= bit(version);
                }
            }
        });
    }
}
