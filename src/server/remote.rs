//! The doors for callers on other hosts: TLS on a TCP port, a token for who they are, and for each user an *agent*, a
//! process of that user, which does on the mount what the caller may do there (docs/remote.md).
//!
//! # Invariants
//! - Nothing is done for a caller but by a process that runs as the token's user (P15): what that user may do is decided
//!   by the kernel, at the mount, as for a local process. The door itself opens no file of the mount.
//! - A connection proves itself before anything is read of it beyond [`door`]'s bounds: by a token over TLS, or, on a
//!   stream of a transfer, by the transfer's secret, which the agent holds.
//! - Tokens are kept as hashes; neither they nor I/O descriptors are logged.

pub mod agent;
mod agents;
mod certificate;
mod channel;
pub mod door;
pub(super) mod movers;
pub mod tokens;

pub use certificate::{CertificateError, Identity, fingerprint};
