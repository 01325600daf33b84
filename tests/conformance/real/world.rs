//! A library without hardware: tapes in memory, in slots and drives.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

/// What lies on a tape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Object {
    Block(Vec<u8>),
    Mark,
}

/// A tape.
#[derive(Debug, Clone, Default)]
pub(super) struct Tape {
    pub(super) sticker: String,
    pub(super) objects: Vec<Object>,
    /// How many objects are on the medium; those behind are in the drive's buffer.
    pub(super) synced: usize,
    /// What the medium has from some object on, in the place of what is in the buffer.
    pub(super) under: Option<(usize, Vec<Object>)>,
    pub(super) capacity: u64,
    pub(super) protected: bool,
    /// Objects that cannot be read.
    pub(super) bad: BTreeSet<usize>,
    /// No block can be written.
    pub(super) unwritable: bool,
}

/// What st.c keeps of the end of files and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Eof {
    #[default]
    None,
    Fm,
    EomOk,
    Eod1,
    Eod2,
    Eod,
}

/// What the driver did last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Rw {
    #[default]
    Idle,
    Reading,
    Writing,
}

/// A flush of a drive's buffer fails: what was in it is lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fails {
    /// Which, of those that have something to flush, from 1.
    pub(super) nth: u32,
    /// The head is then where the data were lost, not where it was.
    pub(super) falls: bool,
    /// Because the tape is out of the drive, and the one of that slot in it.
    pub(super) swap: Option<usize>,
}

/// A drive, and what its driver knows.
#[derive(Debug, Default)]
pub(super) struct Bay {
    pub(super) holds: Option<usize>,
    pub(super) home: Option<usize>,
    /// The tape is threaded, and not given back yet.
    pub(super) threaded: bool,
    /// It was given back, and lies in the mouth.
    pub(super) ejected: bool,
    pub(super) open: bool,
    pub(super) at: usize,
    pub(super) eof: Eof,
    pub(super) rw: Rw,
    /// Bytes of a block; 0: as long as it is.
    pub(super) block: usize,
    /// Opens left until it is ready.
    pub(super) not_ready: u32,
    /// The bus was reset.
    pub(super) lost: bool,
    /// The drive has something to say, which makes the next command fail.
    pub(super) attention: bool,
    /// It says that it gave its tape back, and keeps it.
    pub(super) keeps: bool,
    /// What every call says.
    pub(super) dead: Option<i32>,
    /// Calls left until it is gone (ENXIO).
    pub(super) dying: Option<u64>,
    /// Options of MTSETDRVBUFFER that are set.
    pub(super) options: i32,
    /// MTWEOF 0 that were made.
    pub(super) flushes: u32,
    pub(super) fails: Option<Fails>,
    /// A write that waits: which, from 1; whom it tells; and for what.
    pub(super) gate: Option<(u32, Sender<()>, Receiver<()>)>,
    /// The drive is switched off and on, and says so, after so many writes; and again after so many more.
    pub(super) resets: Vec<u32>,
}

/// A slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub(super) port: bool,
    pub(super) holds: Option<usize>,
}

/// How drives and kernel are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Make {
    /// MTERASE 0 ends the data.
    pub(super) erases: bool,
    /// A drive threads a tape only when it is told to.
    pub(super) waits_for_load: bool,
    /// Opens until a drive is ready.
    pub(super) not_ready: u32,
    /// The head stays before a block that cannot be read.
    pub(super) stays: bool,
    /// Longest transfer that the kernel has room for.
    pub(super) passes: usize,
    /// Options can be set.
    pub(super) root: bool,
    /// Those that the driver has before that.
    pub(super) options: i32,
}

impl Default for Make {
    fn default() -> Self {
        Self {
            erases: true,
            waits_for_load: false,
            not_ready: 0,
            stays: false,
            passes: 8 << 20,
            root: true,
            // As the driver is after boot: buffered and asynchronous.
            options: 0x7,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) tapes: Vec<Tape>,
    pub(super) slots: Vec<Slot>,
    pub(super) bays: Vec<Bay>,
    pub(super) make: Make,
    /// Tape marks that the driver wrote and nobody asked for.
    pub(super) strays: u32,
    /// Moves of the changer.
    pub(super) moves: Vec<String>,
    /// What the changer says to every move.
    pub(super) jammed: Option<String>,
    /// What it says when it is asked what it has.
    pub(super) mute: Option<String>,
}

/// Many hold it.
pub(super) type Shared = Arc<Mutex<World>>;

/// `count` tapes of so many bytes in as many slots, two more slots, a port, and empty drives.
pub(super) fn world(count: u32, capacity: u64, drives: u32, make: Make) -> Shared {
    let tape = |n: u32| Tape {
        sticker: sticker(n),
        capacity,
        ..Tape::default()
    };
    let mut slots: Vec<Slot> = (0..count as usize + 2).map(|_| Slot::default()).collect();
    for (at, slot) in slots.iter_mut().take(count as usize).enumerate() {
        slot.holds = Some(at);
    }
    slots.push(Slot {
        port: true,
        holds: None,
    });
    let bay = |_| Bay {
        block: 512,
        options: make.options,
        ..Bay::default()
    };
    Arc::new(Mutex::new(World {
        tapes: (1..=count).map(tape).collect(),
        slots,
        bays: (0..drives).map(bay).collect(),
        make,
        ..World::default()
    }))
}

/// The sticker of the `n`-th tape, from 1.
pub(super) fn sticker(n: u32) -> String {
    format!("REA{n:03}L8")
}

impl Tape {
    /// Bytes of blocks before an object.
    pub(super) fn bytes(&self, at: usize) -> u64 {
        let len = |object: &Object| match object {
            Object::Block(block) => block.len() as u64,
            Object::Mark => 0,
        };
        self.objects[..at].iter().map(len).sum()
    }

    /// Writes an object, behind which nothing remains.
    pub(super) fn put(&mut self, at: usize, object: Object) {
        self.cut(at);
        self.objects.push(object);
    }

    fn cut(&mut self, at: usize) {
        let mut behind = self.objects.split_off(at.min(self.objects.len()));
        match &mut self.under {
            Some((from, under)) if at < *from => {
                behind.truncate(*from - at);
                behind.append(under);
                self.under = Some((at, behind));
            }
            None => self.under = Some((at, behind)),
            Some(_) => {}
        }
        self.synced = self.synced.min(at);
    }

    /// All that was written is on the medium.
    pub(super) fn flush(&mut self) {
        (self.under, self.synced) = (None, self.objects.len());
    }

    /// What is in the buffer is lost. Gives where that began.
    pub(super) fn lose(&mut self) -> usize {
        let Some((from, under)) = self.under.take() else {
            return self.objects.len();
        };
        self.objects.truncate(from);
        self.objects.extend(under);
        self.synced = self.objects.len();
        from
    }
}

impl World {
    /// The power goes: what was in the buffers of drives is lost.
    pub(super) fn power_loss(&mut self) {
        for tape in &mut self.tapes {
            tape.lose();
        }
        for bay in &mut self.bays {
            (bay.at, bay.eof, bay.rw, bay.open) = (0, Eof::None, Rw::Idle, false);
        }
    }

    /// A block is to be written; what it waits for.
    pub(super) fn gate(&mut self, bay: usize) -> Option<(Sender<()>, Receiver<()>)> {
        let gate = &mut self.bays[bay].gate;
        let (left, ..) = gate.as_mut()?;
        *left -= 1;
        gate.take_if(|(left, ..)| *left == 0)
            .map(|(_, tell, wait)| (tell, wait))
    }

    /// A block is to be written.
    pub(super) fn count_write(&mut self, bay: usize) {
        let Some(left) = self.bays[bay].resets.first_mut() else {
            return;
        };
        *left = left.saturating_sub(1);
        if *left == 0 {
            self.bays[bay].resets.remove(0);
            self.reset(bay, true);
        }
    }

    /// A flush is made; does it fail?
    pub(super) fn flush_fails(&mut self, bay: usize) -> bool {
        let bay_ = &mut self.bays[bay];
        bay_.flushes += 1;
        let Some(tape) = bay_.holds.map(|tape| &mut self.tapes[tape]) else {
            return false;
        };
        let Some(fails) = bay_.fails.as_mut().filter(|_| tape.under.is_some()) else {
            return false;
        };
        fails.nth -= 1;
        if fails.nth > 0 {
            return false;
        }
        let Fails { falls, swap, .. } = *fails;
        let lost = tape.lose();
        (bay_.fails, bay_.rw) = (None, Rw::Idle);
        if falls {
            bay_.at = lost;
        }
        if let Some(slot) = swap {
            self.swap(bay, slot, false);
        }
        true
    }

    /// A drive is switched off and on, and somebody else hears of it; or not, and it says so once.
    pub(super) fn reset(&mut self, bay: usize, told: bool) {
        let bay = &mut self.bays[bay];
        (bay.at, bay.eof, bay.attention) = (0, Eof::None, told);
    }

    /// Somebody takes what is in a drive out by hand and puts another one in, from a slot.
    pub(super) fn swap(&mut self, bay: usize, slot: usize, told: bool) {
        let (bay_, slot) = (&mut self.bays[bay], &mut self.slots[slot]);
        std::mem::swap(&mut bay_.holds, &mut slot.holds);
        bay_.home = None;
        self.reset(bay, told);
    }

    /// The tape with that sticker.
    pub(super) fn tape(&mut self, n: u32) -> &mut Tape {
        let sticker = sticker(n);
        let tape = self.tapes.iter_mut().find(|t| t.sticker == sticker);
        tape.expect("a tape of this number")
    }
}
