//! The client of a server on another host: TLS and a token for the questions, the mover for the data (docs/remote.md).
//!
//! [`link`] asks; [`plan`] makes parcels of files; [`session`] moves them, several at a time; [`parcel`] moves one;
//! [`tar`] knows archives there, and [`pipe`] what has no size, or is wanted in order. [`web`] asks services that are
//! not Cairn's.
//!
//! # Invariants
//! - A server is believed only after its certificate was checked: against authorities, or the fingerprint that came with
//!   the token. Until then it gets nothing, the token least of all.
//! - A file counts as put when the server said that it is durable under its name; as got when it is so here.

pub mod link;
mod parcel;
pub mod pipe;
pub mod plan;
pub mod probe;
pub mod session;
pub mod tar;
mod trust;
pub mod web;

pub use link::{Link, Server};
pub use trust::Trust;
