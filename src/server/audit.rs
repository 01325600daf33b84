//! The audit log: who asked for what and what came of it, one JSON object a line. Holds no
//! secrets and no idempotency keys.
//!
//! Each line is one `write` to a file opened with O_APPEND; when the file has been moved or
//! removed (log rotation), the next line opens it anew.

use super::control::{ControlError, Peer};
use super::wire::{GivenPath, When};
use crate::catalog::{Request, RequestState};
use crate::error::Failure;
use crate::hsm::engine::CopyNews;
use parking_lot::Mutex;
use serde::Serialize;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One line of the log.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    schema: &'static str,
    time: When,
    uid: u32,
    gid: u32,
    pid: u32,
    action: String,
    /// How many files and directories were named.
    #[serde(skip_serializing_if = "Option::is_none")]
    subjects: Option<usize>,
    /// The first of them, as the caller called it.
    #[serde(flatten)]
    first: Option<GivenPath>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<u64>,
    result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
}

impl Event {
    /// What `peer` asked for (`action`: a verb or `cancel`, `retry`, `shutdown`, ...); it went well
    /// unless [`Event::failed`] says otherwise.
    #[must_use]
    pub fn new(peer: &Peer, action: impl Into<String>) -> Self {
        Self {
            schema: "cairn.audit.v1",
            time: When::now(),
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
            action: action.into(),
            subjects: None,
            first: None,
            request: None,
            result: "ok".to_owned(),
            message: None,
        }
    }
    /// With what it was to be done.
    #[must_use]
    pub fn subjects(mut self, count: usize, first: Option<GivenPath>) -> Self {
        self.subjects = Some(count);
        self.first = first;
        self
    }
    /// What came of it, in words.
    #[must_use]
    pub fn said(mut self, message: String) -> Self {
        self.message = Some(message);
        self
    }
    /// It did not go well for any of its subjects.
    #[must_use]
    pub fn ended_as(mut self, result: &str) -> Self {
        self.result = result.to_owned();
        self
    }
    /// The request concerned.
    #[must_use]
    pub fn request(mut self, request: u64) -> Self {
        self.request = Some(request);
        self
    }
    /// How a request ended: the asker is the request's own, not a peer of this moment.
    #[must_use]
    pub fn ended(row: &Request) -> Self {
        let nobody = Peer {
            uid: row.uid,
            gid: row.gid,
            groups: Vec::new(),
            pid: 0,
        };
        let (done, failed) = (row.counts.done.files, row.counts.failed.files);
        let result = match row.state {
            RequestState::Done => "ok",
            RequestState::Failed => "failed",
            RequestState::Cancelled => "cancelled",
            RequestState::Queued | RequestState::Running => "running",
        };
        let verb = super::instance::verb_out(row.verb);
        Self {
            result: result.to_owned(),
            message: Some(format!("{done} files done, {failed} failed")),
            ..Self::new(&nobody, format!("{verb} ended")).request(row.id.0)
        }
    }
    /// A file was found lost: nobody asked for it.
    #[must_use]
    pub fn lost(path: &str) -> Self {
        let nobody = Peer {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            pid: 0,
        };
        Self {
            result: Failure::Lost.as_str().to_owned(),
            message: Some(format!(
                "{path}: its data were released and its stub is gone or was overwritten"
            )),
            ..Self::new(&nobody, "lost")
        }
    }
    /// A copy was found bad, or was made again: nobody asked for it.
    #[must_use]
    pub fn copy(news: &CopyNews) -> Self {
        let nobody = Peer {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            pid: 0,
        };
        let place = format!("{} on tier {}", news.aggregate, news.tier);
        let (action, result, message) = match &news.fault {
            Some(why) => (
                "bad copy",
                Failure::NoGoodCopy.as_str(),
                format!("{place}: {why}"),
            ),
            None => ("healed", "ok", format!("made again in {place}")),
        };
        Self {
            result: result.to_owned(),
            message: Some(message),
            ..Self::new(&nobody, action).subjects(1, Some(GivenPath::new(&news.path)))
        }
    }
    /// It failed or was refused.
    #[must_use]
    pub fn failed(mut self, error: &ControlError) -> Self {
        self.result = error.code.as_str().to_owned();
        self.message = Some(error.message.clone());
        self
    }
}

/// The log; clones write to the same file.
#[derive(Debug, Clone)]
pub struct Audit(Option<Arc<Log>>);

#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Mutex<File>,
}

impl Audit {
    /// Appends to the file at `path`, made with mode 0640 if absent.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = Mutex::new(append_to(path)?);
        Ok(Self(Some(Arc::new(Log {
            path: path.to_owned(),
            file,
        }))))
    }

    /// Keeps nothing: tests, and instances told not to.
    #[must_use]
    pub const fn nowhere() -> Self {
        Self(None)
    }

    /// Writes one line. A log that cannot be written is reported through tracing and stops
    /// nothing.
    pub fn record(&self, event: &Event) {
        let Some(log) = &self.0 else { return };
        if let Err(error) = log.write(event) {
            tracing::error!(path = %log.path.display(), %error, "cannot write the audit log");
        }
    }
}

impl Log {
    fn write(&self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let mut file = self.file.lock();
        let open = file.metadata()?;
        let there = std::fs::metadata(&self.path).ok();
        if there.map(|m| (m.dev(), m.ino())) != Some((open.dev(), open.ino())) {
            *file = append_to(&self.path)?;
        }
        file.write_all(&line)
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;

    #[test]
    fn lines_are_json_and_rotation_loses_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let audit = Audit::open(&path).unwrap();
        let peer = Peer {
            uid: 5,
            gid: 6,
            groups: vec![],
            pid: 7,
        };
        audit.record(
            &Event::new(&peer, "stage")
                .subjects(2, Some(GivenPath::new(b"a\xff")))
                .request(3),
        );
        std::fs::rename(&path, dir.path().join("audit.1")).unwrap();
        let no = ControlError::new(Failure::NotPermitted, "not yours");
        audit.record(&Event::new(&peer, "cancel").request(3).failed(&no));
        let read = |name| -> serde_json::Value {
            let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(text.lines().count(), 1);
            serde_json::from_str(&text).unwrap()
        };
        let first = read("audit.1");
        assert_eq!(
            (&first["uid"], &first["action"]),
            (&5.into(), &"stage".into())
        );
        assert_eq!(
            (&first["path_hex"], &first["result"]),
            (&"61ff".into(), &"ok".into())
        );
        assert_eq!(read("audit.jsonl")["result"], "not-permitted");
    }
}
