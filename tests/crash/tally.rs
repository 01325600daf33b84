//! What a run saw, so that it is visible that its stops struck where they should.

use std::collections::BTreeMap;
use std::fmt;

/// Counts of one run; added up over its parts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    /// Power losses of all three disks at one instant.
    pub(crate) outages: u64,
    /// Power losses of one disk after the other under the running process.
    pub(crate) staggered: u64,
    /// Operations of the writers.
    pub(crate) operations: u64,
    /// Files compared with their reference after a stop.
    pub(crate) checked: u64,
    /// Files in doubt at a stop (an operation in flight, or never synced): readable, or gone.
    pub(crate) doubtful: u64,
    /// Files found released after a stop, before the restart.
    pub(crate) released: u64,
    /// Of these, still with their blocks: the release was cut short.
    pub(crate) unpunched: u64,
    /// Files found with a recall cut short.
    pub(crate) recalling: u64,
    /// Objects found half written on the tier.
    pub(crate) half_written: u64,
    /// Requests found open at a restart, and ended by it.
    pub(crate) resumed: u64,
    /// Requests seen to end before a stop, by verb.
    pub(crate) done: BTreeMap<String, u64>,
    /// Files that failed in them, by cause.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Comparisons made by readers while all ran.
    pub(crate) read: u64,
    /// Of these, reads that found the file released.
    pub(crate) recalls: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.kills, other.kills),
            (&mut self.outages, other.outages),
            (&mut self.staggered, other.staggered),
            (&mut self.operations, other.operations),
            (&mut self.checked, other.checked),
            (&mut self.doubtful, other.doubtful),
            (&mut self.released, other.released),
            (&mut self.unpunched, other.unpunched),
            (&mut self.recalling, other.recalling),
            (&mut self.half_written, other.half_written),
            (&mut self.resumed, other.resumed),
            (&mut self.read, other.read),
            (&mut self.recalls, other.recalls),
        ] {
            *sum += more;
        }
        for (name, more) in &other.done {
            *self.done.entry(name.clone()).or_default() += more;
        }
        for (name, more) in &other.failures {
            *self.failures.entry(name.clone()).or_default() += more;
        }
    }

    pub(crate) fn stops(&self) -> u64 {
        self.kills + self.outages + self.staggered
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} stops: {} kills, {} power losses ({} at one instant, {} disk after disk)",
            self.stops(),
            self.kills,
            self.outages + self.staggered,
            self.outages,
            self.staggered
        )?;
        writeln!(
            f,
            "  before them: {} operations; reads compared {}, {} of them of released files; requests ended {:?}; files failed in them {:?}",
            self.operations, self.read, self.recalls, self.done, self.failures
        )?;
        writeln!(
            f,
            "  found at them: {} files released ({} before their punch), {} with a recall cut short, {} objects half written, {} requests open",
            self.released, self.unpunched, self.recalling, self.half_written, self.resumed
        )?;
        write!(
            f,
            "  after them: {} files equal to their reference, {} in doubt and readable or gone",
            self.checked, self.doubtful
        )
    }
}
