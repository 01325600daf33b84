//! Time, kills, and the catalog of last week.

use super::Next;
use super::catalog::Life;
use super::state::{AGGREGATES, Age, Collector, Release, Scan, State, Undelete};

pub(super) fn steps(next: &mut Next<'_>) {
    let (from, rules) = (next.from, *next.rules);
    // Nothing that is in hand takes as long as the window.
    let in_hand = from.release != Release::Idle
        || from.undelete != Undelete::Idle
        || from.collector != Collector::Idle
        || from.written | from.unlinked != 0;
    if from.left.ticks > 0 && !in_hand {
        next.step("the window passes", |s| {
            s.left.ticks -= 1;
            s.pass(rules.scan_after_window);
        });
    }
    if from.left.kills > 0 {
        next.step("kill -9, and a new start", |s| {
            s.left.kills -= 1;
            s.restart(rules.decisions_of_epoch);
        });
    }
    if from.left.losses > 0 && from.objects.iter().any(|o| o.shaky) {
        next.step("power is lost, and what was not synced", |s| {
            s.left.losses -= 1;
            for object in &mut s.objects {
                object.there &= !object.shaky;
            }
            s.restart(rules.decisions_of_epoch);
        });
    }
    if from.left.restores > 0 && from.backup.is_none() {
        next.step("the catalog is backed up", |s| {
            s.backup = Some(Box::new(s.catalog.clone()))
        });
    }
    if let (Some(backup), true) = (&from.backup, from.left.restores > 0) {
        next.step("the backup of the catalog is put in its place", |s| {
            s.left.restores -= 1;
            let mut old = (**backup).clone();
            old.epoch = s.catalog.epoch;
            s.catalog = old;
            s.backup = None;
            s.restart(rules.decisions_of_epoch);
        });
    }
}

impl State {
    fn pass(&mut self, scan_after: bool) {
        for age in &mut self.ages {
            if *age == Age::Young {
                *age = Age::Old;
            }
        }
        let backup = self.backup.as_deref_mut();
        for catalog in [Some(&mut self.catalog), backup].into_iter().flatten() {
            let generation = catalog.generation;
            for stone in catalog.tombs.iter_mut().flatten().filter(|t| !t.old) {
                stone.old = true;
                // Whatever scan proves must have begun after this.
                if scan_after {
                    stone.generation = generation;
                }
            }
        }
        for life in &mut self.catalog.lives {
            match life {
                Life::Condemned(_, waited) | Life::Quarantined(_, waited) => *waited = true,
                Life::Unknown | Life::Live | Life::Doomed(_) => {}
            }
        }
    }

    /// A new epoch; what an earlier one had decided binds nobody.
    fn restart(&mut self, undo: bool) {
        self.release = Release::Idle;
        self.collector = Collector::Idle;
        self.undelete = Undelete::Idle;
        self.scan = Scan::Idle;
        self.catalog.naming = 0;
        // Events that were lost: their directories are looked at again.
        self.catalog.rescan |= self.catalog.rescan_again | (self.written | self.unlinked != 0);
        self.catalog.rescan_again = false;
        self.written = 0;
        self.unlinked = 0;
        self.epoch += 1;
        self.catalog.epoch = self.epoch;
        for at in 0..AGGREGATES {
            match self.catalog.lives[at] {
                Life::Doomed(_) if !self.objects[at].there => self.catalog.forget_aggregate(at),
                Life::Condemned(..) | Life::Doomed(_) if undo => {
                    self.catalog.lives[at] = Life::Live;
                }
                _ => {}
            }
        }
    }
}
