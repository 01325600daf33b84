//! A passthrough mirror filesystem over a backing directory, with residency hooks.
//!
//! Five nouns: a mirror shows a backing directory at a mount point; each of its **nodes** is a
//! backing inode's [`NodeHandle`]; an open has an **I/O mode** (passthrough or cached); a
//! [`Residency`] answers whether a file's data are here and brings back what is not; a [`Gate`]
//! lets the owner of the data shut users out of one node for a moment. It knows nothing of
//! archives, databases, networks or policies.

mod access;
mod attr;
mod backing;
mod core;
mod creds;
mod error;
mod fs;
mod gate;
mod handle;
mod iomode;
mod mirror;
pub mod mount;
mod negotiate;
mod node;
mod notify;
mod ops;
mod park;
mod residency;
mod sys;
mod watch;
mod workers;

pub use access::may_access;
pub use error::MirrorError;
pub use handle::NodeHandle;
pub use mirror::{BackingDir, Facts, Mirror, MirrorConfig, Passthrough};
pub use residency::{
    AlwaysResident, Caller, Errno, Event, EventKind, FileRef, Gate, Hold, Presence, ReadDone,
    Residency, Shown, WaitDone, WaitToken,
};
