//! What the mirror asks about data, answered: [`cairn_fuse::Residency`] over the record on each
//! file and the [`Recaller`].
//!
//! Invariants:
//! - A stub is never called resident: what cannot be read, or belongs to another inode, is refused.
//!   Nor is a file that may have lost its stub, until the catalog was asked ([`crate::hsm::vouch`]).
//!   What a record that says *resident* costs is a look at the file's blocks.
//! - Nothing here waits for a tier or a database; whatever has to wait goes to the recaller.
//! - A stub shows at least one block, and no holes but those the file had (P5).

mod attributes;
mod capability;
mod changelog;
#[cfg(test)]
mod tests;

pub use changelog::{ChangelogSink, Overflow, Told};

use crate::format::record::{Record, State};
use crate::hsm::backing::{
    Backing, BackingError, CAPABILITY, FileStat, Filesystem, How, belongs_to, is_private,
    shown_ctime,
};
use crate::hsm::emergency::Room;
use crate::hsm::recall::{Asks, Recaller};
use crate::hsm::version::{in_window, may_be_setting};
use cairn_fuse::{
    AttributeChange, Caller, Changed, Errno, Event, FileRef, Presence, ReadDone, Residency, Shown,
    WaitDone, WaitToken,
};
use rustix::fs::{SeekFrom, Statx, Timestamps};
use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

/// A file whose bytes the backing must not be asked for.
enum Elsewhere {
    /// Its data are on tiers.
    Stub(Record),
    /// It has no stub, and may have lost one: the recaller finds out, with the catalog's help.
    Unvouched,
}

/// See the module.
pub struct HsmResidency {
    recaller: Arc<Recaller>,
    asks: Arc<dyn Asks>,
    changelog: Arc<ChangelogSink>,
    socket: Option<PathBuf>,
    room: Option<Arc<Room>>,
}

impl HsmResidency {
    /// Answers for the backing of `recaller`. `socket`: the control socket that
    /// `user.cairn.socket` names, for commands that are given a path of the mount.
    #[must_use]
    pub fn new(
        recaller: Arc<Recaller>,
        asks: Arc<dyn Asks>,
        changelog: Arc<ChangelogSink>,
        socket: Option<PathBuf>,
    ) -> Self {
        Self {
            recaller,
            asks,
            changelog,
            socket,
            room: None,
        }
    }

    /// Opens for writing wait there when the backing is nearly full (P13).
    #[must_use]
    pub fn with_room(mut self, room: Arc<Room>) -> Self {
        self.room = Some(room);
        self
    }

    /// The recaller it works with.
    #[must_use]
    pub fn recaller(&self) -> &Arc<Recaller> {
        &self.recaller
    }

    fn backing(&self) -> &Backing {
        self.recaller.backing()
    }

    /// A name of the file, where nodes can only be opened by name.
    fn hint(&self, file: FileRef<'_>) -> Option<Vec<u8>> {
        match self.backing().access() {
            crate::hsm::backing::Access::Handles => None,
            crate::hsm::backing::Access::Paths => self.backing().path_of(file.fd).ok(),
        }
    }

    /// The record, and not one that is just being set: it is set again where its ctime misses its
    /// window, and the times of such a try are nobody's. Waits for that step's end, which takes no
    /// longer than [`LONGEST_SETTING`](crate::hsm::version::LONGEST_SETTING): an older one that
    /// does not fit was left by somebody's change of the file.
    fn settled_record(
        &self,
        file: FileRef<'_>,
        stat: &FileStat,
    ) -> Result<Option<Record>, BackingError> {
        let record = self.backing().record(file.fd)?;
        let missed = record.as_ref().is_some_and(|record| {
            let floor = record.ctime_floor;
            record.state != State::Recalling
                && floor.is_some_and(|f| !in_window(f, stat.ctime) && may_be_setting(f))
        });
        if !missed {
            return Ok(record);
        }
        let _turn = self.backing().turn(file.handle);
        self.backing().record(file.fd)
    }

    /// Where the file's data are, if they are not here. Finishes a truncation that a crash cut
    /// short.
    fn stub(&self, file: FileRef<'_>) -> Result<Option<Elsewhere>, BackingError> {
        let record = match self.backing().record(file.fd)? {
            Some(record) if record.state != State::Resident => record,
            rest => {
                let stat = self.backing().stat(file.fd)?;
                let own = rest.filter(|r| belongs_to(r, self.backing().fs(), file.handle));
                let unvouched = self.asks.is_doubtful(file.handle, own.as_ref(), &stat);
                return Ok(unvouched.then_some(Elsewhere::Unvouched));
            }
        };
        if record.size > 0 && self.backing().stat(file.fd)?.size == 0 {
            // P5: ftruncate came first; what is left to do is to drop the stub.
            let running = self.recaller.is_running(file.handle);
            let done = running
                || self
                    .backing()
                    .drop_truncated(file.handle, file.fd, &record)?;
            return if done { Ok(None) } else { self.stub(file) };
        }
        Ok(Some(Elsewhere::Stub(record)))
    }
}

impl Residency for HsmResidency {
    fn presence(&self, file: FileRef<'_>) -> Presence {
        let refused = |why: &dyn std::fmt::Display| {
            tracing::warn!(node = ?file.handle, %why, "open refused");
            Presence::Refused(Errno(libc::EIO))
        };
        match self.stub(file) {
            Ok(None) => Presence::Resident,
            Ok(Some(Elsewhere::Unvouched)) => Presence::Doubtful,
            // It may be adopted (P6): the recaller finds out when somebody reads. Once it is known for
            // foreign, nobody opens it but to cut it to nothing.
            Ok(Some(Elsewhere::Stub(stub)))
                if !belongs_to(&stub, self.backing().fs(), file.handle) =>
            {
                match self.backing().stat(file.fd) {
                    Ok(stat) if self.recaller.is_foreign(file.handle, stat.ctime) => {
                        Presence::Doubtful
                    }
                    Ok(_) => Presence::Released,
                    Err(why) => refused(&why),
                }
            }
            Ok(Some(Elsewhere::Stub(stub))) => match self.backing().stat(file.fd) {
                Ok(stat) if stat.size != stub.size => refused(&"its size is not the stub's"),
                Ok(_) => Presence::Released,
                Err(why) => refused(&why),
            },
            Err(why) => refused(&why),
        }
    }

    /// Writing a record changes ctime alone. Where it is still the time of the last write, there
    /// is no record, or it does not count; a stub without blocks is looked at anyway. Not so while a
    /// write of Cairn's own may be that last write.
    fn shows_as_is(&self, stat: &Statx) -> bool {
        FileStat::from_statx(stat).is_none_or(|stat| {
            stat.ctime == stat.mtime && stat.blocks > 0 && self.backing().times_stand()
        })
    }

    fn shown(&self, file: FileRef<'_>, stat: &Statx) -> Shown {
        let Some(stat) = FileStat::from_statx(stat).filter(|_| !self.shows_as_is(stat)) else {
            return Shown::default();
        };
        let Ok(Some(record)) = self.settled_record(file, &stat) else {
            // Without its record it is not known for a hole.
            let hole = stat.blocks == 0 && stat.size > 0;
            return Shown {
                at_least_one_block: hole && self.asks.may_be_lost(file.handle, false),
                ..Shown::default()
            };
        };
        // A recall's own writes move the backing's times. What users set meanwhile is in the record.
        let (ctime, mtime) = match record.state {
            State::Recalling => (record.user_ctime, record.mtime),
            _ => (shown_ctime(Some(&record), stat.ctime), stat.mtime),
        };
        let released = record.state != State::Resident;
        Shown {
            ctime: (ctime != stat.ctime).then_some((ctime.sec, ctime.nsec)),
            mtime: (mtime != stat.mtime).then_some((mtime.sec, mtime.nsec)),
            at_least_one_block: released
                || stat.blocks == 0 && self.asks.is_doubtful(file.handle, Some(&record), &stat),
            hidden_blocks: self.record_blocks(&stat, record.state),
        }
    }

    fn read(
        &self,
        file: FileRef<'_>,
        offset: u64,
        len: u32,
        caller: Caller,
        done: ReadDone,
    ) -> WaitToken {
        let hint = self.hint(file);
        self.recaller
            .read(file.handle, hint, caller.uid, (offset, len), done)
    }

    /// `keep` of 0 announces a truncation to nothing: see [`Recaller::hold`]. Any other is a hint
    /// that is not taken: a file made resident with only its head would read as zeros behind it
    /// if the process died before the truncation. So the whole file comes back (P5 asks for the
    /// head alone; the head does come first).
    fn fetch(
        &self,
        file: FileRef<'_>,
        keep: Option<u64>,
        caller: Caller,
        done: WaitDone,
    ) -> WaitToken {
        if keep == Some(0) {
            return self.recaller.hold(file.handle, done);
        }
        let hint = self.hint(file);
        self.recaller.fetch(file.handle, hint, caller.uid, done)
    }

    fn may_write(&self) -> bool {
        self.room.as_ref().is_none_or(|room| room.is_open())
    }

    fn await_room(&self, _caller: Caller, done: WaitDone) -> WaitToken {
        match &self.room {
            Some(room) => room.wait(done),
            None => {
                done(Ok(()));
                WaitToken(0)
            }
        }
    }

    fn give_up(&self, token: WaitToken) {
        if !self.room.as_ref().is_some_and(|room| room.give_up(token)) {
            self.recaller.give_up(token);
        }
    }

    fn seek(&self, file: FileRef<'_>, offset: u64, data: bool) -> Result<u64, Errno> {
        let eio = |why: BackingError| {
            tracing::warn!(%why, "seek");
            Errno(libc::EIO)
        };
        let stub = match self.stub(file).map_err(eio)? {
            None => return self.seek_on_disk(file, offset, data),
            // As if all were data: who then reads learns what they are.
            Some(Elsewhere::Unvouched) => {
                let size = self.backing().stat(file.fd).map_err(eio)?.size;
                return match (offset < size, data) {
                    (false, _) => Err(Errno(libc::ENXIO)),
                    (true, true) => Ok(offset),
                    (true, false) => Ok(size),
                };
            }
            Some(Elsewhere::Stub(stub)) => stub,
        };
        if offset >= stub.size {
            return Err(Errno(libc::ENXIO));
        }
        let found = stub.copies.iter().find_map(|copy| {
            let indexes = self.recaller.indexes();
            indexes.at_hand(copy, &stub)
        });
        match found {
            Some(entry) => seek_in(entry.member.kind.runs(), stub.size, offset, data),
            None if data => Ok(offset),
            None => Ok(stub.size),
        }
    }

    fn truncated(&self, file: FileRef<'_>) -> Result<(), Errno> {
        let dropped = self.recaller.truncated(file.handle, file.fd);
        dropped.map_err(|why| {
            tracing::error!(%why, "the stub of a truncated file stays until its next open");
            Errno(libc::EIO)
        })
    }

    fn is_private(&self, name: &OsStr) -> bool {
        is_private(name.as_bytes())
    }

    fn listed_as(&self, file: FileRef<'_>, private: &OsStr) -> Option<&'static OsStr> {
        self.listed_for(file, private)
    }

    fn attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        _caller: Caller,
    ) -> Option<Result<Vec<u8>, Errno>> {
        if name == CAPABILITY {
            return self.capability(file);
        }
        let name = name.as_bytes().strip_prefix(attributes::PREFIX)?;
        Some(self.answer(file, name))
    }

    fn attribute_may_wait(&self, name: &OsStr) -> bool {
        let name = name.as_bytes().strip_prefix(attributes::PREFIX);
        // The socket is how commands find the instance, whatever its catalog does.
        name.is_some_and(|name| name != b"socket")
    }

    fn set_attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        value: &[u8],
        caller: Caller,
    ) -> Option<Result<(), Errno>> {
        let name = name.as_bytes().strip_prefix(attributes::PREFIX)?;
        Some(self.set(file, name, value, caller))
    }

    fn change_attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        change: AttributeChange<'_>,
    ) -> Option<Result<(), Errno>> {
        (name == CAPABILITY)
            .then(|| self.change_capability(file, change))
            .flatten()
    }

    fn set_times(&self, file: FileRef<'_>, times: &Timestamps) -> Option<Result<(), Errno>> {
        self.recaller.set_times(file.handle, file.fd, times)
    }

    fn changed(&self, file: FileRef<'_>, what: Changed) {
        self.recaller.changed(file.handle, file.fd, what);
    }

    fn note(&self, event: Event) {
        self.changelog.push(event);
    }
}

impl HsmResidency {
    /// Blocks that hold nothing but the record: ext4 puts an attribute of its size beside the
    /// inode. All of a stub's; of a file with data the one that is too many for its size.
    fn record_blocks(&self, stat: &FileStat, state: State) -> u64 {
        let block = stat.one_block();
        match (self.backing().capabilities().filesystem, state) {
            (_, State::Recalling) => 0,
            (_, State::Released) => stat.blocks.min(block),
            (Filesystem::Ext, State::Resident) => {
                let data = stat.size.div_ceil(block * 512) * block;
                if stat.blocks == data + block {
                    block
                } else {
                    0
                }
            }
            (_, State::Resident) => 0,
        }
    }

    fn seek_on_disk(&self, file: FileRef<'_>, offset: u64, data: bool) -> Result<u64, Errno> {
        let fd = self.backing().reopen(file.fd, How::Read).map_err(|why| {
            tracing::warn!(%why, "seek");
            Errno(libc::EIO)
        })?;
        let to = if data {
            SeekFrom::Data(offset)
        } else {
            SeekFrom::Hole(offset)
        };
        rustix::fs::seek(fd.as_fd(), to).map_err(|why| Errno(why.raw_os_error()))
    }
}

/// `SEEK_DATA` and `SEEK_HOLE` on data runs.
fn seek_in(
    runs: &[crate::format::member::Extent],
    size: u64,
    offset: u64,
    data: bool,
) -> Result<u64, Errno> {
    let next = runs.iter().find(|run| run.offset + run.len > offset);
    match (next, data) {
        (Some(run), true) => Ok(run.offset.max(offset)),
        (None, true) => Err(Errno(libc::ENXIO)),
        (Some(run), false) if run.offset <= offset => Ok(run.offset + run.len),
        (_, false) => Ok(offset.min(size)),
    }
}
