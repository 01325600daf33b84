//! Those who use the files, and the changelog that tells the catalog of it.

use super::Next;
use super::catalog::{Filed, Life};
use super::state::{Age, INODES, Inode, MADE, Object, Release, SECOND, Scan, bit};

pub(super) fn steps(next: &mut Next<'_>) {
    for at in 0..INODES {
        unlinks(next, at);
        hears(next, at);
    }
    comes_back(next);
    opens(next);
    writes(next);
    archives(next);
}

fn unlinks(next: &mut Next<'_>, at: usize) {
    if next.from.left.unlinks > 0 && next.from.inodes[at].linked {
        next.of("a user unlinks file", at + 1, |s| {
            s.left.unlinks -= 1;
            s.inodes[at].linked = false;
            s.unlinked |= bit(at);
        });
    }
}

/// Events, in their order: a write before an unlink.
fn hears(next: &mut Next<'_>, at: usize) {
    let from = next.from;
    if from.written & bit(at) != 0 {
        return next.of("the changelog tells of a write to file", at + 1, |s| {
            s.written &= !bit(at);
            s.catalog.dirty(at);
        });
    }
    if from.unlinked & bit(at) != 0 {
        next.of(
            "the changelog tells that the name went of file",
            at + 1,
            |s| {
                s.unlinked &= !bit(at);
                // Open still: its row stays until a scan finds the inode gone.
                if !s.inodes[at].exists() {
                    s.catalog.forget(at);
                }
            },
        );
    }
}

/// Within the window: a stub, restored with its attribute onto another inode.
fn comes_back(next: &mut Next<'_>) {
    let from = next.from;
    let free = !from.inodes[MADE].exists() && from.inodes[MADE].record.is_none();
    if from.left.comebacks == 0 || !free || from.ages[0] == Age::Old {
        return;
    }
    next.step("a stub of file 1 comes back from a backup", |s| {
        s.left.comebacks -= 1;
        s.inodes[MADE] = Inode {
            linked: true,
            record: Some(0),
            stub: true,
            foreign: true,
            ..Inode::default()
        };
        // It is where a scan that is under way has been, perhaps.
        if let Scan::Running(seen) = s.scan {
            s.scan = Scan::Running(seen | bit(MADE));
        }
    });
}

fn opens(next: &mut Next<'_>) {
    let file = next.from.inodes[0];
    if next.from.left.opens > 0 && file.linked && !file.open {
        next.step("a user opens file 1", |s| {
            s.left.opens -= 1;
            s.inodes[0].open = true;
        });
    }
    if file.open {
        next.step("the user closes file 1", |s| s.inodes[0].open = false);
    }
}

fn writes(next: &mut Next<'_>) {
    let (from, file) = (next.from, next.from.inodes[0]);
    if file.linked && !file.stub && from.left.overwrites > 0 && from.release == Release::Idle {
        next.step("a user overwrites file 1", |s| {
            s.left.overwrites -= 1;
            s.inodes[0].data = None;
            s.written |= bit(0);
        });
    }
    if file.linked && !file.stub && from.left.touches > 0 {
        next.step("a user changes the times of file 1", |s| {
            s.left.touches -= 1;
            s.written |= bit(0);
        });
    }
    for at in 0..INODES {
        let file = from.inodes[at];
        let copy = file
            .record
            .filter(|_| !file.foreign)
            .map(super::state::bytes_of);
        if let (true, true, Some(bytes)) = (file.exists(), file.stub, copy)
            && from.left.recalls > 0
            && from.readable(bytes)
        {
            next.of("a recall brings back file", at + 1, |s| {
                s.left.recalls -= 1;
                s.inodes[at].stub = false;
                s.inodes[at].data = Some(bytes);
                let key = s.inodes[at].record;
                if let (Some((_, k)), true) = (s.catalog.rows[at], key.is_some())
                    && Some(k) == key
                {
                    s.catalog.rows[at] = Some((Filed::Archived, k));
                    s.catalog.unearth(k);
                }
            });
        }
    }
}

/// The first file's new data; or its old ones, when only its times had changed.
fn archives(next: &mut Next<'_>) {
    let (from, file) = (next.from, next.from.inodes[0]);
    let dirty = matches!(from.catalog.rows[0], Some((Filed::Dirty, _)));
    if !file.linked || file.stub || !dirty || from.release != Release::Idle {
        return;
    }
    if file.data.is_some() && file.data == file.record {
        return next.step("an archive finds file 1 unchanged", |s| {
            if let Some((_, key)) = s.catalog.rows[0]
                && Some(key) == s.inodes[0].record
            {
                s.catalog.rows[0] = Some((Filed::Archived, key));
                s.catalog.unearth(key);
            }
        });
    }
    if file.data.is_none() && !from.objects[1].there && from.archived & bit(SECOND) == 0 {
        next.step("file 1 is archived anew, and gets its record", |s| {
            s.archive_second();
            s.inodes[0].record = Some(SECOND);
            s.inodes[0].hint = 1;
        });
        next.step(
            "file 1 is archived anew, and does not get its record",
            |s| s.archive_second(),
        );
    }
}

impl super::State {
    fn archive_second(&mut self) {
        self.objects[1] = Object {
            there: true,
            members: bit(SECOND),
            epoch: self.catalog.epoch,
            shaky: false,
        };
        self.archived |= bit(SECOND);
        self.inodes[0].data = Some(SECOND);
        let catalog = &mut self.catalog;
        catalog.lives[1] = Life::Live;
        catalog.copies[SECOND] |= bit(1);
        if let Some((_, before)) = catalog.rows[0] {
            catalog.bury(0, before);
        }
        catalog.rows[0] = Some((Filed::Archived, SECOND));
    }
}
