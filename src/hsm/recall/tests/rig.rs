//! A backing directory, tiers in memory that tell what was read, and files released into them.

use crate::error::Failure;
use crate::format::aggregate::{AggregateWriter, BLOCK, Index, PartsWriter};
use crate::format::member::{DataIdentity, Extent, Kind, Member, MemberPath};
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{Backing, FileStat, How, SealKey, SetHow};
use crate::hsm::index_cache::IndexCache;
use crate::hsm::parts;
use crate::hsm::recall::{Asks, Done, RecallError, Recaller, Settings, User, Vouched};
use crate::hsm::tape::desk::Desk;
use crate::hsm::version::{Settle, Stamp};
use crate::id::{
    AggregateId, DataVersion, FileId, FsUuid, InstanceId, NodeHandle, TierId, Timestamp,
};
use crate::tier::{Mark, Promise, Put, Receipt, Restoring, Space, Tier, TierError, faults, mem};
use bytes::Bytes;
use cairn_mover::Crc32c;
use crossbeam_channel::{Receiver, bounded};
use parking_lot::{Condvar, Mutex};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a test waits for what must come: a bound, not a measure.
pub(in crate::hsm) const PATIENCE: Duration = Duration::from_secs(30);

/// A tier that counts what is read, and holds reads back while its gate is shut.
pub(in crate::hsm) struct Watched {
    inner: faults::Faults,
    /// Offsets and lengths of reads, without those of the index.
    pub(in crate::hsm) reads: Mutex<Vec<(u64, u64)>>,
    index_from: AtomicU64,
    /// A read from here on finds the tier away, and so do all that follow.
    pub(in crate::hsm) away_from: AtomicU64,
    /// What it says to pass before the first byte.
    pub(in crate::hsm) far: Mutex<Duration>,
    shut: Mutex<bool>,
    opened: Condvar,
}

impl Watched {
    pub(in crate::hsm) fn control(&self) -> faults::Control {
        self.inner.control()
    }
    pub(in crate::hsm) fn gate(&self, shut: bool) {
        *self.shut.lock() = shut;
        self.opened.notify_all();
    }
    pub(in crate::hsm) fn bytes_read(&self) -> u64 {
        self.reads.lock().iter().map(|(_, len)| len).sum()
    }
}

impl Tier for Watched {
    fn mark(&self) -> Mark {
        self.inner.mark()
    }
    fn confirm(&self) -> Result<(), TierError> {
        self.inner.confirm()
    }
    fn longest(&self) -> Result<Option<u64>, TierError> {
        self.inner.longest()
    }
    fn lengths(&self, file: u64) -> Result<Vec<u64>, TierError> {
        self.inner.lengths(file)
    }
    fn promise(&self, objects: &[(AggregateId, u64)]) -> Result<Promise, TierError> {
        self.inner.promise(objects)
    }
    fn put(&self, name: AggregateId, hint: u64) -> Result<Box<dyn Put>, TierError> {
        self.inner.put(name, hint)
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let total = self.inner.stat(name)?;
        if offset >= self.away_from.load(Ordering::Relaxed) {
            self.control().set_unavailable(true);
        }
        if offset + len < total {
            self.reads.lock().push((offset, len));
            let mut shut = self.shut.lock();
            while *shut {
                self.opened.wait(&mut shut);
            }
        }
        self.inner.read(name, offset, len)
    }
    fn wait(&self, name: AggregateId) -> Duration {
        self.inner.wait(name).max(*self.far.lock())
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.inner.stat(name)
    }
    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        self.inner.restore(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.inner.delete(name)
    }
    fn list(&self, after: Option<AggregateId>, n: usize) -> Result<Vec<AggregateId>, TierError> {
        self.inner.list(after, n)
    }
    fn space(&self) -> Result<Space, TierError> {
        self.inner.space()
    }
    fn describe(&self) -> crate::tier::Description {
        self.inner.describe()
    }
    fn tapes(&self) -> Option<Arc<dyn crate::tier::tapes::Tapes>> {
        self.inner.tapes()
    }
}

/// Those above recall.
#[derive(Default)]
pub(in crate::hsm) struct Above {
    pub(in crate::hsm) tiers: Mutex<HashMap<TierId, Arc<Watched>>>,
    pub(in crate::hsm) desks: Mutex<HashMap<TierId, Arc<Desk>>>,
    pub(in crate::hsm) moved: Mutex<Vec<CopyHint>>,
    pub(in crate::hsm) done: Mutex<Vec<Done>>,
    /// Recalls that ended without the data.
    pub(in crate::hsm) touched: Mutex<Vec<NodeHandle>>,
    pub(in crate::hsm) failed: Mutex<Vec<(CopyHint, String)>>,
    pub(in crate::hsm) settles: Mutex<Vec<Settle>>,
    /// With this, a settle that comes while anybody has a turn there fails the test.
    pub(in crate::hsm) no_turns: Mutex<Option<Arc<Backing>>>,
    pub(in crate::hsm) stages: Mutex<Vec<NodeHandle>>,
    /// Nodes without a record that are to be asked about, and whether they are lost.
    pub(in crate::hsm) adopted: Mutex<Vec<crate::hsm::recall::Adopted>>,
    pub(in crate::hsm) foreign: Mutex<Vec<(NodeHandle, String)>>,
    pub(in crate::hsm) conflicts: Mutex<Vec<(NodeHandle, String)>>,
    pub(in crate::hsm) doubted: Mutex<HashMap<NodeHandle, bool>>,
    /// So often somebody holds a lease on a doubted file.
    pub(in crate::hsm) leased: AtomicU64,
    /// While this is held, nobody is told whether a doubted file is lost.
    pub(in crate::hsm) silence: Mutex<()>,
    /// How many asked.
    pub(in crate::hsm) asked: AtomicU64,
}

impl Asks for Above {
    fn tier(&self, id: TierId) -> Option<Arc<dyn Tier>> {
        let tier = self.tiers.lock().get(&id).cloned()?;
        Some(tier)
    }
    fn desk(&self, id: TierId) -> Option<Arc<Desk>> {
        self.desks.lock().get(&id).cloned()
    }
    fn copies_of(&self, _: FileId, _: DataVersion) -> Vec<CopyHint> {
        self.moved.lock().clone()
    }
    fn recalled(&self, done: &Done) {
        self.done.lock().push(done.clone());
    }
    fn touched(&self, node: &NodeHandle) {
        self.touched.lock().push(node.clone());
    }
    fn copy_failed(&self, _: FileId, _: DataVersion, copy: &CopyHint, why: &str) {
        self.failed.lock().push((*copy, why.to_owned()));
    }
    fn settle(&self, check: Settle) {
        let backing = self.no_turns.lock().clone();
        assert!(backing.is_none_or(|b| !b.has_turns()), "a turn is held");
        self.settles.lock().push(check);
    }
    fn stage_requested(
        &self,
        node: &NodeHandle,
        _: Option<Vec<u8>>,
        _: User,
    ) -> Result<(), Failure> {
        self.stages.lock().push(node.clone());
        Ok(())
    }
    fn may_be_lost(&self, node: &NodeHandle, _: bool) -> bool {
        self.doubted.lock().contains_key(node)
    }
    fn vouch(
        &self,
        node: &NodeHandle,
        _: std::os::fd::BorrowedFd<'_>,
    ) -> Result<Vouched, RecallError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        drop(self.silence.lock());
        let mut doubted = self.doubted.lock();
        if doubted.get(node) == Some(&true) {
            return Err(RecallError::Lost);
        }
        if self
            .leased
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_ok()
        {
            return Ok(Vouched::Busy);
        }
        doubted.remove(node);
        Ok(Vouched::Whole)
    }
    fn adopted(&self, adopted: &crate::hsm::recall::Adopted) {
        self.adopted.lock().push(adopted.clone());
    }
    fn foreign(&self, node: &NodeHandle, why: &str) {
        self.foreign.lock().push((node.clone(), why.to_owned()));
    }
    fn conflict(&self, node: &NodeHandle, why: &str) {
        self.conflicts.lock().push((node.clone(), why.to_owned()));
    }
    fn looks_lost(&self, node: &NodeHandle, _: Option<&Record>, _: &FileStat) -> bool {
        self.doubted.lock().get(node) == Some(&true)
    }
    fn eta(&self, _: FileId) -> Option<Duration> {
        Some(Duration::from_secs(42))
    }
    fn pins(&self, _: FileId) -> Vec<(String, Timestamp)> {
        vec![("job 7".into(), Timestamp { sec: 99, nsec: 0 })]
    }
}

/// A released file and what it held.
pub(in crate::hsm) struct Stub {
    pub(in crate::hsm) path: PathBuf,
    pub(in crate::hsm) node: NodeHandle,
    pub(in crate::hsm) record: Record,
    pub(in crate::hsm) content: Vec<u8>,
    pub(in crate::hsm) entry_data: u64,
}

pub(in crate::hsm) struct Rig {
    pub(in crate::hsm) above: Arc<Above>,
    pub(in crate::hsm) backing: Arc<Backing>,
    pub(in crate::hsm) recaller: Arc<Recaller>,
    settings: Settings,
    seq: AtomicU64,
    root: PathBuf,
    _dir: Option<tempfile::TempDir>,
}

/// A time long before any test.
pub(in crate::hsm) const OLD: Timestamp = Timestamp {
    sec: 1_500_000_000,
    nsec: 123_456_789,
};

/// Bytes that no two offsets share for long.
pub(in crate::hsm) fn noise(len: u64, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = (0..len.div_ceil(8)).flat_map(|_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    words.take(len as usize).collect()
}

/// All of a file without holes.
pub(in crate::hsm) fn dense(len: u64) -> Vec<Extent> {
    vec![Extent { offset: 0, len }]
}

impl Rig {
    pub(in crate::hsm) fn new() -> Self {
        Self::with(Settings::default())
    }

    pub(in crate::hsm) fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let root = dir.path().to_owned();
        Self::at(&root, settings, Some(dir))
    }

    pub(in crate::hsm) fn at(
        root: &Path,
        settings: Settings,
        dir: Option<tempfile::TempDir>,
    ) -> Self {
        let backing = Backing::open(root, FsUuid::random(), Some(SealKey([7; 32])));
        let backing = Arc::new(backing.expect("a backing"));
        let above = Arc::new(Above::default());
        let recaller = start(&backing, &above, &settings);
        let rig = Self {
            above,
            backing,
            recaller,
            settings,
            seq: AtomicU64::new(1),
            root: root.to_owned(),
            _dir: dir,
        };
        rig.add_tier(TierId(1));
        rig
    }

    /// Another process' recaller on the same files, after this one's died.
    pub(in crate::hsm) fn restart(&mut self) {
        self.recaller = start(&self.backing, &self.above, &self.settings);
    }

    pub(in crate::hsm) fn add_tier(&self, id: TierId) -> Arc<Watched> {
        let mark = Mark {
            tier: id,
            owner: InstanceId::random(),
        };
        self.watch(id, Arc::new(mem::MemTier::new(mark)))
    }

    /// One whose objects are no longer than this.
    pub(in crate::hsm) fn add_short_tier(&self, id: TierId, longest: u64) -> Arc<Watched> {
        let mark = Mark {
            tier: id,
            owner: InstanceId::random(),
        };
        let tier = mem::MemTier::new(mark).with_longest(longest);
        self.watch(id, Arc::new(tier))
    }

    /// Puts a tier under a number.
    pub(in crate::hsm) fn watch(&self, id: TierId, tier: Arc<dyn Tier>) -> Arc<Watched> {
        let tier = Arc::new(Watched {
            inner: faults::Faults::new(tier),
            reads: Mutex::default(),
            index_from: AtomicU64::new(0),
            away_from: AtomicU64::new(u64::MAX),
            far: Mutex::default(),
            shut: Mutex::new(false),
            opened: Condvar::new(),
        });
        self.above.tiers.lock().insert(id, Arc::clone(&tier));
        tier
    }

    pub(in crate::hsm) fn tier(&self) -> Arc<Watched> {
        Arc::clone(&self.above.tiers.lock()[&TierId(1)])
    }

    pub(in crate::hsm) fn dense(&self, name: &str, len: u64) -> Stub {
        self.released(name, len, &dense(len), &[TierId(1)])
    }

    /// A file of `size` bytes with data in `runs`, archived on `tiers` and released.
    pub(in crate::hsm) fn released(
        &self,
        name: &str,
        size: u64,
        runs: &[Extent],
        tiers: &[TierId],
    ) -> Stub {
        let path = self.root.join(name);
        let file = std::fs::File::create_new(&path).expect("a new file");
        let mut content = vec![0; size as usize];
        for run in runs {
            let bytes = noise(run.len, run.offset + 1);
            let (from, to) = (run.offset as usize, (run.offset + run.len) as usize);
            content[from..to].copy_from_slice(&bytes);
        }
        file.set_len(size).expect("a size");
        let identity = DataIdentity {
            file: FileId::random(),
            version: DataVersion(1),
            crc: Some(Crc32c::of(&content)),
        };
        let (member, packed) = member(name.as_bytes(), &content, runs, identity);
        let (mut copies, mut entry_data, mut blocks_crc) = (Vec::new(), 0, Crc32c::EMPTY);
        for &tier in tiers {
            let (copy, index) = self.store(tier, &member, &packed);
            copies.push(copy);
            entry_data = index.entries[0].data;
            blocks_crc = index.entries[0].blocks_crc();
        }
        let fd = OwnedFd::from(file);
        let node = self.backing.handle_of(fd.as_fd()).expect("a handle");
        set_mtime(&fd, OLD);
        let record = Record {
            state: State::Released,
            fs: self.backing.fs(),
            file: identity.file,
            version: identity.version,
            crc: Crc32c::of(&content),
            handle: node.clone(),
            size,
            mtime: OLD,
            user_ctime: OLD,
            ctime_floor: None,
            blocks_crc,
            copies,
        };
        Stamp::set(&self.backing, fd.as_fd(), None, &record, SetHow::Create).expect("a stub");
        Stub {
            path,
            node,
            record,
            content,
            entry_data,
        }
    }

    /// Another copy of the stub's data, with its data runs cut as `runs`.
    pub(in crate::hsm) fn copy_again(
        &self,
        stub: &Stub,
        tier: TierId,
        runs: &[Extent],
    ) -> CopyHint {
        let record = &stub.record;
        let identity = DataIdentity {
            file: record.file,
            version: record.version,
            crc: Some(record.crc),
        };
        let (member, packed) = member(b"again", &stub.content, runs, identity);
        self.store(tier, &member, &packed).0
    }

    fn store(&self, tier: TierId, member: &Member, packed: &[u8]) -> (CopyHint, Index) {
        let aggregate = AggregateId {
            epoch: 1,
            seq: self.seq.fetch_add(1, Ordering::Relaxed),
        };
        let on = Arc::clone(&self.above.tiers.lock()[&tier]);
        let (fs, mut data) = (self.backing.fs(), packed);
        let mut writer = AggregateWriter::new(Vec::new(), aggregate, fs, OLD);
        let pieces = parts::cut(&*on, aggregate, member, 0).expect("room");
        let added = match pieces {
            None => writer.add(member, &mut data),
            Some(pieces) => {
                let whole = parts::Whole {
                    tier: &*on,
                    aggregate,
                    fs,
                    composed: OLD,
                    directories: &[],
                    unwanted: None,
                    leave: &|| (),
                    back: &|| (),
                };
                let mut file = PartsWriter::new(member, &pieces.slices);
                let made = whole.write_all_but_last(&mut file, &mut data, pieces.promise);
                made.expect("parts").keep();
                writer.add_last_part(file, &mut data)
            }
        };
        let added = added.expect("added");
        let (bytes, index, _) = writer.finish().expect("finished");
        let mut put = on.put(aggregate, bytes.len() as u64).expect("a put");
        put.write_all(&bytes).expect("written");
        let _: Receipt = put.finish(Crc32c::of(&bytes)).expect("durable");
        on.index_from.store(bytes.len() as u64, Ordering::Relaxed);
        let header = added.header;
        let copy = CopyHint {
            tier,
            aggregate,
            header,
        };
        (copy, index)
    }

    /// A read through the recaller, to be waited for.
    pub(in crate::hsm) fn read(&self, stub: &Stub, offset: u64, len: u32) -> Reading {
        let (tell, told) = bounded(1);
        let done = Box::new(move |got| tell.send(got).expect("the test waits"));
        self.recaller
            .read(&stub.node, None, 1000, (offset, len), done);
        Reading(told)
    }

    /// A stage through the recaller, to be waited for.
    pub(in crate::hsm) fn stage(&self, stub: &Stub) -> Result<Option<Done>, RecallError> {
        let (tell, told) = bounded(1);
        self.recaller.stage(crate::hsm::recall::StageAsk {
            node: stub.node.clone(),
            user: 0,
            hint: None,
            place: None,
            done: Box::new(move |got| tell.send(got).expect("the test waits")),
        });
        told.recv_timeout(PATIENCE).expect("the stage ends")
    }

    /// `touch`: now.
    pub(in crate::hsm) fn now(&self) -> rustix::fs::Timestamps {
        let now = rustix::fs::Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW,
        };
        rustix::fs::Timestamps {
            last_access: now,
            last_modification: now,
        }
    }

    pub(in crate::hsm) fn record(&self, stub: &Stub) -> Option<Record> {
        let fd = self.backing.open_node(&stub.node, None, How::Path);
        let fd = fd.expect("the file");
        self.backing.record(fd.as_fd()).expect("readable")
    }

    /// Waits until `holds`.
    pub(in crate::hsm) fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// The file is resident with its bytes, holes, times and record as they were.
    pub(in crate::hsm) fn assert_whole(&self, stub: &Stub) {
        let record = self.record(stub).expect("a record is kept");
        assert_eq!(record.state, State::Resident);
        assert_eq!(record.file, stub.record.file);
        assert_eq!(record.copies, stub.record.copies);
        assert!(std::fs::read(&stub.path).expect("readable") == stub.content);
        assert_eq!(self.stat(stub).mtime, OLD);
    }

    pub(in crate::hsm) fn stat(&self, stub: &Stub) -> FileStat {
        let fd = self.backing.open_node(&stub.node, None, How::Path);
        self.backing.stat(fd.expect("open").as_fd()).expect("stat")
    }

    /// The file is a stub without blocks of data.
    pub(in crate::hsm) fn assert_released(&self, stub: &Stub) {
        assert_eq!(self.record(stub).expect("a stub").state, State::Released);
        let fd = self.backing.open_node(&stub.node, None, How::Read);
        let holds = self.backing.has_data(fd.expect("open").as_fd());
        assert!(!holds.expect("looked"), "it holds data");
        assert!(self.stat(stub).blocks <= 8, "it holds room");
    }
}

impl Drop for Rig {
    /// A test that fails with a gate shut must not wait for it for ever.
    fn drop(&mut self) {
        for tier in self.above.tiers.lock().values() {
            tier.gate(false);
        }
    }
}

/// A file as a member, and its stored bytes.
fn member(
    path: &[u8],
    content: &[u8],
    runs: &[Extent],
    identity: DataIdentity,
) -> (Member, Vec<u8>) {
    let member = Member {
        path: MemberPath::new(path).expect("a path"),
        kind: Kind::Regular {
            size: content.len() as u64,
            extents: runs.to_vec(),
        },
        mode: 0o640,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        mtime: OLD,
        atime: OLD,
        ctime: OLD,
        xattrs: Vec::new(),
        identity: Some(identity),
    };
    let packed = runs
        .iter()
        .flat_map(|r| &content[r.offset as usize..(r.offset + r.len) as usize]);
    (member, packed.copied().collect())
}

/// A read under way.
pub(in crate::hsm) struct Reading(Receiver<Result<Vec<u8>, cairn_fuse::Errno>>);

impl Reading {
    pub(in crate::hsm) fn wait(&self) -> Result<Vec<u8>, cairn_fuse::Errno> {
        self.0
            .recv_timeout(PATIENCE)
            .expect("every read is answered")
    }
    pub(in crate::hsm) fn is_answered(&self) -> bool {
        !self.0.is_empty()
    }
}

fn start(backing: &Arc<Backing>, above: &Arc<Above>, settings: &Settings) -> Arc<Recaller> {
    let indexes = Arc::new(IndexCache::new(64 << 20));
    let (backing, above) = (Arc::clone(backing), Arc::clone(above));
    let recaller = Recaller::start(backing, above, indexes, settings.clone());
    Arc::new(recaller.expect("threads"))
}

pub(in crate::hsm) fn set_mtime(fd: &OwnedFd, to: Timestamp) {
    let time = rustix::fs::Timespec {
        tv_sec: to.sec,
        tv_nsec: i64::from(to.nsec),
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(fd, &times).expect("times");
}

/// Block number of an offset, for dense files.
pub(in crate::hsm) fn block_of(offset: u64) -> u64 {
    offset / BLOCK
}

/// Writes behind Cairn's back.
pub(in crate::hsm) fn scribble(stub: &Stub, at: u64) {
    let file = std::fs::OpenOptions::new().write(true).open(&stub.path);
    file.expect("open").write_all_at(b"!", at).expect("written");
}
