//! P6: an older record, which says *resident*, is put over the stub of a released file. And what looks
//! the same from outside, and is no loss: files of holes with a record.

use super::doubts::{eventually, judged, path};
use super::*;
use crate::catalog::{Durability, NodeId, Rescan};
use crate::format::record::State;
use crate::hsm::recall::RecallError;
use crate::hsm::residency::HsmResidency;
use crate::hsm::rig::noise;
use cairn_fuse::{Caller, Event, EventKind, FileRef, Presence, Residency};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

pub(super) const BIG: usize = 256 << 10;
const RECORD: &str = "trusted.cairn.record";
const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 1,
};

/// A bench that may release, its first scan at its end.
pub(super) fn bench() -> Bench {
    let bench = Bench::new(&[Place::Elsewhere], small(), NOTHING);
    let catalog = bench.engine().catalog();
    eventually(|| catalog.scan_state().unwrap().finished_generation != 0);
    bench
}

/// The attribute as it is now.
fn record(bench: &Bench, name: &str) -> Vec<u8> {
    let mut value = vec![0; 512];
    let len = rustix::fs::getxattr(bench.root.join(name), RECORD, &mut value[..]).unwrap();
    value.truncate(len);
    value
}

fn put(bench: &Bench, name: &str, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(bench.root.join(name), RECORD, value, flags).unwrap();
}

fn release(bench: &Bench, name: &str) {
    bench.done(bench.submit(Verb::Release, &[name]));
    assert_eq!(state_of(bench, name), FileState::Released);
}

fn stage(bench: &Bench, name: &str) {
    bench.done(bench.submit(Verb::Stage, &[name]));
    eventually(|| state_of(bench, name) == FileState::Archived);
}

/// Archived and released, and the record of in between put back; its stub.
fn overwritten(bench: &Bench, name: &str, seed: u64) -> Vec<u8> {
    bench.write(name, &noise(BIG, seed));
    bench.archive(&[name]);
    let old = record(bench, name);
    release(bench, name);
    let stub = record(bench, name);
    put(bench, name, &old);
    stub
}

/// Of this size, and nothing in it; its record stays what it was.
fn emptied(bench: &Bench, name: &str, size: u64) {
    let file = File::options().write(true).open(bench.root.join(name));
    let file = file.unwrap();
    file.set_len(0).unwrap();
    file.set_len(size).unwrap();
}

/// What the mount would make of a file.
struct Seen {
    residency: HsmResidency,
    handle: NodeHandle,
    fd: OwnedFd,
}

impl Seen {
    fn of(bench: &Bench, name: &str) -> Self {
        let engine = bench.engine();
        let recaller = engine.recaller().unwrap();
        Self {
            residency: HsmResidency::new(recaller, engine.asks(), engine.changelog(), None),
            handle: bench.handle(name),
            fd: path(bench, name),
        }
    }

    fn file(&self) -> FileRef<'_> {
        FileRef {
            handle: &self.handle,
            fd: self.fd.as_fd(),
        }
    }

    fn presence(&self) -> Presence {
        self.residency.presence(self.file())
    }

    fn state(&self) -> String {
        let name = std::ffi::OsStr::new("user.cairn.state");
        let state = self.residency.attribute(self.file(), name, ME);
        String::from_utf8(state.unwrap().unwrap()).unwrap()
    }

    /// Also where its attributes take no block of its own.
    fn shows_a_block(&self) -> bool {
        let flags = rustix::fs::StatxFlags::BASIC_STATS;
        let empty = rustix::fs::AtFlags::EMPTY_PATH;
        let mut stat = rustix::fs::statx(&self.fd, c"", empty, flags).unwrap();
        stat.stx_blocks = 0;
        self.residency.shown(self.file(), &stat).at_least_one_block
    }

    /// A reader's error number.
    fn read(&self) -> Option<i32> {
        let (tell, told) = std::sync::mpsc::channel();
        let done = Box::new(move |read: Result<_, cairn_fuse::Errno>| {
            let _ = tell.send(read.err().map(|e| e.0));
        });
        self.residency.read(self.file(), 0, 4096, ME, done);
        told.recv().unwrap()
    }
}

/// A look at everything, as after a stop that was not a clean one.
fn scan(bench: &Bench) {
    let mark = Rescan {
        node: NodeId::ROOT,
        since: crate::hsm::engine::now(),
        why: "a test".into(),
    };
    let (engine, catalog) = (bench.engine(), bench.engine().catalog());
    catalog.need_rescan(vec![mark]).unwrap();
    engine.shared.bell.ring();
    eventually(|| catalog.rescans(1).unwrap().is_empty());
}

/// The copies of a file by the catalog, and what lies on the tier.
fn copies(bench: &Bench, name: &str) -> (Vec<crate::catalog::Copy>, usize) {
    let version = bench.node(name).version.unwrap();
    let catalog = bench.engine().catalog();
    let copies = catalog.copies(version.file, version.version).unwrap();
    (copies, bench.objects(0))
}

#[test]
fn p6_an_older_record_over_a_stub_makes_no_zeros_of_it() {
    let bench = bench();
    let data = noise(BIG, 1);
    let stub = overwritten(&bench, "f", 1);
    let (seen, before) = (Seen::of(&bench, "f"), copies(&bench, "f"));
    assert_eq!(seen.presence(), Presence::Doubtful);
    assert!(seen.shows_a_block(), "tar -S would leave it out");
    assert_eq!(seen.state(), "lost", "before anybody has asked");
    let size = BIG as u64;
    assert_eq!(seen.residency.seek(seen.file(), 4096, true), Ok(4096));
    assert_eq!(seen.residency.seek(seen.file(), 4096, false), Ok(size));
    assert_eq!(seen.read(), Some(libc::EIO));
    assert_eq!(judged(&bench, "f"), (Some(true), false));
    let row = bench.node("f");
    assert_eq!(row.state, FileState::Lost);
    assert!(row.note.unwrap().contains("an older record"));
    // Nor does anybody else.
    for verb in [Verb::Archive, Verb::Release, Verb::Stage] {
        let refused = bench.ended(bench.submit(verb, &["f"]));
        assert_eq!(refused.row.state, RequestState::Failed, "{verb:?}");
    }
    scan(&bench);
    assert_eq!(state_of(&bench, "f"), FileState::Lost);
    assert_eq!(
        (seen.state().as_str(), seen.read()),
        ("lost", Some(libc::EIO))
    );
    assert_eq!(copies(&bench, "f"), before);
    // The way back.
    put(&bench, "f", &stub);
    assert_eq!(seen.presence(), Presence::Released);
    stage(&bench, "f");
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), data);
    assert_eq!(seen.presence(), Presence::Resident);
}

#[test]
fn p6_a_scan_calls_a_file_under_an_older_record_lost_and_not_dirty() {
    let bench = bench();
    overwritten(&bench, "f", 1);
    // A record of a version before the one that was released, of another size.
    bench.write("g", &noise(BIG / 2, 2));
    bench.archive(&["g"]);
    let old = record(&bench, "g");
    bench.write("g", &noise(BIG, 3));
    bench.archive(&["g"]);
    release(&bench, "g");
    put(&bench, "g", &old);
    let before = (copies(&bench, "f"), copies(&bench, "g"));
    scan(&bench);
    for name in ["f", "g"] {
        assert_eq!(state_of(&bench, name), FileState::Lost, "{name}");
    }
    assert_eq!((copies(&bench, "f"), copies(&bench, "g")), before);
}

/// Room behind the end would be blocks under the old record, and a file of blocks is not asked about.
#[test]
fn p6_room_behind_the_end_hides_no_stub_that_was_overwritten() {
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    let file = File::options().write(true).open(bench.root.join("f"));
    let how = rustix::fs::FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(file.unwrap(), how, 0, 4 << 20).is_err() {
        eprintln!("SKIPPED p6_room_behind_the_end: no fallocate here");
        return;
    }
    bench.archive(&["f"]);
    let old = record(&bench, "f");
    release(&bench, "f");
    put(&bench, "f", &old);
    let seen = Seen::of(&bench, "f");
    assert_eq!(seen.presence(), Presence::Doubtful);
    assert_eq!(seen.state(), "lost");
    assert_eq!(seen.read(), Some(libc::EIO));
    assert_eq!(state_of(&bench, "f"), FileState::Lost);
}

/// Nobody asked about it before.
#[test]
fn p6_an_archive_takes_no_zeros_from_under_an_older_record() {
    let bench = bench();
    overwritten(&bench, "f", 1);
    let before = copies(&bench, "f");
    let why = failures(&bench.ended(bench.submit(Verb::Archive, &["f"])));
    assert!(why[0].starts_with("lost: "), "{why:?}");
    assert_eq!(state_of(&bench, "f"), FileState::Lost);
    assert_eq!(copies(&bench, "f"), before);
}

/// It would wait for nothing, and be told that all is well.
#[test]
fn p6_a_stage_of_a_lost_file_fails() {
    let bench = bench();
    overwritten(&bench, "overwritten", 1);
    bench.write("gone", &noise(BIG, 2));
    bench.write("cut", &noise(BIG, 3));
    bench.write("here", &noise(BIG, 4));
    bench.archive(&["gone", "cut", "here"]);
    release(&bench, "gone");
    let backing = bench.engine().backing();
    let gone = path(&bench, "gone");
    backing.remove_record(gone.as_fd()).unwrap();
    // Its owner's own, of which the catalog has not heard.
    release(&bench, "cut");
    backing.remove_record(path(&bench, "cut").as_fd()).unwrap();
    emptied(&bench, "cut", BIG as u64);
    bench.engine().changelog().push(Event {
        kind: EventKind::Resized,
        node: bench.handle("cut"),
        place: None,
        from: None,
    });
    for name in ["overwritten", "gone"] {
        let why = failures(&bench.ended(bench.submit(Verb::Stage, &[name])));
        assert!(why[0].starts_with("lost: "), "{name}: {why:?}");
        assert_eq!(state_of(&bench, name), FileState::Lost, "{name}");
    }
    bench.done(bench.submit(Verb::Stage, &["cut", "here"]));
    assert_eq!(state_of(&bench, "cut"), FileState::Dirty);
}

/// Room without data in it, so that a release has a try.
#[test]
fn p6_a_release_of_a_file_under_an_older_record_leaves_its_row() {
    let bench = bench();
    overwritten(&bench, "f", 1);
    let file = File::options().write(true).open(bench.root.join("f"));
    let all = rustix::fs::FallocateFlags::empty();
    if rustix::fs::fallocate(file.unwrap(), all, 0, BIG as u64).is_err() {
        eprintln!("SKIPPED p6_a_release_of_a_file_under_an_older_record: no fallocate here");
        return;
    }
    let before = copies(&bench, "f");
    let why = failures(&bench.ended(bench.submit(Verb::Release, &["f"])));
    assert!(why[0].starts_with("lost: "), "{why:?}");
    assert_eq!(state_of(&bench, "f"), FileState::Lost);
    assert_eq!(copies(&bench, "f"), before);
}

/// The record of the inode that a file was before an editor replaced it.
#[test]
fn p6_a_resident_record_of_another_inode_over_a_stub_says_nothing() {
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    let old = record(&bench, "f");
    bench.write("new", &noise(BIG, 2));
    std::fs::rename(bench.root.join("new"), bench.root.join("f")).unwrap();
    bench.archive(&["f"]);
    release(&bench, "f");
    put(&bench, "f", &old);
    let seen = Seen::of(&bench, "f");
    assert_eq!(seen.presence(), Presence::Doubtful);
    assert_eq!(seen.read(), Some(libc::EIO));
    assert_eq!(state_of(&bench, "f"), FileState::Lost);
}

/// An ordinary open asks nobody: there is nobody to ask.
#[test]
fn a_file_with_data_and_a_record_opens_without_a_question() {
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    bench.write("sparse", &noise(BIG, 2));
    let sparse = File::options().write(true).open(bench.root.join("sparse"));
    sparse.unwrap().set_len(64 << 20).unwrap();
    let names = ["f", "sparse"];
    bench.archive(&names);
    let seen = names.map(|name| Seen::of(&bench, name));
    bench.engine().catalog().refuse_reads();
    for (seen, name) in seen.iter().zip(names) {
        assert_eq!(seen.presence(), Presence::Resident, "{name}");
        assert_eq!(seen.read(), None, "{name}");
        let believed = &bench.engine().shared.believed;
        assert!(!believed.holds(&seen.handle), "{name}: it was asked about");
    }
}

/// P4 between its steps 7 and 8: the record is there, the catalog has not heard of it.
#[test]
fn p4_a_recall_that_the_catalog_has_not_heard_of_is_no_loss() {
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    release(&bench, "f");
    stage(&bench, "f");
    let (row, catalog) = (bench.node("f"), bench.engine().catalog());
    let released = FileState::Released;
    catalog
        .set_state(row.id, released, None, Durability::Full)
        .unwrap();
    let seen = Seen::of(&bench, "f");
    assert_eq!((seen.presence(), seen.read()), (Presence::Resident, None));
    assert_eq!(judged(&bench, "f"), (Some(false), true));
    assert_eq!(
        state_of(&bench, "f"),
        released,
        "the record tells, not this"
    );
    scan(&bench);
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
}

/// What a file of holes with a record may be, and is whole: the catalog has it archived, changed, as
/// zeros, by an older version, or not at all.
#[test]
fn p6_a_file_of_holes_that_is_its_owners_own_is_no_loss() {
    let bench = bench();
    let size = BIG as u64;
    let names = ["archived", "dirty", "behind", "unknown"];
    for (name, seed) in names.iter().zip(1..) {
        bench.write(name, &noise(BIG, seed));
    }
    bench.write("zeros", b"");
    emptied(&bench, "zeros", size);
    bench.archive(&["archived", "dirty", "behind", "unknown", "zeros"]);
    let catalog = bench.engine().catalog();
    let set = |name: &str, state| {
        let row = bench.node(name);
        catalog
            .set_state(row.id, state, None, Durability::Full)
            .unwrap();
    };
    set("dirty", FileState::Dirty);
    set("zeros", FileState::Released);
    // An older catalog was put back: what it has released was archived again since.
    set("behind", FileState::Released);
    let backing = bench.engine().backing();
    let fd = path(&bench, "behind");
    let mut later = backing.record(fd.as_fd()).unwrap().unwrap();
    later.version.0 += 1;
    let file = backing.reopen(fd.as_fd(), crate::hsm::backing::How::ReadWrite);
    let how = crate::hsm::backing::SetHow::Replace;
    backing
        .set_record(file.unwrap().as_fd(), &later, how)
        .unwrap();
    for name in names {
        emptied(&bench, name, size);
    }
    let node = bench.node("unknown").id;
    let now = crate::hsm::engine::now();
    assert!(catalog.forget(node, now, Durability::Full).unwrap());
    for name in ["archived", "dirty", "behind", "unknown", "zeros"] {
        let seen = Seen::of(&bench, name);
        assert_eq!(
            backing.record(seen.fd.as_fd()).unwrap().unwrap().state,
            State::Resident
        );
        assert_ne!(seen.state(), "lost", "{name}");
        assert_eq!(seen.read(), None, "{name}");
        assert_eq!(judged(&bench, name), (Some(false), true), "{name}");
        // It is asked about once.
        assert!(!seen.shows_a_block(), "{name}: its holes are holes");
        assert_eq!(seen.presence(), Presence::Resident, "{name}");
    }
}

/// P5: a file that came back a moment ago is cut and grown again, and neither has reached the catalog.
#[test]
fn p5_a_cut_that_is_still_in_the_changelog_is_no_loss() {
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    release(&bench, "f");
    stage(&bench, "f");
    let (row, catalog) = (bench.node("f"), bench.engine().catalog());
    catalog
        .set_state(row.id, FileState::Released, None, Durability::Full)
        .unwrap();
    emptied(&bench, "f", BIG as u64);
    let seen = Seen::of(&bench, "f");
    bench.engine().changelog().push(Event {
        kind: EventKind::Resized,
        node: seen.handle.clone(),
        place: None,
        from: None,
    });
    assert_eq!(seen.read(), None);
    assert_eq!(state_of(&bench, "f"), FileState::Dirty);
    assert_eq!(seen.presence(), Presence::Resident);
}

/// As without a record: what holds nothing waits for the catalog, and for no longer.
#[test]
fn p6_while_the_catalog_cannot_be_asked_a_file_of_holes_is_refused() {
    let bench = bench();
    bench.write("holes", &noise(BIG, 1));
    bench.write("gone", &noise(BIG, 2));
    bench.archive(&["holes", "gone"]);
    emptied(&bench, "holes", BIG as u64);
    let catalog = bench.engine().catalog();
    let (shared, node) = (&bench.engine().shared, bench.handle("holes"));
    assert_eq!(judged(&bench, "holes"), (Some(false), true));
    shared.believed.forget(&node);
    catalog.refuse_reads();
    let why = shared.is_lost(&node, path(&bench, "holes").as_fd());
    let why = why.unwrap_err().to_string();
    assert!(!shared.believed.holds(&node), "{why}");
    let asked = bench
        .engine()
        .asks()
        .vouch(&node, path(&bench, "holes").as_fd());
    assert!(
        matches!(asked, Err(RecallError::Unavailable { .. })),
        "{asked:?}"
    );
    // One that holds its data is believed, if anybody should ask.
    assert_eq!(judged(&bench, "gone"), (Some(false), true));
}

/// A full state directory: a cut may be what the catalog could not be told. Of a release it was told
/// before.
#[test]
fn p6_while_the_catalog_cannot_be_told_what_it_has_as_released_is_refused() {
    let bench = bench();
    overwritten(&bench, "gone", 1);
    bench.write("holes", &noise(BIG, 2));
    bench.write("zeros", b"");
    emptied(&bench, "zeros", BIG as u64);
    bench.archive(&["holes", "zeros"]);
    emptied(&bench, "holes", BIG as u64);
    let catalog = bench.engine().catalog();
    catalog.refuse_changes();
    eventually(|| catalog.settle(Durability::Relaxed).is_err());
    assert_eq!(judged(&bench, "gone"), (None, false));
    assert_eq!(judged(&bench, "holes"), (Some(false), true), "its owner's");
    assert_eq!(judged(&bench, "zeros"), (Some(false), true), "its data");
    let seen = Seen::of(&bench, "holes");
    assert_eq!((seen.presence(), seen.read()), (Presence::Resident, None));
}

/// Runs `deed` once, when a release has the file to itself and asks for its copies.
fn within_release(bench: &Bench, deed: impl FnOnce() + Send + 'static) {
    let mut deed = Some(deed);
    let once = move || {
        if let Some(deed) = deed.take() {
            deed();
        }
    };
    *bench.asked[0].lock() = Some(Box::new(once));
}

/// The row would say that the holes are data.
#[test]
fn p6_no_block_goes_before_the_catalog_has_heard_of_it() {
    let bench = bench();
    let data = noise(BIG, 1);
    bench.write("f", &data);
    bench.archive(&["f"]);
    let (shared, node) = (bench.engine().shared.clone(), bench.handle("f"));
    let (tell, told) = std::sync::mpsc::channel();
    within_release(&bench, {
        let shared = shared.clone();
        move || {
            shared.catalog.refuse_changes();
            tell.send(()).unwrap();
        }
    });
    bench.submit(Verb::Release, &["f"]);
    told.recv().unwrap();
    // When its lane is done with it.
    eventually(|| shared.lanes.claim(&node).is_some());
    let record = shared.backing.record(path(&bench, "f").as_fd()).unwrap();
    assert_eq!(record.unwrap().state, State::Resident);
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), data);
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
}

#[test]
fn p6_a_release_that_was_not_done_does_not_stay_noted() {
    use super::super::work::release::{announce, take_back};
    use crate::hsm::release::Refusal;
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    let (shared, node) = (&bench.engine().shared, bench.node("f"));
    announce(shared, &node).unwrap();
    assert_eq!(state_of(&bench, "f"), FileState::Released);
    take_back(shared, &node, &Err(Refusal::InUse));
    assert_eq!(state_of(&bench, "f"), FileState::Archived);
    // Its stub stands.
    release(&bench, "f");
    take_back(shared, &node, &Err(Refusal::InUse));
    assert_eq!(state_of(&bench, "f"), FileState::Released);
    // Somebody wrote meanwhile.
    let (catalog, dirty) = (bench.engine().catalog(), FileState::Dirty);
    catalog
        .set_state(node.id, dirty, None, Durability::Full)
        .unwrap();
    announce(shared, &node).unwrap_err();
    assert_eq!(state_of(&bench, "f"), dirty);
}

/// Noted as released, and its record still says resident: the release that is at it knows better. One
/// that nobody is at any more was not done.
#[test]
fn p6_a_scan_leaves_a_file_alone_that_is_being_released() {
    use super::super::work::release::announce;
    let bench = bench();
    let data = noise(BIG, 1);
    bench.write("f", &data);
    bench.archive(&["f"]);
    let (shared, node) = (&bench.engine().shared, bench.node("f"));
    // A check of the archive's ctime may have it for a moment.
    let claim = wait_for("it to be nobody's", || shared.lanes.claim(&node.handle));
    announce(shared, &node).unwrap();
    scan(&bench);
    assert_eq!(state_of(&bench, "f"), FileState::Released);
    drop(claim);
    scan(&bench);
    eventually(|| state_of(&bench, "f") == FileState::Archived);
    release(&bench, "f");
    stage(&bench, "f");
    assert_eq!(std::fs::read(bench.root.join("f")).unwrap(), data);
}

/// Believed when the release had begun, and before it had the file to itself.
#[test]
fn p6_what_was_believed_while_a_release_began_is_forgotten() {
    let bench = bench();
    bench.write("f", &noise(BIG, 1));
    bench.archive(&["f"]);
    let (shared, node) = (bench.engine().shared.clone(), bench.handle("f"));
    within_release(&bench, {
        let (shared, node) = (shared.clone(), node.clone());
        move || shared.believed.look(&node).believe()
    });
    release(&bench, "f");
    assert!(!shared.believed.holds(&node));
}

/// A recall that ended meanwhile, a stub that was put back: what was found of the one says nothing of
/// the other.
#[test]
fn p6_a_record_that_changed_while_it_was_asked_about_is_asked_about_again() {
    use super::super::vouch::{Asked, Says};
    let bench = bench();
    let stub = overwritten(&bench, "f", 1);
    let (shared, fd) = (&bench.engine().shared, path(&bench, "f"));
    let old = shared.backing.record(fd.as_fd()).unwrap().unwrap();
    let resident = Says::Resident(Box::new(old));
    let node = &bench.handle("f");
    let asked = |says| {
        let file = fd.as_fd();
        shared.judge(Asked { node, file, says }).unwrap()
    };
    assert_eq!(asked(&Says::Nothing), None);
    assert_eq!(asked(&resident), Some(true));
    put(&bench, "f", &stub);
    assert_eq!(asked(&resident), None);
    assert!(!shared.is_lost(node, fd.as_fd()).unwrap());
    assert!(!shared.believed.holds(node));
}
