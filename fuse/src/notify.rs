//! Notices to the kernel that what it remembers is old. Threads that hold no lock send them (P11):
//! one those about attributes alone, for which the kernel waits for nothing; another those about
//! pages, too, for which it waits until reads and writes of them that are under way are answered; a
//! third those about names, for which it waits until whoever changes the directory is answered.

use crate::MirrorError;
use crate::park::Reply;
use crate::workers::spawn;
use crossbeam_channel::{Receiver, Sender, unbounded};
use fuser::{INodeNo, Notifier};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// An offset below zero means: attributes alone.
const NO_PAGES: i64 = -1;
/// From there on, of any length.
const ALL_PAGES: i64 = 0;

struct Notice {
    id: u64,
    /// Who is told that all went well once the kernel knows.
    then: Option<Reply>,
}

/// Where notices are left.
pub(crate) struct Notices {
    attributes: Sender<Notice>,
    data: Sender<Notice>,
    names: Sender<(u64, OsString)>,
}

/// What the threads take them from.
pub(crate) struct Inbox {
    attributes: Receiver<Notice>,
    data: Receiver<Notice>,
    names: Receiver<(u64, OsString)>,
}

impl Notices {
    pub(crate) fn new() -> (Self, Inbox) {
        let (attributes, about_attributes) = unbounded();
        let (data, about_data) = unbounded();
        let (names, about_names) = unbounded();
        let inbox = Inbox {
            attributes: about_attributes,
            data: about_data,
            names: about_names,
        };
        let notices = Self {
            attributes,
            data,
            names,
        };
        (notices, inbox)
    }

    /// The attributes of a node changed behind the kernel's back. Never blocks.
    pub(crate) fn attributes(&self, id: u64) {
        let _ = self.attributes.send(Notice { id, then: None });
    }

    /// A name was made in a directory behind the kernel's back. Never blocks.
    pub(crate) fn name(&self, directory: u64, name: &[u8]) {
        let _ = self
            .names
            .send((directory, OsStr::from_bytes(name).to_owned()));
    }

    /// They may have: answers when they are asked for anew. Never blocks.
    pub(crate) fn attributes_first(&self, id: u64, then: Reply) {
        let then = Some(then);
        let _ = self.attributes.send(Notice { id, then });
    }

    /// And so may the data. Not for files whose reads wait for a recall.
    pub(crate) fn data_first(&self, id: u64, then: Reply) {
        let then = Some(then);
        let _ = self.data.send(Notice { id, then });
    }
}

/// Starts the threads; they end with the last sender.
pub(crate) fn run(inbox: Inbox, notifier: &Notifier) -> Result<(), MirrorError> {
    let Inbox {
        attributes,
        data,
        names,
    } = inbox;
    for (name, notices, offset) in [
        ("cairn-fuse-notify", attributes, NO_PAGES),
        ("cairn-fuse-pages", data, ALL_PAGES),
    ] {
        let notifier = notifier.clone();
        spawn(name, move || {
            for Notice { id, then } in &notices {
                if let Err(error) = notifier.inval_inode(INodeNo(id), offset, 0) {
                    tracing::debug!(id, %error, "what the kernel remembers could not be dropped");
                }
                if let Some(reply) = then {
                    reply.ok();
                }
            }
        })?;
    }
    let notifier = notifier.clone();
    spawn("cairn-fuse-names", move || {
        for (directory, name) in &names {
            let directory = INodeNo(directory);
            // ENOENT: the kernel remembers nothing of it.
            if let Err(error) = notifier.inval_entry(directory, &name) {
                tracing::debug!(%directory, %error, "a name was not remembered");
            }
            // Its times, and its listing.
            if let Err(error) = notifier.inval_inode(directory, ALL_PAGES, 0) {
                tracing::debug!(%directory, %error, "what the kernel remembers could not be dropped");
            }
        }
    })
    .map(drop)
}
