//! Archive, release, stage, verify; requests and their scheduler.
//!
//! The lower half knows one file, or one batch of files, and the order of steps that keeps their
//! data safe (the protocols P1 to P6): [`backing`] is the directory with the data, [`lease`] shuts
//! writers out, [`version`] proves that a file has not changed, [`archive`], [`release`],
//! [`recall`], [`undelete`] and [`verify`] act on it, [`vouch`] says which files without a record are believed, and
//! [`witness`] which of a backing that nobody serves are not. The upper half carries out what was asked for:
//! [`schedule`] decides what comes next, [`engine`] joins all of it, [`residency`] answers the mount;
//! [`emergency`] and [`ballast`] see them through full disks; [`reclaim`] is the one that deletes.
//! [`tape`] is what a library of cartridges needs beyond that: a queue, an order, an estimate.

pub mod archive;
pub mod backing;
pub mod ballast;
pub mod emergency;
pub mod engine;
pub mod index_cache;
pub mod index_store;
pub mod lease;
mod parts;
pub mod recall;
pub mod reclaim;
pub mod release;
pub mod residency;
pub mod restore;
#[cfg(test)]
pub(crate) mod rig;
pub mod schedule;
pub mod snapshot;
pub mod state_dir;
pub mod tape;
pub mod undelete;
pub mod verify;
pub mod version;
pub mod vouch;
pub mod witness;
