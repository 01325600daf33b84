//! P8 the other way round: read, revived, made, noted.

use super::Next;
use super::catalog::{Catalog, Filed, Life};
use super::state::{
    AGGREGATES, HEIR, Inode, KEYS, MADE, SECOND, Scan, State, Undelete, bit, bytes_of,
};

pub(super) fn steps(next: &mut Next<'_>) {
    let rules = *next.rules;
    match next.from.undelete {
        Undelete::Idle => (0..HEIR).for_each(|key| reads(next, key)),
        Undelete::Read(key) => next.of(
            "the catalog says that it comes back: version",
            key + 1,
            |s| {
                let revived = s
                    .catalog
                    .revive(key, rules.undelete_looks, rules.revived_first);
                s.undelete = revived.map_or(Undelete::Idle, |heir| Undelete::Revived(key, heir));
            },
        ),
        Undelete::Revived(key, heir) => {
            next.of("the file is made of version", key + 1, |s| {
                s.make(key, heir)
            });
            if let Scan::Running(seen) = next.from.scan {
                next.of(
                    "the file is made where the scan has been, of version",
                    key + 1,
                    |s| {
                        s.make(key, heir);
                        s.scan = Scan::Running(seen | bit(MADE));
                    },
                );
            }
        }
        Undelete::Named(key, heir) => {
            next.of(
                "the catalog notes the undeleted file of version",
                key + 1,
                |s| {
                    s.undelete = Undelete::Idle;
                    s.catalog.note_undeleted(key, heir, s.inodes[MADE].hint);
                },
            );
            next.of(
                "the catalog cannot note the undeleted file of version",
                key + 1,
                |s| {
                    s.undelete = Undelete::Idle;
                },
            );
        }
    }
}

fn reads(next: &mut Next<'_>, key: usize) {
    let from = next.from;
    let known = from
        .catalog
        .place(key)
        .is_some_and(|at| from.objects[at].there);
    let made = from.inodes[MADE].exists() || from.inodes[MADE].record.is_some();
    let stone = from.catalog.tombs[key].is_some_and(|t| t.heir.is_none());
    if from.left.undeletes > 0 && stone && known && !made && from.readable(bytes_of(key)) {
        next.of("an undelete reads from the tier version", key + 1, |s| {
            s.left.undeletes -= 1;
            s.undelete = Undelete::Read(key);
        });
    }
}

impl State {
    fn make(&mut self, key: usize, heir: usize) {
        let place = self.catalog.place(heir).or(self.catalog.place(key));
        self.inodes[MADE] = Inode {
            linked: true,
            record: Some(heir),
            hint: place.unwrap_or(0),
            stub: true,
            ..Inode::default()
        };
        self.undelete = Undelete::Named(key, heir);
    }
}

impl Catalog {
    /// An aggregate in which a copy may be read.
    fn place(&self, key: usize) -> Option<usize> {
        let places = self.copies[key] | self.found[key];
        (0..AGGREGATES).find(|at| places & bit(*at) != 0)
    }

    /// The version as which it comes back.
    fn revive(&mut self, key: usize, looks: bool, first: bool) -> Option<usize> {
        let stone = self.tombs[key].filter(|t| t.heir.is_none())?;
        let usable = |at: usize| {
            (self.copies[key] | self.found[key]) & bit(at) != 0
                && !(looks && matches!(self.lives[at], Life::Doomed(_)))
        };
        let places = (0..AGGREGATES)
            .filter(|at| usable(*at))
            .fold(0, |all, at| all | bit(at));
        if places == 0 {
            return None;
        }
        let used = |k: usize| {
            self.rows
                .iter()
                .any(|r| matches!(r, Some((s, n)) if *n == k && *s != Filed::Never))
        };
        let later = key == 0 && (self.copies[SECOND] | self.found[SECOND] != 0 || used(SECOND));
        let heir = if key == 0 && (later || used(0)) {
            HEIR
        } else {
            key
        };
        if used(heir) {
            return None;
        }
        if !first {
            return Some(heir);
        }
        self.tombs[key] = Some(super::catalog::Tombstone {
            heir: Some((heir, self.generation)),
            ..stone
        });
        if heir == key {
            self.reprieve(key);
        } else {
            self.copies[heir] = places;
        }
        Some(heir)
    }

    fn note_undeleted(&mut self, key: usize, heir: usize, hint: usize) {
        let stone = self.tombs[key].is_some_and(|t| t.heir.is_some_and(|(h, _)| h == heir));
        if !stone && !self.is_needed(heir) {
            return;
        }
        self.learn(MADE, Filed::Released, heir, hint);
        if stone {
            self.came_back(key, heir);
        }
    }

    /// The file is there.
    pub(super) fn came_back(&mut self, key: usize, heir: usize) {
        if heir == key {
            self.unearth(key);
        } else if let Some(stone) = &mut self.tombs[key] {
            stone.heir = None;
        }
    }

    /// No file came of it: as if deleted now.
    pub(super) fn rest_again(&mut self, key: usize, heir: usize) {
        if heir != key && heir < KEYS {
            self.copies[heir] = 0;
        }
        let generation = self.generation;
        if let Some(stone) = &mut self.tombs[key] {
            (stone.heir, stone.old, stone.generation) = (None, false, generation);
        }
    }
}
