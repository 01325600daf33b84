//! Repack of the first aggregate, and the census: objects that the catalog does not know.

use super::Next;
use super::catalog::Life;
use super::state::{AGGREGATES, Collector, KEYS, Object, REPACKED, State, bit};

pub(super) fn steps(next: &mut Next<'_>) {
    match next.from.collector {
        Collector::Idle => {
            copies(next);
            (0..AGGREGATES).for_each(|at| census(next, at));
        }
        Collector::Copied(kept) => moves(next, kept),
        _ => {}
    }
}

/// What is needed of the first aggregate goes into a new one.
fn copies(next: &mut Next<'_>) {
    let (from, rules) = (next.from, *next.rules);
    let first = &from.objects[0];
    let ready = first.there && from.catalog.lives[0] == Life::Live && !from.objects[REPACKED].there;
    if !ready || from.left.repacks == 0 || from.catalog.moved {
        return;
    }
    let kept = from
        .members(0)
        .filter(|key| !from.gone(*key, &rules))
        .fold(0, |all, key| all | bit(key));
    let all = first.members;
    // A stub that was adopted shares its bytes with a member: no index tells where they would be.
    if kept == 0 || kept & all != kept || kept == all {
        return;
    }
    next.step("repack copies what is needed of aggregate 1", |s| {
        s.left.repacks -= 1;
        s.objects[REPACKED] = Object {
            there: true,
            members: kept,
            epoch: s.catalog.epoch,
            shaky: !rules.repack_durable,
        };
        s.collector = Collector::Copied(kept);
    });
}

/// Rows move in one transaction, or none does.
fn moves(next: &mut Next<'_>, kept: u8) {
    next.step("the rows move to the repacked aggregate", |s| {
        s.collector = Collector::Idle;
        let catalog = &mut s.catalog;
        let here = |k: usize| (catalog.copies[k] | catalog.found[k]) & bit(0) != 0;
        // A version that was not there when it was looked at, or is not any more.
        let expected = (0..KEYS).all(|k| {
            let is_kept = kept & bit(k) != 0;
            is_kept && here(k) || !is_kept && (!here(k) || catalog.tombs[k].is_some())
        });
        if catalog.lives[0] != Life::Live || !expected {
            return;
        }
        catalog.lives[REPACKED] = Life::Live;
        catalog.moved = true;
        for key in (0..KEYS).filter(|k| kept & bit(*k) != 0) {
            catalog.copies[key] = catalog.copies[key] & !bit(0) | bit(REPACKED);
            catalog.found[key] &= !bit(0);
        }
    });
}

fn census(next: &mut Next<'_>, at: usize) {
    let (from, rules) = (next.from, *next.rules);
    let object = &from.objects[at];
    match from.catalog.lives[at] {
        Life::Unknown if object.there && object.epoch < from.catalog.epoch => {
            if rules.quarantine {
                next.of("the census quarantines aggregate", at + 1, |s| {
                    s.quarantine(at)
                });
            } else {
                next.of("the census deletes the unknown aggregate", at + 1, |s| {
                    s.objects[at].there = false;
                });
            }
        }
        Life::Quarantined(since, waited) => {
            next.of("the quarantine is looked at of aggregate", at + 1, |s| {
                s.settle_quarantine(at, since, waited);
            });
        }
        _ => {}
    }
}

impl State {
    fn quarantine(&mut self, at: usize) {
        let generation = self.catalog.generation;
        self.catalog.lives[at] = Life::Quarantined(generation, false);
        for key in (0..KEYS).filter(|k| self.objects[at].members & bit(*k) != 0) {
            self.catalog.found[key] |= bit(at);
        }
    }

    /// An ordinary one if all members are known; what nobody names after the wait gets a tombstone.
    fn settle_quarantine(&mut self, at: usize, since: u8, waited: bool) {
        let members: Vec<usize> = (0..KEYS)
            .filter(|k| self.objects[at].members & bit(*k) != 0)
            .collect();
        let catalog = &mut self.catalog;
        let (generation, epoch) = catalog.proof;
        let scanned = generation > since && epoch == catalog.epoch && !catalog.rescan;
        let known = |c: &super::catalog::Catalog, k: usize| c.is_needed(k) || c.tombs[k].is_some();
        let all = members.iter().all(|k| known(catalog, *k));
        if !(all || waited && scanned) {
            return;
        }
        for key in members {
            if !known(catalog, key) {
                catalog.bury(super::state::MADE, key);
            }
            if catalog.found[key] & bit(at) != 0 && catalog.is_needed(key) {
                catalog.found[key] &= !bit(at);
                catalog.copies[key] |= bit(at);
            }
        }
        catalog.lives[at] = Life::Live;
    }
}
