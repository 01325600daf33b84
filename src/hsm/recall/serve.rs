//! Answers: bytes from the disk or from memory, and the ends of waits. No callback runs on the
//! thread that asked, nor under a lock.

use super::lane::Urgency;
use super::one::{Answer, Charge, From, Recall, Wait, Waiter, What};
use super::table::Shared;
use crate::format::aggregate::IndexEntry;
use cairn_fuse::ReadDone;
use cairn_mover::Checked;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

impl Shared {
    /// Sees to it that each answer is given. With no lock held.
    pub(super) fn deliver(self: &Arc<Self>, recall: &Arc<Recall>, answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        self.forget(answers.iter().map(|a| a.token));
        for answer in answers {
            let (shared, recall) = (Arc::clone(self), Arc::clone(recall));
            let job = Box::new(move || give(&shared, &recall, answer));
            self.disk.push(Urgency::Reader, job);
        }
    }
}

fn give(shared: &Arc<Shared>, recall: &Arc<Recall>, answer: Answer) {
    match answer.what {
        What::Bytes(offset, len, done, From::Disk) => {
            from_disk(shared, recall, answer.token, (offset, len), done);
        }
        What::Bytes(offset, len, done, From::Memory(blocks)) => {
            let (sources, size) = {
                let state = recall.state.lock();
                let size = state.opened.as_ref().map_or(0, |o| o.record.size);
                (state.sources.clone(), size)
            };
            if let Some(sources) = sources {
                done(Ok(from_memory(sources.entry(), size, offset, len, &blocks)));
            }
        }
        What::Read(done, why) => {
            tracing::debug!(%why, "read refused");
            done(Err(why.errno()));
        }
        What::Fetched(done, how) => done(how.map_err(|why| why.errno())),
        What::Staged(done, how) => done(how),
    }
}

fn from_disk(
    shared: &Arc<Shared>,
    recall: &Arc<Recall>,
    token: u64,
    (offset, len): (u64, u32),
    done: ReadDone,
) {
    // Held for the length of the read: what is on disk is not punched meanwhile.
    let serving = recall.serving.read();
    let (reader, charge) = {
        let state = recall.state.lock();
        (state.reader.clone(), state.charge)
    };
    if let Some(reader) = reader.filter(|_| *serving) {
        let got = read_at(&reader, offset, len);
        drop(serving);
        drop(reader);
        done(got.map_err(|why| cairn_fuse::Errno(why.raw_os_error().unwrap_or(libc::EIO))));
        return;
    }
    drop(serving);
    // It was given back in between: wait anew.
    let wait = Wait::Read { offset, len, done };
    let waiter = Waiter {
        token,
        wait,
        user: match charge {
            Charge::User(uid) => uid,
            Charge::Stage => 0,
        },
        deadline: shared.deadline(),
    };
    shared.join(&recall.node, recall.hint.clone(), charge, waiter);
}

/// Up to `len` bytes; fewer at the end of the file.
fn read_at(fd: &OwnedFd, offset: u64, len: u32) -> io::Result<Vec<u8>> {
    let size = u64::try_from(rustix::fs::fstat(fd)?.st_size).unwrap_or(0);
    let len = u64::from(len).min(size.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::pread(fd.as_fd(), &mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
    }
    bytes.truncate(done);
    Ok(bytes)
}

/// The logical bytes `offset..offset + len` put together from blocks; holes are zeros.
fn from_memory(
    entry: &IndexEntry,
    size: u64,
    offset: u64,
    len: u32,
    blocks: &[(u32, Checked)],
) -> Vec<u8> {
    let len = u64::from(len).min(size.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    for (block, checked) in blocks {
        for piece in entry.pieces(u64::from(*block)) {
            let from = piece.logical.max(offset);
            let to = (piece.logical + piece.len).min(offset + len);
            if from >= to {
                continue;
            }
            let at = (from - offset) as usize;
            let source = (piece.within_block + (from - piece.logical)) as usize;
            let n = (to - from) as usize;
            if let Some(part) = checked.as_slice().get(source..source + n) {
                bytes[at..at + n].copy_from_slice(part);
            }
        }
    }
    bytes
}
