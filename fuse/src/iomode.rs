//! The I/O mode of an inode: which kind of open the kernel would accept next. No I/O, no clock.
//!
//! The kernel keeps a signed counter per inode: cached opens above zero, passthrough opens below,
//! never both, and all passthrough opens with the same backing object. A reply that breaks this
//! becomes EIO of the application's open, and the server is not told.
//!
//! Invariants
//! 1. `cached` and `passthrough` are never both above 0.
//! 2. An open is counted before its reply is sent and until its RELEASE arrives. The kernel drops
//!    the mode before it sends RELEASE, so a count of 0 here means that the kernel is free too.
//! 3. Passthrough is answered only for files whose data are all here.
//! 4. `users` counts opens and size changes that are being decided: while it is above 0, the
//!    owner of the data cannot shut users out, so residency does not turn under a decision.

/// What the file's data allow, as the residency says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Data {
    /// All here.
    Resident,
    /// Elsewhere, at least in part.
    Released,
}

/// How to answer an open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Counted as passthrough: answer with the inode's one backing id.
    Passthrough,
    /// Counted as cached: answer with plain flags; reads and writes come to the server.
    Cached,
    /// Not counted. The data must be here first: passthrough opens of a file that is not
    /// resident are alive, and neither answer would be right.
    FetchFirst,
}

/// Counters of one inode. Guarded by the node's lock.
#[derive(Debug, Default)]
pub(crate) struct IoMode {
    cached: u32,
    passthrough: u32,
    users: u32,
}

impl IoMode {
    /// Somebody begins to decide (an open, a size change).
    pub(crate) fn begin(&mut self) {
        self.users += 1;
    }

    /// The decision was taken or given up.
    pub(crate) fn end(&mut self) {
        debug_assert!(self.users > 0, "end without begin");
        self.users = self.users.saturating_sub(1);
    }

    /// Decides an open and counts it.
    pub(crate) fn open(&mut self, data: Data, passthrough_works: bool) -> Decision {
        let decision = if self.cached > 0 {
            Decision::Cached
        } else if self.passthrough > 0 {
            match data {
                Data::Resident => Decision::Passthrough,
                Data::Released => Decision::FetchFirst,
            }
        } else if data == Data::Resident && passthrough_works {
            Decision::Passthrough
        } else {
            Decision::Cached
        };
        match decision {
            Decision::Passthrough => self.passthrough += 1,
            Decision::Cached => self.cached += 1,
            Decision::FetchFirst => {}
        }
        self.check();
        decision
    }

    /// No backing id could be had for an open that was counted as passthrough. If it is the only
    /// one it becomes a cached open (`true`); else the others' id must be used (`false`).
    pub(crate) fn fall_back(&mut self) -> bool {
        if self.passthrough != 1 {
            return false;
        }
        self.passthrough = 0;
        self.cached += 1;
        self.check();
        true
    }

    /// An open of that kind that a dead server answered.
    pub(crate) fn adopt(&mut self, cached: bool) {
        if cached {
            self.cached += 1;
        } else {
            self.passthrough += 1;
        }
        self.check();
    }

    /// Is any passthrough open alive?
    pub(crate) fn passes_through(&self) -> bool {
        self.passthrough > 0
    }

    /// RELEASE of an open of that kind. `true` if it was the last.
    pub(crate) fn release(&mut self, cached: bool) -> bool {
        let counter = if cached {
            &mut self.cached
        } else {
            &mut self.passthrough
        };
        debug_assert!(*counter > 0, "release without open");
        *counter = counter.saturating_sub(1);
        self.check();
        !self.is_open()
    }

    /// Is any open alive or being decided?
    pub(crate) fn in_use(&self) -> bool {
        self.users > 0 || self.is_open()
    }

    /// Is any open alive?
    pub(crate) fn is_open(&self) -> bool {
        self.cached > 0 || self.passthrough > 0
    }

    fn check(&self) {
        debug_assert!(
            self.cached == 0 || self.passthrough == 0,
            "cached and passthrough opens of one inode: {self:?}"
        );
    }
}

#[cfg(test)]
#[path = "iomode/tests.rs"]
mod tests;
