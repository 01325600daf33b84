//! Bytes at rest: aggregates (pax tar, index, trailer) and the record on a file. Pure: no files,
//! no clock, no async; docs/format.md describes every byte for strangers.
//!
//! Promises: decoders are total (no input panics, allocates without bound or names a place
//! outside the tree); whatever an encoder writes its decoder reads back equal.
//!
//! | to ... | use |
//! |---|---|
//! | describe a file | [`member::Member`] |
//! | write an aggregate | [`aggregate::AggregateWriter`] |
//! | write one whose bytes are read anywhere | [`draft::Draft`] |
//! | open one from its end | [`aggregate::decode_trailer`], [`aggregate::decode_index`] |
//! | read a range of a member | [`aggregate::IndexEntry::blocks_for`] and what stands beside it |
//! | read one whose end is lost | [`scan::Scanner`] |
//! | cut a file that is too long for an object | [`parts::cut`], [`aggregate::AggregateWriter::add_part`] |
//! | mark a file | [`record::Record`] |
//! | list a namespace | [`namespace`] |

pub mod acl;
pub mod aggregate;
#[cfg(test)]
mod arbitrary;
pub mod draft;
mod header;
mod index;
pub mod member;
pub mod namespace;
pub mod parts;
mod pax;
mod places;
pub mod range;
pub mod record;
pub mod scan;
mod sparse;
mod sums;
mod trailer;
mod wire;
mod writer;
