//! All that matters about deletion, by value.

use super::catalog::{Catalog, Filed};

/// Rules of P8 and P9; all hold unless a control leaves one out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// The tombstone must be older than `keep-deleted`.
    pub(crate) window: bool,
    /// A complete scan must have begun after the tombstone.
    pub(crate) scan_after: bool,
    /// And after the end of its window: what came back within it was met.
    pub(crate) scan_after_window: bool,
    /// In the present epoch.
    pub(crate) scan_of_epoch: bool,
    /// Which met no record that names the version.
    pub(crate) records_count: bool,
    /// No row of the catalog names it.
    pub(crate) rows_count: bool,
    /// The inode is gone, or its record names something else.
    pub(crate) inode_asked: bool,
    /// A row of an inode that is gone holds until its end is noted, which begins the window anew.
    pub(crate) end_is_noted: bool,
    /// Everything is looked at again before the object goes.
    pub(crate) looks_twice: bool,
    /// What an earlier epoch condemned is not carried out.
    pub(crate) decisions_of_epoch: bool,
    /// Objects that the catalog does not know are kept.
    pub(crate) quarantine: bool,
    /// A new aggregate is durable before the rows point at it.
    pub(crate) repack_durable: bool,
    /// An undelete refuses what is about to be deleted.
    pub(crate) undelete_looks: bool,
    /// An undelete says so in the catalog before it makes the file.
    pub(crate) revived_first: bool,
    /// What is being undeleted is not collected.
    pub(crate) heir_holds: bool,
    /// What ends once more begins its window anew.
    pub(crate) window_restarts: bool,
    /// What moved while a scan was under way is looked at again before that scan proves anything.
    pub(crate) moved_are_seen: bool,
}

impl Rules {
    /// As they have to be.
    pub(crate) const ALL: Self = Self {
        window: true,
        scan_after: true,
        scan_after_window: true,
        scan_of_epoch: true,
        records_count: true,
        rows_count: true,
        inode_asked: true,
        end_is_noted: true,
        looks_twice: true,
        decisions_of_epoch: true,
        quarantine: true,
        repack_durable: true,
        undelete_looks: true,
        revived_first: true,
        heir_holds: true,
        window_restarts: true,
        moved_are_seen: true,
    };
}

/// How often what may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    /// Names taken away.
    pub(crate) unlinks: u8,
    /// Descriptors that keep the first file after its name went.
    pub(crate) opens: u8,
    /// New data in the first file.
    pub(crate) overwrites: u8,
    /// Changes of times or mode that look like new data.
    pub(crate) touches: u8,
    /// Releases.
    pub(crate) releases: u8,
    /// Recalls.
    pub(crate) recalls: u8,
    /// Scans.
    pub(crate) scans: u8,
    /// Renames in front of a scan.
    pub(crate) renames: u8,
    /// Passing of the window.
    pub(crate) ticks: u8,
    /// Objects deleted.
    pub(crate) deletions: u8,
    /// Repacks.
    pub(crate) repacks: u8,
    /// Undeletes.
    pub(crate) undeletes: u8,
    /// Stubs that come back from a backup of the backing, on another inode.
    pub(crate) comebacks: u8,
    /// Backups of the catalog put back.
    pub(crate) restores: u8,
    /// Kills.
    pub(crate) kills: u8,
    /// Losses of power while a new aggregate is written.
    pub(crate) losses: u8,
}

/// Inodes: two files, and what an undelete makes.
pub(crate) const INODES: usize = 3;
/// What an undelete makes.
pub(crate) const MADE: usize = 2;
/// Versions: (first file, 1), (second file, 1), (first file, 2), and the first under a new id.
pub(crate) const KEYS: usize = 4;
/// The second version of the first file.
pub(crate) const SECOND: usize = 2;
/// The first version of the first file, as another file's.
pub(crate) const HEIR: usize = 3;
/// Aggregates: the first two files', the second version's, what repacking makes.
pub(crate) const AGGREGATES: usize = 3;
/// What repacking makes.
pub(crate) const REPACKED: usize = 2;

/// Whose bytes a version has.
pub(crate) const fn bytes_of(key: usize) -> usize {
    if key == HEIR { 0 } else { key }
}

/// A set with one in it.
pub(crate) const fn bit(n: usize) -> u8 {
    1 << n
}

/// One inode of the backing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Inode {
    pub(crate) linked: bool,
    pub(crate) open: bool,
    /// The version that its record names.
    pub(crate) record: Option<usize>,
    /// Where the record says that the copy lies.
    pub(crate) hint: usize,
    pub(crate) stub: bool,
    /// The stub came from a backup, and belongs to an inode that was.
    pub(crate) foreign: bool,
    /// Whose bytes it has; `None`: new ones.
    pub(crate) data: Option<usize>,
}

impl Inode {
    pub(crate) fn exists(&self) -> bool {
        self.linked || self.open
    }
}

/// One object of the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Object {
    pub(crate) there: bool,
    /// Versions in its index, by bit.
    pub(crate) members: u8,
    /// Epoch in its name.
    pub(crate) epoch: u8,
    /// Not synced.
    pub(crate) shaky: bool,
}

/// What the user made with a version: how long ago it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Age {
    Lives,
    Young,
    Old,
}

/// A release in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Release {
    Idle,
    Proven(usize),
    Noted(usize),
}

/// A scan in hand: what it has looked at, by bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scan {
    Idle,
    Running(u8),
}

/// The collector, on one aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Collector {
    Idle,
    /// All its members may go.
    Judged(usize),
    /// They still may, after the delay.
    Rejudged(usize),
    /// It is written down that the object goes.
    Doomed(usize),
    /// It went.
    Deleted(usize),
    /// What is needed of the first was copied: these.
    Copied(u8),
}

/// An undelete in hand: of which version, as which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Undelete {
    Idle,
    /// Its member was read from a tier.
    Read(usize),
    /// The catalog says that it comes back.
    Revived(usize, usize),
    /// The file is there.
    Named(usize, usize),
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) inodes: [Inode; INODES],
    pub(crate) objects: [Object; AGGREGATES],
    pub(crate) catalog: Catalog,
    pub(crate) backup: Option<Box<Catalog>>,
    /// The highest epoch in names on the tier and in the backing's mark.
    pub(crate) epoch: u8,
    /// Events of the changelog, by inode: its name went; its data changed.
    pub(crate) unlinked: u8,
    pub(crate) written: u8,
    pub(crate) release: Release,
    pub(crate) scan: Scan,
    pub(crate) collector: Collector,
    pub(crate) undelete: Undelete,
    /// Since when no file has a version's bytes.
    pub(crate) ages: [Age; KEYS],
    /// Versions that were ever archived, by bit.
    pub(crate) archived: u8,
    pub(crate) left: Bounds,
}

impl State {
    /// Two files, archived in one aggregate, resident.
    pub(crate) fn new(left: Bounds, rules: &Rules) -> Self {
        let file = |key| Inode {
            linked: true,
            record: Some(key),
            data: Some(key),
            ..Inode::default()
        };
        let first = Object {
            there: true,
            members: bit(0) | bit(1),
            epoch: 1,
            shaky: false,
        };
        Self {
            inodes: [file(0), file(1), Inode::default()],
            objects: [first, Object::default(), Object::default()],
            catalog: Catalog::new(rules),
            backup: None,
            epoch: 1,
            unlinked: 0,
            written: 0,
            release: Release::Idle,
            scan: Scan::Idle,
            collector: Collector::Idle,
            undelete: Undelete::Idle,
            ages: [Age::Lives, Age::Lives, Age::Lives, Age::Lives],
            archived: bit(0) | bit(1),
            left,
        }
    }

    /// Does a file, with a name or open, have these bytes, by its stub or on disk? On disk not once the
    /// catalog takes it for changed: then it is one that was never archived, until it is archived again.
    pub(crate) fn lives(&self, bytes: usize) -> bool {
        let changed = Some((Filed::Dirty, bytes));
        self.inodes
            .iter()
            .zip(&self.catalog.rows)
            .any(|(inode, row)| {
                let named = inode.record.map(bytes_of);
                let on_disk = inode.data.filter(|_| *row != changed);
                let has = if inode.stub { named } else { on_disk };
                inode.exists() && !inode.foreign && has == Some(bytes)
            })
    }

    /// After a step: what has no file any more begins to be dead.
    pub(crate) fn mourn(&mut self) {
        for key in 0..KEYS {
            let lives = self.lives(key);
            match self.ages[key] {
                _ if lives => self.ages[key] = Age::Lives,
                Age::Lives if self.archived & bit(key) != 0 => self.ages[key] = Age::Young,
                _ => {}
            }
        }
    }

    /// Can the bytes be had from the tier?
    pub(crate) fn readable(&self, bytes: usize) -> bool {
        self.objects
            .iter()
            .any(|o| o.there && o.members & bit(bytes) != 0)
    }
}
