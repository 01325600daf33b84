//! The trait called as a mirror would, on files in a temporary directory.

use super::*;
use crate::format::aggregate::BLOCK;
use crate::format::member::Extent;
use crate::hsm::backing::SetHow;
use crate::hsm::recall::tests::rig::{OLD, PATIENCE, Rig, Stub, dense, scribble};
use crate::hsm::version::Stamp;
use crate::id::{TierId, Timestamp};
use crossbeam_channel::bounded;
use rustix::fs::{AtFlags, StatxFlags};
use std::os::fd::OwnedFd;

const ME: Caller = Caller {
    uid: 1000,
    gid: 1000,
    pid: 1,
};

struct Mirror {
    rig: Rig,
    residency: HsmResidency,
}

impl Mirror {
    fn new() -> Self {
        let rig = Rig::new();
        let residency = HsmResidency::new(
            Arc::clone(&rig.recaller),
            Arc::clone(&rig.above) as Arc<dyn Asks>,
            Arc::new(ChangelogSink::new(8)),
            Some("/run/cairn.sock".into()),
        );
        Self { rig, residency }
    }

    fn open(&self, stub: &Stub) -> OwnedFd {
        let fd = self.rig.backing.open_node(&stub.node, None, How::Path);
        fd.expect("an O_PATH descriptor")
    }

    fn with<T>(&self, stub: &Stub, f: impl FnOnce(&HsmResidency, FileRef<'_>) -> T) -> T {
        let fd = self.open(stub);
        let file = FileRef {
            handle: &stub.node,
            fd: fd.as_fd(),
        };
        f(&self.residency, file)
    }

    fn presence(&self, stub: &Stub) -> Presence {
        self.with(stub, |r, file| r.presence(file))
    }

    fn shown(&self, stub: &Stub) -> (Shown, rustix::fs::Statx) {
        self.with(stub, |r, file| {
            let stat =
                rustix::fs::statx(file.fd, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
            let stat = stat.expect("statx");
            (r.shown(file, &stat), stat)
        })
    }

    fn get(&self, stub: &Stub, name: &str) -> Result<String, Errno> {
        let got = self.with(stub, |r, file| r.attribute(file, OsStr::new(name), ME));
        let text = got.expect("one of ours")?;
        Ok(String::from_utf8(text).expect("text"))
    }

    fn fetch(&self, stub: &Stub, keep: Option<u64>) -> Result<(), Errno> {
        let (tell, told) = bounded(1);
        let done = Box::new(move |how| tell.send(how).expect("told"));
        self.with(stub, |r, file| r.fetch(file, keep, ME, done));
        told.recv_timeout(PATIENCE).expect("answered")
    }
}

#[test]
fn p5_a_released_file_is_fetched_and_then_resident() {
    let mirror = Mirror::new();
    let stub = mirror.rig.dense("file", 3 * BLOCK);
    assert_eq!(mirror.presence(&stub), Presence::Released);
    let (tell, told) = bounded(1);
    let done = Box::new(move |got| tell.send(got).expect("told"));
    mirror.with(&stub, |r, file| r.read(file, BLOCK - 5, 10, ME, done));
    let got = told
        .recv_timeout(PATIENCE)
        .expect("answered")
        .expect("bytes");
    assert!(got == stub.content[BLOCK as usize - 5..][..10]);
    mirror.fetch(&stub, None).expect("fetched");
    assert_eq!(mirror.presence(&stub), Presence::Resident);
    mirror.rig.assert_whole(&stub);
    // It can be executed: nobody has it open for writing. (A program that another test starts
    // holds copies of all descriptors for the instant between fork and exec.)
    mirror.rig.until("no writer", |rig| {
        let fd = rig.backing.open_node(&stub.node, None, How::Read);
        let kind = crate::hsm::lease::LeaseKind::NoWriters;
        crate::hsm::lease::Lease::take(fd.expect("open"), kind).is_ok()
    });
}

#[test]
fn p6_foreign_damaged_and_cut_stubs_are_refused() {
    let mirror = Mirror::new();
    let eio = Presence::Refused(Errno(libc::EIO));
    let (one, two) = (mirror.rig.dense("one", 1000), mirror.rig.dense("two", 2000));
    let fd = mirror.open(&two);
    let backing = &mirror.rig.backing;
    backing
        .set_record(fd.as_fd(), &one.record, SetHow::Replace)
        .expect("copied");
    // It might be adopted: nobody has asked yet.
    assert_eq!(mirror.presence(&two), Presence::Released);
    assert_eq!(mirror.fetch(&two, None), Err(Errno(libc::EIO)));
    assert_eq!(mirror.presence(&two), Presence::Doubtful, "found foreign");
    assert_eq!(
        mirror.get(&two, "user.cairn.state").expect("a state"),
        "foreign"
    );
    let damaged = mirror.rig.dense("damaged", 1000);
    let attribute = backing.keeping().attribute();
    let flags = rustix::fs::XattrFlags::REPLACE;
    rustix::fs::setxattr(&damaged.path, attribute, b"rubbish", flags).expect("set");
    assert_eq!(mirror.presence(&damaged), eio);
    let cut = mirror.rig.dense("cut", 1000);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&cut.path)
        .expect("open")
        .set_len(10)
        .expect("cut");
    assert_eq!(mirror.presence(&cut), eio);
    let plain = mirror.rig.dense("plain", 1000);
    backing
        .remove_record(mirror.open(&plain).as_fd())
        .expect("removed");
    assert_eq!(mirror.presence(&plain), Presence::Resident);
}

#[test]
fn p6_a_file_that_may_have_lost_its_stub_is_asked_about() {
    let mirror = Mirror::new();
    let doubt = |stub: &Stub, lost| {
        let fd = mirror.open(stub);
        mirror
            .rig
            .backing
            .remove_record(fd.as_fd())
            .expect("removed");
        let node = stub.node.clone();
        mirror.rig.above.doubted.lock().insert(node, lost);
    };
    let read = |stub: &Stub| {
        let (tell, told) = bounded(1);
        let done = Box::new(move |got| tell.send(got).expect("told"));
        mirror.with(stub, |r, file| r.read(file, 0, 10, ME, done));
        told.recv_timeout(PATIENCE).expect("answered")
    };
    let lost = mirror.rig.dense("lost", 3 * BLOCK);
    doubt(&lost, true);
    assert_eq!(
        mirror.presence(&lost),
        Presence::Doubtful,
        "not passed through"
    );
    assert_eq!(read(&lost), Err(Errno(libc::EIO)));
    assert_eq!(mirror.fetch(&lost, None), Err(Errno(libc::EIO)));
    assert_eq!(mirror.fetch(&lost, Some(10)), Err(Errno(libc::EIO)));
    assert!(
        mirror.shown(&lost).0.at_least_one_block,
        "no hole to tar -S"
    );
    let seek = |data| mirror.with(&lost, |r, file| r.seek(file, 5, data));
    assert_eq!(
        (seek(true), seek(false)),
        (Ok(5), Ok(3 * BLOCK)),
        "no hole to cp"
    );
    assert_eq!(mirror.get(&lost, "user.cairn.state"), Ok("lost".into()));
    let whole = mirror.rig.dense("whole", 3 * BLOCK);
    doubt(&whole, false);
    assert_eq!(mirror.presence(&whole), Presence::Doubtful);
    assert_eq!(read(&whole), Ok(vec![0; 10]), "its owner's holes");
    assert_eq!(mirror.presence(&whole), Presence::Resident);
    assert!(!mirror.shown(&whole).0.at_least_one_block);
    // Cutting it to nothing makes a new file of it.
    mirror.fetch(&lost, Some(0)).expect("announced");
    let file = std::fs::OpenOptions::new().write(true).open(&lost.path);
    file.expect("open").set_len(0).expect("cut");
    mirror.with(&lost, |r, file| r.truncated(file)).unwrap();
    assert_eq!(mirror.presence(&lost), Presence::Resident);
}

#[test]
fn p5_a_stub_shows_a_block_and_the_users_ctime() {
    let mirror = Mirror::new();
    let stub = mirror.rig.dense("file", 3 * BLOCK);
    let (shown, _) = mirror.shown(&stub);
    assert!(shown.at_least_one_block);
    assert_eq!(shown.ctime, Some((OLD.sec, OLD.nsec)));
    mirror.fetch(&stub, None).expect("fetched");
    let (shown, stat) = mirror.shown(&stub);
    assert!(!shown.at_least_one_block);
    assert_eq!(
        shown.ctime,
        Some((OLD.sec, OLD.nsec)),
        "after the recall as before"
    );
    assert_eq!((stat.stx_blocks - shown.hidden_blocks) * 512, 3 * BLOCK);
    // A change by somebody else shows, once the window of our own is past.
    let begun = crate::hsm::version::coarse_now().nanos();
    mirror.rig.until("the window is past", |_| {
        let now = crate::hsm::version::coarse_now().nanos();
        now > begun + 2 * crate::format::record::CTIME_WINDOW_NS
    });
    scribble(&stub, 5);
    assert_eq!(mirror.shown(&stub).0.ctime, None);
}

/// A record is set again where its ctime missed the window. The ctime of such a try is nobody's.
#[test]
fn p4_a_record_that_is_being_set_shows_no_ctime_of_a_try() {
    let mirror = Mirror::new();
    let stub = mirror.rig.dense("file", 3 * BLOCK);
    mirror.fetch(&stub, None).expect("fetched");
    let backing = &mirror.rig.backing;
    let file = mirror.open(&stub);
    let mut record = backing.record(file.as_fd()).expect("read").expect("one");
    // As if the filesystem had made the change wait.
    let now = crate::hsm::version::coarse_now();
    let floor = Timestamp {
        sec: now.sec - 1,
        ..now
    };
    record.ctime_floor = Some(floor);
    let turn = backing.turn(&stub.node);
    let set = backing.set_record(file.as_fd(), &record, SetHow::Replace);
    set.expect("a try that missed");
    let (tell, told) = bounded(1);
    let ctime = std::thread::scope(|scope| {
        scope.spawn(|| {
            // As a mirror does: until both are of one moment.
            let of_one_moment = || loop {
                let (shown, stat) = mirror.shown(&stub);
                let now = backing.stat(file.as_fd()).expect("stat").ctime;
                if (now.sec, now.nsec) == (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec) {
                    return shown.ctime;
                }
            };
            tell.send(of_one_moment()).expect("told");
        });
        // It should be waiting by now. If it is not yet, it sees the record that fits alone.
        let early = told.recv_timeout(std::time::Duration::from_millis(200));
        let fits = Stamp::set(backing, file.as_fd(), None, &record, SetHow::Replace);
        fits.expect("set");
        drop(turn);
        early.unwrap_or_else(|_| told.recv_timeout(PATIENCE).expect("answered"))
    });
    assert_eq!(ctime, Some((OLD.sec, OLD.nsec)));
}

#[test]
fn p5_seek_answers_from_the_extent_map() {
    let mirror = Mirror::new();
    let runs = [
        Extent {
            offset: 4096,
            len: 8192,
        },
        Extent {
            offset: 1 << 20,
            len: 4096,
        },
    ];
    let stub = mirror.rig.released("sparse", 2 << 20, &runs, &[TierId(1)]);
    let seek = |at, data| mirror.with(&stub, |r, file| r.seek(file, at, data));
    // Not at hand yet: as if all were data.
    assert_eq!((seek(0, true), seek(5, false)), (Ok(0), Ok(2 << 20)));
    let copy = stub.record.copies[0];
    let indexes = mirror.rig.recaller.indexes();
    indexes
        .load(&*mirror.rig.tier(), copy.tier, copy.aggregate)
        .expect("loaded");
    let enxio = Err(Errno(libc::ENXIO));
    let check = |seek: &dyn Fn(u64, bool) -> Result<u64, Errno>| {
        assert_eq!((seek(0, true), seek(0, false)), (Ok(4096), Ok(0)));
        assert_eq!((seek(5000, true), seek(5000, false)), (Ok(5000), Ok(12288)));
        assert_eq!(
            (seek(12288, true), seek(12288, false)),
            (Ok(1 << 20), Ok(12288))
        );
        assert_eq!(
            (seek((1 << 20) + 4096, true), seek(2 << 20, true)),
            (enxio, enxio)
        );
        assert_eq!(seek((1 << 20) + 9000, false), Ok((1 << 20) + 9000));
    };
    check(&seek);
    mirror.fetch(&stub, None).expect("fetched");
    check(&seek);
}

#[test]
fn p5_truncation_to_nothing_drops_the_stub() {
    let mirror = Mirror::new();
    let stub = mirror.rig.dense("file", 3 * BLOCK);
    mirror.fetch(&stub, Some(0)).expect("announced");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&stub.path)
        .expect("open");
    file.set_len(0).expect("truncated");
    mirror.with(&stub, |r, file| r.truncated(file)).unwrap();
    assert_eq!(mirror.presence(&stub), Presence::Resident);
    assert_eq!(mirror.rig.record(&stub), None);
    let crashed = mirror.rig.dense("crashed", 3 * BLOCK);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(&crashed.path)
        .expect("open");
    file.set_len(0).expect("truncated");
    assert_eq!(mirror.presence(&crashed), Presence::Resident, "finished");
    assert_eq!(mirror.rig.record(&crashed), None);
}

#[test]
fn p5_fetch_for_another_size_makes_all_of_it_resident() {
    let mirror = Mirror::new();
    let stub = mirror.rig.dense("file", 3 * BLOCK);
    mirror.fetch(&stub, Some(100)).expect("fetched");
    mirror.rig.assert_whole(&stub);
}

#[test]
fn p15_attributes_are_answered_by_name() {
    let mirror = Mirror::new();
    let stub = mirror.rig.dense("file", 1000);
    let get = |name: &str| mirror.get(&stub, &format!("user.cairn.{name}"));
    assert_eq!(get("state"), Ok("released".into()));
    assert_eq!(get("eta"), Ok("42".into()));
    assert_eq!(get("id"), Ok(stub.record.file.to_string()));
    assert_eq!(get("version"), Ok("1".into()));
    let copy = stub.record.copies[0];
    assert_eq!(
        get("copies"),
        Ok(format!("{} {}\n", copy.tier, copy.aggregate))
    );
    assert_eq!(get("pins"), Ok("job 7 99\n".into()));
    assert_eq!(get("socket"), Ok("/run/cairn.sock".into()));
    for none in ["stage", "record", "nonsense"] {
        assert_eq!(get(none), Err(Errno(libc::ENODATA)));
    }
    let other = mirror.with(&stub, |r, file| {
        r.attribute(file, OsStr::new("user.mine"), ME)
    });
    assert_eq!(other, None);
    let set = |name: &str, value: &[u8]| {
        mirror.with(&stub, |r, file| {
            r.set_attribute(file, OsStr::new(name), value, ME)
        })
    };
    assert_eq!(set("user.cairn.stage", b"1"), Some(Ok(())));
    assert_eq!(
        mirror.rig.above.stages.lock().as_slice(),
        std::slice::from_ref(&stub.node)
    );
    assert_eq!(
        set("user.cairn.stage", b"2"),
        Some(Err(Errno(libc::EINVAL)))
    );
    assert_eq!(set("user.cairn.record", b""), Some(Err(Errno(libc::EPERM))));
    assert_eq!(set("user.mine", b""), None);
    let private = |name: &str| mirror.residency.is_private(OsStr::new(name));
    assert!(private("user.cairn.record") && private("trusted.cairn.record"));
    assert!(!private("user.mine") && !private("trusted.other"));
    mirror.fetch(&stub, None).expect("fetched");
    assert_eq!(
        (get("state"), get("eta")),
        (Ok("archived".into()), Ok("0".into()))
    );
    let resident = mirror.rig.released("new", 10, &dense(10), &[]);
    mirror
        .rig
        .backing
        .remove_record(mirror.open(&resident).as_fd())
        .expect("removed");
    assert_eq!(
        mirror.get(&resident, "user.cairn.state"),
        Ok("resident".into())
    );
    assert_eq!(
        mirror.get(&resident, "user.cairn.id"),
        Err(Errno(libc::ENODATA))
    );
}
