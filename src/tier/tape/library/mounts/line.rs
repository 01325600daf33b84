//! Those who wait for a drive, and who of them gets which: a choice among values, without I/O.
//!
//! Invariants kept here: who came first chooses first, and whoever came later gets a drive only if
//! nobody before would take it now; a cartridge is given to one drive at most; what is pinned in a
//! drive is not put away for another.

use crate::tier::tape::label::Barcode;
use std::collections::BTreeMap;
use std::time::Instant;

/// A number in the line; smaller ones came earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u64);

/// What somebody waits for.
#[derive(Debug, Clone, Copy)]
struct Waiter {
    barcode: Barcode,
    /// The cartridge that should leave its drive for it, where there is a choice.
    instead: Option<Barcode>,
    since: Instant,
}

/// A drive as the choice sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    /// It did not fail.
    pub(super) works: bool,
    /// Nobody uses it.
    pub(super) idle: bool,
    /// What it holds stays in it.
    pub(super) pinned: bool,
    pub(super) holds: Option<Barcode>,
    /// What is still being taken out of it.
    pub(super) leaving: Option<Barcode>,
    /// Grows with each use.
    pub(super) used: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Line {
    next: u64,
    waiting: BTreeMap<Turn, Waiter>,
}

impl Line {
    /// Somebody comes, and is last.
    pub(super) fn join(&mut self, barcode: Barcode, instead: Option<Barcode>) -> Turn {
        let turn = Turn(self.next);
        self.next += 1;
        let since = Instant::now();
        let waiter = Waiter {
            barcode,
            instead,
            since,
        };
        self.waiting.insert(turn, waiter);
        turn
    }

    /// He has what he came for, or gives up.
    pub(super) fn leave(&mut self, turn: Turn) {
        self.waiting.remove(&turn);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The drive that `turn` may take now, by its place in the list.
    pub(super) fn choose(&self, turn: Turn, drives: &[Spot]) -> Option<usize> {
        let mut spots = drives.to_vec();
        for (of, waiter) in &self.waiting {
            let at = best(&spots, waiter);
            if *of == turn {
                return at;
            }
            if let Some(spot) = at.and_then(|at| spots.get_mut(at)) {
                if spot.holds != Some(waiter.barcode) {
                    spot.leaving = spot.holds;
                }
                (spot.idle, spot.holds) = (false, Some(waiter.barcode));
            }
        }
        None
    }

    /// Since when the first has waited who gets nothing while everything that works is pinned.
    pub(super) fn stuck_since(&self, drives: &[Spot]) -> Option<Instant> {
        let mut working = drives.iter().filter(|spot| spot.works).peekable();
        if working.peek().is_none() || !working.all(|spot| spot.pinned) {
            return None;
        }
        let has = |barcode| drives.iter().any(|s| s.holds == Some(barcode));
        let mut stuck = self.waiting.values().filter(|w| !has(w.barcode));
        stuck.next().map(|waiter| waiter.since)
    }
}

/// The drive that holds the cartridge, and no other; if none does, the one that it is to take the
/// place in, an empty one, or the one that was not used for longest.
fn best(spots: &[Spot], waiter: &Waiter) -> Option<usize> {
    let holds = |spot: &Spot| spot.works && spot.holds == Some(waiter.barcode);
    if let Some(own) = spots.iter().position(holds) {
        return spots.get(own).filter(|spot| spot.idle).map(|_| own);
    }
    // Not yet back in its slot, or still to be taken out of a drive that is not used any more.
    let there = |s: &Spot| s.leaving == Some(waiter.barcode) || s.holds == Some(waiter.barcode);
    if spots.iter().any(there) {
        return None;
    }
    let free = spots.iter().enumerate();
    let free = free.filter(|(_, spot)| spot.works && spot.idle && !spot.pinned);
    let cost = |spot: &Spot| match spot.holds {
        Some(held) if waiter.instead == Some(held) => 0,
        None => 1,
        Some(_) => 2,
    };
    free.min_by_key(|(_, spot)| (cost(spot), spot.used))
        .map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn barcode(number: u32) -> Barcode {
        format!("CRN{number:03}L8").parse().expect("barcode")
    }

    fn spot(holds: Option<u32>, used: u64) -> Spot {
        Spot {
            works: true,
            idle: true,
            pinned: false,
            holds: holds.map(barcode),
            leaving: None,
            used,
        }
    }

    #[test]
    fn who_came_first_chooses_first() {
        let mut line = Line::default();
        let first = line.join(barcode(1), None);
        let second = line.join(barcode(2), None);
        let one = [spot(None, 0)];
        assert_eq!(line.choose(first, &one), Some(0));
        assert_eq!(line.choose(second, &one), None, "it is the first one's");
        let two = [spot(Some(7), 2), spot(None, 1)];
        assert_eq!(line.choose(first, &two), Some(1), "an empty one before all");
        assert_eq!(line.choose(second, &two), Some(0));
        line.leave(first);
        assert_eq!(line.choose(second, &one), Some(0));
    }

    #[test]
    fn a_late_comer_for_what_is_loaded_waits_for_who_came_before() {
        let mut line = Line::default();
        let first = line.join(barcode(1), None);
        let second = line.join(barcode(2), None);
        // The drive holds what the second wants, and the first may have it emptied.
        let drives = [spot(Some(2), 0)];
        assert_eq!(line.choose(first, &drives), Some(0));
        assert_eq!(line.choose(second, &drives), None);
        // Pinned, it is nothing for the first, and the second reads on.
        let pinned = [Spot {
            pinned: true,
            ..drives[0]
        }];
        assert_eq!(line.choose(first, &pinned), None);
        assert_eq!(line.choose(second, &pinned), Some(0));
        assert!(line.stuck_since(&pinned).is_some());
        line.leave(first);
        assert_eq!(line.stuck_since(&pinned), None, "the second is not stuck");
    }

    #[test]
    fn nobody_is_stuck_while_one_drive_is_free_of_pins() {
        let mut line = Line::default();
        line.join(barcode(1), None);
        let pinned = Spot {
            pinned: true,
            ..spot(Some(2), 0)
        };
        let busy = Spot {
            idle: false,
            ..spot(Some(3), 0)
        };
        assert_eq!(line.stuck_since(&[pinned, busy]), None);
        let failed = Spot {
            works: false,
            ..busy
        };
        assert!(line.stuck_since(&[pinned, failed]).is_some());
        assert_eq!(
            line.stuck_since(&[failed]),
            None,
            "there is no drive at all"
        );
    }

    #[test]
    fn what_is_in_a_drive_that_is_retired_is_offered_to_no_other() {
        let mut line = Line::default();
        let first = line.join(barcode(1), None);
        let retired = Spot {
            works: false,
            idle: false,
            ..spot(Some(1), 1)
        };
        let drives = [retired, spot(None, 0)];
        assert_eq!(line.choose(first, &drives), None, "its user has it still");
        let emptied = Spot {
            holds: None,
            idle: true,
            ..retired
        };
        assert_eq!(line.choose(first, &[emptied, spot(None, 0)]), Some(1));
    }

    #[test]
    fn what_is_still_being_taken_out_of_a_drive_is_in_no_other() {
        let mut line = Line::default();
        let first = line.join(barcode(1), None);
        let drives = [
            Spot {
                idle: false,
                leaving: Some(barcode(1)),
                ..spot(Some(2), 1)
            },
            spot(None, 0),
        ];
        assert_eq!(line.choose(first, &drives), None);
        // Nor what one who came before will have taken out.
        let mut line = Line::default();
        line.join(barcode(3), Some(barcode(1)));
        let second = line.join(barcode(1), None);
        let drives = [spot(Some(1), 0), spot(None, 0)];
        assert_eq!(line.choose(second, &drives), None);
    }

    #[test]
    fn two_who_want_one_cartridge_get_one_drive() {
        let mut line = Line::default();
        let first = line.join(barcode(1), None);
        let second = line.join(barcode(1), None);
        let third = line.join(barcode(3), Some(barcode(9)));
        let drives = [spot(None, 0), spot(Some(8), 1), spot(Some(9), 5)];
        assert_eq!(line.choose(first, &drives), Some(0));
        assert_eq!(line.choose(second, &drives), None);
        assert_eq!(line.choose(third, &drives), Some(2), "in place of that one");
    }
}
