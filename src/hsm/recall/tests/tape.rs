//! Recalls from tape: they wait for their turn with nothing begun, and many are read in the order in which
//! they lie.

use super::rig::*;
use crate::format::record::State;
use crate::hsm::backing::How;
use crate::hsm::recall::{Done, RecallError, Settings, StageAsk};
use crate::hsm::tape::desk::Desk;
use crate::id::{InstanceId, TierId};
use crate::tier::tape::drive::Tally;
use crate::tier::tape::{TapeOptions, TapeTier};
use crate::tier::{OpenHow, Tier};
use crossbeam_channel::{Receiver, bounded};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

const TAPE: TierId = TierId(9);

/// A tape library beside a rig, and its desk.
struct Site {
    rig: Rig,
    tape: Arc<TapeTier>,
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
    place: tempfile::TempDir,
}

impl Site {
    /// The desk serves nobody before [`Site::begin`].
    fn new(settings: Settings) -> Self {
        let options = TapeOptions {
            capacity: Some(64 << 20),
            cartridges: 1,
            drives: 1,
            ..TapeOptions::default()
        };
        Self::with(settings, &options)
    }

    fn with(settings: Settings, options: &TapeOptions) -> Self {
        let rig = Rig::with(settings);
        let place = tempfile::tempdir().expect("a directory");
        let how = OpenHow::new(InstanceId::random(), TAPE);
        let tape = TapeTier::open(&place.path().join("tape"), options, how);
        let tape = Arc::new(tape.expect("a library"));
        let watched = rig.watch(TAPE, tape.clone());
        let desk = Arc::new(Desk::new(watched.tapes().expect("cartridges")));
        rig.above.desks.lock().insert(TAPE, Arc::clone(&desk));
        Self {
            rig,
            tape,
            desk,
            threads: Vec::new(),
            place,
        }
    }

    fn begin(&mut self) {
        let work = self.desk.work().into_iter();
        self.threads
            .extend(work.map(|(_, work)| std::thread::spawn(work)));
    }

    fn stub(&self, name: &str, len: u64) -> Stub {
        self.rig.released(name, len, &dense(len), &[TAPE])
    }

    fn stage(&self, stub: &Stub) -> Receiver<Result<Option<Done>, RecallError>> {
        let (tell, told) = bounded(1);
        self.rig.recaller.stage(StageAsk {
            node: stub.node.clone(),
            user: 7,
            hint: None,
            place: None,
            done: Box::new(move |got| tell.send(got).expect("the test waits")),
        });
        told
    }

    fn until_parked(&self, many: usize) {
        self.rig.until("parked", |_| self.desk.waiting() == many);
    }

    fn tally(&self) -> Tally {
        self.tape.library().expect("there").drives()[0].tally
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.desk.stop();
        for thread in self.threads.drain(..) {
            thread.join().expect("ends");
        }
    }
}

#[test]
fn a_recall_waits_for_its_turn_with_nothing_begun() {
    let mut site = Site::new(Settings::default());
    let stub = site.stub("file", 3_000_000);
    let reading = site.rig.read(&stub, 1_000_000, 5000);
    site.until_parked(1);
    site.rig.assert_released(&stub);
    assert!(!reading.is_answered());
    site.begin();
    let got = reading.wait().expect("bytes");
    assert_eq!(got, stub.content[1_000_000..1_005_000]);
    site.rig
        .until("resident", |rig| !rig.above.done.lock().is_empty());
    site.rig.assert_whole(&stub);
    // Its seat is given back: another cartridge could be loaded.
    site.rig.until("let go", |_| {
        site.tape.library().expect("there").pins() == 0
    });
}

/// Files whose parts lie on several cartridges, and one drive.
#[test]
fn parts_on_several_cartridges_are_read_one_after_the_other() {
    let options = TapeOptions {
        capacity: Some(4 << 20),
        cartridges: 12,
        drives: 1,
        ..TapeOptions::default()
    };
    let mut site = Site::with(Settings::default(), &options);
    let stubs: Vec<_> = ["one", "two", "three"]
        .map(|name| site.stub(name, 9_500_000))
        .into();
    let library = site.tape.library().expect("there");
    for stub in &stubs {
        let head = stub.record.copies[0].aggregate;
        let on = |object| library.find(object).map(|(barcode, _)| barcode);
        let cartridges: std::collections::BTreeSet<_> = (0..3)
            .map(|n| on(head.part(n)).expect("on a cartridge"))
            .collect();
        assert_eq!(cartridges.len(), 3, "one for each part");
    }
    site.begin();
    // All at once, each wants a cartridge that another has, or is about to have.
    let staged = [site.stage(&stubs[0]), site.stage(&stubs[1])];
    let last = 9_400_000;
    let reading = site.rig.read(&stubs[2], last as u64, 5000);
    let got = reading.wait().expect("bytes of the last part");
    assert_eq!(got, stubs[2].content[last..last + 5000]);
    let border = site.rig.read(&stubs[2], (3 << 20) - 700, 1500);
    let at = (3 << 20) - 700;
    assert_eq!(
        border.wait().expect("bytes of two parts"),
        stubs[2].content[at..at + 1500]
    );
    for told in staged {
        told.recv_timeout(PATIENCE)
            .expect("it ends")
            .expect("staged");
    }
    site.rig
        .until("resident", |rig| rig.above.done.lock().len() == 3);
    stubs.iter().for_each(|stub| site.rig.assert_whole(stub));
    assert!(site.rig.above.failed.lock().is_empty());
    site.rig.until("let go", |_| library.pins() == 0);
    // In order, each part is mounted for few times: not once for every read.
    assert!(site.tally().mounts <= 24, "{:?}", site.tally());
}

#[test]
fn more_wait_at_the_desk_than_are_recalled_at_once() {
    let mut site = Site::new(Settings {
        files: 2,
        implicit_per_user: 2,
        ..Settings::default()
    });
    let stubs: Vec<Stub> = (0..30)
        .map(|n| site.stub(&format!("f{n}"), 70_000))
        .collect();
    let staged: Vec<_> = stubs[..15].iter().map(|stub| site.stage(stub)).collect();
    let read: Vec<_> = stubs[15..]
        .iter()
        .map(|stub| site.rig.read(stub, 0, 10))
        .collect();
    site.until_parked(30);
    site.begin();
    for told in staged {
        let done = told.recv_timeout(PATIENCE).expect("ends");
        assert!(done.expect("staged").is_some());
    }
    for (reading, stub) in read.iter().zip(&stubs[15..]) {
        assert_eq!(reading.wait().expect("bytes"), stub.content[..10]);
    }
}

#[test]
fn who_gives_up_takes_his_recall_out_of_the_queue() {
    let site = Site::new(Settings::default());
    let stub = site.stub("file", 100_000);
    let token = site
        .rig
        .recaller
        .read(&stub.node, None, 7, (0, 10), Box::new(|_| {}));
    site.until_parked(1);
    site.rig.recaller.give_up(token);
    assert_eq!((site.desk.waiting(), site.rig.recaller.running()), (0, 0));
    // One of two: the other waits on.
    let staged = site.stage(&stub);
    let token = site
        .rig
        .recaller
        .read(&stub.node, None, 7, (0, 10), Box::new(|_| {}));
    site.until_parked(1);
    site.rig.recaller.give_up(token);
    assert_eq!((site.desk.waiting(), site.rig.recaller.running()), (1, 1));
    assert!(staged.is_empty());
}

#[test]
fn nothing_is_mounted_for_readers_who_waited_for_too_long() {
    let site = Site::new(Settings {
        timeout: Some(std::time::Duration::from_secs(60)),
        ..Settings::default()
    });
    let stub = site.stub("file", 100_000);
    let reading = site.rig.read(&stub, 0, 10);
    site.until_parked(1);
    let later = std::time::Instant::now() + std::time::Duration::from_secs(120);
    site.rig.recaller.tick(later);
    assert!(reading.wait().is_err(), "he waited for too long");
    assert_eq!((site.desk.waiting(), site.rig.recaller.running()), (0, 0));
    // Who is staged beside him waits on, and he himself may come again.
    let staged = site.stage(&stub);
    let reading = site.rig.read(&stub, 0, 10);
    site.until_parked(1);
    site.rig.recaller.tick(later);
    assert!(reading.wait().is_err(), "he waited for too long");
    assert_eq!((site.desk.waiting(), site.rig.recaller.running()), (1, 1));
    assert!(staged.is_empty());
}

#[test]
fn a_file_that_is_cut_while_it_waits_is_not_asked_for_any_more() {
    let site = Site::new(Settings::default());
    let stub = site.stub("file", 100_000);
    let reading = site.rig.read(&stub, 0, 10);
    site.until_parked(1);
    let fd = site.rig.backing.open_node(&stub.node, None, How::Path);
    let fd = fd.expect("open");
    let file = std::fs::OpenOptions::new().write(true).open(&stub.path);
    file.expect("open").set_len(0).expect("truncated");
    site.rig
        .recaller
        .truncated(&stub.node, fd.as_fd())
        .expect("dropped");
    assert!(reading.wait().expect("answered").is_empty());
    assert_eq!(site.desk.waiting(), 0);
}

#[test]
fn a_reader_who_comes_for_what_is_staged_goes_first() {
    let mut site = Site::new(Settings::default());
    let stubs: Vec<Stub> = (0..8)
        .map(|n| site.stub(&format!("f{n}"), 6 << 20))
        .collect();
    let staged: Vec<_> = stubs.iter().map(|stub| site.stage(stub)).collect();
    site.until_parked(8);
    let reading = site.rig.read(&stubs[7], 0, 10);
    site.begin();
    reading.wait().expect("bytes");
    let back: Vec<_> = site.rig.above.done.lock().iter().map(|d| d.file).collect();
    assert!(
        back.first()
            .is_none_or(|file| *file == stubs[7].record.file),
        "the last on the tape was read first: {back:?}"
    );
    for told in staged {
        let done = told.recv_timeout(PATIENCE).expect("ends");
        done.expect("staged");
    }
}

#[test]
fn many_files_in_any_order_are_read_as_they_lie() {
    const FILES: u64 = 200;
    let mixed = |n: u64| (n * 83 % FILES) as usize;
    let mut tallies = Vec::new();
    for together in [true, false] {
        let mut site = Site::new(Settings::default());
        let stubs: Vec<Stub> = (0..FILES)
            .map(|n| site.stub(&format!("f{n}"), 100_000))
            .collect();
        let before = site.tally();
        if together {
            let staged: Vec<_> = (0..FILES).map(|n| site.stage(&stubs[mixed(n)])).collect();
            site.until_parked(FILES as usize);
            site.begin();
            for told in staged {
                let done = told.recv_timeout(PATIENCE).expect("ends");
                assert!(done.expect("staged").is_some());
            }
        } else {
            site.begin();
            for n in 0..FILES {
                let told = site.stage(&stubs[mixed(n)]);
                let done = told.recv_timeout(PATIENCE).expect("ends");
                assert!(done.expect("staged").is_some());
            }
        }
        for stub in &stubs {
            site.rig.assert_whole(stub);
        }
        let now = site.tally();
        tallies.push((now.locates - before.locates, now.read - before.read));
    }
    let [(few, once), (many, _)] = tallies[..] else {
        panic!("two")
    };
    assert!(few <= 10 && many >= 5 * few.max(8), "{tallies:?}");
    // Each block once, labels and what archives need around it included.
    assert!(once < FILES * 130_000, "{tallies:?}");
}

/// Readers, stages, cancels, cuts, a library that comes and goes: nobody is left at the desk, and no drive is kept.
#[test]
fn whatever_happens_every_seat_is_given_back() {
    let mut site = Site::new(Settings {
        implicit_per_user: 2,
        files: 2,
        tier_workers: 3,
        ..Settings::default()
    });
    site.begin();
    super::together::whatever_happens(&site.rig, TAPE);
    assert_eq!(site.desk.waiting(), 0);
    site.rig.until("let go", |_| {
        site.tape.library().expect("there").pins() == 0
    });
}

#[test]
fn whose_cartridge_is_away_is_told_at_once_and_it_is_shown() {
    let site = Site::new(Settings::default());
    let stub = site.stub("file", 100_000);
    let library = site.tape.library().expect("there");
    let barcode = library.cartridges()[0].entry.barcode;
    let image = format!("tape/cartridges/{barcode}.tap");
    let (there, away) = (
        site.place.path().join(&image),
        site.place.path().join("away"),
    );
    std::fs::rename(&there, &away).expect("taken away");
    let told = site.stage(&stub).recv_timeout(PATIENCE).expect("ends");
    let why = told.expect_err("not there");
    assert!(matches!(why, RecallError::Unavailable { .. }), "{why:?}");
    assert!(why.to_string().contains(&barcode.to_string()), "{why}");
    assert_eq!(
        site.desk.absent()[0].cartridge.as_str(),
        barcode.to_string()
    );
    assert_eq!(
        site.rig.record(&stub).expect("a stub").state,
        State::Released
    );
    std::fs::rename(&away, &there).expect("put back");
    assert_eq!(site.desk.absent(), []);
    let _waits = site.stage(&stub);
    site.until_parked(1);
}
