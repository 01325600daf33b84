//! What `mtx status` prints, read.
//!
//! ```text
//!   Storage Changer /dev/sg3:2 Drives, 24 Slots ( 1 Import/Export )
//! Data Transfer Element 0:Full (Storage Element 3 Loaded):VolumeTag = ABC123L8
//! Data Transfer Element 1:Empty
//!       Storage Element 1:Full :VolumeTag=ABC124L8
//!       Storage Element 2:Empty
//!       Storage Element 24 IMPORT/EXPORT:Empty
//! ```
//! A drive whose cartridge came from nobody knows where says `Full (Unknown Storage Element Loaded)`. Stickers that
//! cannot be read are not printed, or empty. A line of another kind is passed over; one that begins as an element and
//! is none is an error: nothing is moved on a guess.

use std::str::FromStr;

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Its number, from 1.
    pub number: u32,
    /// It is an import/export slot.
    pub port: bool,
    /// A cartridge stands in it.
    pub full: bool,
    /// What that one's sticker says.
    pub sticker: String,
}

/// A drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bay {
    /// Its number, from 0.
    pub number: u32,
    /// A cartridge is in it.
    pub full: bool,
    /// The slot that it came from.
    pub home: Option<u32>,
    /// What its sticker says.
    pub sticker: String,
}

/// All elements of a changer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Elements {
    /// Drives.
    pub bays: Vec<Bay>,
    /// Slots, import/export ones too.
    pub slots: Vec<Slot>,
}

impl FromStr for Elements {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut elements = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if let Some(rest) = line.strip_prefix("Data Transfer Element ") {
                let bay = bay(rest).ok_or_else(|| format!("it said {line:?}"))?;
                if elements.bay(bay.number).is_some() {
                    return Err(format!("it said of two drives {}: {line:?}", bay.number));
                }
                elements.bays.push(bay);
            } else if let Some(rest) = line.strip_prefix("Storage Element ") {
                let slot = slot(rest).ok_or_else(|| format!("it said {line:?}"))?;
                if elements.slot(slot.number).is_some() {
                    return Err(format!("it said of two slots {}: {line:?}", slot.number));
                }
                elements.slots.push(slot);
            }
        }
        if elements.bays.is_empty() {
            return Err("it told of no drives".to_owned());
        }
        Ok(elements)
    }
}

/// `0:Full (Storage Element 3 Loaded):VolumeTag = ABC123L8`
fn bay(text: &str) -> Option<Bay> {
    let (number, rest) = text.split_once(':')?;
    let (state, tags) = rest.split_once(':').unwrap_or((rest, ""));
    let state = state.trim();
    let home = match state.strip_prefix("Full") {
        None if state == "Empty" => None,
        None => return None,
        Some(from) => from
            .trim()
            .strip_prefix("(Storage Element ")
            .and_then(|from| from.strip_suffix(" Loaded)"))
            .and_then(|from| from.parse().ok()),
    };
    let full = state != "Empty";
    Some(Bay {
        number: number.trim().parse().ok()?,
        full,
        home,
        sticker: sticker(tags, full),
    })
}

/// `24 IMPORT/EXPORT:Full :VolumeTag=ABC124L8`
fn slot(text: &str) -> Option<Slot> {
    let (number, rest) = text.split_once(':')?;
    let (state, tags) = rest.split_once(':').unwrap_or((rest, ""));
    let (number, port) = match number.trim().strip_suffix("IMPORT/EXPORT") {
        Some(number) => (number, true),
        None => (number, false),
    };
    let full = match state.trim() {
        "Full" => true,
        "Empty" => false,
        _ => return None,
    };
    Some(Slot {
        number: number.trim().parse().ok()?,
        port,
        full,
        sticker: sticker(tags, full),
    })
}

/// `VolumeTag = ABC123L8`, with another tag behind it, perhaps. What is not there has no sticker.
fn sticker(tags: &str, full: bool) -> String {
    let first = tags.split(':').next().unwrap_or_default();
    let tag = first
        .strip_prefix("VolumeTag")
        .and_then(|t| t.trim_start().strip_prefix('='));
    tag.filter(|_| full).unwrap_or_default().trim().to_owned()
}

impl Elements {
    pub(super) fn bay(&self, number: u32) -> Option<&Bay> {
        self.bays.iter().find(|bay| bay.number == number)
    }

    fn slot(&self, number: u32) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.number == number)
    }

    pub(super) fn is_free(&self, number: u32) -> bool {
        self.slot(number).is_some_and(|slot| !slot.full)
    }

    pub(super) fn is_port(&self, number: u32) -> bool {
        self.slot(number).is_some_and(|slot| slot.port)
    }

    /// The first free slot, or import/export slot.
    pub(super) fn free(&self, port: bool) -> Option<u32> {
        let mut free = self.slots.iter().filter(|s| !s.full && s.port == port);
        free.next().map(|slot| slot.number)
    }

    /// The slot with a cartridge; one that people can reach only if no other has it.
    pub(super) fn holding(&self, sticker: &str) -> Option<u32> {
        let holds = self.slots.iter().filter(|s| s.full && s.sticker == sticker);
        holds.min_by_key(|slot| slot.port).map(|slot| slot.number)
    }

    /// Is it in a slot, or in a drive?
    pub(super) fn has(&self, sticker: &str) -> bool {
        let in_drive = self.bays.iter().any(|b| b.full && b.sticker == sticker);
        in_drive || self.holding(sticker).is_some()
    }

    /// A cartridge was put from a slot into a drive.
    pub(super) fn load(&mut self, from: u32, to: u32) {
        let slot = self.slots.iter_mut().find(|slot| slot.number == from);
        let bay = self.bays.iter_mut().find(|bay| bay.number == to);
        if let (Some(slot), Some(bay)) = (slot, bay) {
            bay.sticker = std::mem::take(&mut slot.sticker);
            (slot.full, bay.full, bay.home) = (false, true, Some(from));
        }
    }

    /// A cartridge was put from a drive into a slot.
    pub(super) fn unload(&mut self, to: u32, from: u32) {
        let slot = self.slots.iter_mut().find(|slot| slot.number == to);
        let bay = self.bays.iter_mut().find(|bay| bay.number == from);
        if let (Some(slot), Some(bay)) = (slot, bay) {
            slot.sticker = std::mem::take(&mut bay.sticker);
            (slot.full, bay.full, bay.home) = (true, false, None);
        }
    }

    /// A cartridge was moved from one slot to another.
    pub(super) fn shift(&mut self, from: u32, to: u32) {
        let slot = self.slots.iter_mut().find(|slot| slot.number == from);
        let sticker = slot.map(|slot| {
            slot.full = false;
            std::mem::take(&mut slot.sticker)
        });
        let slot = self.slots.iter_mut().find(|slot| slot.number == to);
        if let (Some(slot), Some(sticker)) = (slot, sticker) {
            (slot.full, slot.sticker) = (true, sticker);
        }
    }
}
