//! P3 by its rules, on real files and on images of ext4 and XFS.

use super::*;
use crate::hsm::rig::{Image, Mapping, Rig, noise, patiently};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use std::cell::RefCell;
use std::os::unix::fs::{FileExt, MetadataExt};

mod mend;
mod room;

const SIZE: usize = 300_000;

thread_local! {
    /// What happens, once, right behind this thread's next punch: a user's doing, or a crash.
    static BEHIND_PUNCH: RefCell<Option<Deed>> = RefCell::default();
}

thread_local! {
    /// As [`BEHIND_PUNCH`], where a stub that is made whole says *recalling* from.
    static HALF_WAY: RefCell<Option<Deed>> = RefCell::default();
}

type Deed = Box<dyn FnOnce() -> Result<(), BackingError>>;

pub(super) fn behind_punch() -> Result<(), BackingError> {
    let deed = BEHIND_PUNCH.take();
    deed.map_or(Ok(()), |deed| deed())
}

pub(super) fn half_way() -> Result<(), BackingError> {
    let deed = HALF_WAY.take();
    deed.map_or(Ok(()), |deed| deed())
}

/// Runs `test` on a thread whose writes and punches cost files their set-id bits.
fn without_fsetid(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        let mut now = capabilities(None).unwrap();
        now.effective.remove(CapabilitySet::FSETID);
        set_capabilities(None, now).unwrap();
        test();
    });
    thread.join().unwrap();
}

fn archived(rig: &Rig, name: &str) -> Seen {
    rig.write(name, &noise(SIZE, 1));
    rig.archived(name)
}

fn sound(seen: &Seen) -> Option<(&Seen, Trust)> {
    Some((seen, Trust::Sound))
}

/// The file is as resident as before.
fn assert_resident(rig: &Rig, name: &str) {
    assert_eq!(std::fs::read(rig.path(name)).unwrap(), noise(SIZE, 1));
    assert_eq!(rig.record(name).map(|r| r.state), Some(State::Resident));
}

fn assert_released(rig: &Rig, name: &str) {
    let fd = rig.open(name, How::Read);
    assert!(!rig.backing.has_data(fd.as_fd()).unwrap());
    let record = rig.record(name).unwrap();
    assert_eq!(record.state, State::Released);
    let stat = rig.backing.stat(fd.as_fd()).unwrap();
    assert_eq!((stat.size, stat.mtime), (record.size, record.mtime));
}

fn frees_blocks(image: &Image) {
    let rig = Rig::on(image.path());
    let seen = archived(&rig, "f");
    let before = rig.blocks("f");
    let done = rig.release("f", sound(&seen)).unwrap();
    // ext4 may keep one block for the record itself.
    assert!(rig.blocks("f") <= 8, "{} blocks left", rig.blocks("f"));
    assert_eq!(done.freed, (before - rig.blocks("f")) * 512);
    assert_released(&rig, "f");
}

#[test]
fn p3_frees_blocks_ext4() {
    if let Some(image) = Image::ext4("p3_frees_blocks_ext4") {
        frees_blocks(&image);
    }
}

#[test]
fn p3_frees_blocks_xfs() {
    if let Some(image) = Image::xfs("p3_frees_blocks_xfs") {
        frees_blocks(&image);
    }
}

#[test]
fn p3_shared_extents_are_left_alone() {
    let Some(image) = Image::xfs("p3_shared_extents_are_left_alone") else {
        return;
    };
    let rig = Rig::on(image.path());
    rig.write("f", &noise(SIZE, 1));
    let clone = std::fs::File::create(rig.path("clone")).unwrap();
    if let Err(why) = rustix::fs::ioctl_ficlone(&clone, rig.open("f", How::Read)) {
        eprintln!("SKIPPED p3_shared_extents_are_left_alone: no reflinks here ({why})");
        return;
    }
    let seen = rig.archived("f");
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::FreesNothing(_))
    ));
    assert_resident(&rig, "f");
}

#[test]
fn p3_an_open_counted_by_the_mount_refuses_release() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    rig.gate.open.lock().insert(rig.node("f"));
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::InUse)
    ));
    assert_resident(&rig, "f");
}

#[test]
fn p3_open_descriptor_refuses_release() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let reader = std::fs::File::open(rig.path("f")).unwrap();
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::InUse)
    ));
    drop(reader);
    assert_resident(&rig, "f");
    rig.release("f", sound(&seen)).unwrap();
}

#[test]
fn p3_mapping_refuses_release() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let reader = std::fs::File::open(rig.path("f")).unwrap();
    let mapping = Mapping::readable(reader.as_fd(), 4096);
    drop(reader);
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::InUse)
    ));
    drop(mapping);
    rig.release("f", sound(&seen)).unwrap();
}

#[test]
fn p3_mtime_and_user_ctime_survive() {
    let rig = Rig::new();
    rig.write("f", &noise(SIZE, 1));
    let before = std::fs::metadata(rig.path("f")).unwrap();
    let seen = rig.archived("f");
    let done = rig.release("f", sound(&seen)).unwrap();
    let after = std::fs::metadata(rig.path("f")).unwrap();
    let mtime = |m: &std::fs::Metadata| (m.mtime(), m.mtime_nsec(), m.atime(), m.atime_nsec());
    assert_eq!(mtime(&before), mtime(&after));
    let fd = rig.open("f", How::Path);
    let ctime = rig.backing.stat(fd.as_fd()).unwrap().ctime;
    let shown = shown_ctime(Some(&done.record), ctime);
    assert_eq!(
        (shown.sec, i64::from(shown.nsec)),
        (before.ctime(), before.ctime_nsec())
    );
    assert_ne!(
        after.ctime_nsec(),
        before.ctime_nsec(),
        "the backing's own did change"
    );
    assert_eq!(*rig.gate.changed.lock(), [rig.node("f")]);
}

#[test]
fn p3_setuid_and_file_capabilities_survive() {
    let rig = Rig::new();
    rig.write("f", &noise(SIZE, 1));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o4711);
    std::fs::set_permissions(rig.path("f"), mode).unwrap();
    // cap_net_raw=ep, revision 2.
    let mut value = [0_u8; 20];
    (value[0], value[3], value[5]) = (1, 2, 0x20);
    let name = "security.capability";
    let none = rustix::fs::XattrFlags::empty();
    let capable = rustix::fs::setxattr(rig.path("f"), name, &value, none).is_ok();
    let seen = rig.archived("f");
    rig.release("f", sound(&seen)).unwrap();
    assert_eq!(
        std::fs::metadata(rig.path("f")).unwrap().mode() & 0o7777,
        0o4711
    );
    if !capable {
        return eprintln!("SKIPPED p3_..._file_capabilities_survive: no right to set them");
    }
    let mut kept = [0_u8; 64];
    let len = rustix::fs::getxattr(rig.path("f"), name, &mut kept[..]).unwrap();
    assert_eq!(kept[..len], value);
}

fn chmod(path: &std::path::Path, mode: u32) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, mode).unwrap();
}

fn mode(rig: &Rig, name: &str) -> u32 {
    std::fs::metadata(rig.path(name)).unwrap().mode() & 0o7777
}

/// What a release, or a recovery that punches, does to mode 04711 if `deed` is done meanwhile.
fn set_id_after(deed: fn(&std::path::Path)) -> [u32; 2] {
    let rig = Rig::new();
    let meanwhile = |name: &str| {
        let path = rig.path(name);
        let deed = move || {
            deed(&path);
            Ok(())
        };
        BEHIND_PUNCH.set(Some(Box::new(deed)));
    };
    let seen = archived(&rig, "f");
    chmod(&rig.path("f"), 0o4711);
    meanwhile("f");
    rig.release("f", sound(&seen)).unwrap();
    assert_released(&rig, "f");
    crashed_before_punch(&rig, "g", State::Released);
    chmod(&rig.path("g"), 0o4711);
    meanwhile("g");
    assert!(matches!(recovered(&rig, "g"), Recovered::Released(_)));
    [mode(&rig, "f"), mode(&rig, "g")]
}

#[test]
fn p3_set_id_bits_that_a_user_took_meanwhile_stay_taken() {
    let nothing: fn(&std::path::Path) = |_| {};
    let chown: fn(&std::path::Path) = |path| {
        std::os::unix::fs::chown(path, Some(1), None).unwrap();
    };
    assert_eq!(set_id_after(nothing), [0o4711; 2]);
    without_fsetid(move || assert_eq!(set_id_after(nothing), [0o4711; 2]));
    without_fsetid(|| assert_eq!(set_id_after(|path| chmod(path, 0o2700)), [0o2700; 2]));
    without_fsetid(|| assert_eq!(set_id_after(|path| chmod(path, 0o6755)), [0o6755; 2]));
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED p3_set_id_bits_that_a_user_took_meanwhile_stay_taken: not root");
        return;
    }
    assert_eq!(set_id_after(chown), [0o711; 2]);
    assert_eq!(set_id_after(|path| chmod(path, 0o711)), [0o711; 2]);
    without_fsetid(move || assert_eq!(set_id_after(chown), [0o711; 2]));
}

#[test]
fn p3_a_changed_file_is_not_released() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let file = std::fs::File::options()
        .write(true)
        .open(rig.path("f"))
        .unwrap();
    file.write_at(b"x", 100).unwrap();
    drop(file);
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::Dirty { found: Some(_), .. })
    ));
    assert!(rig.blocks("f") > 100);
    std::fs::File::options()
        .append(true)
        .open(rig.path("f"))
        .unwrap()
        .set_len(10_000)
        .unwrap();
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::Dirty { found: None, .. })
    ));
}

#[test]
fn p3_chmod_alone_does_not_keep_a_file_from_release() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    std::fs::set_permissions(rig.path("f"), mode).unwrap();
    rig.release("f", sound(&seen)).unwrap();
    assert_released(&rig, "f");
}

#[test]
fn p3_a_point_that_was_proven_for_another_version_proves_nothing() {
    let rig = Rig::new();
    archived(&rig, "f");
    // Overwritten in its length and archived as version 2, whose record could not be written: the
    // catalog has the present v for version 2, and the file still says version 1.
    rig.write("f", &noise(SIZE, 2));
    let quiet = alone(&rig.backing, &rig.node("f"), Some(b"f")).unwrap();
    let seen = quiet.seen().clone();
    drop(quiet);
    let record = rig.record("f").unwrap();
    let proof = Proof {
        file: record.file,
        version: crate::id::DataVersion(record.version.0 + 1),
        seen: &seen,
        trust: Trust::Sound,
    };
    let refused = rig.release_proven("f", Some(proof), &|r| Ok(r.copies.clone()));
    assert!(matches!(
        refused,
        Err(Refusal::Dirty { found: Some(_), .. })
    ));
    assert_eq!(std::fs::read(rig.path("f")).unwrap(), noise(SIZE, 2));
}

#[test]
fn p3_a_suspect_version_is_read_again() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    // New bytes under the v that the catalog has: what power loss can leave.
    let file = std::fs::File::options()
        .write(true)
        .open(rig.path("f"))
        .unwrap();
    file.write_at(b"x", 100).unwrap();
    drop(file);
    let quiet = alone(&rig.backing, &rig.node("f"), Some(b"f")).unwrap();
    let lying = quiet.seen().clone();
    drop(quiet);
    assert_ne!(lying, seen);
    let refused = rig.release("f", Some((&lying, Trust::Suspect)));
    assert!(matches!(
        refused,
        Err(Refusal::Dirty { found: Some(_), .. })
    ));
}

#[test]
fn p3_release_wants_as_many_copies_as_policy_asks() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let none = rig.release_with("f", sound(&seen), &|_| Ok(Vec::new()));
    assert!(matches!(none, Err(Refusal::Copies { good: 0, wanted: 1 })));
    let unknown = rig.release_with("f", sound(&seen), &|_| Err("no catalog".to_owned()));
    assert!(matches!(unknown, Err(Refusal::Unproven(_))));
    assert_resident(&rig, "f");
}

#[test]
fn p3_nothing_is_changed_before_the_release_is_noted() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let before = rig.record("f");
    let (node, noted) = (rig.node("f"), std::cell::Cell::new(0));
    let order = Order {
        node: &node,
        hint: Some(b"f"),
        min_size: 4096,
        copies: 1,
        seen: None,
        prove: &|record| Ok(record.copies.clone()),
        note: &|| {
            noted.set(noted.get() + 1);
            assert_eq!(rig.record("f"), before);
            Err("no room".to_owned())
        },
    };
    let permit = Permit::of(&rig.backing, false).unwrap();
    let in_use = |why: &Refusal| matches!(why, Refusal::InUse);
    let refused = patiently(|| release(permit, &rig.gate, &order), in_use);
    assert!(matches!(refused, Err(Refusal::Unnoted(_))), "{refused:?}");
    assert_resident(&rig, "f");
    // Nor is one noted that is refused anyway.
    let none = Order {
        prove: &|_| Ok(Vec::new()),
        ..order
    };
    let refused = patiently(|| release(permit, &rig.gate, &none), in_use);
    assert!(matches!(refused, Err(Refusal::Copies { .. })));
    assert_eq!(noted.get(), 1);
    rig.release("f", sound(&seen)).unwrap();
}

#[test]
fn p3_what_frees_nothing_is_not_released() {
    let rig = Rig::new();
    rig.write("small", b"small");
    let seen = rig.archived("small");
    assert!(matches!(
        rig.release("small", sound(&seen)),
        Err(Refusal::Small(_))
    ));
    std::fs::File::create(rig.path("hole"))
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
    let seen = rig.archived("hole");
    assert!(matches!(
        rig.release("hole", sound(&seen)),
        Err(Refusal::FreesNothing(_))
    ));
    rig.write("new", &noise(SIZE, 1));
    assert!(matches!(
        rig.release("new", None),
        Err(Refusal::NotArchived)
    ));
    let seen = archived(&rig, "f");
    rig.release("f", sound(&seen)).unwrap();
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::AlreadyReleased)
    ));
}

#[test]
fn p3_a_copied_record_releases_nothing() {
    let rig = Rig::new();
    archived(&rig, "f");
    let record = rig.record("f").unwrap();
    rig.write("copy", &noise(SIZE, 1));
    let fd = rig.open("copy", How::Path);
    rig.backing
        .set_record(fd.as_fd(), &record, SetHow::Create)
        .unwrap();
    if matches!(
        rig.backing.keeping(),
        crate::hsm::backing::RecordKeeping::Trusted
    ) {
        assert!(matches!(rig.release("copy", None), Err(Refusal::Foreign)));
    }
}

#[test]
fn p7_no_permit_where_users_can_reach_the_backing() {
    let rig = Rig::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    assert!(Permit::of(&rig.backing, false).is_ok());
    std::fs::set_permissions(&rig.root, open).unwrap();
    // The temporary directory above is its owner's alone on most systems.
    let above = std::fs::metadata(rig.root.parent().unwrap()).unwrap();
    if above.mode() & 0o077 == 0 {
        assert!(
            Permit::of(&rig.backing, false).is_ok(),
            "guarded from above"
        );
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(rig.root.parent().unwrap(), open).unwrap();
    }
    assert!(matches!(
        Permit::of(&rig.backing, false),
        Err(NotPermitted::Open)
    ));
    assert!(Permit::of(&rig.backing, true).is_ok());
}

/// The file as a crash right behind the stub's fsync leaves it.
fn crashed_before_punch(rig: &Rig, name: &str, state: State) {
    archived(rig, name);
    let record = Record {
        state,
        ctime_floor: None,
        ..rig.record(name).unwrap()
    };
    let fd = rig.open(name, How::Path);
    rig.backing
        .set_record(fd.as_fd(), &record, SetHow::Replace)
        .unwrap();
}

fn recovered(rig: &Rig, name: &str) -> Recovered {
    let once = || {
        recover(
            &rig.backing,
            &rig.gate,
            &rig.node(name),
            Some(name.as_bytes()),
        )
    };
    patiently(once, |why| matches!(why, Refusal::InUse)).unwrap()
}

#[test]
fn p3_crash_before_the_punch_gives_a_resident_file() {
    let rig = Rig::new();
    crashed_before_punch(&rig, "f", State::Recalling);
    assert!(matches!(recovered(&rig, "f"), Recovered::Resident(_)));
    assert_resident(&rig, "f");
    assert_eq!(recovered(&rig, "f"), Recovered::Nothing);
}

#[test]
fn p3_crash_within_the_punch_gives_a_released_file() {
    let rig = Rig::new();
    crashed_before_punch(&rig, "f", State::Recalling);
    let fd = rig.open("f", How::ReadWrite);
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&fd, how, 0, 65_536).unwrap();
    drop(fd);
    assert!(matches!(recovered(&rig, "f"), Recovered::Released(_)));
    assert_released(&rig, "f");
}

#[test]
fn p3_crash_behind_the_punch_gives_a_released_file() {
    let rig = Rig::new();
    crashed_before_punch(&rig, "f", State::Recalling);
    let fd = rig.open("f", How::ReadWrite);
    let stat = rig.backing.stat(fd.as_fd()).unwrap();
    drop(fd);
    let (node, in_use) = (rig.node("f"), |why: &Refusal| matches!(why, Refusal::InUse));
    let quiet = patiently(|| alone(&rig.backing, &node, Some(b"f")), in_use).unwrap();
    punch(&rig.backing, &quiet, &node, &stat).unwrap();
    drop(quiet);
    assert!(matches!(recovered(&rig, "f"), Recovered::Released(_)));
    assert_released(&rig, "f");
}

#[test]
fn p3_a_lost_punch_under_a_stub_is_finished_only_if_the_data_are_the_same() {
    let rig = Rig::new();
    crashed_before_punch(&rig, "f", State::Released);
    assert!(matches!(recovered(&rig, "f"), Recovered::Released(_)));
    assert_released(&rig, "f");
    crashed_before_punch(&rig, "g", State::Released);
    let before = std::fs::metadata(rig.path("g"))
        .unwrap()
        .modified()
        .unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(rig.path("g"))
        .unwrap();
    file.write_at(b"x", 100).unwrap();
    // Even with the mtime put back.
    file.set_modified(before).unwrap();
    drop(file);
    assert_eq!(recovered(&rig, "g"), Recovered::Conflict);
    assert!(rig.blocks("g") > 100, "nothing is thrown away");
}

#[test]
fn p3_a_punch_that_is_finished_and_cut_short_again_is_no_conflict() {
    let rig = Rig::new();
    crashed_before_punch(&rig, "f", State::Released);
    // Long ago: the punch moves it, whatever the clock's grain.
    let file = std::fs::File::options().write(true).open(rig.path("f"));
    let before = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_500_000_000);
    file.unwrap().set_modified(before).unwrap();
    let fd = rig.open("f", How::Path);
    let record = Record {
        mtime: rig.backing.stat(fd.as_fd()).unwrap().mtime,
        ..rig.record("f").unwrap()
    };
    rig.backing
        .set_record(fd.as_fd(), &record, SetHow::Replace)
        .unwrap();
    BEHIND_PUNCH.set(Some(Box::new(|| {
        Err(BackingError::of(
            "survive",
            || "f".to_owned(),
            std::io::Error::from_raw_os_error(libc::EIO),
        ))
    })));
    let cut = || recover(&rig.backing, &rig.gate, &rig.node("f"), Some(b"f"));
    patiently(cut, |why| matches!(why, Refusal::InUse)).unwrap_err();
    assert!(matches!(recovered(&rig, "f"), Recovered::Released(_)));
    assert_released(&rig, "f");
    assert_eq!(rig.record("f").unwrap().mtime, record.mtime);
}

#[test]
fn p5_a_stub_cut_to_nothing_is_told_apart() {
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    rig.release("f", sound(&seen)).unwrap();
    std::fs::File::options()
        .write(true)
        .open(rig.path("f"))
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(recovered(&rig, "f"), Recovered::Truncated);
}

#[test]
fn line_6_a_store_through_an_old_mapping_is_never_lost() {
    let rig = Rig::new();
    rig.write("f", &noise(SIZE, 1));
    let seen = rig.archived("f");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(rig.path("f"))
        .unwrap();
    let mapping = Mapping::writable(file.as_fd(), 8192);
    drop(file);
    mapping.store(10, 1);
    // Archived anew while mapped: refused, because the writer is still there.
    let report = rig.archive(&["f"]);
    use crate::hsm::archive::{Outcome, Skip};
    assert!(matches!(
        report.outcomes[..],
        [Outcome::Skipped(Skip::Busy)]
    ));
    assert!(report.aggregate.is_none());
    // To the same page, which is dirty: no timestamp tells.
    mapping.store(11, 2);
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::InUse)
    ));
    drop(mapping);
    assert!(matches!(
        rig.release("f", sound(&seen)),
        Err(Refusal::Dirty { .. })
    ));
    let kept = std::fs::read(rig.path("f")).unwrap();
    assert_eq!(kept[10..12], [1, 2]);
    // Archived anew it may go.
    let seen = rig.archived("f");
    assert_eq!(rig.record("f").unwrap().crc, Crc32c::of(&kept));
    rig.release("f", sound(&seen)).unwrap();
}
