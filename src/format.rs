//! Bytes at rest: aggregates (pax tar, index, trailer) and the record on a file. Pure: no files,
//! no clock, no async; docs/format.md describes every byte for strangers.
//!
//! Promises: decoders are total (no input panics, allocates without bound or names a place
//! outside the tree); whatever an encoder writes its decoder reads back equal.

pub mod aggregate;
pub mod member;
pub mod record;
