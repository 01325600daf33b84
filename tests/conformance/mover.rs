//! A tier behind a mover: the suite over real streams on the loopback, and the mover's bad days.

use crate::suite::{judge, retried};
use crate::{MARK, name, store};
use bytes::Bytes;
use cairn::id::{AggregateId, InstanceId};
use cairn::tier::conformance;
use cairn::tier::mem::MemTier;
use cairn::tier::mover::{
    Caller, Doorway, Far, FarError, Gate, MoverOptions, MoverTier, SCHEMA, hall,
};
use cairn::tier::{
    ErrorKind, Mark, OpenHow, Put, Receipt, Space, Tier, TierError, TierUrl, Unwanted,
};
use cairn_mover::{Crc32c, Listener, TransferId};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// How long is waited for what must come.
const SOON: Duration = Duration::from_secs(60);

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.enable_all().build().expect("threads")
    })
}

/// Counts what is expected; the listener knows by itself.
#[derive(Default)]
struct Counting(AtomicU64);

impl Doorway for Counting {
    fn expect(&self, _: TransferId) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn forget(&self, _: TransferId) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A door: a port for streams.
struct Door {
    at: SocketAddr,
    gate: Gate,
    counting: Arc<Counting>,
}

fn door() -> Door {
    let counting = Arc::new(Counting::default());
    let gate = Gate {
        listener: Arc::new(Listener::portless(Duration::from_secs(10))),
        doorway: Arc::<Counting>::clone(&counting),
    };
    let listener = Arc::clone(&gate.listener);
    let socket = runtime().block_on(TcpListener::bind("127.0.0.1:0"));
    let socket = socket.expect("a port");
    let at = socket.local_addr().expect("its address");
    runtime().spawn(async move {
        while let Ok((stream, from)) = socket.accept().await {
            listener.hand_in(stream, from);
        }
    });
    Door { at, gate, counting }
}

/// A mover that has joined; dropped, it is killed.
struct Mover {
    name: String,
    far: JoinHandle<Result<(), FarError>>,
}

impl Drop for Mover {
    fn drop(&mut self) {
        self.far.abort();
        let _ = runtime().block_on(&mut self.far);
    }
}

fn join(door: &Door, called: &str, far: &Arc<Far>) -> Mover {
    let (here, there) = runtime()
        .block_on(async { UnixStream::pair() })
        .expect("a pair");
    join_by(door, called, far, here, there)
}

fn join_by(
    door: &Door,
    called: &str,
    far: &Arc<Far>,
    here: UnixStream,
    there: UnixStream,
) -> Mover {
    let caller = Caller {
        schema: SCHEMA.to_owned(),
        name: called.to_owned(),
        from: "127.0.0.1:1".to_owned(),
    };
    let gate = door.gate.clone();
    runtime().spawn(async move { hall().converse(caller, here, gate).await });
    let (tell, told) = std::sync::mpsc::channel();
    let (far, at) = (Arc::clone(far), door.at);
    let far = runtime().spawn(async move {
        far.serve(there, at, || {
            let _ = tell.send(());
        })
        .await
    });
    // A refusal is seen at the far end's result.
    let _ = told.recv_timeout(SOON);
    Mover {
        name: called.to_owned(),
        far,
    }
}

fn far(root: &Path, is_new: bool) -> Arc<Far> {
    let url: TierUrl = format!("dir:{}", root.display()).parse().expect("a URL");
    Far::new(url, is_new)
}

fn options() -> MoverOptions {
    MoverOptions::default()
}

fn tier(mover: &str) -> MoverTier {
    MoverTier::open(mover, options(), OpenHow::known(MARK.owner, MARK.tier))
}

/// A name that no other test has.
fn called(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("{what}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

fn suite(wrap: impl Fn(Arc<dyn Tier>) -> Arc<dyn Tier>) {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let movers = std::sync::Mutex::new(Vec::new());
    judge(conformance::run(&|| {
        let called = called("suite");
        let mover = join(&door, &called, &far(&place.path().join(&called), true));
        let tier = wrap(Arc::new(tier(&called)));
        movers.lock().expect("not poisoned").push(mover);
        tier
    }));
    assert_eq!(
        door.counting.0.load(Ordering::SeqCst),
        0,
        "transfers that nobody forgot"
    );
    for mover in movers.into_inner().expect("not poisoned") {
        let left = crate::temporaries(&place.path().join(&mover.name));
        assert_eq!(left, 0, "temporaries behind {}", mover.name);
    }
}

#[test]
fn a_dir_behind_a_mover_conforms() {
    suite(|tier| tier);
}

#[test]
fn a_dir_behind_a_mover_conforms_with_faults_and_retries() {
    suite(retried);
}

#[test]
fn a_tape_library_behind_a_mover_conforms() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let movers = std::sync::Mutex::new(Vec::new());
    judge(conformance::run(&|| {
        let called = called("tapes");
        let path = place.path().join(&called);
        let url = format!("tape:{}?capacity=24MiB&cartridges=4", path.display());
        let url: TierUrl = url.parse().expect("a URL");
        let mover = join(&door, &called, &Far::new(url, true));
        movers.lock().expect("not poisoned").push(mover);
        Arc::new(tier(&called))
    }));
}

#[test]
fn without_its_mover_a_tier_is_unavailable_and_comes_back() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let called = called("away");
    let tier = tier(&called);
    let kind = |r: Result<u64, cairn::tier::TierError>| r.expect_err("nobody is there").kind();
    assert_eq!(kind(tier.stat(name(1))), ErrorKind::Unavailable);
    let far = far(&place.path().join("t"), true);
    let mover = join(&door, &called, &far);
    store(&tier, name(1), b"kept");
    drop(mover);
    gone(&tier);
    assert_eq!(kind(tier.stat(name(1))), ErrorKind::Unavailable);
    let _mover = join(&door, &called, &far);
    assert_eq!(tier.read(name(1), 0, 4).expect("back"), &b"kept"[..]);
}

/// Waits for a condition, for a bounded time.
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until the mover's end was noticed.
fn gone(tier: &MoverTier) {
    wait_until("the dead mover to be missed", || tier.confirm().is_err());
}

#[test]
fn of_a_put_whose_mover_dies_nothing_is_seen() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let called = called("dies");
    let (tier, far) = (tier(&called), far(&place.path().join("t"), true));
    let mover = join(&door, &called, &far);
    // More than a piece: some of it is there already.
    let data = vec![7; 40 << 20];
    let mut put = tier.put(name(1), data.len() as u64).expect("starts");
    put.write_all(&data).expect("taken");
    drop(mover);
    gone(&tier);
    let error = put
        .finish(Crc32c::of(&data))
        .expect_err("its mover is dead");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let _mover = join(&door, &called, &far);
    assert_eq!(
        tier.stat(name(1)).expect_err("not there").kind(),
        ErrorKind::Missing
    );
    store(&tier, name(2), &data);
    assert_eq!(tier.list(None, 10).expect("a list"), [name(2)]);
    wait_until("what was written of it to go", || {
        crate::temporaries(&place.path().join("t")) == 0
    });
}

#[test]
fn an_object_whose_receipt_got_lost_is_found_when_the_mover_is_back() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let called = called("lost");
    let (tier, far) = (tier(&called), far(&place.path().join("t"), true));
    // The mover's words pass through here, until the first receipt.
    let (here, relay_here) = runtime()
        .block_on(async { UnixStream::pair() })
        .expect("a pair");
    let (relay_there, there) = runtime()
        .block_on(async { UnixStream::pair() })
        .expect("a pair");
    let relay = runtime().spawn(async move {
        let (mut read, mut write) = relay_here.into_split();
        let (far_read, mut far_write) = relay_there.into_split();
        let down = async move { tokio::io::copy(&mut read, &mut far_write).await.map(drop) };
        let up = async move {
            let mut lines = BufReader::new(far_read).lines();
            while let Some(line) = lines.next_line().await? {
                if line.contains("\"receipt\"") {
                    return Ok(());
                }
                write.write_all(format!("{line}\n").as_bytes()).await?;
            }
            Ok(())
        };
        let ended: std::io::Result<()> = tokio::select! { e = up => e, e = down => e };
        ended
    });
    let first = join_by(&door, &called, &far, here, there);
    let again = std::thread::scope(|scope| {
        let back = scope.spawn(|| {
            runtime()
                .block_on(relay)
                .expect("no panic")
                .expect("a receipt passed");
            drop(first);
            join(&door, &called, &far)
        });
        store(&tier, name(1), b"whole and there");
        back.join().expect("the mover is back")
    });
    assert_eq!(
        tier.read(name(1), 0, 15).expect("there"),
        &b"whole and there"[..]
    );
    drop(again);
}

#[test]
fn a_place_is_made_a_tier_once_and_only_where_it_was_told_to() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let root = place.path().join("t");
    let refused = |is_new: bool, what: &str| {
        let called = called("place");
        let _mover = join(&door, &called, &far(&root, is_new));
        let error = tier(&called).stat(name(1)).expect_err("it is refused");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains(what), "{error}");
    };
    refused(false, "--new");
    std::fs::create_dir(&root).expect("an empty mount point");
    refused(false, "is it mounted?");
    {
        let called = called("place");
        let _mover = join(&door, &called, &far(&root, true));
        store(&tier(&called), name(1), b"x");
    }
    refused(true, "leave --new out");
    let called = called("place");
    let _mover = join(&door, &called, &far(&root, false));
    assert_eq!(tier(&called).stat(name(1)).expect("there"), 1);
    // Another instance's, and another tier's.
    for other in [
        Mark {
            owner: InstanceId([8; 16]),
            ..MARK
        },
        Mark {
            tier: cairn::id::TierId(5),
            ..MARK
        },
    ] {
        let foreign = MoverTier::open(&called, options(), OpenHow::known(other.owner, other.tier));
        let error = foreign.stat(name(1)).expect_err("it is another's");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
}

#[test]
fn a_second_mover_of_a_name_is_refused_while_the_first_lives() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let called = called("twice");
    let first = join(&door, &called, &far(&place.path().join("a"), true));
    store(&tier(&called), name(1), b"a");
    let mut second = join(&door, &called, &far(&place.path().join("b"), true));
    let ended = runtime().block_on(&mut second.far).expect("no panic");
    second.far = runtime().spawn(async { Ok(()) });
    let why = ended.expect_err("it is refused").to_string();
    assert!(why.contains("is here already"), "{why}");
    assert_eq!(tier(&called).stat(name(1)).expect("the first answers"), 1);
    drop(first);
}

#[test]
fn a_place_that_holds_what_the_catalog_does_not_know_takes_nothing() {
    let (place, door) = (TempDir::new().expect("temporary directory"), door());
    let called = called("unknown");
    let far = far(&place.path().join("t"), true);
    let mover = join(&door, &called, &far);
    let new = || MoverTier::open(&called, options(), OpenHow::new(MARK.owner, MARK.tier));
    let first = new();
    store(&first, name(1), b"x");
    store(&first, name(2), b"y");
    // As after the loss of the catalog.
    drop(mover);
    gone(&first);
    let mover = join(&door, &called, &far);
    store(&first, name(4), b"it is still known to this one");
    drop(mover);
    gone(&first);
    let _mover = join(&door, &called, &far);
    let error = new().put(name(3), 1).map(drop).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("cairn rebuild"), "{error}");
    assert_eq!(tier(&called).stat(name(1)).expect("known again"), 1);
}

/// How a finish ends, once it is told.
type Ending = Arc<(parking_lot::Mutex<Told>, parking_lot::Condvar)>;

#[derive(Default)]
struct Told {
    /// Somebody waits for it.
    waits: bool,
    ends_well: Option<bool>,
}

/// A tier whose puts finish when they are told to, well or not.
struct Gated {
    inner: MemTier,
    gate: Ending,
}

struct GatedPut {
    inner: Box<dyn Put>,
    gate: Ending,
    unwanted: Option<Unwanted>,
}

impl Write for GatedPut {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

impl Put for GatedPut {
    fn finish(self: Box<Self>, sum: Crc32c) -> Result<Receipt, TierError> {
        let mut told = self.gate.0.lock();
        told.waits = true;
        while told.ends_well.is_none() {
            self.gate.1.wait(&mut told);
        }
        // As a put that waits in a tape's line: it ends when nobody wants it.
        let unwanted = self.unwanted.as_ref().is_some_and(|unwanted| unwanted());
        if told.ends_well == Some(true) && !unwanted {
            return self.inner.finish(sum);
        }
        self.inner.abandon();
        Err(TierError::Full {
            tier: "gated".to_owned(),
            step: "finishing",
            why: "it was told so".to_owned(),
        })
    }

    fn heed(&mut self, unwanted: Unwanted) {
        self.unwanted = Some(unwanted);
    }

    fn abandon(self: Box<Self>) {
        self.inner.abandon();
    }
}

impl Tier for Gated {
    fn mark(&self) -> Mark {
        self.inner.mark()
    }
    fn put(&self, name: AggregateId, hint: u64) -> Result<Box<dyn Put>, TierError> {
        let (inner, gate) = (self.inner.put(name, hint)?, Arc::clone(&self.gate));
        Ok(Box::new(GatedPut {
            inner,
            gate,
            unwanted: None,
        }))
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        self.inner.read(name, offset, len)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.inner.stat(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.inner.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.inner.list(after, limit)
    }
    fn space(&self) -> Result<Space, TierError> {
        self.inner.space()
    }
}

/// The connection breaks while the far tier finishes an object; then that ends so.
fn broken_while_finishing(ends_well: bool) -> Result<Receipt, TierError> {
    let (door, called) = (door(), called("gated"));
    let gate: Ending = Arc::default();
    let url: TierUrl = "dir:/nowhere".parse().expect("a URL");
    let inner = Gated {
        inner: MemTier::new(MARK),
        gate: Arc::clone(&gate),
    };
    let far = Far::keeping(url, Arc::new(inner));
    let first = join(&door, &called, &far);
    let tier = tier(&called);
    std::thread::scope(|scope| {
        let put = scope.spawn(|| {
            let mut put = tier.put(name(1), 4).expect("starts");
            put.write_all(b"data").expect("taken");
            put.finish(Crc32c::of(b"data"))
        });
        wait_until("it to be finished", || gate.0.lock().waits);
        drop(first);
        let _second = join(&door, &called, &far);
        assert_eq!(
            tier.stat(name(1)).expect_err("not yet").kind(),
            ErrorKind::Missing
        );
        gate.0.lock().ends_well = Some(ends_well);
        gate.1.notify_all();
        let ended = put.join().expect("no panic");
        assert_eq!(tier.stat(name(1)).is_ok(), ends_well);
        ended
    })
}

#[test]
fn a_put_whose_connection_breaks_while_it_is_finished_ends_as_the_tier_says() {
    let receipt = broken_while_finishing(true).expect("its tier proved it");
    assert_eq!((receipt.len, receipt.crc), (4, Crc32c::of(b"data")));
    let error = broken_while_finishing(false).expect_err("its tier failed");
    assert_eq!(error.kind(), ErrorKind::Full, "{error}");
}

#[test]
fn what_is_asked_of_a_mover_whose_door_dies_ends() {
    let (door, called) = (door(), called("door"));
    let gate: Ending = Arc::default();
    let url: TierUrl = "dir:/nowhere".parse().expect("a URL");
    let inner = Gated {
        inner: MemTier::new(MARK),
        gate: Arc::clone(&gate),
    };
    let far = Far::keeping(url, Arc::new(inner));
    let (here, there) = runtime()
        .block_on(async { UnixStream::pair() })
        .expect("a pair");
    let caller = Caller {
        schema: SCHEMA.to_owned(),
        name: called.clone(),
        from: "127.0.0.1:1".to_owned(),
    };
    let door_gate = door.gate.clone();
    let conversation =
        runtime().spawn(async move { hall().converse(caller, here, door_gate).await });
    let (far2, at) = (Arc::clone(&far), door.at);
    let far2 = runtime().spawn(async move { far2.serve(there, at, || ()).await });
    let tier = tier(&called);
    wait_until("the mover to come", || tier.space().is_ok());
    let mut put = tier.put(name(1), 4).expect("starts");
    put.write_all(b"data").expect("taken");
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let mut put = tier.put(name(2), 4)?;
            // Nobody waits for it to come back.
            put.heed(Arc::new(|| true));
            put.finish(Crc32c::of(b""))
        });
        wait_until("it to be finished", || gate.0.lock().waits);
        // Whoever served it is dropped in the middle, as when a door's threads end.
        conversation.abort();
        drop(put);
        let ended = asked.join().expect("no panic").expect_err("nobody answers");
        assert_eq!(ended.kind(), ErrorKind::Unavailable, "{ended}");
    });
    assert_eq!(
        tier.space().expect_err("it is gone").kind(),
        ErrorKind::Unavailable
    );
    far2.abort();
}
