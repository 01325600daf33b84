//! The catalog's rows, tombstones and lives of aggregates, and what one transaction does to them.

use super::state::{AGGREGATES, INODES, KEYS, REPACKED, Rules, bit};

/// What a row says of its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Filed {
    /// Seen, never archived.
    Never,
    Archived,
    Dirty,
    Released,
}

/// One file's row: state and version.
pub(crate) type Row = Option<(Filed, usize)>;

/// A version that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Tombstone {
    /// Older than the window.
    pub(crate) old: bool,
    /// The scan's generation when it was written.
    pub(crate) generation: u8,
    /// The inode that had it.
    pub(crate) inode: usize,
    /// It comes back as this version, since that generation.
    pub(crate) heir: Option<(usize, u8)>,
}

/// Where an aggregate is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Unknown,
    Live,
    /// Found on the tier; since that generation, and whether the wait is over.
    Quarantined(u8, bool),
    /// By that epoch, and whether the delay is over.
    Condemned(u8, bool),
    /// By that epoch.
    Doomed(u8),
}

/// All of it, as one durable transaction left it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Catalog {
    pub(crate) rows: [Row; INODES],
    pub(crate) tombs: [Option<Tombstone>; KEYS],
    /// Aggregates with a good copy of each version, by bit; and with one that was found only.
    pub(crate) copies: [u8; KEYS],
    pub(crate) found: [u8; KEYS],
    pub(crate) lives: [Life; AGGREGATES],
    /// The repacked aggregate took the place of the first.
    pub(crate) moved: bool,
    pub(crate) epoch: u8,
    pub(crate) generation: u8,
    /// Generation and epoch of the last complete scan.
    pub(crate) proof: (u8, u8),
    /// What records name beside rows: met by the last complete scan, and by the running one.
    pub(crate) named: u8,
    pub(crate) naming: u8,
    /// Something is to be scanned again.
    pub(crate) rescan: bool,
    /// The same, since the running scan began.
    pub(crate) rescan_again: bool,
    /// [`Rules::window_restarts`].
    window_restarts: bool,
}

impl Catalog {
    pub(crate) fn new(rules: &Rules) -> Self {
        let unknown = Life::Unknown;
        Self {
            rows: [Some((Filed::Archived, 0)), Some((Filed::Archived, 1)), None],
            tombs: [None; KEYS],
            copies: [bit(0), bit(0), 0, 0],
            found: [0; KEYS],
            lives: [Life::Live, unknown, unknown],
            moved: false,
            epoch: 1,
            generation: 1,
            proof: (1, 1),
            named: 0,
            naming: 0,
            rescan: false,
            rescan_again: false,
            window_restarts: rules.window_restarts,
        }
    }

    /// A row that needs the version's copies.
    pub(crate) fn is_needed(&self, key: usize) -> bool {
        let needs = |row: &Row| matches!(row, Some((state, k)) if *k == key && *state != Filed::Dirty && *state != Filed::Never);
        self.rows.iter().any(needs)
    }

    /// The version that an inode had ends. What kept a copy that had ended before (a file that was
    /// taken for changed, and was not) has ended only now.
    pub(crate) fn bury(&mut self, inode: usize, key: usize) {
        let other = |(at, row): (usize, &Row)| {
            at != inode && matches!(row, Some((s, k)) if *k == key && *s != Filed::Dirty)
        };
        if self.rows.iter().enumerate().any(other) {
            return;
        }
        let heir = self.tombs[key].and_then(|t| t.heir);
        if self.tombs[key].is_none() || self.window_restarts {
            self.tombs[key] = Some(Tombstone {
                old: false,
                generation: self.generation,
                inode,
                heir,
            });
        }
    }

    /// A record names the version again; what was condemned with it is spared.
    pub(crate) fn unearth(&mut self, key: usize) {
        self.tombs[key] = None;
        self.reprieve(key);
    }

    pub(crate) fn reprieve(&mut self, key: usize) {
        for at in 0..AGGREGATES {
            let here = (self.copies[key] | self.found[key]) & bit(at) != 0;
            if here && matches!(self.lives[at], Life::Condemned(..)) {
                self.lives[at] = Life::Live;
            }
        }
    }

    /// The inode is gone.
    pub(crate) fn forget(&mut self, inode: usize) {
        if let Some((state, key)) = self.rows[inode]
            && state != Filed::Never
        {
            self.bury(inode, key);
        }
        self.rows[inode] = None;
    }

    /// The file changed, as far as its times say.
    pub(crate) fn dirty(&mut self, inode: usize) {
        if let Some((Filed::Archived | Filed::Released, key)) = self.rows[inode] {
            self.rows[inode] = Some((Filed::Dirty, key));
            self.bury(inode, key);
        }
    }

    /// What a record says: its version is the file's. The copy is where the record says.
    pub(crate) fn learn(&mut self, inode: usize, state: Filed, key: usize, hint: usize) {
        self.copies[key] |= bit(hint);
        if self.lives[hint] == Life::Unknown {
            self.lives[hint] = Life::Live;
        }
        if let Some((filed, before)) = self.rows[inode]
            && before != key
            && filed != Filed::Never
        {
            self.bury(inode, before);
        }
        self.rows[inode] = Some((state, key));
        self.unearth(key);
    }

    /// Why a version's bytes must stay; `None`: nothing that the catalog knows keeps them.
    pub(crate) fn keeps(&self, key: usize, rules: &Rules) -> bool {
        let Some(tomb) = self.tombs[key] else {
            return true;
        };
        let (generation, epoch) = self.proof;
        let scanned = !rules.scan_after || generation > tomb.generation && !self.rescan;
        let of_epoch = !rules.scan_of_epoch || epoch == self.epoch;
        let named = (self.named | self.naming) & bit(key) != 0;
        self.is_needed(key) && rules.rows_count
            || !tomb.old && rules.window
            || !(scanned && of_epoch)
            || named && rules.records_count
            || tomb.heir.is_some() && rules.heir_holds
    }

    /// A member of the first aggregate lies, good, in what took its place.
    pub(crate) fn has_moved(&self, from: usize, key: usize) -> bool {
        from == 0
            && self.moved
            && self.copies[key] & bit(REPACKED) != 0
            && self.copies[key] & bit(0) == 0
            && self.lives[REPACKED] == Life::Live
    }

    /// The object is gone: so are its rows, and tombstones without a copy.
    pub(crate) fn forget_aggregate(&mut self, at: usize) {
        for key in 0..KEYS {
            let had = (self.copies[key] | self.found[key]) & bit(at) != 0;
            self.copies[key] &= !bit(at);
            self.found[key] &= !bit(at);
            if had && self.copies[key] | self.found[key] == 0 {
                self.tombs[key] = None;
            }
        }
        self.lives[at] = Life::Unknown;
    }
}
