//! The operations, without FUSE's wire format: each file answers for one kind of request.

mod attr;
mod create;
mod cut;
mod data;
mod dir;
mod lock;
mod lookup;
mod open;
mod remove;
mod space;
mod xattr;

pub(crate) use attr::Change;
pub(crate) use create::New;
pub(crate) use dir::Listing;
pub(crate) use open::{FH_CACHED, FH_WRITES};
pub(crate) use remove::is_large;
pub(crate) use space::Copy;
