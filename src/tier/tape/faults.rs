//! Faults of drives and cartridges, injected at run time: for tests and exercises.
//!
//! The fault model. Medium: a block cannot be read; none
//! can be written; the tape ends early; what was written is not
//! what is there; the power goes in the middle of a block (what was not synchronised is torn, and
//! nothing works until it is back). Drive: it dies at its n-th verb from now. A cartridge that is
//! missing is one whose image was moved away; nothing needs to be injected for that.

use super::drive::DriveNumber;
use super::label::Barcode;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The handle to script faults with, from any thread; clones share one script.
#[derive(Debug, Clone, Default)]
pub struct TapeFaults {
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    bad: BTreeSet<(Barcode, u64)>,
    unwritable: BTreeSet<Barcode>,
    ends: BTreeMap<Barcode, u64>,
    /// Synchronisations left until one lies.
    lies: BTreeMap<Barcode, u64>,
    /// Verbs left until it dies.
    dying: BTreeMap<DriveNumber, u64>,
    dead: BTreeSet<DriveNumber>,
    /// Blocks left until the power goes.
    blocks: Option<u64>,
    dark: bool,
}

impl TapeFaults {
    /// The block at `object` of a cartridge cannot be read any more.
    pub fn bad_block(&self, cartridge: Barcode, object: u64) {
        self.script.lock().bad.insert((cartridge, object));
    }

    /// No block can be written to a cartridge any more.
    pub fn unwritable(&self, cartridge: Barcode) {
        self.script.lock().unwritable.insert(cartridge);
    }

    /// A cartridge ends after so many bytes, whatever its capacity says.
    pub fn end_of_tape(&self, cartridge: Barcode, bytes: u64) {
        self.script.lock().ends.insert(cartridge, bytes);
    }

    /// The next synchronisation of a cartridge finds another byte than was written.
    pub fn lie(&self, cartridge: Barcode) {
        self.lie_at(cartridge, 1);
    }

    /// The same for the `nth` synchronisation from now (1 is the next). What is written together has
    /// two: of its data, and of the last closing labels.
    pub fn lie_at(&self, cartridge: Barcode, nth: u64) {
        self.script.lock().lies.insert(cartridge, nth.max(1));
    }

    /// A drive dies at its `nth` verb from now (1 is the next), and stays dead.
    pub fn kill_drive(&self, drive: DriveNumber, nth: u64) {
        self.script.lock().dying.insert(drive, nth.max(1));
    }

    /// The power goes while the `nth` block from now is written (1 is the next).
    pub fn power_loss(&self, nth: u64) {
        self.script.lock().blocks = Some(nth.max(1));
    }

    /// Ends every fault; blocks that [`super::image::Image::spoil`] made bad stay so.
    pub fn clear(&self) {
        *self.script.lock() = Script::default();
    }

    /// A verb of a drive; the reason why it cannot be done.
    pub(super) fn verb(&self, drive: DriveNumber) -> Result<(), &'static str> {
        let mut script = self.script.lock();
        if script.dark {
            return Err("the power is gone");
        }
        if let Some(left) = script.dying.get_mut(&drive) {
            *left -= 1;
            if *left == 0 {
                script.dying.remove(&drive);
                script.dead.insert(drive);
            }
        }
        if script.dead.contains(&drive) {
            return Err("injected fault");
        }
        Ok(())
    }

    /// Does the power go during this block?
    pub(super) fn goes_dark(&self) -> bool {
        let mut script = self.script.lock();
        if let Some(left) = &mut script.blocks {
            *left -= 1;
            if *left == 0 {
                script.blocks = None;
                script.dark = true;
            }
        }
        script.dark
    }

    pub(super) fn is_bad(&self, cartridge: Barcode, object: u64) -> bool {
        self.script.lock().bad.contains(&(cartridge, object))
    }

    pub(super) fn is_unwritable(&self, cartridge: Barcode) -> bool {
        self.script.lock().unwritable.contains(&cartridge)
    }

    pub(super) fn end(&self, cartridge: Barcode) -> Option<u64> {
        self.script.lock().ends.get(&cartridge).copied()
    }

    pub(super) fn takes_lie(&self, cartridge: Barcode) -> bool {
        let mut script = self.script.lock();
        let Some(left) = script.lies.get_mut(&cartridge) else {
            return false;
        };
        *left -= 1;
        let lies = *left == 0;
        if lies {
            script.lies.remove(&cartridge);
        }
        lies
    }
}
