//! Files as one transfer carries them: a *parcel* is some files and directories laid one behind the other, so that ten
//! thousand small files cost what one large one costs.
//!
//! [`Layout`] is the arithmetic; [`Tree`] a directory beneath which names are looked up; [`Sending`] reads a parcel's
//! files and notices those that changed; [`Receiving`] writes them under names of its own and renames what is good.
//! [`Packing`] is a tree read as if it were one tar file, [`Unpacking`] ranges of such a file written as the members that lie
//! in them. Both kinds of ends are [`Outgoing`] and [`Incoming`] to those who move them.
//!
//! # Invariants
//! - No name leads out of the tree's directory, whoever made the parcel and whatever symbolic links lie in it.
//! - A file gets its name after all of its bytes are there and durable, and the sender said that it did not change;
//!   what was there before stays until then. So nobody sees a mixed, a short or an empty file.
//! - What of a small file cannot be read fails that file, not the others: zeros go in its place, the sender says so at
//!   the end, and the receiver drops it.

mod ends;
mod layout;
mod opened;
mod packing;
mod receiving;
mod sending;
mod tally;
mod tree;
mod unpacking;

pub use ends::{Incoming, Outgoing};
pub use layout::{Entry, Kind, Layout, LayoutFault, Piece, Time};
pub use opened::Trouble;
pub use packing::{LeftOut, Named, Packing};
pub use receiving::{Fate, Placing, Receiving, Settle};
pub use sending::Sending;
pub use tree::{Found, Tree};
pub use unpacking::{Contents, Tail, UnpackFault, Unpacking, Want};

/// Files from this size on travel alone, keep their progress, and can be resumed.
pub const ALONE: u64 = 32 << 20;
/// The most entries of a parcel.
pub const ENTRIES_MAX: usize = 4096;

/// What the names of files begin with that are not whole yet.
const PART: &str = ".cairn-part-";
const PUT: &str = ".cairn-put-";

/// Is it the name of a file that is not whole yet? Nobody wants to have such a one copied.
#[must_use]
pub fn is_on_its_way(name: &[u8]) -> bool {
    name.starts_with(PART.as_bytes()) || name.starts_with(PUT.as_bytes())
}
