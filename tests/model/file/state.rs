//! All that matters about one file, by value.

use super::disk::{EMPTY, Medium, Record, bit};
use std::hash::{Hash, Hasher};

/// Rules of the protocols; all hold unless a control leaves one out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    /// P1: the clock must have passed the ctime.
    pub(crate) clock_passed: bool,
    /// P2 (3): v is compared after the read.
    pub(crate) second_point: bool,
    /// P2 (6): and once more before the record is set.
    pub(crate) record_compared: bool,
    /// P2 (4): the tier's object is durable before the catalog hears of it.
    pub(crate) tier_syncs: bool,
    /// P2 (5): the catalog's commit is durable.
    pub(crate) commit_full: bool,
    /// P3 (2): nobody else may have it open.
    pub(crate) alone: bool,
    /// P3 (3): the file is compared with the version.
    pub(crate) compared: bool,
    /// P1: after a loss of power an equal v is no proof.
    pub(crate) suspects: bool,
    /// P3: the catalog says released before a block goes.
    pub(crate) noted_first: bool,
    /// P3: the lease is looked at again behind what waits for disks.
    pub(crate) lease_checked: bool,
    /// P3 (4): the mark is on the file before a block goes.
    pub(crate) mark_first: bool,
    /// P3 (4): and is durable.
    pub(crate) mark_synced: bool,
    /// P3: what is being punched says Recalling, not Released.
    pub(crate) mark_is_recalling: bool,
    /// P4 (2): a recall marks the stub before it writes.
    pub(crate) recall_marks: bool,
    /// P4 (5): data are durable before the record says that they are there.
    pub(crate) recall_syncs: bool,
    /// P5: a truncation cuts first and takes the record away after.
    pub(crate) cut_first: bool,
    /// Acceptance of a request is durable before it is answered.
    pub(crate) accept_full: bool,
    /// Assumed of the disk: metadata become durable in their order.
    pub(crate) journal_ordered: bool,
    /// Assumed of the disk: a sync that was answered is durable.
    pub(crate) sync_works: bool,
}

impl Rules {
    /// As Cairn has them.
    pub(crate) const ALL: Self = Self {
        clock_passed: true,
        second_point: true,
        record_compared: true,
        tier_syncs: true,
        commit_full: true,
        alone: true,
        compared: true,
        suspects: true,
        noted_first: true,
        lease_checked: true,
        mark_first: true,
        mark_synced: true,
        mark_is_recalling: true,
        recall_marks: true,
        recall_syncs: true,
        cut_first: true,
        accept_full: true,
        journal_ordered: true,
        sync_works: true,
    };
}

/// How often what may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    /// Writes, stores through a mapping and truncations, in all.
    pub(crate) writes: u8,
    /// Copies begun.
    pub(crate) archives: u8,
    /// Releases begun.
    pub(crate) releases: u8,
    /// Recalls begun.
    pub(crate) recalls: u8,
    /// Looks of the scan.
    pub(crate) scans: u8,
    /// Kills.
    pub(crate) kills: u8,
    /// Losses of power.
    pub(crate) losses: u8,
    /// Stubs' attributes taken away around the mount.
    pub(crate) strips: u8,
    /// Somebody opens the resident file for reading and keeps it open.
    pub(crate) reader: bool,
    /// Users store through mappings, too.
    pub(crate) maps: bool,
    /// The clock ticks at any time; else when somebody waits for it to.
    pub(crate) ticks: bool,
    /// The writer does not go through the mount: only leases keep it out.
    pub(crate) beside: bool,
}

/// What the catalog has of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Filed {
    Never,
    Archived,
    Dirty,
    Released,
}

/// The catalog, as one commit left it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Catalog {
    pub(crate) filed: Filed,
    /// The present version; 0: none.
    pub(crate) version: u8,
    /// ctime of the quiescent point that proved it; 0: none.
    pub(crate) proven: u8,
    /// No power was lost since.
    pub(crate) sound: bool,
    /// Latest ctime that an event told of.
    pub(crate) told: u8,
    /// Versions with a copy, by bit.
    pub(crate) copies: u8,
    /// An archive was asked for and is not done.
    pub(crate) request: bool,
}

impl Hash for Catalog {
    /// In one piece: most of a search's time is spent here.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            filed,
            version,
            proven,
            sound,
            told,
            copies,
            request,
        } = *self;
        let flags = filed as u8 | u8::from(sound) << 4 | u8::from(request) << 5;
        let bytes = [flags, version, proven, told, copies, 0, 0, 0];
        state.write_u64(u64::from_le_bytes(bytes));
    }
}

/// Commits that a loss of power may take back, oldest first.
const UNSYNCED: usize = 4;

/// The database: what it says, and what of it is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Database {
    pub(crate) now: Catalog,
    /// Durable, and then the commits since but for the last.
    pub(crate) log: [Catalog; UNSYNCED],
    /// How many of those count.
    pub(crate) len: u8,
}

impl Database {
    /// A commit. The log is one sequence: a durable commit takes those before it along.
    pub(crate) fn commit(&mut self, full: bool, change: impl FnOnce(&mut Catalog)) {
        let before = self.now;
        change(&mut self.now);
        if full {
            self.log = [self.now; UNSYNCED];
            self.len = 1;
            return;
        }
        if self.now == before {
            return;
        }
        // The writer syncs from time to time anyway: at the latest now.
        if usize::from(self.len) == UNSYNCED {
            self.log.rotate_left(1);
            self.len -= 1;
        }
        self.log[usize::from(self.len)] = self.now;
        self.len += 1;
        self.settle_rest();
    }

    /// Entries that do not count are equal, so that equal databases are.
    fn settle_rest(&mut self) {
        for entry in &mut self.log[usize::from(self.len)..] {
            *entry = self.now;
        }
    }

    /// What certainly survives.
    pub(crate) fn durable(&self) -> &Catalog {
        &self.log[0]
    }

    /// Power was lost; the first `kept` commits after the durable one are there. Quiescent points from
    /// before prove nothing any more.
    pub(crate) fn lose(&mut self, kept: u8) {
        self.now = self.log[usize::from(kept)];
        self.now.sound = false;
        self.log = [self.now; UNSYNCED];
        self.len = 1;
    }
}

/// An aggregate of one member on the tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Object {
    Absent,
    /// Under a temporary name.
    Partial,
    /// Has its name; not synced.
    Visible,
    Durable,
}

/// Versions of the file that can exist.
pub(crate) const VERSIONS: usize = 3;

/// Where the user who writes stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Writer {
    Idle,
    /// Waits to open: for writing, for a mapping, with O_TRUNC.
    Opens(Access),
    Opened(Access),
    /// write(2) has set the times and not yet copied.
    Stamped,
    /// The first block was written.
    Half(Access),
    /// All was, and the descriptor or mapping is still there.
    Done(Access),
    /// The file is cut, and its stub not yet taken away.
    Cut,
}

/// How the user writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Write,
    Map,
    Truncate,
}

/// Where the archiver stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Archiver {
    Idle,
    /// First quiescent point made: the ctime.
    Quiet(u8),
    /// First block read.
    Half(u8, u8),
    /// Both.
    Read(u8, [u8; 2]),
    /// Second point made: v, version, and whether the row was dirty when it began.
    Proven(u8, u8),
    /// The object is being written.
    Putting(u8, u8),
    /// It has its name.
    Named(u8, u8),
    /// The tier gave its receipt.
    Receipt(u8, u8),
    /// The catalog has it.
    Committed(u8, u8),
}

/// Where a release stands, or the mending of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Releaser {
    Idle,
    /// Lease taken; the copies are to be proven.
    Leased,
    /// Copies proven.
    Proven,
    /// The file is the version.
    Compared,
    /// The catalog was told.
    Noted,
    /// The lease was still held.
    Cleared,
    /// The mark is set, not synced.
    Marked,
    /// It is durable.
    MarkSynced,
    /// The lease was still held: blocks may go.
    Punching,
    /// One went.
    Half,
    /// Both.
    Punched,
    /// The stub is set, not synced.
    Stubbed,
    /// All is durable.
    Synced,
    /// Nothing comes of it; the record is to be resident again.
    Undoes,
    /// It is again, not synced.
    Undone,
    /// The catalog is to be told that it is not released.
    TakesBack,
    /// Mending: whole data are to be synced.
    Whole,
    /// They are; the record is to say so.
    WholeSynced,
    /// It says so, not synced.
    WholeSet,
}

/// Where a recall stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Recall {
    Idle,
    /// The stub passed its checks.
    Checked,
    /// It is marked, not synced.
    Marked,
    /// It is durable that extents mean nothing.
    Ready,
    /// One block is back.
    Half,
    /// Both.
    Back,
    /// And durable.
    Synced,
    /// The record says resident.
    Set,
    /// Durably.
    SetSynced,
    /// No room: the first block was given back.
    Punching,
    /// Both were.
    Punched,
    /// Durably.
    PunchSynced,
    /// The record says released again.
    Stubbed,
}

/// The lease of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lease {
    None,
    Held,
    /// Somebody wants the file: the holder is told, and has a while.
    Asked,
    /// The kernel took it away.
    Lost,
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) disk: Medium,
    /// The coarse clock; ctimes are its readings.
    pub(crate) clock: u8,
    pub(crate) lease: Lease,
    /// A descriptor for reading, of a resident file.
    pub(crate) reader: bool,
    pub(crate) writer: Writer,
    pub(crate) archiver: Archiver,
    pub(crate) releaser: Releaser,
    pub(crate) recall: Recall,
    /// The version that the release or the recall is about.
    pub(crate) releasing: u8,
    pub(crate) recalling: u8,
    /// The row's state when the release was planned.
    pub(crate) planned: Filed,
    /// An event of a write that the catalog has not heard of.
    pub(crate) event: bool,
    pub(crate) catalog: Database,
    pub(crate) objects: [Object; VERSIONS],
    /// What was put into each.
    pub(crate) contents: [[u8; 2]; VERSIONS],
    /// What the user writes next.
    pub(crate) fresh: u8,
    /// What each block may read as, by POSIX; one value but for the moment of a loss.
    pub(crate) truth: [u8; 2],
    /// And what a loss of power may bring back: not synced since.
    pub(crate) since: [u8; 2],
    /// A request was accepted and answered.
    pub(crate) owed: bool,
    /// Somebody took the stub's attribute away.
    pub(crate) stripped: bool,
    pub(crate) left: Bounds,
}

impl State {
    /// A new file with data, not yet synced and never archived.
    pub(crate) fn new(left: Bounds) -> Self {
        let nothing = Catalog {
            filed: Filed::Never,
            version: 0,
            proven: 0,
            sound: false,
            told: 0,
            copies: 0,
            request: false,
        };
        Self {
            disk: Medium::new([1, 1]),
            clock: 1,
            lease: Lease::None,
            reader: false,
            writer: Writer::Idle,
            archiver: Archiver::Idle,
            releaser: Releaser::Idle,
            recall: Recall::Idle,
            releasing: 0,
            recalling: 0,
            planned: Filed::Never,
            event: false,
            catalog: Database {
                now: nothing,
                log: [nothing; UNSYNCED],
                len: 1,
            },
            objects: [Object::Absent; VERSIONS],
            contents: [[0; 2]; VERSIONS],
            fresh: 2,
            truth: [bit(1); 2],
            since: [bit(EMPTY); 2],
            owed: false,
            stripped: false,
            left,
        }
    }

    /// A descriptor or a mapping with which data can be changed.
    pub(crate) fn writer_has_it(&self) -> bool {
        !matches!(self.writer, Writer::Idle | Writer::Opens(_))
    }

    /// A release, or the mending of one, keeps users of the mount out.
    pub(crate) fn gate_held(&self) -> bool {
        self.releaser != Releaser::Idle
    }

    /// Can a version be had from the tier?
    pub(crate) fn readable(&self, version: u8) -> bool {
        version > 0
            && matches!(
                self.objects[usize::from(version) - 1],
                Object::Visible | Object::Durable
            )
    }

    pub(crate) fn content(&self, version: u8) -> [u8; 2] {
        self.contents[usize::from(version) - 1]
    }

    /// The record that the file carries.
    pub(crate) fn record(&self) -> Record {
        self.disk.record
    }

    /// A sync of the file: what it holds is what a loss of power leaves.
    pub(crate) fn sync(&mut self, works: bool) {
        if works {
            self.disk.sync();
            self.since = [0; 2];
        }
    }
}
