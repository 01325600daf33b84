//! A cartridge is emptied: what is needed of the aggregates on it goes into new ones, by the same
//! steps as any repack, and the old ones go by P8 as any others. Then it is freed.
//!
//! Invariants:
//! - Nothing goes to the cartridge meanwhile; that is its library's to see to.
//! - A stop after any step leaves every file readable, and the next run goes on with what is still
//!   alive on the cartridge: there is no other memory of how far it was.
//! - A cartridge is erased only while this process holds the backing's mark (P9), and its library sees
//!   that everything on it is dead.

use super::judge::{self, Judged};
use super::remove::check_mark;
use super::{Act, Ground, ReclaimError, Report, condemn, copy, later};
use crate::catalog::{Aggregate, Life};
use crate::id::AggregateId;
use crate::tier::TierError;
use crate::tier::tape::label::Barcode;
use crate::tier::tape::library::Library;
use std::time::Duration;

/// When a pass follows at the earliest.
const SOON: Duration = Duration::from_secs(1);

/// What became of an aggregate that was to leave its cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// What is needed of it lies elsewhere, and it waits for its deletion.
    Waits {
        /// Bytes that were copied; 0: nothing of it was needed.
        copied: u64,
    },
    /// It stays where it is, and why.
    Stays(String),
    /// It stays, because nothing has room for what is needed of it.
    NoRoom(String),
}

/// Copies what is needed of an aggregate into a new one, whatever the share of it, and condemns it.
///
/// # Errors
/// [`ReclaimError`] that is not this aggregate's alone.
pub fn evacuate(
    ground: &Ground<'_>,
    id: AggregateId,
    report: &mut Report,
) -> Result<Left, ReclaimError> {
    ground.go_on()?;
    match try_to(ground, id, report) {
        Err(why) if why.is_of_one() => {
            report.note(id, Act::Fail, 0, &why);
            let text = why.to_string();
            Ok(match why {
                ReclaimError::NoRoom { .. } | ReclaimError::Tier(TierError::Full { .. }) => {
                    Left::NoRoom(text)
                }
                _ => Left::Stays(text),
            })
        }
        done => done,
    }
}

fn try_to(ground: &Ground<'_>, id: AggregateId, report: &mut Report) -> Result<Left, ReclaimError> {
    let stays = |why: &str| Ok(Left::Stays(why.to_owned()));
    // A file in parts leaves a cartridge as a whole.
    let (part, id) = (id, id.head());
    if id.is_snapshot() {
        return stays("a snapshot of the namespace: it goes when newer ones have taken its place");
    }
    let Some(row) = ground.catalog.aggregate(ground.id, id)? else {
        if part.is_part() {
            return stays(
                "a part of an aggregate that is nowhere: it goes when that has not come back for as long as is waited",
            );
        }
        return stays("the catalog does not know it");
    };
    match row.life {
        Life::Condemned | Life::Doomed => {
            // Decided by an earlier start, perhaps: then a pass decides it anew.
            let now = (ground.now)();
            report.wait_until(later(now, ground.rules.delay.max(SOON)), now);
            return Ok(Left::Waits { copied: 0 });
        }
        Life::Quarantined => return stays("it is in quarantine"),
        Life::Live => {}
    }
    let judged = judge::judge(ground, &row)?;
    let mut copied = 0;
    if judged.is_needed() {
        if let Some(why) = judged.why_it_cannot_move() {
            return Ok(Left::Stays(why));
        }
        if !copy(ground, &row, &judged)? {
            return stays("it changed meanwhile, or could not be read before");
        }
        copied = judged.index.entries.iter().map(|e| e.stored_len()).sum();
        report.note(id, Act::Repack, judged.dead, "its cartridge is emptied");
    }
    goes(ground, &row, report)?;
    Ok(Left::Waits { copied })
}

/// Condemns an aggregate of which nothing is needed any more.
fn goes(ground: &Ground<'_>, row: &Aggregate, report: &mut Report) -> Result<(), ReclaimError> {
    let judged: Judged = judge::judge(ground, row)?;
    match judged.verdict(100) {
        judge::Verdict::Goes => condemn(ground, row, &judged, false, report),
        // Something came between; the next run looks again.
        judge::Verdict::Repack | judge::Verdict::Stays => Ok(()),
    }
}

/// Frees the cartridges of a library on which everything is dead.
///
/// # Errors
/// [`ReclaimError::Superseded`].
pub fn free_cartridges(
    ground: &Ground<'_>,
    library: &Library,
) -> Result<Vec<(Barcode, u64)>, ReclaimError> {
    check_mark(ground)?;
    Ok(library.free_dead())
}
