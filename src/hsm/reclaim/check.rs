//! What lies on a tier, held against the catalog, for whoever asks: both ways, and nothing is changed.
//!
//! Invariants:
//! - Nothing is called missing because a list lacks it: the tier is asked for that very object, and says so. What it
//!   cannot say now is *unseen*.
//! - An object without a row that this incarnation, or another one by now, may have written is no stranger: its row
//!   comes after it (P2).

use super::{Ground, PAGE, ReclaimError, census};
use crate::catalog::{Aggregate, Life};
use crate::id::AggregateId;
use crate::tier::TierError;

/// Differences that are named one by one.
const NAMED: usize = 1000;

/// In what an object and its row differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Differs {
    /// The catalog has it, the tier does not.
    Missing,
    /// The tier has it, the catalog does not, or only in quarantine.
    Unknown,
    /// Both have it, and it is not the same.
    Unlike,
    /// The catalog has it, and the tier cannot say now.
    Unseen,
}

impl Differs {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Unknown, Self::Unlike, Self::Unseen];

    /// The word in output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Unlike => "unlike",
            Self::Unseen => "unseen",
        }
    }
}

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The object.
    pub object: AggregateId,
    /// In what.
    pub differs: Differs,
    /// What was seen.
    pub why: String,
}

/// How a tier and the catalog compare.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Objects that the tier lists.
    pub objects: u64,
    /// Of them, those that the catalog has, too, parts of files included.
    pub alike: u64,
    /// Those that keep the namespace, which have rules of their own.
    pub snapshots: u64,
    /// Those that may just have been written.
    pub young: u64,
    /// Those that are on their way out.
    pub leaving: u64,
    /// How many differ, in the order of [`Differs::ALL`].
    pub counts: [u64; 4],
    /// The first thousand of them.
    pub differences: Vec<Difference>,
}

impl Comparison {
    fn differ(&mut self, object: AggregateId, differs: Differs, why: impl Into<String>) {
        for (kind, count) in Differs::ALL.iter().zip(&mut self.counts) {
            *count += u64::from(*kind == differs);
        }
        if self.differences.len() < NAMED {
            self.differences.push(Difference {
                object,
                differs,
                why: why.into(),
            });
        }
    }

    /// How many differ in all.
    #[must_use]
    pub fn differ_in_all(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// Compares them. `closely`: lengths, too, and whether the parts of files are there, which asks the tier for each
/// object.
///
/// # Errors
/// The tier does not list, the catalog does not answer, or somebody said stop.
pub fn check(ground: &Ground<'_>, closely: bool) -> Result<Comparison, ReclaimError> {
    let (mut after, mut found) = (None, Comparison::default());
    loop {
        ground.go_on()?;
        let objects = ground.tier.list(after, PAGE)?;
        let upto = objects.last().copied().filter(|_| objects.len() == PAGE);
        // Read after the list: what has a row by now had an object before.
        let rows = rows(ground, after, upto)?;
        found.objects += objects.len() as u64;
        for object in &objects {
            let at = rows.binary_search_by_key(object, |row| row.id);
            match at.ok().and_then(|at| rows.get(at)) {
                Some(row) => with_row(ground, row, closely, &mut found)?,
                None => without_row(ground, *object, &mut found)?,
            }
        }
        for row in &rows {
            if objects.binary_search(&row.id).is_err() {
                ground.go_on()?;
                without_object(ground, row, &mut found);
            }
        }
        match upto {
            Some(last) => after = Some(last),
            None => return Ok(found),
        }
    }
}

/// All rows in a range of names, ascending.
fn rows(
    ground: &Ground<'_>,
    after: Option<AggregateId>,
    upto: Option<AggregateId>,
) -> Result<Vec<Aggregate>, ReclaimError> {
    let (mut at, mut rows) = (after, Vec::new());
    loop {
        let page = ground.catalog.aggregates(ground.id, at, PAGE)?;
        let count = page.len();
        at = page.last().map(|row| row.id);
        let within = page
            .into_iter()
            .take_while(|row| upto.is_none_or(|upto| row.id <= upto));
        let before = rows.len();
        rows.extend(within);
        if count < PAGE || rows.len() < before + count {
            return Ok(rows);
        }
    }
}

fn with_row(
    ground: &Ground<'_>,
    row: &Aggregate,
    closely: bool,
    found: &mut Comparison,
) -> Result<(), ReclaimError> {
    match row.life {
        Life::Condemned | Life::Doomed => found.leaving += 1,
        Life::Quarantined => {
            let why = "in quarantine: the catalog did not know it, and its members are kept";
            found.differ(row.id, Differs::Unknown, why);
        }
        Life::Live if !closely => found.alike += 1,
        Life::Live => {
            ground.go_on()?;
            look_closely(ground, row, found);
        }
    }
    Ok(())
}

fn look_closely(ground: &Ground<'_>, row: &Aggregate, found: &mut Comparison) {
    match ground.tier.stat(row.id) {
        Ok(len) if row.in_parts == Some(false) && row.len > 0 && len != row.len => {
            let why = format!("it has {len} bytes, and {} were proven", row.len);
            found.differ(row.id, Differs::Unlike, why);
        }
        Ok(_) if census::lacks_a_part(ground, row) => {
            found.differ(row.id, Differs::Unlike, "a part of its file is not there");
        }
        Ok(_) => found.alike += 1,
        Err(why) => not_there(row, &why, found),
    }
}

fn not_there(row: &Aggregate, why: &TierError, found: &mut Comparison) {
    match why {
        TierError::Missing { .. } => {
            let why = format!(
                "{} of its {} members are needed",
                row.live_members, row.members
            );
            found.differ(row.id, Differs::Missing, why);
        }
        why => found.differ(row.id, Differs::Unseen, why.to_string()),
    }
}

fn without_row(
    ground: &Ground<'_>,
    object: AggregateId,
    found: &mut Comparison,
) -> Result<(), ReclaimError> {
    if object.is_snapshot() {
        found.snapshots += 1;
    } else if object.is_part()
        && ground
            .catalog
            .aggregate(ground.id, object.head())?
            .is_some()
    {
        found.alike += 1;
    } else if object.epoch == ground.epoch {
        found.young += 1;
    } else if object.epoch > ground.epoch {
        let why = "it is of a later epoch than this instance's";
        found.differ(object, Differs::Unknown, why);
    } else {
        let why = "the catalog does not know it; the collector will read it, and keep it";
        found.differ(object, Differs::Unknown, why);
    }
    Ok(())
}

/// It was not listed; rows that are about to go have no object, at times.
fn without_object(ground: &Ground<'_>, row: &Aggregate, found: &mut Comparison) {
    if matches!(row.life, Life::Condemned | Life::Doomed) {
        return;
    }
    match ground.tier.stat(row.id) {
        // It came while the list was read.
        Ok(_) => {}
        Err(why) => not_there(row, &why, found),
    }
}
