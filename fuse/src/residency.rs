//! The one trait through which the mirror learns whether a file's data are on disk, and asks for
//! data that are not; and the gate through which the data's owner shuts users out of a node.
//!
//! Rules for implementers: nothing here may block on a recall, a tier or a database. Quick calls
//! ([`Residency::presence`], [`Residency::shown`]) may read one extended attribute and ask for the
//! file's status. Whatever has to wait takes a `done` and calls it exactly once, later, from any
//! thread (P11).

use crate::NodeHandle;
use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// An error number as the caller of the system call will see it (`libc::EIO`, ...).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Thread id; 0 if it lives in another pid namespace.
    pub pid: u32,
}

impl Caller {
    /// Its supplementary groups. To be asked while its request is unanswered: until then it can
    /// change nothing. None if it lives in another pid namespace, where they cannot be seen, or is
    /// gone: it is never taken for more than it is.
    #[must_use]
    pub fn groups(&self) -> Vec<u32> {
        crate::creds::groups_of(self.uid, self.pid)
    }
}

/// A regular file of the backing directory, as the mirror holds it for the length of a call.
#[derive(Debug, Clone, Copy)]
pub struct FileRef<'a> {
    /// The inode.
    pub handle: &'a NodeHandle,
    /// An `O_PATH` descriptor of it.
    pub fd: BorrowedFd<'a>,
}

/// Whether data are here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// All data are on disk: the kernel may pass reads and writes straight through.
    Resident,
    /// Some or all data are elsewhere: reads must come through [`Residency::read`].
    Released,
    /// As [`Self::Released`], but whether the data are anywhere must be found out: no open, not even
    /// for reading, is answered before [`Residency::fetch`], but one that cuts the file to nothing.
    Doubtful,
    /// The file must not be opened (a foreign stub, a conflict, a lost file): the error to give.
    Refused(Errno),
}

/// Corrections to what `stat` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shown {
    /// Show this ctime (seconds, nanoseconds) instead of the backing's.
    pub ctime: Option<(i64, u32)>,
    /// Show this mtime (seconds, nanoseconds) instead of the backing's: while a recall writes,
    /// before it has set the times back.
    pub mtime: Option<(i64, u32)>,
    /// Data are elsewhere: show at least one block, so that `tar -S` and `cp` do not take the
    /// file for a hole (P5).
    pub at_least_one_block: bool,
    /// Hide this many 512-byte blocks that are Cairn's own (the record's xattr block).
    pub hidden_blocks: u64,
}

/// What a user does to an extended attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttributeChange<'a> {
    /// Sets it.
    Set {
        /// To this.
        value: &'a [u8],
        /// `XATTR_CREATE`, `XATTR_REPLACE` or neither.
        flags: i32,
    },
    /// Takes it away.
    Remove,
}

/// What a user changed of a file other than its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// Owner or group: the kernel took set-id bits and file capabilities with it.
    Owner,
    /// Anything else.
    Other,
}

/// Names a wait so that it can be given up. Never reused within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaitToken(pub u64);

/// Receives bytes of a released file, or why there are none. Fewer bytes than asked for mean end
/// of file.
pub type ReadDone = Box<dyn FnOnce(Result<Vec<u8>, Errno>) + Send>;
/// Learns that a wait is over.
pub type WaitDone = Box<dyn FnOnce(Result<(), Errno>) + Send>;

/// What happened in the namespace. Paths are never in it: nodes and names are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// The node it happened to.
    pub node: NodeHandle,
    /// The directory in which it happened, and the name there (creation, removal, link, rename target).
    pub place: Option<(NodeHandle, Vec<u8>)>,
    /// Rename only: where it was before.
    pub from: Option<(NodeHandle, Vec<u8>)>,
}

/// Kinds of [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A new inode of any type.
    Created,
    /// A further name of an inode.
    Linked,
    /// A name went.
    Unlinked,
    /// A name moved.
    Renamed,
    /// Opened for writing and now closed: data may have changed.
    Written,
    /// Size set, or holes punched or allocated.
    Resized,
    /// Mode, owner, times, extended attributes or ACL set.
    Attributes,
    /// Opened for reading (for access-time policies on `noatime` backings).
    Read,
}

/// What a mirror asks about data.
pub trait Residency: Send + Sync + 'static {
    /// Are the data of this regular file here? Asked at open under the node's lock.
    fn presence(&self, file: FileRef<'_>) -> Presence;
    /// Corrections to `stat`. Asked at lookup and getattr of regular files, with what `statx`
    /// said; must be quick.
    fn shown(&self, file: FileRef<'_>, stat: &rustix::fs::Statx) -> Shown;
    /// Is what `statx` said just what users see, whatever file has these attributes? Then
    /// [`Residency::shown`] is not asked, and the file not opened for it. No I/O.
    fn shows_as_is(&self, _stat: &rustix::fs::Statx) -> bool {
        false
    }
    /// Bytes `offset..offset+len` of a file that was released when it was opened (it may be
    /// resident by now: then they come from the disk).
    fn read(
        &self,
        file: FileRef<'_>,
        offset: u64,
        len: u32,
        caller: Caller,
        done: ReadDone,
    ) -> WaitToken;
    /// All data back on disk and the file resident: before an open for writing or exec, a
    /// truncate to another size than 0, fallocate, or being a copy's source or target. With
    /// `keep` only that many leading bytes will be needed (the rest is about to be cut off).
    fn fetch(
        &self,
        file: FileRef<'_>,
        keep: Option<u64>,
        caller: Caller,
        done: WaitDone,
    ) -> WaitToken;
    /// May files be opened for writing at once? Asked at each such open (never at a creation, which
    /// holds its directory's lock); must be quick. `false`: the open waits in
    /// [`Residency::await_room`] first, once.
    fn may_write(&self) -> bool {
        true
    }
    /// Calls `done` when an open for writing may go on; with an error it fails.
    fn await_room(&self, _caller: Caller, done: WaitDone) -> WaitToken {
        done(Ok(()));
        WaitToken(0)
    }
    /// The one who waited is gone or was interrupted: its `done` need not be called any more
    /// (calling it is harmless). The recall itself may go on.
    fn give_up(&self, token: WaitToken);
    /// `SEEK_DATA`/`SEEK_HOLE` on a released file, answered from its extent map where that is at
    /// hand, else as if all were data; `ENXIO` past the end.
    fn seek(&self, file: FileRef<'_>, offset: u64, data: bool) -> Result<u64, Errno>;
    /// A released file was just cut to 0 bytes by `ftruncate` on the backing: drop the stub. Whoever
    /// cut it is told of an error, and writes nothing into a file that still passes for a stub.
    ///
    /// # Errors
    /// The stub stands.
    fn truncated(&self, file: FileRef<'_>) -> Result<(), Errno>;
    /// May users see, set or remove this extended attribute through the mount? `true` hides it
    /// from lists, answers `ENODATA` to get and `EPERM` to set.
    fn is_private(&self, name: &OsStr) -> bool;
    /// Value of an attribute that is answered by name and never listed (`user.cairn.*`), of any
    /// node; `None` leaves the name to the backing.
    fn attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        caller: Caller,
    ) -> Option<Result<Vec<u8>, Errno>>;
    /// May [`Residency::attribute`] wait for a database to answer this name? Then it is not asked on
    /// a thread that serves others. No I/O.
    fn attribute_may_wait(&self, _name: &OsStr) -> bool {
        false
    }
    /// Setting such an attribute; `None` leaves the name to the backing.
    fn set_attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        value: &[u8],
        caller: Caller,
    ) -> Option<Result<(), Errno>>;
    /// A private attribute that is on a file may stand for another one, which is listed in its
    /// place unless it is there itself. Must be quick.
    fn listed_as(&self, _file: FileRef<'_>, _private: &OsStr) -> Option<&'static OsStr> {
        None
    }
    /// A user sets or removes an attribute of a regular file that is neither private nor one of
    /// those above; `None` leaves it to the backing. Must be quick.
    fn change_attribute(
        &self,
        _file: FileRef<'_>,
        _name: &OsStr,
        _change: AttributeChange<'_>,
    ) -> Option<Result<(), Errno>> {
        None
    }
    /// A user sets the times of a regular file; `None` leaves it to the backing. Must be quick.
    fn set_times(
        &self,
        _file: FileRef<'_>,
        _times: &rustix::fs::Timestamps,
    ) -> Option<Result<(), Errno>> {
        None
    }
    /// A user changed a regular file's status, and the backing has it already; told before the
    /// user's call is answered. Must be quick and must not fail.
    fn changed(&self, _file: FileRef<'_>, _what: Changed) {}
    /// The changelog. Must not block and must not fail; an implementation that cannot keep up
    /// records that it lost events.
    fn note(&self, event: Event);
}

/// The owner's side of a node's lock. Implemented by a running mirror, and by a stand-in where
/// there is no mount.
pub trait Gate: Send + Sync {
    /// Shuts users out of a node: succeeds only if no open is counted; until the hold is dropped,
    /// new opens and size changes through the mount wait (not on a session thread). `None`: in use.
    fn hold(&self, node: &NodeHandle) -> Option<Box<dyn Hold>>;
    /// The owner changed attributes or residency behind the kernel's back: kernel attributes are
    /// invalidated, asynchronously, from the one notification thread. Never drops cached pages.
    fn changed(&self, node: &NodeHandle);
    /// The owner made a name in a directory behind the kernel's back: what the kernel remembers of
    /// the name (that there is none) and of the directory is invalidated, asynchronously, from a
    /// thread that holds no lock and waits for nobody else's requests.
    fn named(&self, directory: &NodeHandle, name: &[u8]);
}

/// Users are shut out of a node while this lives.
pub trait Hold: Send {}

/// The residency of a plain mirror: all data are always here, and nothing is kept of events.
#[derive(Debug, Clone, Copy, Default)]
pub struct AlwaysResident;

impl Residency for AlwaysResident {
    fn presence(&self, _file: FileRef<'_>) -> Presence {
        Presence::Resident
    }
    fn shown(&self, _file: FileRef<'_>, _stat: &rustix::fs::Statx) -> Shown {
        Shown::default()
    }
    fn shows_as_is(&self, _stat: &rustix::fs::Statx) -> bool {
        true
    }
    fn read(&self, _: FileRef<'_>, _: u64, _: u32, _: Caller, done: ReadDone) -> WaitToken {
        done(Err(Errno(libc::EIO)));
        WaitToken(0)
    }
    fn fetch(&self, _: FileRef<'_>, _: Option<u64>, _: Caller, done: WaitDone) -> WaitToken {
        done(Ok(()));
        WaitToken(0)
    }
    fn give_up(&self, _token: WaitToken) {}
    fn seek(&self, _file: FileRef<'_>, _offset: u64, _data: bool) -> Result<u64, Errno> {
        Err(Errno(libc::EIO))
    }
    fn truncated(&self, _file: FileRef<'_>) -> Result<(), Errno> {
        Ok(())
    }
    fn is_private(&self, _name: &OsStr) -> bool {
        false
    }
    fn attribute(&self, _: FileRef<'_>, _: &OsStr, _: Caller) -> Option<Result<Vec<u8>, Errno>> {
        None
    }
    fn set_attribute(
        &self,
        _file: FileRef<'_>,
        _name: &OsStr,
        _value: &[u8],
        _caller: Caller,
    ) -> Option<Result<(), Errno>> {
        None
    }
    fn note(&self, _event: Event) {}
}

impl<T: Residency + ?Sized> Residency for Arc<T> {
    fn presence(&self, file: FileRef<'_>) -> Presence {
        (**self).presence(file)
    }
    fn shown(&self, file: FileRef<'_>, stat: &rustix::fs::Statx) -> Shown {
        (**self).shown(file, stat)
    }
    fn shows_as_is(&self, stat: &rustix::fs::Statx) -> bool {
        (**self).shows_as_is(stat)
    }
    fn read(
        &self,
        file: FileRef<'_>,
        offset: u64,
        len: u32,
        caller: Caller,
        done: ReadDone,
    ) -> WaitToken {
        (**self).read(file, offset, len, caller, done)
    }
    fn fetch(
        &self,
        file: FileRef<'_>,
        keep: Option<u64>,
        caller: Caller,
        done: WaitDone,
    ) -> WaitToken {
        (**self).fetch(file, keep, caller, done)
    }
    fn may_write(&self) -> bool {
        (**self).may_write()
    }
    fn await_room(&self, caller: Caller, done: WaitDone) -> WaitToken {
        (**self).await_room(caller, done)
    }
    fn give_up(&self, token: WaitToken) {
        (**self).give_up(token);
    }
    fn seek(&self, file: FileRef<'_>, offset: u64, data: bool) -> Result<u64, Errno> {
        (**self).seek(file, offset, data)
    }
    fn truncated(&self, file: FileRef<'_>) -> Result<(), Errno> {
        (**self).truncated(file)
    }
    fn is_private(&self, name: &OsStr) -> bool {
        (**self).is_private(name)
    }
    fn attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        caller: Caller,
    ) -> Option<Result<Vec<u8>, Errno>> {
        (**self).attribute(file, name, caller)
    }
    fn attribute_may_wait(&self, name: &OsStr) -> bool {
        (**self).attribute_may_wait(name)
    }
    fn set_attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        value: &[u8],
        caller: Caller,
    ) -> Option<Result<(), Errno>> {
        (**self).set_attribute(file, name, value, caller)
    }
    fn listed_as(&self, file: FileRef<'_>, private: &OsStr) -> Option<&'static OsStr> {
        (**self).listed_as(file, private)
    }
    fn change_attribute(
        &self,
        file: FileRef<'_>,
        name: &OsStr,
        change: AttributeChange<'_>,
    ) -> Option<Result<(), Errno>> {
        (**self).change_attribute(file, name, change)
    }
    fn set_times(
        &self,
        file: FileRef<'_>,
        times: &rustix::fs::Timestamps,
    ) -> Option<Result<(), Errno>> {
        (**self).set_times(file, times)
    }
    fn changed(&self, file: FileRef<'_>, what: Changed) {
        (**self).changed(file, what);
    }
    fn note(&self, event: Event) {
        (**self).note(event);
    }
}
