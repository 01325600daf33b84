//! Snapshots that lie: nothing is made outside, nothing twice, and each lie is named with its line.

use super::*;

fn node(n: u8) -> NodeHandle {
    NodeHandle {
        kind: 1,
        bytes: vec![n; 8],
    }
}

fn attributes() -> Attributes {
    Attributes {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp { sec: 1, nsec: 0 },
        atime: Timestamp { sec: 1, nsec: 0 },
        ctime: Timestamp { sec: 1, nsec: 0 },
        xattrs: Vec::new(),
    }
}

fn directory(n: u8) -> Directory {
    Directory {
        node: node(n),
        path: Vec::new(),
        attributes: attributes(),
    }
}

fn entry(name: &str, what: What) -> Entry {
    Entry {
        name: name.as_bytes().to_vec(),
        what,
    }
}

fn other(kind: InodeKind) -> What {
    What::Other(Inode {
        kind,
        attributes: attributes(),
        linked: None,
    })
}

fn id() -> AggregateId {
    AggregateId { epoch: 1, seq: 1 }.snapshot()
}

/// Restores what the listing says; the directory above the target, and what was told.
fn restored_from(fill: impl Fn(&mut Writer)) -> (tempfile::TempDir, Told) {
    let tier = MemoryTier::default();
    let mut writer = Writer::new(head(id(), node(1)));
    fill(&mut writer);
    put(&tier, id(), &writer.finish(coarse_now()));
    let target = tempfile::tempdir().unwrap();
    let (_, told) = restored(&tier, &target.path().join("new"));
    (target, told)
}

#[test]
fn a_directory_in_itself_or_in_two_places_is_made_once() {
    if !is_root() {
        return;
    }
    let (target, told) = restored_from(|w| {
        w.directory(directory(1));
        w.entry(entry("a", What::Directory(node(2))));
        w.entry(entry("b", What::Directory(node(2))));
        w.directory(directory(2));
        w.entry(entry("root", What::Directory(node(1))));
        w.entry(entry("self", What::Directory(node(2))));
    });
    let new = target.path().join("new");
    assert!(new.join("a").is_dir());
    for (path, line) in [("b", 4), ("a/root", 6), ("a/self", 7)] {
        let (loss, why) = &told.0[path];
        assert_eq!(*loss, Loss::Failed);
        assert!(
            why.contains(&format!("line {line} of the listing")),
            "{why}"
        );
        assert!(!new.join(path).exists(), "{path}");
    }
}

#[test]
fn a_link_is_not_followed_and_a_name_is_not_taken_twice() {
    if !is_root() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let to = outside.path().to_str().unwrap().as_bytes().to_vec();
    let (target, told) = restored_from(|w| {
        w.directory(directory(1));
        w.entry(entry("x", other(InodeKind::Symlink(to.clone()))));
        // A directory, or a file, where the link stands.
        w.entry(entry("x", What::Directory(node(2))));
        w.entry(entry("x", other(InodeKind::Fifo)));
        w.directory(directory(2));
        w.entry(entry("planted", other(InodeKind::Fifo)));
    });
    assert!(target.path().join("new/x").is_symlink());
    assert_eq!(told.0["x"].0, Loss::Failed);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_record_of_cairns_own_cannot_be_smuggled_in() {
    if !is_root() {
        return;
    }
    let (target, told) = restored_from(|w| {
        w.directory(directory(1));
        let mut attributes = attributes();
        attributes.xattrs = vec![(b"trusted.cairn.record".to_vec(), b"x".to_vec())];
        let inode = Inode {
            kind: InodeKind::File {
                size: 0,
                data: None,
            },
            attributes,
            linked: None,
        };
        w.entry(entry("f", What::Other(inode)));
    });
    assert_eq!(told.0["f"].0, Loss::Failed);
    assert!(!target.path().join("new/f").exists());
}

#[test]
fn a_directory_without_a_listing_is_named() {
    if !is_root() {
        return;
    }
    let (_target, told) = restored_from(|w| {
        w.directory(directory(1));
        w.entry(entry("gone", What::Directory(node(9))));
    });
    assert!(told.0["gone"].1.contains("in no listing"));
}

#[test]
fn a_listing_that_was_cut_leaves_the_target_as_it_was() {
    if !is_root() {
        return;
    }
    let tier = MemoryTier::default();
    let mut writer = Writer::new(head(id(), node(1)));
    writer.directory(directory(1));
    let whole = writer.finish(coarse_now());
    put(&tier, id(), &whole[..whole.len() - 10]);
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new");
    let refused = restore(&order(&tier, &to, &|_| Ok(())), &mut Told::default());
    assert!(matches!(
        refused,
        Err(RestoreError::Listing(ListingError::Truncated { .. }))
    ));
    assert_eq!(is_unfinished(&to).unwrap(), None);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}

#[test]
fn a_target_that_is_in_use_is_refused() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    rig.write("f", b"");
    Series::of(&rig).take();
    let refused = restore(
        &order(&rig.tier, &rig.root, &|_| Ok(())),
        &mut Told::default(),
    );
    assert!(matches!(refused, Err(RestoreError::Target { .. })));
    assert!(rig.path("f").exists());
}

#[test]
fn an_attribute_that_the_target_refuses_is_told_and_the_file_is_made() {
    if !is_root() {
        return;
    }
    let refused = || Attributes {
        xattrs: vec![
            (b"nonsense.such".to_vec(), b"1".to_vec()),
            (b"user.note".to_vec(), b"2".to_vec()),
        ],
        ..attributes()
    };
    let (target, told) = restored_from(|w| {
        w.directory(directory(1));
        let inode = Inode {
            kind: InodeKind::File {
                size: 0,
                data: None,
            },
            attributes: refused(),
            linked: None,
        };
        w.entry(entry("f", What::Other(inode)));
    });
    assert_eq!(told.0["f"].0, Loss::Attributes);
    assert_eq!(told.0.len(), 1, "{:?}", told.0);
    let mut value = [0; 9];
    let len = rustix::fs::getxattr(target.path().join("new/f"), "user.note", &mut value[..]);
    assert_eq!(&value[..len.unwrap()], b"2");
}
