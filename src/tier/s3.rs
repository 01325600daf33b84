//! A bucket of an S3 service as a tier: Amazon's, or any that speaks its protocol. docs/tiers.md says what
//! administrators must know, docs/format.md what lies in the bucket.
//!
//! What is kept here, and what is not:
//! - An object becomes visible whole, by one request, under a name that nobody had (`If-None-Match: *`). Where the
//!   service does not know that, the name is looked up right before: enough for one writer (P9).
//! - A receipt means that the service was *seen* to refuse a wrong CRC32C and took this one, or that the whole object
//!   was read back and compared ([`super::Proof`]). In the second case, and only there, an object can be seen before it is
//!   proven: for as long as that takes, and after a crash in between. Nobody reads it, since no catalog has its
//!   name before the receipt. After such a crash it is an object that the catalog does not know: quarantined by the
//!   collector and deleted after its time (P8), like one whose receipt was lost. A catalog that is rebuilt from tiers reads its index,
//!   which carries checksums of its own and of each member; a damaged one is reported and used for nothing.
//! - What nobody finishes does not stay: an upload is aborted with its put, and those of former lives are found
//!   (`bucket/sweep.rs`).
//! - Requests are repeated by whoever wraps the tier (`Retry`), but for those of a put, whose bytes would be gone.
//! - Credentials are taken as the AWS command line takes them. They are in no URL, log or error.

mod access;
#[cfg(feature = "s3")]
mod bucket;
#[cfg(not(feature = "s3"))]
mod left_out;
pub mod options;

pub use access::Access;
#[cfg(feature = "s3")]
pub use bucket::S3Tier;
#[cfg(feature = "s3")]
pub(super) use bucket::{clear, is_marked, mark_at, take};
#[cfg(not(feature = "s3"))]
pub use left_out::S3Tier;
#[cfg(not(feature = "s3"))]
pub(super) use left_out::{clear, is_marked, mark_at, take};
pub use options::S3Place;
pub(super) use options::below;
