//! What `cairn doctor` asks a server, and what it finds; and what a put asks for when it is done.

use super::GivenPath;
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/remote/archive`: of these, and of all below them, copies are to be made now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveQuery {
    /// Paths below the mount.
    pub paths: Vec<GivenPath>,
}

/// Answer to it: the request is durable, and goes on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveAsked {
    /// Its number.
    pub request: u64,
}

/// Body of `POST /v1/remote/probe`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeQuery {
    /// The client's I/O descriptor, in hexadecimal, if the server is to dial. It is secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iod: Option<String>,
    /// Bytes that are sent, 1 GiB at most.
    pub bytes: u64,
    /// Streams, 16 at most.
    pub streams: u16,
    /// `none`, `integrity` or `privacy`.
    pub protect: String,
}

impl std::fmt::Debug for ProbeQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProbeQuery")
    }
}

/// Answer to it: all was sent, or where the client is to dial.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The server's I/O descriptor, in hexadecimal. It is secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iod: Option<String>,
    /// Its places are placeholders: dial where the control connection went.
    #[serde(default)]
    pub here: bool,
    /// Streams that were up, if the server dialled.
    pub streams: u64,
}

impl std::fmt::Debug for Probed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Probed")
    }
}

/// What `cairn doctor` found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DoctorReport {
    /// Host and port.
    pub server: String,
    /// As whom the server takes us.
    pub uid: u32,
    /// The server's version.
    pub version: String,
    /// The address of this end of the control connection, as this host sees it.
    pub local: String,
    /// And as the server does: another one means address translation.
    pub seen_as: String,
    /// How far the server's clock is ahead of this one, milliseconds, give or take half of `round_trip_ms`.
    pub skew_ms: i64,
    /// How long a question takes, milliseconds.
    pub round_trip_ms: u64,
    /// `HOST:PORTS` where the server was told to dial; none if nothing is set.
    pub advertised: Vec<String>,
    /// What is bound for that.
    pub bound: Vec<String>,
    /// Streams that the server dialled; none if nothing is advertised.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel: Option<PathReport>,
    /// Streams that this end dialled.
    pub firewall: PathReport,
    /// The one thing to do; none if nothing is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// One way for streams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PathReport {
    /// Did it work?
    pub works: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Streams at one time.
    pub streams: u64,
    /// Bytes per second, from the server to here.
    pub bytes_per_second: u64,
}
