//! P4 (1) to (3): the stub's own checks, the mark *recalling*, room for the data.

use super::error::Stowed;
use super::finish::{self, GiveBack};
use super::meanwhile::{own_record, put_back, set_id};
use super::nearness;
use super::one::{Opened, Phase, Recall, Writer};
use super::park::park;
use super::progress::{Limits, Progress};
use super::source::Sources;
use super::table::{End, Post, Shared, urgency};
use super::thaw::{self, Begun};
use super::{RecallError, Step, Vouched, adoption, quota};
use crate::format::aggregate::{BLOCK, IndexEntry};
use crate::format::member::Kind;
use crate::format::record::{CopyHint, Record, State as Data};
use crate::hsm::backing::{BackingError, How, SetHow, belongs_to, shown_ctime};
use crate::hsm::version::Stamp;
use crate::id::AggregateId;
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
    /// It has no stub, and may have lost one.
    Unvouched,
}

/// Opens the file and looks at it. Runs on the disk lane.
pub(super) fn open(shared: &Arc<Shared>, recall: &Arc<Recall>) {
    look_and_go_on(shared, recall, false);
}

/// `vouched`: if it has no stub, it has lost none.
fn look_and_go_on(shared: &Arc<Shared>, recall: &Arc<Recall>, vouched: bool) {
    if recall.is_stopped() {
        return;
    }
    match look(shared, recall, vouched) {
        Ok(Some(Found::Unvouched)) => {
            let urgency = urgency(&recall.state.lock());
            let (shared, recall) = (Arc::clone(shared), Arc::clone(recall));
            let lane = Arc::clone(&shared.vouching);
            lane.push(urgency, Box::new(move || vouch(&shared, &recall)));
        }
        Ok(Some(Found::Resident(reader))) => {
            recall.state.lock().reader = Some(Arc::new(reader));
            shared.end(recall, End::Resident(None));
        }
        Ok(Some(Found::Foreign(opened))) => adoption::begin(shared, recall, opened),
        Ok(Some(Found::Stub(opened))) => prepare_next(shared, recall, opened),
        Ok(None) => soon(shared, recall),
        Err(why) => shared.end(recall, End::Failed(why)),
    }
}

/// Tries again from the start.
fn soon(shared: &Arc<Shared>, recall: &Arc<Recall>) {
    let (again, same) = (Arc::clone(shared), Arc::clone(recall));
    let when = Instant::now() + RETRY;
    shared.later(when, Box::new(move || open(&again, &same)));
}

/// Its copies must be restored first. Of it nothing was begun.
pub(super) fn wait_for_restore(shared: &Arc<Shared>, recall: &Arc<Recall>, stowed: Stowed) {
    match thaw::begin(shared, &recall.node, &stowed) {
        Begun::Comes(key) => {
            if !thaw::park(shared, recall, key) {
                // It was there in this moment.
                shared.end(recall, End::Again);
            }
        }
        Begun::At(until) => thaw::park_until(shared, recall, until),
        Begun::InVain => {
            let why = RecallError::NotRestored(stowed);
            shared.end(recall, End::Failed(why));
        }
    }
}

/// Has those above say whether the file is lost, then looks at it again. Runs on a lane of its own,
/// because they may wait for a database.
fn vouch(shared: &Arc<Shared>, recall: &Arc<Recall>) {
    if recall.is_stopped() {
        return;
    }
    let hint = recall.hint.as_deref();
    let asked = match shared.backing.open_node(&recall.node, hint, How::Path) {
        Err(BackingError::Busy { .. }) => Ok(Vouched::Busy),
        opened => opened
            .map_err(|why| RecallError::backing("open", why))
            .and_then(|fd| shared.asks.vouch(&recall.node, fd.as_fd())),
    };
    match asked {
        Ok(Vouched::Whole) => {}
        Ok(Vouched::Busy) => return soon(shared, recall),
        Err(why) => return shared.end(recall, End::Failed(why)),
    }
    let urgency = urgency(&recall.state.lock());
    let (again, same) = (Arc::clone(shared), Arc::clone(recall));
    let job = Box::new(move || look_and_go_on(&again, &same, true));
    shared.disk.push(urgency, job);
}

/// `None`: somebody holds a lease on it (a release in progress), or it changes just now; try again.
fn look(shared: &Shared, recall: &Recall, vouched: bool) -> Result<Option<Found>, RecallError> {
    let backing = &shared.backing;
    let object = format!("{:?}", recall.node);
    let fail = |step| move |why| RecallError::backing(step, why);
    let reader = match backing.open_node(&recall.node, recall.hint.as_deref(), How::Read) {
        Err(BackingError::Busy { .. }) => return Ok(None),
        opened => opened.map_err(fail("open"))?,
    };
    // In one turn: a user may be setting the file's times.
    let turn = backing.turn(&recall.node);
    let before = backing.stat(reader.as_fd()).map_err(fail("stat"))?;
    let record = backing
        .record(reader.as_fd())
        .map_err(fail("read the record"))?;
    drop(turn);
    // For the log alone.
    let object = backing
        .path_of(reader.as_fd())
        .map_or(object, |p| String::from_utf8_lossy(&p).into_owned());
    let (stub, rest) = match record {
        Some(record) if record.state != Data::Resident => (Some(record), None),
        rest => (None, rest),
    };
    let Some(record) = stub else {
        let own = rest.filter(|r| belongs_to(r, backing.fs(), &recall.node));
        let asks = &shared.asks;
        let doubtful = !vouched && asks.is_doubtful(&recall.node, own.as_ref(), &before);
        return Ok(Some(if doubtful {
            Found::Unvouched
        } else {
            Found::Resident(reader)
        }));
    };
    if before.size == 0 && record.size > 0 {
        let done = finish_truncation(shared, recall, reader.as_fd(), &record)
            .map_err(fail("finish the truncation"))?;
        return Ok(done.then_some(Found::Resident(reader)));
    }
    if !belongs_to(&record, shared.backing.fs(), &recall.node) {
        return Ok(Some(Found::Foreign(Arc::new(Opened {
            object,
            reader: Arc::new(reader),
            copies: nearest(shared, recall, &record),
            record,
            before,
        }))));
    }
    let found = backing.contradiction(reader.as_fd(), &before, &record);
    if let Some(why) = found.map_err(fail("look for data"))? {
        shared.asks.conflict(&recall.node, why);
        return Err(RecallError::Conflict { why });
    }
    Ok(Some(Found::Stub(Arc::new(Opened {
        object,
        reader: Arc::new(reader),
        copies: nearest(shared, recall, &record),
        record,
        before,
    }))))
}

/// The copies that a stub names, the nearest first.
fn nearest(shared: &Shared, recall: &Recall, record: &Record) -> Vec<CopyHint> {
    let turn = recall.state.lock().turn_of;
    in_order(shared, &record.copies, turn, record.size)
}

/// Copies of a file of so many bytes, the nearest first.
pub(super) fn in_order(
    shared: &Shared,
    copies: &[CopyHint],
    turn: Option<AggregateId>,
    bytes: u64,
) -> Vec<CopyHint> {
    let waits = |copy: &CopyHint| shared.asks.wait(copy);
    // Not asked under a lock: tiers have their own.
    let paces = shared.paces.lock().clone();
    nearness::order(copies, turn, bytes, &paces, Instant::now(), waits)
}

/// P5: the file was cut to nothing, and the stub outlived it. `false`: not any more.
fn finish_truncation(
    shared: &Shared,
    recall: &Recall,
    fd: BorrowedFd<'_>,
    seen: &Record,
) -> Result<bool, BackingError> {
    let done = shared.backing.drop_truncated(&recall.node, fd, seen)?;
    rustix::fs::fsync(fd)
        .map_err(|why| BackingError::of("sync", || "a truncated file".into(), why))?;
    Ok(done)
}

/// Goes on, on the lane of the tier that the stub names first; what lies on tape waits for its turn.
fn prepare_next(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: Arc<Opened>) {
    let tier = super::source::first_tier(&opened, &*shared.asks);
    let Some(tier) = tier else {
        let why = RecallError::NoGoodCopy { tried: 0 };
        return shared.end(recall, End::Failed(why));
    };
    let (urgency, wanted, seated) = {
        let state = recall.state.lock();
        let wanted = state.implicit || !state.waiters.is_empty();
        (urgency(&state), wanted, state.seat.is_some())
    };
    if !wanted {
        return shared.end(recall, End::Again);
    }
    if park(shared, recall, &opened) {
        return;
    }
    let post = if seated { Post::Seated } else { Post::Unseated };
    let lane = shared.tier_lane(tier, post);
    let (shared, recall) = (Arc::clone(shared), Arc::clone(recall));
    lane.push(urgency, Box::new(move || prepare(&shared, &recall, opened)));
}

/// Finds the copies, marks the stub, makes room. Runs on a tier's lane.
fn prepare(shared: &Arc<Shared>, recall: &Arc<Recall>, opened: Arc<Opened>) {
    let (asks, indexes) = (&*shared.asks, &*shared.indexes);
    let found = Sources::find(&opened, asks, indexes, &shared.paces);
    let sources = match found {
        Ok(sources) => Arc::new(sources),
        Err(RecallError::NotRestored(stowed)) => {
            return wait_for_restore(shared, recall, stowed);
        }
        Err(why) => return shared.end(recall, End::Failed(why)),
    };
    if let Some(until) = thaw::waits_until(shared, &recall.node) {
        return thaw::park_until(shared, recall, until);
    }
    if let Some(key) = thaw::of(shared, &recall.node, &sources)
        && thaw::park(shared, recall, key)
    {
        return;
    }
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
    // Each part on tape has a turn of its own.
    let in_turns =
        !sources.entry().parts().is_empty() && shared.asks.desk(sources.primary_tier()).is_some();
    let answers = {
        let mut state = recall.state.lock();
        if state.phase != Phase::Beginning {
            return;
        }
        let mut limits = limits;
        if state.seat.is_some() || in_turns {
            // One behind the other: two at once would change places on their way to the drive.
            limits.in_flight = 1;
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
    let backing = &shared.backing;
    let bytes = entry.stored_len();
    // Root's writes are charged to the owner but not refused (CAP_SYS_RESOURCE): so ask first.
    let more = quota::still_to_charge(&opened.record, &opened.before, bytes);
    if !quota::has_room(opened.reader.as_fd(), &opened.before, more) {
        return Err(RecallError::Quota { bytes });
    }
    let fd = backing
        .reopen(opened.reader.as_fd(), How::ReadWrite)
        .map_err(|why| RecallError::backing("open for writing", why))?;
    let mut io = recall.io.lock();
    if recall.is_stopped() {
        return Err(RecallError::Truncated);
    }
    let kept = mark(shared, recall, opened, fd.as_fd())?;
    let fd = io.insert(Writer { fd }).fd.as_fd();
    shared.reached(Step::Marked)?;
    let full = |why| match why {
        rustix::io::Errno::NOSPC => RecallError::NoSpace { bytes },
        rustix::io::Errno::DQUOT => RecallError::Quota { bytes },
        why => RecallError::io("make room", why),
    };
    rustix::fs::fsync(fd).map_err(|why| RecallError::io("sync the mark", why))?;
    shared.reached(Step::MarkSynced)?;
    kept.map_err(|why| match why {
        full if full.is_full() => RecallError::NoSpace { bytes },
        why => RecallError::backing("keep the capability", why),
    })?;
    let taken = set_id(backing, recall, fd)?;
    let allocated = allocate(fd, entry);
    // Allocating sets mtime on some filesystems; so did the writes of an interrupted recall.
    put_back(backing, recall, opened, fd, taken)?;
    drop(io);
    shared.reached(Step::Allocated)?;
    allocated.map_err(full)
}

/// P4 (2), but for the sync. How the capability was kept is said apart: without it nothing may be
/// written, but the mark stands.
fn mark(
    shared: &Shared,
    recall: &Recall,
    opened: &Opened,
    fd: BorrowedFd<'_>,
) -> Result<Result<(), BackingError>, RecallError> {
    let backing = &shared.backing;
    let _turn = backing.turn(&recall.node);
    let record = own_record(backing, opened, fd)?;
    let user_ctime = match record.state {
        // Its ctime is that of the interrupted recall's writes.
        Data::Recalling => record.user_ctime,
        Data::Released | Data::Resident => {
            let stat = backing.stat(fd);
            let stat = stat.map_err(|why| RecallError::backing("stat", why))?;
            shown_ctime(Some(&record), stat.ctime)
        }
    };
    let marked = Record {
        state: Data::Recalling,
        user_ctime,
        ..record
    };
    let hint = recall.hint.as_deref();
    backing.will_touch(&recall.node);
    Stamp::set(backing, fd, hint, &marked, SetHow::Replace)
        .map_err(|why| RecallError::backing("mark as recalling", why))?;
    Ok(backing.keep_capability(fd).map(drop))
}

/// Room for the data runs alone: holes stay holes.
fn allocate(fd: BorrowedFd<'_>, entry: &IndexEntry) -> Result<(), rustix::io::Errno> {
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
