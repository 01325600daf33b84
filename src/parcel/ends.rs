//! The two ends of a transfer, whatever they are made of: what the mover needs, and what stands around it.

use super::opened::Trouble;
use super::receiving::Fate;
use cairn_mover::{ByteRange, Progress, Sink, Source};
use std::collections::BTreeMap;
use std::io;

/// What is sent.
pub trait Outgoing: Source {
    /// Bytes of it.
    fn size(&self) -> u64;
    /// The sender's name for the state of the data, at most 64 bytes: what a later transfer may resume. Empty: none may.
    fn version(&self) -> Vec<u8>;
    /// Entries that must not be used, by number.
    fn troubles(&self) -> BTreeMap<usize, Trouble>;
    /// The name of the first thing that was found changed.
    fn changed(&self) -> Option<Vec<u8>>;
}

/// Where it goes.
pub trait Incoming: Sink {
    /// Bytes of what is sent, also where not all of it is wanted.
    fn size(&self) -> u64;
    /// What is there already. `version` is the sender's name for the state of the data.
    fn progress(&self, version: &[u8]) -> Progress;
    /// What is to be moved, of data in that state.
    fn lacking(&self, version: &[u8]) -> Vec<ByteRange>;
    /// Gives the files their names: those that are whole, as `progress` says, and of which the sender says nothing bad. To
    /// be called once, after the transfer succeeded. What did not get its name is told, by number.
    ///
    /// # Errors
    /// What was named could not be made durable.
    fn place(
        &self,
        progress: &Progress,
        troubles: &BTreeMap<usize, Trouble>,
    ) -> io::Result<Vec<(usize, Fate)>>;
}
