//! Those who use the file: one who writes, maps and truncates, one who keeps it open for reading, and
//! the changelog that tells the catalog of what the first did.

use super::Next;
use super::disk::{Record, bit};
use super::state::{Access, Filed, Lease, Recall, Releaser, Rules, State, Writer};

pub(super) fn steps(next: &mut Next<'_>) {
    match next.from.writer {
        Writer::Idle => begins(next),
        Writer::Opens(access) => opens(next, access),
        Writer::Opened(Access::Write) => next.step("write(2) sets the times", |s| {
            s.disk.stamp(s.clock);
            s.writer = Writer::Stamped;
        }),
        Writer::Stamped => next.step("write(2) copies the first block", |s| {
            s.store(0);
            s.writer = Writer::Half(Access::Write);
        }),
        Writer::Opened(Access::Map) => next.step("the first store through a mapping", |s| {
            s.disk.stamp(s.clock);
            s.store(0);
            s.writer = Writer::Half(Access::Map);
        }),
        Writer::Half(access) => next.step("the second block, at no new time", |s| {
            s.store(1);
            s.writer = Writer::Done(access);
        }),
        Writer::Opened(Access::Truncate) => truncates(next),
        Writer::Cut => finishes_cut(next),
        Writer::Done(_) => ends(next),
    }
    reads(next);
    hears(next);
    strips(next);
    // A tick is of use only to a ctime that is now.
    if next.from.left.ticks && next.from.clock == next.from.disk.ctime {
        next.step("the clock ticks", |s| s.clock += 1);
    }
}

fn begins(next: &mut Next<'_>) {
    let left = next.from.left.writes;
    if left == 0 {
        return;
    }
    for (name, access) in [
        ("a user begins to open for writing", Access::Write),
        ("a user begins to open for a mapping", Access::Map),
        ("a user begins to open with O_TRUNC", Access::Truncate),
    ] {
        if access == Access::Map && !next.from.left.maps {
            continue;
        }
        next.step(name, |s| {
            s.left.writes -= 1;
            s.writer = Writer::Opens(access);
        });
    }
}

fn opens(next: &mut Next<'_>, access: Access) {
    let from = next.from;
    if !from.left.beside && from.gate_held() {
        return;
    }
    match from.lease {
        Lease::Held => {
            return next.step("the open asks for the lease", |s| s.lease = Lease::Asked);
        }
        // The kernel waits longer than anything takes that no disk and no database is asked for.
        Lease::Asked => {
            let slow = [Releaser::Leased, Releaser::Compared, Releaser::Marked];
            if slow.contains(&from.releaser) {
                next.step("the kernel takes the lease away", |s| s.lease = Lease::Lost);
            }
            return;
        }
        Lease::None | Lease::Lost => {}
    }
    let stub = from.record().stub().is_some();
    let may = if from.left.beside {
        // Into a stub nobody is let beside the mount (P7); into a file that is about to become one, yes.
        (!stub || from.lease == Lease::Lost) && !from.disk.has_hole()
    } else if stub {
        // Anything but a truncation waits for the recall.
        access == Access::Truncate
    } else {
        !from.lost()
    };
    if may {
        next.step("the user's open succeeds", |s| {
            s.writer = Writer::Opened(access)
        });
    }
}

fn truncates(next: &mut Next<'_>) {
    let rules = *next.rules;
    next.step("O_TRUNC is carried out", |s| {
        if s.record().stub().is_none() {
            s.cut();
            s.writer = Writer::Done(Access::Truncate);
            return;
        }
        // Under the lock of the recall, which ends.
        s.recall = Recall::Idle;
        if rules.cut_first {
            s.cut();
        } else {
            s.disk.set_record(Record::None, s.clock);
        }
        s.writer = Writer::Cut;
    });
}

fn finishes_cut(next: &mut Next<'_>) {
    next.step("the truncation's second half", |s| {
        if s.disk.is_cut() {
            s.disk.set_record(Record::None, s.clock);
        } else {
            s.cut();
        }
        s.writer = Writer::Done(Access::Truncate);
    });
}

fn ends(next: &mut Next<'_>) {
    let works = next.rules.sync_works;
    next.step("the user syncs", |s| s.sync(works));
    next.step("the user closes", |s| {
        s.writer = Writer::Idle;
        s.event = true;
        s.fresh += 1;
    });
}

fn reads(next: &mut Next<'_>) {
    let from = next.from;
    if from.reader {
        return next.step("the reader closes", |s| s.reader = false);
    }
    if from.left.reader && from.record().stub().is_none() && !from.gate_held() && !from.lost() {
        next.step("a reader opens the resident file", |s| s.reader = true);
    }
}

fn hears(next: &mut Next<'_>) {
    if !next.from.event {
        return;
    }
    next.step("the changelog tells of the write", |s| {
        s.event = false;
        let ctime = s.disk.ctime;
        s.catalog.commit(false, |row| {
            row.told = ctime;
            if matches!(row.filed, Filed::Archived | Filed::Released) && row.proven != ctime {
                row.filed = Filed::Dirty;
            }
        });
    });
}

fn strips(next: &mut Next<'_>) {
    let from = next.from;
    if from.left.strips > 0 && from.record().stub().is_some() && from.releaser == Releaser::Idle {
        next.step("somebody takes the stub's attribute away", |s| {
            s.left.strips -= 1;
            s.stripped = true;
            s.recall = Recall::Idle;
            s.disk.set_record(Record::None, s.clock);
            s.sync(Rules::ALL.sync_works);
        });
    }
}

impl State {
    /// A user's bytes reach the page cache: from now on that is what the block reads as.
    fn store(&mut self, block: u8) {
        self.disk.store(block, self.fresh);
        self.now_reads(block, bit(self.fresh));
    }

    fn cut(&mut self) {
        self.disk.truncate(self.clock);
        for block in 0..2 {
            self.now_reads(block, bit(super::disk::EMPTY));
        }
    }

    fn now_reads(&mut self, block: u8, content: u8) {
        let at = usize::from(block);
        self.since[at] |= self.truth[at];
        self.truth[at] = content;
    }
}
