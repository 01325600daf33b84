//! Tests of what the conformance suite cannot reach from outside.

use super::*;
use crate::id::{InstanceId, TierId};
use std::fs::File;
use std::io::Write;
use tempfile::TempDir;

fn open_dir(path: &Path) -> OwnedFd {
    File::open(path).expect("directory").into()
}

fn file(dir: &Path, name: &str, data: &[u8]) -> File {
    let mut file = File::create_new(dir.join(name)).expect("new");
    file.write_all(data).expect("write");
    file.sync_all().expect("sync");
    file
}

#[test]
fn moving_by_link_replaces_nothing_and_takes_a_lost_reply_for_success() {
    let place = TempDir::new().expect("temporary directory");
    let dir = open_dir(place.path());
    let ours = file(place.path(), "a", b"ours");
    assert!(put::link_exclusively(&dir, "a", &dir, "b", &ours).expect("links"));
    assert!(!place.path().join("a").exists());

    let other = file(place.path(), "c", b"other");
    assert!(!put::link_exclusively(&dir, "c", &dir, "b", &other).expect("is taken"));
    assert!(!put::move_exclusively(&dir, "c", &dir, "b", &other).expect("is taken"));
    assert_eq!(
        std::fs::read(place.path().join("b")).expect("read"),
        b"ours"
    );

    // The link was made, its reply lost, and it is asked for again.
    std::fs::hard_link(place.path().join("c"), place.path().join("d")).expect("link");
    assert!(put::link_exclusively(&dir, "c", &dir, "d", &other).expect("is ours"));
    assert!(!place.path().join("c").exists());
}

#[test]
fn reading_back_sees_every_length_whole() {
    let place = TempDir::new().expect("temporary directory");
    let dir = open_dir(place.path());
    for len in [
        0,
        1,
        4095,
        4096,
        4097,
        (1 << 20) - 1,
        1 << 20,
        (1 << 20) + 1,
        3_000_000,
    ] {
        let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let name = len.to_string();
        let written = file(place.path(), &name, &data);
        let (found, sum) = readback::sum(&dir, &name, &written).expect("read");
        assert_eq!(
            (found, sum),
            (len as u64, cairn_mover::Crc32c::of(&data)),
            "{len}"
        );
    }
}

#[test]
fn a_half_written_mark_of_a_dead_process_does_not_stop_the_next() {
    let place = TempDir::new().expect("temporary directory");
    std::fs::write(place.path().join(".cairn-tier.json.x"), b"{").expect("write");
    let how = OpenHow::new(crate::id::InstanceId([1; 16]), crate::id::TierId(1));
    DirTier::open(place.path(), how).expect("opens");
}

#[test]
fn a_new_tier_whose_objects_directory_cannot_be_made_is_none_yet() {
    let place = TempDir::new().expect("temporary directory");
    let root = place.path().join("tier");
    let wanted = |expect| OpenHow {
        owner: InstanceId([7; 16]),
        expect,
    };
    let open = |expect| DirTier::open(&root, wanted(expect));
    drop(open(Expect::New(TierId(1))).expect("opens"));
    // As a process leaves it that got no further than the mark, with something in the way.
    let objects = root.join("aggregates");
    std::fs::remove_dir(&objects).expect("is empty");
    std::fs::write(&objects, "in the way").expect("written");
    let refused = open(Expect::New(TierId(1))).err().expect("is no tier yet");
    assert!(
        refused.to_string().contains("aggregates/ cannot be made"),
        "{refused}"
    );
    std::fs::remove_file(&objects).expect("removed");
    let tier = open(Expect::New(TierId(1))).expect("the next start makes it");
    assert!(tier.list(None, 1).expect("is there").is_empty());
}

#[test]
fn many_openers_of_one_empty_directory_agree_on_one_mark() {
    let place = TempDir::new().expect("temporary directory");
    let owner = crate::id::InstanceId([1; 16]);
    let open = |id| {
        let how = OpenHow::new(owner, crate::id::TierId(id));
        DirTier::open(place.path(), how).expect("opens").mark()
    };
    let open = &open;
    let marks: Vec<Mark> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=4).map(|id| scope.spawn(move || open(id))).collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("opener"))
            .collect()
    });
    assert!(marks.iter().all(|m| *m == marks[0]), "{marks:?}");
}
