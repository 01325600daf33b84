//! kill -9 of Cairn, after which the page cache and the users' descriptors are still there, and the
//! loss of power, after which nothing is that was not synced, or any part of it.

use super::Next;
use super::disk::bit;
use super::properties::view;
use super::state::{Archiver, Filed, Lease, Object, Recall, Releaser, State, Writer};

pub(super) fn steps(next: &mut Next<'_>) {
    let from = next.from;
    if from.left.kills > 0 {
        next.step("kill -9, and a new start", |s| {
            s.left.kills -= 1;
            s.end_process();
        });
    }
    if from.left.losses == 0 {
        return;
    }
    let mut number = 0;
    for disk in from.disk.after_loss(next.rules.journal_ordered) {
        for kept in 0..from.catalog.len {
            for named in [true, false] {
                number += 1;
                next.outcome("power is lost, and comes back", number, |s| {
                    s.left.losses -= 1;
                    s.end_process();
                    s.reader = false;
                    s.end_user();
                    s.disk = disk;
                    s.catalog.lose(kept);
                    s.lose_objects(named);
                    s.lease = Lease::None;
                    s.settle_truth();
                });
            }
        }
    }
}

impl State {
    /// What a process of Cairn had in hand is gone; so is the tail of the changelog.
    fn end_process(&mut self) {
        self.releaser = Releaser::Idle;
        self.recall = Recall::Idle;
        self.archiver = Archiver::Idle;
        self.lease = Lease::None;
        self.releasing = 0;
        self.recalling = 0;
        self.planned = Filed::Never;
        self.event = false;
        // The server itself was at it.
        if self.writer == Writer::Cut {
            self.end_user();
        }
        for object in &mut self.objects {
            if *object == Object::Partial {
                *object = Object::Absent;
            }
        }
    }

    fn end_user(&mut self) {
        if self.writer_has_it() {
            self.fresh += 1;
        }
        self.writer = Writer::Idle;
    }

    fn lose_objects(&mut self, named: bool) {
        for object in &mut self.objects {
            if *object == Object::Visible && !named {
                *object = Object::Absent;
            }
        }
    }

    /// What is there now, of what may be there, is the file from here on.
    fn settle_truth(&mut self) {
        for block in 0..2 {
            let may_be = self.truth[block] | self.since[block];
            self.since[block] = 0;
            self.truth[block] = match view(self, block) {
                Ok(found) if may_be & bit(found) != 0 => bit(found),
                _ => may_be,
            };
        }
    }
}
