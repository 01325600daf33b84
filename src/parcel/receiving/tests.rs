//! Parcels carried by hand: blocks in any order, files that change or cannot be written, parts that are resumed.

use super::*;
use crate::parcel::{Outgoing, Sending};
use cairn_mover::{ByteRange, Crc32c, Source};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

struct Rig {
    top: tempfile::TempDir,
    settled: Arc<AtomicUsize>,
}

impl Rig {
    fn new() -> Self {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir(top.path().join("from")).unwrap();
        fs::create_dir(top.path().join("to")).unwrap();
        Self {
            top,
            settled: Arc::default(),
        }
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.top.path().join(path)
    }

    fn tree(&self, of: &str) -> Arc<Tree> {
        Arc::new(Tree::open(&self.at(of)).unwrap())
    }

    fn layout(&self, names: &[&str]) -> Layout {
        let tree = self.tree("from");
        let entry = |name: &&str| {
            let found = tree.look(name.as_bytes()).unwrap();
            Entry {
                path: name.as_bytes().to_vec(),
                kind: match found.kind {
                    rustix::fs::FileType::Symlink => {
                        Kind::Link(tree.link(name.as_bytes()).unwrap())
                    }
                    rustix::fs::FileType::Directory => Kind::Directory,
                    _ => Kind::File(found.size),
                },
                mode: found.mode,
                modified: found.modified,
            }
        };
        Layout::new(names.iter().map(entry).collect()).unwrap()
    }

    fn sending(&self, names: &[&str]) -> Sending {
        let tree = self.tree("from");
        let made = names
            .iter()
            .map(|n| tree.look(n.as_bytes()).unwrap())
            .collect();
        Sending::new(tree, self.layout(names), made)
    }

    fn receiving(
        &self,
        layout: &Layout,
        placing: Placing,
        version: &[u8],
    ) -> io::Result<Receiving> {
        let settled = Arc::clone(&self.settled);
        let settle = Box::new(move || {
            settled.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        Receiving::new(
            self.tree("to"),
            layout.clone(),
            placing,
            version,
            "tag".to_owned(),
            settle,
        )
    }

    fn names(&self, below: &str) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.at(below))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// The blocks of a range, the odd ones first.
fn carry(from: &Sending, to: &Receiving, range: ByteRange, block: u64) {
    let mut offsets: Vec<u64> = (range.start()..range.end())
        .step_by(block as usize)
        .collect();
    offsets.sort_by_key(|at| (at / block).is_multiple_of(2));
    for at in offsets {
        let mut bytes = vec![0; block.min(range.end() - at) as usize];
        from.read_at(at, &mut bytes).unwrap();
        to.write_at(at, &bytes).unwrap();
    }
}

/// Placed, after all of it was carried.
fn placed(receiving: &Receiving) -> Vec<(usize, Fate)> {
    let size = receiving.layout().size();
    let mut progress = Progress::new(b"v", size);
    ByteRange::new(0, size).map(|whole| progress.add(whole, Crc32c::EMPTY));
    receiving.place(&progress, &BTreeMap::new()).unwrap()
}

fn all_of(receiving: &Receiving, data: &[u8]) -> Progress {
    let mut progress = Progress::new(b"v", data.len() as u64);
    progress.add(all(receiving.layout()), Crc32c::of(data));
    progress
}

fn all(layout: &Layout) -> ByteRange {
    ByteRange::new(0, layout.size()).unwrap()
}

#[test]
fn many_files_arrive_in_any_order_and_get_their_names_at_the_end() {
    let rig = Rig::new();
    fs::create_dir(rig.at("from/d")).unwrap();
    let names = ["a", "d/b", "d/empty", "c", "link"];
    for (n, name) in names[..4].iter().enumerate() {
        fs::write(
            rig.at("from").join(name),
            vec![n as u8 + 1; [1000, 37, 0, 5000][n]],
        )
        .unwrap();
    }
    symlink("elsewhere", rig.at("from/link")).unwrap();
    fs::set_permissions(rig.at("from/c"), fs::Permissions::from_mode(0o4640)).unwrap();
    fs::write(rig.at("to/a"), "before").unwrap();
    let sending = rig.sending(&names);
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), b"")
        .unwrap();
    carry(&sending, &receiving, all(sending.layout()), 64);
    assert!(sending.unchanged().unwrap() && sending.troubles().is_empty());
    assert_eq!(fs::read(rig.at("to/a")).unwrap(), b"before");
    assert!(!rig.at("to/c").exists());
    receiving.sync().unwrap();
    let before = rig.settled.load(Ordering::SeqCst);
    assert!(placed(&receiving).is_empty());
    assert_eq!(rig.settled.load(Ordering::SeqCst), before + 1);
    for name in &names[..4] {
        let (from, to) = (rig.at("from").join(name), rig.at("to").join(name));
        assert_eq!(fs::read(&from).unwrap(), fs::read(&to).unwrap(), "{name}");
        let times = |p: &Path| fs::metadata(p).unwrap().modified().unwrap();
        assert_eq!(times(&from), times(&to), "{name}");
    }
    // Nobody's rights are lent to others by a copy.
    assert_eq!(
        fs::metadata(rig.at("to/c")).unwrap().permissions().mode() & 0o7777,
        0o640
    );
    assert_eq!(
        fs::read_link(rig.at("to/link")).unwrap(),
        Path::new("elsewhere")
    );
    assert_eq!(rig.names("to"), ["a", "c", "d", "link"]);
    assert_eq!(rig.names("to/d"), ["b", "empty"]);
}

#[test]
fn what_the_sender_takes_back_is_not_placed_and_the_others_are() {
    let rig = Rig::new();
    for name in ["good", "changed", "gone", "short"] {
        fs::write(rig.at("from").join(name), vec![7; 3000]).unwrap();
    }
    fs::write(rig.at("to/changed"), "before").unwrap();
    let sending = rig.sending(&["good", "changed", "gone", "short"]);
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), b"")
        .unwrap();
    fs::remove_file(rig.at("from/gone")).unwrap();
    fs::write(rig.at("from/short"), "x").unwrap();
    carry(&sending, &receiving, all(sending.layout()), 1000);
    fs::write(rig.at("from/changed"), vec![8; 3000]).unwrap();
    assert!(sending.unchanged().unwrap(), "the others may still be used");
    let fates = receiving
        .place(&receiving.progress(b""), &sending.troubles())
        .unwrap();
    assert_eq!(fates.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(matches!(&fates[0].1, Fate::Sender(Trouble::Changed)));
    assert!(matches!(
        &fates[1].1,
        Fate::Sender(Trouble::Unreadable(Some(libc::ENOENT), _))
    ));
    assert_eq!(fs::read(rig.at("to/changed")).unwrap(), b"before");
    assert_eq!(rig.names("to"), ["changed", "good"]);
}

#[test]
fn one_file_that_cannot_be_written_keeps_no_other_back() {
    let rig = Rig::new();
    for name in ["a", "b"] {
        fs::create_dir(rig.at("from").join(format!("d{name}"))).unwrap();
        fs::write(rig.at("from").join(format!("d{name}/f")), vec![1; 100]).unwrap();
    }
    // No directory, and a link that leads out of the tree.
    fs::write(rig.at("to/da"), "in the way").unwrap();
    let sending = rig.sending(&["da/f", "db/f"]);
    symlink("../elsewhere", rig.at("to/db")).unwrap();
    fs::create_dir(rig.at("elsewhere")).unwrap();
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), b"")
        .unwrap();
    carry(&sending, &receiving, all(sending.layout()), 64);
    let fates = placed(&receiving);
    assert_eq!(fates.len(), 2);
    assert!(
        matches!(&fates[0].1, Fate::Failed(_, e) if e.kind() == io::ErrorKind::NotADirectory),
        "{fates:?}"
    );
    assert!(
        matches!(&fates[1].1, Fate::Failed(_, e) if e.kind() == io::ErrorKind::CrossesDevices),
        "{fates:?}"
    );
    assert!(rig.names("elsewhere").is_empty());
}

#[test]
fn what_is_there_stays_if_it_is_to() {
    let rig = Rig::new();
    fs::write(rig.at("from/f"), "new").unwrap();
    fs::write(rig.at("from/g"), "new").unwrap();
    fs::write(rig.at("to/f"), "old").unwrap();
    let sending = rig.sending(&["f", "g"]);
    let placing = Placing {
        if_missing: true,
        ..Placing::default()
    };
    let receiving = rig.receiving(sending.layout(), placing, b"").unwrap();
    carry(&sending, &receiving, all(sending.layout()), 64);
    let fates = placed(&receiving);
    assert!(matches!(fates.as_slice(), [(0, Fate::Exists)]));
    assert_eq!(fs::read(rig.at("to/f")).unwrap(), b"old");
    assert_eq!(rig.names("to"), ["f", "g"]);
}

#[test]
fn what_was_dropped_leaves_nothing() {
    let rig = Rig::new();
    fs::write(rig.at("from/f"), vec![1; 1000]).unwrap();
    fs::write(rig.at("from/g"), vec![1; 1000]).unwrap();
    let sending = rig.sending(&["f", "g"]);
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), b"")
        .unwrap();
    carry(&sending, &receiving, ByteRange::new(0, 1500).unwrap(), 250);
    assert_eq!(rig.names("to").len(), 2);
    drop(receiving);
    assert!(rig.names("to").is_empty());
}

#[test]
fn a_part_is_resumed_if_it_is_of_the_same_data_and_else_begun_again() {
    let rig = Rig::new();
    let resume = Placing {
        resume: true,
        ..Placing::default()
    };
    let data: Vec<u8> = (0..10_000_u32).map(|n| (n * 7 % 251) as u8).collect();
    fs::write(rig.at("from/f"), &data).unwrap();
    let sending = rig.sending(&["f"]);
    let version = sending.version();
    let half = ByteRange::new(0, 5000).unwrap();
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), &version)
        .unwrap();
    let second = rig
        .receiving(sending.layout(), resume, &version)
        .unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::ResourceBusy);
    carry(&sending, &receiving, half, 1000);
    receiving.sync().unwrap();
    let mut progress = receiving.progress(&version);
    progress.add(half, Crc32c::of(&data[..5000]));
    receiving.keep(&progress).unwrap();
    // Half of it gets no name, and stays to be resumed.
    let fates = receiving.place(&progress, &BTreeMap::new()).unwrap();
    assert!(
        matches!(&fates[0].1, Fate::Failed(_, e) if e.kind() == io::ErrorKind::UnexpectedEof),
        "{fates:?}"
    );
    drop(receiving);
    assert_eq!(rig.names("to").len(), 2);
    // Bytes that are not what was kept are not believed.
    let part = rig.at("to").join(&rig.names("to")[0]);
    let mut bytes = fs::read(&part).unwrap();
    bytes[17] ^= 1;
    fs::write(&part, &bytes).unwrap();
    let doubted = rig.receiving(sending.layout(), resume, &version).unwrap();
    assert_eq!(doubted.progress(&version).bytes(), 0);
    carry(&sending, &doubted, half, 1000);
    doubted.keep(&progress).unwrap();
    drop(doubted);
    // Of other data: nothing is taken over.
    let other = rig.receiving(sending.layout(), resume, b"other").unwrap();
    assert_eq!(other.progress(b"other").bytes(), 0);
    drop(other);
    let again = rig.receiving(sending.layout(), resume, &version).unwrap();
    assert_eq!(
        again.progress(&version).bytes(),
        0,
        "its progress went with the first"
    );
    carry(&sending, &again, half, 1000);
    again.keep(&progress).unwrap();
    drop(again);
    let last = rig.receiving(sending.layout(), resume, &version).unwrap();
    assert_eq!(last.progress(&version), progress);
    carry(
        &sending,
        &last,
        ByteRange::between(5000, 10_000).unwrap(),
        1000,
    );
    assert!(
        last.place(&all_of(&last, &data), &BTreeMap::new())
            .unwrap()
            .is_empty()
    );
    assert_eq!(fs::read(rig.at("to/f")).unwrap(), data);
    assert_eq!(rig.names("to"), ["f"]);
    let times = |name: &str| fs::metadata(rig.at(name)).unwrap().modified().unwrap();
    assert_eq!(times("from/f"), times("to/f"));
}

#[test]
fn a_part_that_is_not_ours_alone_is_not_written_to() {
    let rig = Rig::new();
    fs::write(rig.at("from/f"), vec![1; 1000]).unwrap();
    let sending = rig.sending(&["f"]);
    let version = sending.version();
    drop(
        rig.receiving(sending.layout(), Placing::default(), &version)
            .unwrap(),
    );
    let part = rig.at("to").join(&rig.names("to")[0]);
    // A second name: whoever has it would see, and own, what is written.
    fs::hard_link(&part, rig.at("watched")).unwrap();
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), &version)
        .unwrap();
    carry(&sending, &receiving, all(sending.layout()), 100);
    assert_eq!(fs::metadata(rig.at("watched")).unwrap().len(), 0);
    drop(receiving);
    fs::remove_file(&part).unwrap();
    symlink(rig.at("watched"), &part).unwrap();
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), &version)
        .unwrap();
    carry(&sending, &receiving, all(sending.layout()), 100);
    assert!(placed(&receiving).is_empty());
    assert_eq!(fs::metadata(rig.at("watched")).unwrap().len(), 0);
    assert!(fs::symlink_metadata(rig.at("to/f")).unwrap().is_file());
}

#[test]
fn a_part_that_was_finished_by_another_transfer_is_not_written_to() {
    let rig = Rig::new();
    fs::write(rig.at("from/f"), vec![1; 1000]).unwrap();
    let sending = rig.sending(&["f"]);
    let version = sending.version();
    let receiving = rig
        .receiving(sending.layout(), Placing::default(), &version)
        .unwrap();
    carry(&sending, &receiving, all(sending.layout()), 100);
    let part = rig.at("to").join(&rig.names("to")[0]);
    // Somebody put another file in its place.
    fs::remove_file(&part).unwrap();
    fs::write(&part, "theirs").unwrap();
    let fates = placed(&receiving);
    assert!(
        matches!(&fates[0].1, Fate::Failed(_, e) if e.kind() == io::ErrorKind::ResourceBusy),
        "{fates:?}"
    );
    assert_eq!(fs::read(&part).unwrap(), b"theirs");
    assert!(!rig.at("to/f").exists());
}

#[test]
fn directories_are_made_for_their_owner_and_finished_without_following_a_link() {
    let rig = Rig::new();
    for name in ["new", "there", "link"] {
        fs::create_dir(rig.at("from").join(name)).unwrap();
        fs::set_permissions(rig.at("from").join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mode = |name: &str| fs::metadata(rig.at(name)).unwrap().permissions().mode() & 0o7777;
    fs::create_dir(rig.at("to/there")).unwrap();
    fs::set_permissions(rig.at("to/there"), fs::Permissions::from_mode(0o2750)).unwrap();
    let layout = rig.layout(&["new", "there"]);
    let fates = placed(&rig.receiving(&layout, Placing::default(), b"").unwrap());
    assert!(matches!(fates.as_slice(), [(1, Fate::Exists)]), "{fates:?}");
    assert_eq!((mode("to/new"), mode("to/there")), (0o700, 0o2750));
    fs::set_permissions(rig.at("to/new"), fs::Permissions::from_mode(0o2700)).unwrap();
    fs::create_dir(rig.at("elsewhere")).unwrap();
    fs::set_permissions(rig.at("elsewhere"), fs::Permissions::from_mode(0o700)).unwrap();
    symlink("../elsewhere", rig.at("to/link")).unwrap();
    let finish = Placing {
        finish_directories: true,
        ..Placing::default()
    };
    let layout = rig.layout(&["new", "link"]);
    let fates = placed(&rig.receiving(&layout, finish, b"").unwrap());
    assert!(
        matches!(fates.as_slice(), [(1, Fate::Failed(..))]),
        "{fates:?}"
    );
    assert_eq!((mode("to/new"), mode("elsewhere")), (0o2777, 0o700));
    let times = |name: &str| fs::metadata(rig.at(name)).unwrap().modified().unwrap();
    assert_eq!(times("from/new"), times("to/new"));
}
