//! The listing of a namespace, as a *namespace snapshot* carries it: JSON, one object a line, so that
//! a stranger with a text editor can use it; docs/format.md draws every key.
//!
//! A listing is a head, then for each directory a line of its own and one for each name in it, then
//! an end that counts and sums what stands before it. Directories refer to each other by *node*, not
//! by path: a directory that was moved keeps its listing. An incremental one lists whole those
//! directories that changed since its base, and nothing else; a directory that no listing names any
//! more is gone.
//!
//! Promises: names are bytes and come back as they were; a decoded name is one component, neither
//! `.` nor `..`; unknown keys and kinds are errors, never left out in silence; a listing that ends
//! before its end line, or whose sum differs, is not taken for a whole one.

mod line;
mod listing;
#[cfg(test)]
mod tests;
mod text;

pub use listing::{Fold, ListingError, Put, Reader, Writer, one as decode_line};
pub use text::{decode as decode_text, encode as encode_text};

use super::member::Xattr;
use super::record::CopyHint;
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, NodeHandle, Timestamp};
use cairn_mover::Crc32c;

/// What the head of every listing says it is.
pub const SCHEMA: &str = "cairn.namespace.v1";
/// The directory that plain tar puts listings in, at the top of what it restores.
pub const DIRECTORY: &str = ".cairn-namespace";
/// A listing is cut into members of about this many bytes, at ends of lines: less than a member
/// that is summed before its header is written.
pub const PART: usize = 4 << 20;

/// Path of a part, counted from 1.
#[must_use]
pub fn part_path(snapshot: AggregateId, part: u64) -> String {
    format!("{DIRECTORY}/{snapshot}/{part:06}.jsonl")
}

/// The first line: what the listing is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The snapshot.
    pub snapshot: AggregateId,
    /// The filesystem.
    pub fs: FsUuid,
    /// `None`: of everything; else the snapshot on which it stands.
    pub base: Option<Base>,
    /// When the walk began: whatever changed later may be in it, or not.
    pub begun: Timestamp,
    /// Aggregates with this name and later ones may hold files that are not in it.
    pub horizon: AggregateId,
    /// The root directory.
    pub root: NodeHandle,
}

/// What an incremental listing stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// The snapshot before it.
    pub snapshot: AggregateId,
    /// How many stand between it and the full one, this one counted.
    pub depth: u32,
}

/// What a filesystem keeps of every inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Times, as users see them.
    pub mtime: Timestamp,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of status.
    pub ctime: Timestamp,
    /// Extended attributes and ACLs, in their order, without Cairn's own.
    pub xattrs: Vec<Xattr>,
}

/// A directory, before what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// The inode.
    pub node: NodeHandle,
    /// A path of it, for people; empty: the root, or none is known.
    pub path: Vec<u8>,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A name in the directory whose line came last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// One component.
    pub name: Vec<u8>,
    /// What has the name.
    pub what: What,
}

/// What has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A directory, which has a listing of its own.
    Directory(NodeHandle),
    /// Anything else.
    Other(Inode),
}

/// An inode that is no directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// What it is.
    pub kind: InodeKind,
    /// Its attributes.
    pub attributes: Attributes,
    /// Which inode, if it has more names than this one.
    pub linked: Option<NodeHandle>,
}

/// Kinds of inodes that are no directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InodeKind {
    /// A regular file.
    File {
        /// Size, bytes.
        size: u64,
        /// Its data on tiers; `None`: they are on none.
        data: Option<Data>,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major, minor.
    CharDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
}

/// A version of a file's data that is on tiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data {
    /// The file.
    pub file: FileId,
    /// Which data.
    pub version: DataVersion,
    /// Sum of the content.
    pub crc: Crc32c,
    /// Sum of the list of block sums.
    pub blocks_crc: Crc32c,
    /// If the file was changed since (it was dirty): size and modification time of this version.
    pub older: Option<(u64, Timestamp)>,
    /// Where it lies.
    pub copies: Vec<CopyHint>,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The first.
    Head(Head),
    /// A directory.
    Directory(Directory),
    /// A name in it.
    Entry(Entry),
    /// The last.
    End(End),
}

/// The last line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Lines of directories before it.
    pub directories: u64,
    /// Lines of names.
    pub entries: u64,
    /// Directories and names that could not be looked at, and are not listed.
    pub gaps: u64,
    /// When the walk ended.
    pub ended: Timestamp,
    /// Sum of all bytes of the listing up to and with this line, which counts with the sum 0.
    pub crc: Crc32c,
}
