//! A passthrough mirror filesystem over a backing directory, with residency hooks.
//!
//! Five nouns: a **mirror** shows a backing directory at a mount point; each of its **nodes** is a
//! backing inode's [`NodeHandle`]; an open has an **I/O mode** (passthrough or cached); a
//! [`Residency`] answers whether a file's data are here and brings back what is not; a [`Gate`]
//! lets the owner of the data shut users out of one node for a moment. It knows nothing of
//! archives, databases, networks or policies.
//!
//! ```text
//!   kernel ── fs ── ops/* ──┬── node    the table of inodes, their descriptors and state
//!    (thin adapter)         ├── iomode  which kind of open the kernel accepts next
//!      │                    ├── park    replies that wait; watch interrupts their callers
//!      │                    ├── gate    one node shut for its data's owner
//!    notify                 └── workers what may block
//! ```
//!
//! What it promises:
//! - a resident file is read, written and mapped at the speed of the backing, by the kernel alone
//!   (where passthrough works: [`Facts`] says so, or why not);
//! - a file whose data are elsewhere is opened at once for reading and read as its data arrive;
//!   to be changed or run, it is brought back first; it is never seen as zeros;
//! - who waits can be interrupted, and delays nobody else;
//! - the user sees names, attributes, permissions and errors as the backing filesystem has them.
//!
//! What the FUSE library leaves out: `O_TMPFILE` (EOPNOTSUPP), birth times in `statx`, `syncfs`,
//! what tells `flock` from record locks (so it stays with the kernel, for each mount).
//!
//! ```no_run
//! use cairn_fuse::{AlwaysResident, Mirror, MirrorConfig, mount};
//! use std::sync::Arc;
//!
//! # fn main() -> Result<(), cairn_fuse::MirrorError> {
//! let mounter = mount::prepare()?; // first thing in main, before any thread exists
//! let mut config = MirrorConfig::new(
//!     "/srv/.guarded/data".into(),
//!     "/data".into(),
//!     Arc::new(AlwaysResident),
//! );
//! config.mounter = Some(mounter);
//! let mirror = Mirror::start(config)?;
//! println!("{:?}", mirror.facts());
//! mirror.wait()
//! # }
//! ```

mod access;
mod attr;
mod backing;
mod buffers;
mod core;
mod creds;
mod descriptors;
mod error;
mod fs;
mod gate;
mod guard;
mod handle;
mod iomode;
mod ledger;
mod locks;
mod mirror;
pub mod mount;
mod negotiate;
mod node;
mod notify;
mod ops;
mod park;
mod passthrough;
mod residency;
mod restart;
mod sys;
mod watch;
mod workers;

pub use access::may_access;
pub use creds::as_user;
pub use error::MirrorError;
pub use handle::NodeHandle;
pub use mirror::{BackingDir, Facts, Holding, Mirror, MirrorConfig, Passthrough};
pub use residency::{
    AlwaysResident, AttributeChange, Caller, Changed, Errno, Event, EventKind, FileRef, Gate, Hold,
    Presence, ReadDone, Residency, Shown, WaitDone, WaitToken,
};
