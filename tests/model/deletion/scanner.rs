//! The scan: every name once, in any order, records held against rows; and what its end proves.

use super::Next;
use super::catalog::Filed;
use super::state::{INODES, Release, SECOND, Scan, State, bit};

pub(super) fn steps(next: &mut Next<'_>) {
    let from = next.from;
    let Scan::Running(seen) = from.scan else {
        if from.left.scans > 0 {
            next.step("a scan begins", |s| {
                s.left.scans -= 1;
                s.catalog.generation += 1;
                s.catalog.naming = 0;
                s.catalog.rescan_again = false;
                s.scan = Scan::Running(0);
            });
        }
        return;
    };
    // In one order: nothing but the collector looks at two of them, and it waits for the end.
    let left = (0..INODES).find(|at| from.inodes[*at].linked && seen & bit(*at) == 0);
    if let Some(at) = left {
        next.of("the scan meets file", at + 1, |s| {
            s.meet(at);
            s.scan = Scan::Running(seen | bit(at));
        });
        if from.left.renames > 0 {
            moves(next, at, seen);
        }
    }
    if left.is_none() {
        next.step("the scan is at its end", |s| s.finish(seen));
    }
}

/// From a directory that the scan has still to read into one that it has read.
fn moves(next: &mut Next<'_>, at: usize, seen: u8) {
    let rules = *next.rules;
    next.of("a user moves it past the scan: file", at + 1, |s| {
        s.left.renames -= 1;
        s.scan = Scan::Running(seen | bit(at));
        s.catalog.rows[at].get_or_insert((Filed::Never, 0));
        s.catalog.rescan_again |= rules.moved_are_seen;
    });
}

impl State {
    fn meet(&mut self, at: usize) {
        let file = self.inodes[at];
        let catalog = &mut self.catalog;
        let row = catalog.rows[at].unwrap_or((Filed::Never, 0));
        catalog.rows[at] = Some(row);
        let Some(key) = file.record else {
            return catalog.dirty(at);
        };
        let (state, known) = row;
        let same = known == key && state != Filed::Never;
        if file.foreign || !(same && matches!(state, Filed::Archived | Filed::Released)) {
            catalog.naming |= bit(key);
        }
        // Whoever has it in hand tells the catalog; a stub of another inode is adopted by who reads it.
        if file.foreign || self.release != Release::Idle {
            return;
        }
        let catalog = &mut self.catalog;
        let whole = file.data == Some(super::state::bytes_of(key));
        let later = state != Filed::Never && known == SECOND && key == 0;
        match (file.stub, state) {
            (true, Filed::Released) if same => {}
            (true, _) => catalog.learn(at, Filed::Released, key, file.hint),
            (false, Filed::Dirty) if same => {}
            (false, Filed::Archived) if same => {
                if !whole {
                    catalog.dirty(at);
                }
            }
            (false, _) if later => {}
            (false, _) if whole => catalog.learn(at, Filed::Archived, key, file.hint),
            (false, _) => catalog.learn(at, Filed::Dirty, key, file.hint),
        }
    }

    /// Rows that were not seen, whose inode is gone, are forgotten; undeletes of before are settled.
    fn finish(&mut self, seen: u8) {
        for at in 0..INODES {
            if seen & bit(at) == 0 && !self.inodes[at].exists() {
                self.catalog.forget(at);
            }
        }
        let catalog = &mut self.catalog;
        let began = catalog.generation;
        for key in 0..catalog.tombs.len() {
            let Some((heir, since)) = catalog.tombs[key].and_then(|t| t.heir) else {
                continue;
            };
            // Not one that goes on.
            if since >= began || self.undelete != super::state::Undelete::Idle {
                continue;
            }
            if catalog.is_needed(heir) {
                catalog.came_back(key, heir);
            } else {
                catalog.rest_again(key, heir);
            }
        }
        (catalog.rescan, catalog.rescan_again) = (catalog.rescan_again, false);
        catalog.proof = (began, catalog.epoch);
        (catalog.named, catalog.naming) = (catalog.naming, 0);
        self.scan = Scan::Idle;
    }
}
