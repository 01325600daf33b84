//! P8: judged, condemned, judged again, doomed, deleted, forgotten. A stop between any two is survived.

use super::Next;
use super::catalog::{Filed, Life};
use super::state::{AGGREGATES, Collector, KEYS, Rules, State, bit};

pub(super) fn steps(next: &mut Next<'_>) {
    let rules = *next.rules;
    match next.from.collector {
        Collector::Idle => (0..AGGREGATES).for_each(|at| looks(next, at)),
        Collector::Judged(at) => next.of("the collector condemns aggregate", at + 1, |s| {
            s.collector = Collector::Idle;
            if s.catalog.lives[at] == Life::Live && (s.may_go(at, &rules) || !rules.looks_twice) {
                s.catalog.lives[at] = Life::Condemned(s.catalog.epoch, false);
            }
        }),
        Collector::Rejudged(at) => next.of("the collector dooms aggregate", at + 1, |s| {
            let epoch = s.catalog.epoch;
            let Life::Condemned(by, true) = s.catalog.lives[at] else {
                s.collector = Collector::Idle;
                return;
            };
            let ours = by == epoch || !rules.decisions_of_epoch;
            if ours && (s.may_go(at, &rules) || !rules.looks_twice) {
                s.catalog.lives[at] = Life::Doomed(epoch);
                s.collector = Collector::Doomed(at);
            } else {
                s.catalog.lives[at] = Life::Live;
                s.collector = Collector::Idle;
            }
        }),
        Collector::Doomed(at) => next.of("the tier deletes aggregate", at + 1, |s| {
            s.objects[at].there = false;
            s.collector = Collector::Deleted(at);
        }),
        Collector::Deleted(at) => next.of("the catalog forgets aggregate", at + 1, |s| {
            s.catalog.forget_aggregate(at);
            s.collector = Collector::Idle;
        }),
        Collector::Copied(_) => {}
    }
}

fn looks(next: &mut Next<'_>, at: usize) {
    let (from, rules) = (next.from, *next.rules);
    if !from.objects[at].there {
        return;
    }
    match from.catalog.lives[at] {
        Life::Live if from.left.deletions > 0 && from.goes(at, &rules) => {
            next.of(
                "the collector judges that it may go: aggregate",
                at + 1,
                |s| {
                    s.left.deletions -= 1;
                    s.collector = Collector::Judged(at);
                },
            );
        }
        Life::Condemned(by, true) if by == from.catalog.epoch || !rules.decisions_of_epoch => {
            let goes = from.goes(at, &rules) || !rules.looks_twice;
            next.of("the collector judges again aggregate", at + 1, |s| {
                if goes {
                    s.collector = Collector::Rejudged(at);
                } else {
                    s.catalog.lives[at] = Life::Live;
                }
            });
        }
        Life::Condemned(_, false) => {
            next.of("the delay is over for aggregate", at + 1, |s| {
                if let Life::Condemned(by, _) = s.catalog.lives[at] {
                    s.catalog.lives[at] = Life::Condemned(by, true);
                }
            });
        }
        // Its deletion was interrupted.
        Life::Doomed(by) if by == from.catalog.epoch => {
            next.of("the collector goes on with aggregate", at + 1, |s| {
                s.collector = Collector::Doomed(at);
            });
        }
        _ => {}
    }
}

impl State {
    /// Versions whose bytes are in an aggregate, by its index and by the catalog.
    pub(super) fn members(&self, at: usize) -> impl Iterator<Item = usize> {
        let index = self.objects[at].members;
        let rows = (0..KEYS)
            .filter(|k| (self.catalog.copies[*k] | self.catalog.found[*k]) & bit(at) != 0)
            .fold(0, |all, k| all | bit(k));
        (0..KEYS).filter(move |k| (index | rows) & bit(*k) != 0)
    }

    /// As one transaction of the catalog sees it.
    pub(super) fn may_go(&self, at: usize, rules: &Rules) -> bool {
        self.members(at)
            .all(|key| !self.catalog.keeps(key, rules) || self.catalog.has_moved(at, key))
    }

    /// May a member go? Inodes are asked, too.
    pub(super) fn gone(&self, key: usize, rules: &Rules) -> bool {
        if self.catalog.keeps(key, rules) {
            return false;
        }
        self.catalog.tombs[key].is_none_or(|tomb| {
            let inode = &self.inodes[tomb.inode];
            if inode.exists() {
                inode.record != Some(key) || !rules.inode_asked
            } else {
                self.catalog.rows[tomb.inode] != Some((Filed::Dirty, key)) || !rules.end_is_noted
            }
        })
    }

    pub(super) fn goes(&self, at: usize, rules: &Rules) -> bool {
        self.members(at)
            .all(|key| self.gone(key, rules) || self.catalog.has_moved(at, key))
    }
}
