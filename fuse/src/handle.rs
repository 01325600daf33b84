//! A node's name that outlives paths: the file handle of the backing filesystem.

use std::fmt;

/// A backing inode as the filesystem itself names it: the type and bytes of `name_to_handle_at`.
/// Stable across renames and restarts; a successor of a deleted inode has another one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeHandle {
    /// `handle_type` of the kernel's `struct file_handle`.
    pub kind: i32,
    /// `f_handle`, at most 128 bytes (`MAX_HANDLE_SZ`).
    pub bytes: Vec<u8>,
}

impl fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeHandle({:x}:", self.kind)?;
        self.bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))?;
        f.write_str(")")
    }
}
