//! P3: the room behind a file's end goes with its blocks, and nobody who came meanwhile loses a byte.

use super::*;

/// Allocates 4 MiB, most of it behind the end.
fn with_room(rig: &Rig, name: &str) {
    let file = rig.open(name, How::ReadWrite);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 << 20).unwrap();
    rustix::fs::fsync(&file).unwrap();
    assert!(rig.blocks(name) >= 8000, "{}", rig.blocks(name));
}

fn frees_room_behind_the_end(image: &Image) {
    let rig = Rig::on(image.path());
    let seen = archived(&rig, "f");
    with_room(&rig, "f");
    let before = rig.blocks("f");
    let done = rig.release("f", sound(&seen)).unwrap();
    assert!(rig.blocks("f") <= 8, "{} blocks left", rig.blocks("f"));
    assert_eq!(done.freed, (before - rig.blocks("f")) * 512);
    assert_released(&rig, "f");
    // A crash behind the punch, before the room was given back.
    let seen = archived(&rig, "g");
    with_room(&rig, "g");
    BEHIND_PUNCH.set(Some(Box::new(|| {
        Err(BackingError::of(
            "survive",
            || "g".to_owned(),
            std::io::Error::from_raw_os_error(libc::EIO),
        ))
    })));
    rig.release("g", sound(&seen)).unwrap_err();
    assert!(rig.blocks("g") > 1000, "{} blocks", rig.blocks("g"));
    assert!(matches!(recovered(&rig, "g"), Recovered::Released(_)));
    assert!(rig.blocks("g") <= 8, "{} blocks left", rig.blocks("g"));
    assert_released(&rig, "g");
}

#[test]
fn p3_room_behind_the_end_comes_free_ext4() {
    if let Some(image) = Image::ext4("p3_room_behind_the_end_comes_free_ext4") {
        frees_room_behind_the_end(&image);
    }
}

#[test]
fn p3_room_behind_the_end_comes_free_xfs() {
    if let Some(image) = Image::xfs("p3_room_behind_the_end_comes_free_xfs") {
        frees_room_behind_the_end(&image);
    }
}

/// As by somebody who waited for the lease until the kernel let him.
#[test]
fn p3_a_size_that_changed_behind_the_punch_is_left_alone() {
    let rig = Rig::new();
    crashed_before_punch(&rig, "f", State::Recalling);
    let node = rig.node("f");
    let in_use = |why: &Refusal| matches!(why, Refusal::InUse);
    let quiet = patiently(|| alone(&rig.backing, &node, Some(b"f")), in_use).unwrap();
    let stat = rig.backing.stat(quiet.fd()).unwrap();
    for size in [stat.size - 1, stat.size + 4096] {
        let before = FileStat { size, ..stat };
        let refused = punch(&rig.backing, &quiet, &node, &before).map_err(Refusal::from);
        assert!(matches!(refused, Err(Refusal::InUse)), "{refused:?}");
        assert_eq!(rig.backing.stat(quiet.fd()).unwrap().size, stat.size);
    }
}

/// The catalog's disk may be slow, and whoever wants the file waits for the lease only so long.
#[test]
fn p3_who_came_while_the_release_was_noted_is_left_alone() {
    use std::os::unix::fs::OpenOptionsExt;
    let rig = Rig::new();
    let seen = archived(&rig, "f");
    let (node, before) = (rig.node("f"), rig.record("f"));
    let noted = std::cell::Cell::new(false);
    let order = Order {
        node: &node,
        hint: Some(b"f"),
        min_size: 4096,
        copies: 1,
        seen: None,
        prove: &|record| Ok(record.copies.clone()),
        note: &|| {
            let mut options = std::fs::OpenOptions::new();
            let came = options.write(true).custom_flags(libc::O_NONBLOCK);
            came.open(rig.path("f")).unwrap_err();
            noted.set(true);
            Ok(())
        },
    };
    let permit = Permit::of(&rig.backing, false).unwrap();
    let too_early = |why: &Refusal| matches!(why, Refusal::InUse) && !noted.get();
    let refused = patiently(|| release(permit, &rig.gate, &order), too_early);
    assert!(matches!(refused, Err(Refusal::InUse)), "{refused:?}");
    assert_eq!(rig.record("f"), before, "nothing was marked");
    rig.release("f", sound(&seen)).unwrap();
}
