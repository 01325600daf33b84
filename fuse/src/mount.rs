//! Mounting: the process that mounts on the server's behalf, places that must not be, stale mounts.

use crate::MirrorError;
use std::path::Path;

/// A small process that stays in the users' mount namespace.
#[derive(Debug)]
pub struct Mounter {}

/// Must be the first thing a program's `main` does that will mount.
///
/// # Errors
/// [`MirrorError::Mounter`].
pub fn prepare() -> Result<Mounter, MirrorError> {
    unimplemented!()
}

/// Is `path` the directory `dir`, or does it lie inside it?
///
/// # Errors
/// If either cannot be examined.
pub fn lies_within(path: &Path, dir: &Path) -> std::io::Result<bool> {
    unimplemented!("{path:?}{dir:?}")
}
