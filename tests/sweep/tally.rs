//! What a sweep did: points, faults, and by kinds of points.

use crate::fault::Fault;
use crate::point::Point;
use std::collections::BTreeMap;
use std::fmt;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Points of the verb.
    pub(crate) points: u64,
    /// Faults that struck, by kind of fault.
    faults: BTreeMap<Fault, u64>,
    /// The same, by kind of point.
    kinds: BTreeMap<Point, u64>,
    /// Runs that ended before their point: the order of threads is not always the same.
    missed: u64,
    /// Faults of which the user was told.
    told: u64,
    pub(crate) violations: Vec<String>,
}

impl Tally {
    pub(crate) fn struck(&mut self, point: Point, fault: Fault, told: bool) {
        *self.faults.entry(fault).or_default() += 1;
        *self.kinds.entry(point).or_default() += 1;
        self.told += u64::from(told);
    }

    pub(crate) fn missed(&mut self) {
        self.missed += 1;
    }

    pub(crate) fn struck_in_all(&self) -> u64 {
        self.faults.values().sum()
    }

    /// The kinds of points that were struck.
    pub(crate) fn kinds(&self) -> String {
        let line = |(point, many): (&Point, &u64)| format!("{many:6} {point}\n");
        self.kinds.iter().map(line).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} points, {} faults (",
            self.points,
            self.struck_in_all()
        )?;
        for (n, (fault, many)) in self.faults.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{many} {fault}")?;
        }
        write!(
            f,
            "), {} told to the user, {} past the end, {} violations",
            self.told,
            self.missed,
            self.violations.len()
        )
    }
}
