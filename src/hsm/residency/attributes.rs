//! The user's window: `user.cairn.*`, answered by name and never listed (P15).
//!
//! | name | value |
//! |---|---|
//! | `state` | `resident`, `archived`, `dirty`, `released`, `recalling`, `foreign`, `lost` |
//! | `copies` | one `tier aggregate` a line |
//! | `eta` | seconds until the data are here, `0` if they are, `unknown` |
//! | `id`, `version` | identity of the file and number of its data |
//! | `pins` | one `holder seconds-since-1970` a line |
//! | `socket` | the control socket, on any node |
//! | `stage` | can be set (to nothing or `1`): asks for the file to be staged |

use super::{FileRef, HsmResidency};
use crate::format::record::{Record, State};
use crate::hsm::backing::{FileStat, NodeKind, belongs_to};
use crate::hsm::recall::User;
use cairn_fuse::{Caller, Errno};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt;

/// What all the names begin with.
pub(super) const PREFIX: &[u8] = b"user.cairn.";

const NO_DATA: Errno = Errno(libc::ENODATA);

impl HsmResidency {
    /// The value of `user.cairn.NAME`.
    pub(super) fn answer(&self, file: FileRef<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
        if name == b"socket" {
            let socket = self.socket.as_ref().ok_or(NO_DATA)?;
            return Ok(socket.as_os_str().as_bytes().to_vec());
        }
        let known: [&[u8]; 6] = [b"state", b"copies", b"eta", b"id", b"version", b"pins"];
        if !known.contains(&name) {
            return Err(NO_DATA);
        }
        let eio = |_| Errno(libc::EIO);
        let stat = self.backing().stat(file.fd).map_err(eio)?;
        if stat.kind != NodeKind::Regular {
            return Err(NO_DATA);
        }
        let record = self.backing().record(file.fd).map_err(eio)?;
        let value = match (name, record) {
            (b"state", record) => self.state(file, record.as_ref(), &stat).to_owned(),
            (b"eta", record) => self.eta(record.as_ref()),
            (_, None) => return Err(NO_DATA),
            (b"id", Some(record)) => record.file.to_string(),
            (b"version", Some(record)) => record.version.0.to_string(),
            (b"copies", Some(record)) => copies(&record),
            (_, Some(record)) => self.pins(&record),
        };
        Ok(value.into_bytes())
    }

    /// For people: whether the data really changed since they were archived only P1 can prove.
    fn state(&self, file: FileRef<'_>, record: Option<&Record>, stat: &FileStat) -> &'static str {
        let own = |r: &&Record| belongs_to(r, self.backing().fs(), file.handle);
        let (node, resident) = (file.handle, record.filter(own));
        if record.is_none_or(|r| r.state == State::Resident)
            && self.asks.may_be_lost(node, false)
            && self.asks.looks_lost(node, resident, stat)
        {
            return "lost";
        }
        let Some(record) = record else {
            return "resident";
        };
        match record.state {
            _ if !belongs_to(record, self.backing().fs(), file.handle) => "foreign",
            State::Released | State::Recalling if stat.size == 0 && record.size > 0 => "resident",
            State::Released => "released",
            State::Recalling => "recalling",
            State::Resident if (stat.size, stat.mtime) == (record.size, record.mtime) => "archived",
            State::Resident => "dirty",
        }
    }

    fn eta(&self, record: Option<&Record>) -> String {
        match record.filter(|r| r.state != State::Resident) {
            None => "0".to_owned(),
            Some(record) => match self.asks.eta(record.file) {
                Some(eta) => eta.as_secs().to_string(),
                None => "unknown".to_owned(),
            },
        }
    }

    fn pins(&self, record: &Record) -> String {
        let mut text = String::new();
        for (holder, until) in self.asks.pins(record.file) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{holder} {}", until.sec);
        }
        text
    }

    /// Sets `user.cairn.NAME`; the kernel has seen to it that the caller may write the file.
    pub(super) fn set(
        &self,
        file: FileRef<'_>,
        name: &[u8],
        value: &[u8],
        caller: Caller,
    ) -> Result<(), Errno> {
        if name != b"stage" {
            return Err(Errno(libc::EPERM));
        }
        if !matches!(value, b"" | b"1") {
            return Err(Errno(libc::EINVAL));
        }
        let user = User {
            uid: caller.uid,
            gid: caller.gid,
            groups: caller.groups(),
        };
        let asked = self
            .asks
            .stage_requested(file.handle, self.hint(file), user);
        asked.map_err(|why| Errno(why.errno()))
    }
}

fn copies(record: &Record) -> String {
    let mut text = String::new();
    for copy in &record.copies {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{} {}", copy.tier, copy.aggregate);
    }
    text
}
