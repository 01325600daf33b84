//! The ledger: what a successor must know of the dead server, in memory that outlives it (P12).
//!
//! A server may die between any two stores. Therefore
//! 1. a record is there when its first word is: that word is stored last when a record is written,
//!    and zeroed first when it goes or is written anew; a record that is half there is none;
//! 2. a record that does not match its checksum is none;
//! 3. what is counted is counted before the kernel is told of it and uncounted after the kernel
//!    told us: the ledger may know more than the kernel (a little memory is lost), never less;
//! 4. a backing id stands here only while the kernel has it: it is entered after it was
//!    registered and taken out before it is closed;
//! 5. an open's number holds the place of its record: RELEASE deletes by it, and twice is once;
//! 6. what does not fit marks the ledger incomplete: such a mount is not held.
//!
//! Pure: it knows words of memory, no files and no clock. All methods may be called by any thread;
//! calls about one node or one open come from whoever may change it.

mod mapping;

pub(crate) use mapping::Mapping;

use crate::NodeHandle;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory of whole words. The one that is shared between processes is [`Mapping`].
pub(crate) trait Memory: Send + Sync {
    /// The word at that place, which lies within the size asked for.
    fn word(&self, at: usize) -> &AtomicU64;
    fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }
    fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }
    /// Stores `new` if `old` still stands there.
    fn replace(&self, at: usize, old: u64, new: u64) -> bool {
        let word = self.word(at);
        word.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }
    /// Adds, and returns what stood there before.
    fn add(&self, at: usize, value: u64) -> u64 {
        self.word(at).fetch_add(value, Ordering::AcqRel)
    }
}

/// "cairnled" and the layout's version, which changes with every change of layout or meaning.
const MAGIC: u64 = 0x6361_6972_6e6c_0001;

const HEADER: usize = 64;
const H_MAGIC: usize = 0;
const H_GENERATION: usize = 1;
const H_OFFERED: usize = 2;
const H_ABI: usize = 3;
const H_ANSWERED: usize = 4;
const H_ROOT: usize = 5;
const H_NODES: usize = 6;
const H_OPENS: usize = 7;
const H_INTENTS: usize = 8;
const H_INCOMPLETE: usize = 9;
const H_SERIAL: usize = 10;

const NODE_WORDS: usize = 8;
/// Bytes of the longest handle that fits.
const HANDLE_ROOM: usize = 32;
const OPEN_WORDS: usize = 4;
const INTENT_WORDS: usize = 8;

/// What an open's number is made of, from its lowest bit: what the caller wants remembered, the
/// place of its record, a serial number that is never reused.
pub(crate) const FH_BITS: u32 = 3;
const FH_PLACE_BITS: u32 = 20;
const NO_PLACE: u64 = (1 << FH_PLACE_BITS) - 1;

/// How many records of each kind there is room for. Memory is used as records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) intents: usize,
    pub(crate) opens: usize,
    pub(crate) nodes: usize,
}

impl Shape {
    /// Of a real mount: a node takes 64 bytes, an open 32.
    pub(crate) const REAL: Self = Self {
        intents: 8192,
        opens: (1 << FH_PLACE_BITS) - 1,
        nodes: 32 << 20,
    };

    fn opens_at(self) -> usize {
        HEADER + self.intents * INTENT_WORDS
    }
    fn nodes_at(self) -> usize {
        self.opens_at() + self.opens * OPEN_WORDS
    }
    pub(crate) fn words(self) -> usize {
        self.nodes_at() + self.nodes * NODE_WORDS
    }
}

/// What was agreed on with the kernel when the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// The kernel's capabilities.
    pub(crate) offered: u64,
    pub(crate) abi: (u32, u32),
    /// A sum over the server's answer.
    pub(crate) answered: u64,
}

/// Place of a node's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodePlace(u32);

/// A change of the namespace that cannot simply be done twice. Handles are told by [`told`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Intent {
    /// A name that is not there yet will be; for a hard link, of this inode.
    Make { linked: u64 },
    /// A name of this inode will go.
    Remove { victim: u64 },
    /// A name of this inode moves.
    Move { source: u64 },
    /// An attribute that is not there yet will be.
    SetNew,
    /// An attribute that is there will go.
    Unset,
}

impl Intent {
    fn words(self) -> (u64, u64) {
        match self {
            Self::Make { linked } => (1, linked),
            Self::Remove { victim } => (2, victim),
            Self::Move { source } => (3, source),
            Self::SetNew => (4, 0),
            Self::Unset => (5, 0),
        }
    }

    fn of(words: (u64, u64)) -> Option<Self> {
        match words {
            (1, linked) => Some(Self::Make { linked }),
            (2, victim) => Some(Self::Remove { victim }),
            (3, source) => Some(Self::Move { source }),
            (4, 0) => Some(Self::SetNew),
            (5, 0) => Some(Self::Unset),
            _ => None,
        }
    }
}

/// An intent's place, until its outcome is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intended {
    place: usize,
    unique: u64,
}

/// An intent of the dead server and, if it got so far, how it went (0, or an error number).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundIntent {
    pub(crate) intent: Intent,
    pub(crate) outcome: Option<i32>,
}

/// A node as the ledger has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundNode {
    pub(crate) place: NodePlace,
    pub(crate) id: u64,
    pub(crate) handle: NodeHandle,
    /// File type bits.
    pub(crate) kind: u32,
    pub(crate) lookups: u64,
    pub(crate) backing: Option<u32>,
}

/// An open as the ledger has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundOpen {
    pub(crate) fh: u64,
    pub(crate) node: u64,
    /// Number of the request that opened it.
    pub(crate) unique: u64,
}

/// All that a dead server left.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) nodes: Vec<FoundNode>,
    pub(crate) opens: Vec<FoundOpen>,
    pub(crate) intents: HashMap<u64, FoundIntent>,
}

/// Why a ledger cannot be gone on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it was written by a version of this program that keeps it differently")]
    Version,
    #[error("it is not complete: something did not fit")]
    Incomplete,
}

/// The ledger of one connection.
pub(crate) struct Ledger {
    memory: Box<dyn Memory>,
    shape: Shape,
    free_nodes: Mutex<Vec<u32>>,
    free_opens: Mutex<Vec<u32>>,
}

impl Ledger {
    /// Begins in zeroed memory of [`Shape::words`]. `root` tells the backing.
    pub(crate) fn create(memory: Box<dyn Memory>, shape: Shape, root: u64) -> Self {
        memory.store(H_ROOT, root);
        memory.store(H_SERIAL, 1);
        memory.store(H_GENERATION, 1);
        memory.store(H_MAGIC, MAGIC);
        Self::with(memory, shape)
    }

    fn with(memory: Box<dyn Memory>, shape: Shape) -> Self {
        Self {
            memory,
            shape,
            free_nodes: Mutex::default(),
            free_opens: Mutex::default(),
        }
    }

    /// Can it be read? Changes nothing.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn check(memory: &dyn Memory) -> Result<(), Unreadable> {
        if memory.load(H_MAGIC) != MAGIC {
            return Err(Unreadable::Version);
        }
        if memory.load(H_INCOMPLETE) != 0 {
            return Err(Unreadable::Incomplete);
        }
        Ok(())
    }

    /// Goes on with a dead server's ledger. Its writer must be dead.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub(crate) fn inherit(
        memory: Box<dyn Memory>,
        shape: Shape,
    ) -> Result<(Self, Found), Unreadable> {
        Self::check(memory.as_ref())?;
        memory.add(H_GENERATION, 1);
        let ledger = Self::with(memory, shape);
        let found = Found {
            nodes: ledger.find_nodes(),
            opens: ledger.find_opens(),
            intents: ledger.find_intents(),
        };
        Ok((ledger, found))
    }

    /// How many servers have kept it, this one among them.
    pub(crate) fn generation(&self) -> u64 {
        self.memory.load(H_GENERATION)
    }

    pub(crate) fn root(&self) -> u64 {
        self.memory.load(H_ROOT)
    }

    pub(crate) fn agree(&self, agreement: Agreement) {
        let (major, minor) = agreement.abi;
        self.memory.store(H_OFFERED, agreement.offered);
        self.memory
            .store(H_ABI, u64::from(major) << 32 | u64::from(minor));
        self.memory.store(H_ANSWERED, agreement.answered);
    }

    pub(crate) fn agreement(&self) -> Agreement {
        agreement_in(self.memory.as_ref())
    }

    /// Something did not fit: the mount ends with this server.
    pub(crate) fn give_up(&self) {
        self.memory.store(H_INCOMPLETE, 1);
    }

    // Nodes: [id, lookups, kind and length of the handle and file type, 4 x handle,
    // checksum and backing id].

    fn node_at(&self, place: NodePlace) -> usize {
        self.shape.nodes_at() + place.0 as usize * NODE_WORDS
    }

    /// Enters a node with one lookup. `None`: it did not fit.
    pub(crate) fn add_node(&self, id: u64, handle: &NodeHandle, kind: u32) -> Option<NodePlace> {
        let Some(bytes) = room_for(handle) else {
            self.give_up();
            return None;
        };
        let Some(place) = self.take_place(&self.free_nodes, H_NODES, self.shape.nodes) else {
            self.give_up();
            return None;
        };
        let place = NodePlace(place);
        let at = self.node_at(place);
        let meta = u64::from(handle.kind.cast_unsigned())
            | (handle.bytes.len() as u64) << 32
            | u64::from(kind) << 40;
        self.memory.store(at + 1, 1);
        self.memory.store(at + 2, meta);
        for (word, value) in bytes.iter().enumerate() {
            self.memory.store(at + 3 + word, *value);
        }
        let sum = checksum(&[id, meta, bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.memory.store(at + 7, u64::from(sum));
        self.memory.store(at, id);
        Some(place)
    }

    /// One more lookup; before the kernel is told.
    pub(crate) fn count(&self, place: NodePlace) {
        self.memory.add(self.node_at(place) + 1, 1);
    }

    /// The kernel dropped so many lookups.
    pub(crate) fn uncount(&self, place: NodePlace, lookups: u64) {
        let at = self.node_at(place) + 1;
        loop {
            let before = self.memory.load(at);
            if self
                .memory
                .replace(at, before, before.saturating_sub(lookups))
            {
                return;
            }
        }
    }

    /// The kernel has forgotten the node.
    pub(crate) fn remove_node(&self, place: NodePlace) {
        self.memory.store(self.node_at(place), 0);
        self.free_nodes.lock().push(place.0);
    }

    /// The node's passthrough opens use this id, which the kernel has.
    pub(crate) fn set_backing(&self, place: NodePlace, backing: u32) {
        let at = self.node_at(place) + 7;
        loop {
            let before = self.memory.load(at);
            let new = (before & u64::from(u32::MAX)) | u64::from(backing) << 32;
            if self.memory.replace(at, before, new) {
                return;
            }
        }
    }

    /// The id is about to be closed. Without effect if the record has another by now.
    pub(crate) fn clear_backing(&self, place: NodePlace, backing: u32) {
        let at = self.node_at(place) + 7;
        loop {
            let before = self.memory.load(at);
            if before >> 32 != u64::from(backing) {
                return;
            }
            if self
                .memory
                .replace(at, before, before & u64::from(u32::MAX))
            {
                return;
            }
        }
    }

    fn find_nodes(&self) -> Vec<FoundNode> {
        let end = used(self.memory.load(H_NODES), self.shape.nodes);
        let mut nodes = Vec::new();
        let mut free = self.free_nodes.lock();
        for place in (0..end).rev() {
            match self.read_node(NodePlace(place)) {
                Some(node) => nodes.push(node),
                None => free.push(place),
            }
        }
        nodes
    }

    fn read_node(&self, place: NodePlace) -> Option<FoundNode> {
        let at = self.node_at(place);
        let word = |offset| self.memory.load(at + offset);
        let (id, meta) = (word(0), word(2));
        let bytes = [word(3), word(4), word(5), word(6)];
        let sum = checksum(&[id, meta, bytes[0], bytes[1], bytes[2], bytes[3]]);
        let length = (meta >> 32 & 0xff) as usize;
        if id == 0 || word(7) as u32 != sum || length > HANDLE_ROOM {
            return None;
        }
        let mut handle: Vec<u8> = bytes.iter().flat_map(|w| w.to_le_bytes()).collect();
        handle.truncate(length);
        Some(FoundNode {
            place,
            id,
            handle: NodeHandle {
                kind: (meta as u32).cast_signed(),
                bytes: handle,
            },
            kind: (meta >> 40) as u32,
            lookups: word(1),
            backing: Some((word(7) >> 32) as u32).filter(|id| *id != 0),
        })
    }

    // Opens: [number, node, request, checksum].

    fn open_at(&self, place: u32) -> usize {
        self.shape.opens_at() + place as usize * OPEN_WORDS
    }

    /// Enters an open and gives it its number, with `bits` in the lowest [`FH_BITS`].
    pub(crate) fn add_open(&self, node: u64, unique: u64, bits: u64) -> u64 {
        let serial = self.memory.add(H_SERIAL, 1);
        let fh = |place: u64| serial << (FH_BITS + FH_PLACE_BITS) | place << FH_BITS | bits;
        let Some(place) = self.take_place(&self.free_opens, H_OPENS, self.shape.opens) else {
            self.give_up();
            return fh(NO_PLACE);
        };
        let (at, fh) = (self.open_at(place), fh(u64::from(place)));
        self.memory.store(at + 1, node);
        self.memory.store(at + 2, unique);
        self.memory
            .store(at + 3, u64::from(checksum(&[fh, node, unique])));
        self.memory.store(at, fh);
        fh
    }

    /// Deletes an open. `false`: it was deleted before.
    pub(crate) fn close(&self, fh: u64) -> bool {
        let place = fh >> FH_BITS & NO_PLACE;
        if place == NO_PLACE {
            return true;
        }
        let place = place as u32;
        if place as usize >= self.shape.opens || !self.memory.replace(self.open_at(place), fh, 0) {
            return false;
        }
        self.free_opens.lock().push(place);
        true
    }

    fn find_opens(&self) -> Vec<FoundOpen> {
        let end = used(self.memory.load(H_OPENS), self.shape.opens);
        let mut opens = Vec::new();
        let mut free = self.free_opens.lock();
        for place in (0..end).rev() {
            let at = self.open_at(place);
            let [fh, node, unique, sum] = [0, 1, 2, 3].map(|offset| self.memory.load(at + offset));
            if fh != 0 && sum == u64::from(checksum(&[fh, node, unique])) {
                opens.push(FoundOpen { fh, node, unique });
            } else {
                self.memory.store(at, 0);
                free.push(place);
            }
        }
        opens
    }

    // Intents: [request, kind, inode, checksum, outcome], in a ring: an answered request does
    // not come again, and no request is still open when so many others have been through.

    fn intent_at(&self, place: usize) -> usize {
        HEADER + place * INTENT_WORDS
    }

    /// Before the change.
    pub(crate) fn intend(&self, unique: u64, intent: Intent) -> Intended {
        let turn = self.memory.add(H_INTENTS, 1);
        let place = (turn % self.shape.intents as u64) as usize;
        let at = self.intent_at(place);
        let (kind, inode) = intent.words();
        self.memory.store(at, 0);
        self.memory.store(at + 1, kind);
        self.memory.store(at + 2, inode);
        self.memory
            .store(at + 3, u64::from(checksum(&[unique, kind, inode])));
        self.memory.store(at + 4, 0);
        self.memory.store(at, unique);
        Intended { place, unique }
    }

    /// After it: 0, or the error number.
    pub(crate) fn outcome(&self, intended: Intended, error: i32) {
        let at = self.intent_at(intended.place);
        if self.memory.load(at) == intended.unique {
            let outcome = 1 << 32 | u64::from(error.cast_unsigned());
            self.memory.store(at + 4, outcome);
        }
    }

    fn find_intents(&self) -> HashMap<u64, FoundIntent> {
        let mut found = HashMap::new();
        let turn = self.memory.load(H_INTENTS);
        let shown = turn.min(self.shape.intents as u64);
        // The oldest first: a request that was tried again has its latest attempt.
        for turn in turn - shown..turn {
            let at = self.intent_at((turn % self.shape.intents as u64) as usize);
            let [unique, kind, inode, sum, outcome] =
                [0, 1, 2, 3, 4].map(|offset| self.memory.load(at + offset));
            if unique == 0 || sum != u64::from(checksum(&[unique, kind, inode])) {
                continue;
            }
            if let Some(intent) = Intent::of((kind, inode)) {
                let outcome = (outcome != 0).then_some((outcome as u32).cast_signed());
                found.insert(unique, FoundIntent { intent, outcome });
            }
        }
        found
    }

    /// A free place, used before or new.
    fn take_place(&self, free: &Mutex<Vec<u32>>, high: usize, capacity: usize) -> Option<u32> {
        let mut free = free.lock();
        if let Some(place) = free.pop() {
            return Some(place);
        }
        let place = self.memory.load(high);
        if place >= capacity as u64 {
            return None;
        }
        self.memory.store(high, place + 1);
        u32::try_from(place).ok()
    }
}

/// What the connection was agreed on, of a ledger that has been checked.
pub(crate) fn agreement_in(memory: &dyn Memory) -> Agreement {
    let abi = memory.load(H_ABI);
    Agreement {
        offered: memory.load(H_OFFERED),
        abi: ((abi >> 32) as u32, abi as u32),
        answered: memory.load(H_ANSWERED),
    }
}

/// Which backing a ledger is of, as [`told`] tells its root.
pub(crate) fn root_in(memory: &dyn Memory) -> u64 {
    memory.load(H_ROOT)
}

/// How many of `capacity` places have been in use.
fn used(high: u64, capacity: usize) -> u32 {
    u32::try_from(high.min(capacity as u64)).unwrap_or(0)
}

/// A handle as four words, if it fits.
fn room_for(handle: &NodeHandle) -> Option<[u64; 4]> {
    if handle.bytes.len() > HANDLE_ROOM {
        return None;
    }
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(handle.bytes.chunks(8)) {
        let mut whole = [0; 8];
        for (to, from) in whole.iter_mut().zip(bytes) {
            *to = *from;
        }
        *word = u64::from_le_bytes(whole);
    }
    Some(words)
}

/// Do handles like this one fit?
pub(crate) fn fits(handle: &NodeHandle) -> bool {
    room_for(handle).is_some()
}

/// Tells handles apart; never 0.
pub(crate) fn told(handle: &NodeHandle) -> u64 {
    let start = mix(0x6361_6972, u64::from(handle.kind.cast_unsigned()));
    let length = handle.bytes.len() as u64;
    let sum = handle
        .bytes
        .chunks(8)
        .fold(mix(start, length), |sum, bytes| {
            let word = bytes
                .iter()
                .rev()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
            mix(sum, word)
        });
    sum.max(1)
}

/// One step of a sum in which every bit of both counts (that of splitmix64).
pub(crate) fn mix(sum: u64, word: u64) -> u64 {
    let mut z = (sum.rotate_left(23) ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn checksum(words: &[u64]) -> u32 {
    let sum = words.iter().fold(1, |sum, word| mix(sum, *word));
    (sum ^ sum >> 32) as u32
}

#[cfg(test)]
#[path = "ledger/tests.rs"]
mod tests;
