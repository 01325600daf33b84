//! P4 (1) to (3): the stub's own checks, the mark *recalling*, room for the data.

use super::fetch::set_times;
use super::finish::{self, GiveBack};
use super::one::{Opened, Phase, Recall, Writer};
use super::progress::{Limits, Progress};
use super::source::Sources;
use super::table::{End, Shared, urgency};
use super::{RecallError, Step, adoption, quota};
use crate::format::aggregate::{BLOCK, IndexEntry};
use crate::format::member::Kind;
use crate::format::record::{Record, State as Data};
use crate::hsm::backing::{BackingError, FileStat, How, SetHow, belongs_to, shown_ctime};
use crate::hsm::version::Stamp;
use crate::hsm::vouch::is_bare;
use rustix::fs::FallocateFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon an open that would have had to wait for somebody's lease is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// What the file turned out to be.
pub(super) enum Found {
    /// All data are here; for reading.
    Resident(OwnedFd),
    /// A stub that passed its checks.
    Stub(Arc<Opened>),
    /// Another inode's stub.
    Foreign(Arc<Opened>),
}

/// Opens the file and looks at it. Runs on the disk lane.
pub(super) fn open(shared: &Arc<Shared>, recall: &Arc<Recall>) {
    if recall.is_stopped() {
        return;
    }
    match look(shared, recall) {
        Ok(Some(Found::Resident(reader))) => {
            recall.state.lock().reader = Some(Arc::new(reader));
            shared.end(recall, End::Resident(None));
        }
        Ok(Some(Found::Foreign(opened))) => adoption::begin(shared, recall, opened),
        Ok(Some(Found::Stub(opened))) => prepare_next(shared, recall, opened),
        Ok(None) => {
            let (again, same) = (Arc::clone(shared), Arc::clone(recall));
            shared.later(
                Instant::now() + RETRY,
                Box::new(move || open(&again, &same)),
            );
        }
        Err(why) => shared.end(recall, End::Failed(why)),
    }
}

/// `None`: somebody holds a lease on it (a release in progress); try again.
fn look(shared: &Shared, recall: &Recall) -> Result<Option<Found>, RecallError> {
    let backing = &shared.backing;
    let object = format!("{:?}", recall.node);
    let fail = |step| {
        let object = object.clone();
        move |why| RecallError::backing(step, &object, why)
    };
    let reader = match backing.open_node(&recall.node, recall.hint.as_deref(), How::Read) {
        Err(BackingError::Busy { .. }) => return Ok(None),
        opened => opened.map_err(fail("open"))?,
    };
    let before = backing.stat(reader.as_fd()).map_err(fail("stat"))?;
    let record = backing
        .record(reader.as_fd())
        .map_err(fail("read the record"))?;
    let object = backing
        .path_of(reader.as_fd())
        .map_or(object.clone(), |p| String::from_utf8_lossy(&p).into_owned());
    let bare = is_bare(before.size, before.blocks, before.block_size);
    if record.is_none() && before.size > 0 && shared.asks.may_be_lost(&recall.node, bare) {
        let vouched = shared.asks.vouch(&recall.node, reader.as_fd(), &object);
        vouched?;
    }
    let Some(record) = record.filter(|r| r.state != Data::Resident) else {
        return Ok(Some(Found::Resident(reader)));
    };
    if before.size == 0 && record.size > 0 {
        finish_truncation(shared, reader.as_fd()).map_err(fail("finish the truncation"))?;
        return Ok(Some(Found::Resident(reader)));
    }
    if !belongs_to(&record, shared.backing.fs(), &recall.node) {
        return Ok(Some(Found::Foreign(Arc::new(Opened {
            object,
            reader: Arc::new(reader),
            record,
            before,
        }))));
    }
    check(shared, &object, reader.as_fd(), &before, &record)?;
    let user_ctime = match record.state {
        // Its ctime is that of the interrupted recall's writes.
        Data::Recalling => record.user_ctime,
        Data::Released | Data::Resident => shown_ctime(Some(&record), before.ctime),
    };
    let record = Record {
        user_ctime,
        ..record
    };
    Ok(Some(Found::Stub(Arc::new(Opened {
        object,
        reader: Arc::new(reader),
        record,
        before,
    }))))
}

/// P5: the file was cut to nothing, and the stub outlived it.
pub(super) fn finish_truncation(shared: &Shared, fd: BorrowedFd<'_>) -> Result<(), BackingError> {
    shared.backing.remove_record(fd)?;
    rustix::fs::fsync(fd).map_err(|why| BackingError::of("sync", || "a truncated file".into(), why))
}

/// P4 (1). A stub that an earlier recall left marked may hold data; its mtime is not looked at,
/// because that recall's writes may have changed it.
fn check(
    shared: &Shared,
    object: &str,
    fd: BorrowedFd<'_>,
    stat: &FileStat,
    record: &Record,
) -> Result<(), RecallError> {
    let conflict = |why| {
        let object = object.to_owned();
        Err(RecallError::Conflict { object, why })
    };
    if stat.size != record.size {
        return conflict("its size differs");
    }
    if record.state == Data::Released {
        let holds = shared.backing.has_data(fd);
        if holds.map_err(|why| RecallError::backing("look for data", object, why))? {
            return conflict("it holds data");
        }
        if stat.mtime != record.mtime {
            return conflict("its modification time differs");
        }
    }
    Ok(())
}

/// Goes on, on the lane of the tier that the stub names first.
fn prepare_next(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: Arc<Opened>) {
    let tier = super::source::first_tier(&opened.record, &*shared.asks);
    let Some(tier) = tier else {
        let object = opened.object.clone();
        let why = RecallError::NoGoodCopy { object, tried: 0 };
        return shared.end(recall, End::Failed(why));
    };
    let (urgency, wanted) = {
        let state = recall.state.lock();
        (urgency(&state), state.implicit || !state.waiters.is_empty())
    };
    if !wanted {
        return shared.end(recall, End::Again);
    }
    let lane = shared.tier_lane(tier);
    let (shared, recall) = (Arc::clone(shared), Arc::clone(recall));
    lane.push(urgency, Box::new(move || prepare(&shared, &recall, opened)));
}

/// Finds the copies, marks the stub, makes room. Runs on a tier's lane.
fn prepare(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: Arc<Opened>) {
    let found = Sources::find(
        &opened.record,
        &opened.object,
        &*shared.asks,
        &shared.indexes,
    );
    let sources = match found {
        Ok(sources) => Arc::new(sources),
        Err(why) => return shared.end(recall, End::Failed(why)),
    };
    let no_room = match mark_and_allocate(shared, recall, &opened, sources.entry()) {
        Ok(()) => None,
        Err(why @ (RecallError::NoSpace { .. } | RecallError::Quota { .. })) => Some(why),
        Err(RecallError::Truncated) => return shared.end(recall, End::Again),
        // Halted by a test: the file is left as a crash would leave it.
        Err(why @ RecallError::Cancelled) => return shared.end(recall, End::Failed(why)),
        Err(why) => {
            recall.state.lock().opened = Some(opened);
            return finish::give_back(shared, recall, GiveBack::AndEnd(End::Failed(why)));
        }
    };
    if no_room.is_some() {
        recall.state.lock().opened = Some(Arc::clone(&opened));
        finish::give_back(shared, recall, GiveBack::AndStream);
    }
    start(shared, recall, opened, sources, no_room);
}

/// The machine takes over, and hears of everybody who came so far.
fn start(
    shared: &Arc<Shared>,
    recall: &Arc<Recall>,
    opened: Arc<Opened>,
    sources: Arc<Sources>,
    no_room: Option<RecallError>,
) {
    let settings = &shared.settings;
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).max(1);
    let limits = Limits {
        ahead: number(settings.ahead / BLOCK),
        window: number(settings.stream_memory / BLOCK).max(2),
        in_flight: settings.in_flight.max(1),
    };
    let answers = {
        let mut state = recall.state.lock();
        if state.phase != Phase::Beginning {
            return;
        }
        let blocks = u32::try_from(sources.entry().block_count()).unwrap_or(u32::MAX);
        let mut progress = Progress::new(blocks, limits, state.implicit);
        if no_room.is_some() {
            progress.stream();
        }
        state.reader = Some(Arc::clone(&opened.reader));
        state.opened = Some(opened);
        state.sources = Some(sources);
        state.progress = Some(progress);
        state.no_room = no_room;
        state.phase = Phase::Running;
        let mut tokens: Vec<_> = state.waiters.keys().copied().collect();
        // First come, first served: tokens grow.
        tokens.sort_unstable();
        let mut answers = Vec::new();
        for token in tokens {
            answers.extend(state.register(token));
        }
        answers
    };
    shared.go_on(recall);
    shared.deliver(recall, answers);
}

/// P4 (2) and (3), under the file's `io` lock: a truncation waits for it or prevents it.
fn mark_and_allocate(
    shared: &Shared,
    recall: &Recall,
    opened: &Opened,
    entry: &IndexEntry,
) -> Result<(), RecallError> {
    let (backing, object) = (&shared.backing, &opened.object);
    let bytes = entry.stored_len();
    // Root's writes are charged to the owner but not refused (CAP_SYS_RESOURCE): so ask first.
    if !quota::has_room(opened.reader.as_fd(), &opened.before, bytes) {
        let object = object.clone();
        return Err(RecallError::Quota { object, bytes });
    }
    let fd = backing
        .reopen(opened.reader.as_fd(), How::ReadWrite)
        .map_err(|why| RecallError::backing("open for writing", object, why))?;
    let mut io = recall.io.lock();
    if recall.is_stopped() {
        return Err(RecallError::Truncated);
    }
    let mtime = match opened.record.state {
        // A user may have set it since the checks.
        Data::Released => {
            let stat = backing.stat(fd.as_fd());
            stat.map_err(|why| RecallError::backing("stat", object, why))?
                .mtime
        }
        Data::Recalling | Data::Resident => opened.record.mtime,
    };
    let marked = Record {
        state: Data::Recalling,
        mtime,
        ..opened.record.clone()
    };
    Stamp::set(
        backing,
        fd.as_fd(),
        recall.hint.as_deref(),
        &marked,
        SetHow::Replace,
    )
    .map_err(|why| RecallError::backing("mark as recalling", object, why))?;
    shared.reached(Step::Marked)?;
    rustix::fs::fsync(&fd).map_err(|why| RecallError::io("sync the mark of", object, why))?;
    shared.reached(Step::MarkSynced)?;
    let privileges = backing
        .privileges(fd.as_fd())
        .map_err(|why| RecallError::backing("look at", object, why))?;
    let allocated = allocate(&fd, entry);
    let writer = Writer {
        fd,
        privileges,
        mtime,
        atime: opened.before.atime,
    };
    // Allocating sets mtime on some filesystems; so did the writes of an interrupted recall.
    set_times(&writer, false).map_err(|why| RecallError::io("set the times of", object, why))?;
    *io = Some(writer);
    drop(io);
    shared.reached(Step::Allocated)?;
    let object = object.clone();
    match allocated {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::NOSPC) => Err(RecallError::NoSpace { object, bytes }),
        Err(rustix::io::Errno::DQUOT) => Err(RecallError::Quota { object, bytes }),
        Err(why) => Err(RecallError::io("allocate room for", &object, why)),
    }
}

/// Room for the data runs alone: holes stay holes.
fn allocate(fd: &OwnedFd, entry: &IndexEntry) -> Result<(), rustix::io::Errno> {
    let Kind::Regular { extents, .. } = &entry.member.kind else {
        return Ok(());
    };
    for run in extents {
        match rustix::fs::fallocate(fd, FallocateFlags::KEEP_SIZE, run.offset, run.len) {
            Ok(()) => {}
            // The filesystem cannot: want of room will show at the writes.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => return Ok(()),
            Err(why) => return Err(why),
        }
    }
    Ok(())
}
