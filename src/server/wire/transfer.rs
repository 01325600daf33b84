//! What a remote caller and the agent that acts for them say to each other: who they are, what there is, and transfers
//! (docs/remote.md). Data never pass here; I/O descriptors do, so this is only said on authenticated, encrypted channels.

use super::{GivenPath, Problem, When};
use crate::parcel::{Found, Tree};
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};
use std::io;

/// Answer to `GET /v1/remote/hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// As whom the caller acts.
    pub uid: u32,
    /// Their name, where the server knows one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The server's version.
    pub version: String,
    /// The address that the control connection seems to come from.
    pub seen_as: String,
    /// The server's clock: milliseconds since 1970.
    pub now_ms: i64,
}

/// Body of `POST /v1/remote/list`; answered by a stream of [`EntryView`]s and [`Problem`]s.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListQuery {
    /// Paths below the mount.
    pub paths: Vec<GivenPath>,
    /// All below directories, too.
    #[serde(default)]
    pub recursive: bool,
    /// A path itself that is a symbolic link stands for what it leads to.
    #[serde(default)]
    pub follow: bool,
    /// Bring what is released back: it is going to be read.
    #[serde(default)]
    pub stage: bool,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
}

/// A name of a parcel, or of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryView {
    /// Below the mount.
    #[serde(flatten)]
    pub path: GivenPath,
    /// What it is.
    pub kind: EntryKind,
    /// Bytes of a file.
    #[serde(default)]
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// When its data changed last: seconds since 1970.
    pub mtime_s: i64,
    /// And nanoseconds.
    pub mtime_ns: u32,
    /// What a symbolic link says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<GivenPath>,
}

impl EntryView {
    /// What was found at `path` of the tree, under the name `there`; `None`: nothing that is carried (a socket, a pipe, a device).
    ///
    /// # Errors
    /// What a symbolic link says cannot be read.
    pub fn of(tree: &Tree, path: &[u8], found: &Found, there: &[u8]) -> io::Result<Option<Self>> {
        let (kind, size, target) = match found.kind {
            FileType::RegularFile => (EntryKind::File, found.size, None),
            FileType::Directory => (EntryKind::Directory, 0, None),
            FileType::Symlink => (
                EntryKind::Symlink,
                0,
                Some(GivenPath::new(&tree.link(path)?)),
            ),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            path: GivenPath::new(there),
            kind,
            size,
            mode: found.mode,
            mtime_s: found.modified.seconds,
            mtime_ns: found.modified.nanos,
            target,
        }))
    }
}

/// Which way a parcel goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// To the mount.
    Put,
    /// From the mount.
    Get,
}

/// Who dials (docs/mover.md).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialling {
    /// The server: the client listens.
    Parallel,
    /// The client.
    Firewall,
}

/// Body of `POST /v1/remote/transfers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenTransfer {
    /// Which way.
    pub way: Way,
    /// Who dials.
    pub dialling: Dialling,
    /// The parcel.
    pub entries: Vec<EntryView>,
    /// Put: the client's name for the state of a file that travels alone, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Put: never instead of what is there.
    #[serde(default)]
    pub if_missing: bool,
    /// Put: go on with what an earlier transfer left.
    #[serde(default)]
    pub resume: bool,
    /// Put: directories are there, and get their modes and times; else they are made, for their owner alone.
    #[serde(default)]
    pub finish_directories: bool,
    /// The caller's name for this parcel, the same when it is opened again because an answer was lost.
    pub key: String,
    /// What is wanted: `[start, length]`; without it, all. Get: what the client has already is not among them. Put: what the
    /// client knows of a file whose end it does not know; more follows by `next`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ranges: Option<Vec<[u64; 2]>>,
    /// At most so many streams.
    pub streams: u16,
    /// `none`, `integrity` or `privacy`.
    pub protect: String,
}

/// Answer to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedTransfer {
    /// Its number at this server.
    pub number: u64,
    /// Firewall mode: the I/O descriptor, in hexadecimal. It is secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iod: Option<String>,
    /// Its places are placeholders: dial where the control connection went.
    #[serde(default)]
    pub here: bool,
    /// The sender's name for the state of the data, in hexadecimal.
    pub version: String,
    /// What is to be moved: `[start, length]`.
    pub ranges: Vec<[u64; 2]>,
    /// The parcel of that key was finished before: this was the answer, and nothing is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<FinishedTransfer>,
}

/// Body of `POST /v1/remote/transfers/N/next`, of a put: more of its file. Answered by [`OpenedTransfer`] once what was asked for
/// before is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContinueTransfer {
    /// What is to be moved: `[start, length]`. What is there is left out of the answer.
    pub ranges: Vec<[u64; 2]>,
    /// Who dials.
    pub dialling: Dialling,
    /// At most so many streams.
    pub streams: u16,
    /// `none`, `integrity` or `privacy`.
    pub protect: String,
}

/// Body of `POST /v1/remote/transfers/N/dial`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialTransfer {
    /// The client's I/O descriptor, in hexadecimal. It is secret.
    pub iod: String,
    /// As many streams as it says from the start; else as many as pay.
    #[serde(default)]
    pub all: bool,
}

impl std::fmt::Debug for DialTransfer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DialTransfer")
    }
}

/// Answer to it: at least one stream is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dialled {
    /// Streams that are up.
    pub streams: u64,
}

/// A file of the parcel that must not be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadEntry {
    /// Its place among the entries.
    pub entry: usize,
    /// It changed meanwhile; else it could not be read.
    pub changed: bool,
    /// Why it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Body of `POST /v1/remote/transfers/N/finish`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FinishTransfer {
    /// Put: what the client, which sent it, says of its files.
    #[serde(default)]
    pub bad: Vec<BadEntry>,
    /// Put: where the file ends, if that was not known when the transfer was opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// Answer to it. What it says is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedTransfer {
    /// Bytes that were moved.
    pub bytes: u64,
    /// CRC32C of what was moved, in hexadecimal, where this end knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crc32c: Option<String>,
    /// Put: entries that did not get their names, with the reason. Their paths are as the client gave them.
    #[serde(default)]
    pub problems: Vec<Problem>,
    /// Get: what the server, which sent it, says of its files.
    #[serde(default)]
    pub bad: Vec<BadEntry>,
}

/// Answer to `POST /v1/settle`: all that was written and named before is durable; and to `GET`, which only looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// How often a write was lost, from an arbitrary start on. Another number than before: what was written since may be lost.
    pub faults: u64,
}

/// A token, as `cairn token` shows it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its name.
    pub id: String,
    /// As whom its bearer acts.
    pub uid: u32,
    /// Their name.
    pub user: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// When it was issued.
    pub issued: When,
    /// From when on it is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<When>,
    /// Its text, when it is issued and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// SHA-256 of the certificate that the instance made for itself, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
}

impl std::fmt::Debug for TokenView {
    /// Without its text.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenView")
            .field("id", &self.id)
            .field("uid", &self.uid)
            .finish_non_exhaustive()
    }
}

/// A range of a host's ports that somebody has, as `cairn ports` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortLease {
    /// The first port.
    pub first: u16,
    /// The last one.
    pub last: u16,
    /// The process that took it; it may have handed it on to what it started.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// Their name.
    pub user: String,
    /// The program.
    pub command: String,
    /// Since when.
    pub since: When,
}

/// What `cairn put` and `cairn get` did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Copied {
    /// Files and links that are there now.
    pub files: u64,
    /// Bytes that were moved.
    pub bytes: u64,
    /// Left out, because they were there.
    pub skipped: u64,
    /// Not there; each is told as a problem.
    pub failed: u64,
    /// How long it took.
    pub seconds: f64,
    /// The most streams at one time.
    pub streams: u64,
    /// `parallel`: the server dialled; `firewall`: this end did.
    pub dialling: String,
}
