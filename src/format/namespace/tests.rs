//! Listings: what is written is read back, and nothing else is taken for one.

use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn time() -> impl Strategy<Value = Timestamp> {
    (-10_i64..4_000_000_000, 0_u32..1_000_000_000).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn node() -> impl Strategy<Value = NodeHandle> {
    (any::<i32>(), vec(any::<u8>(), 1..20)).prop_map(|(kind, bytes)| NodeHandle { kind, bytes })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 1..40).prop_filter("a name", |n| {
        !n.contains(&0) && !n.contains(&b'/') && n != b"." && n != b".."
    })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let xattr = (
        vec(any::<u8>().prop_filter("no NUL", |b| *b != 0), 1..20),
        vec(any::<u8>(), 0..40),
    );
    (
        0_u32..=0o7777,
        any::<u32>(),
        any::<u32>(),
        (time(), time(), time()),
        vec(xattr, 0..3),
    )
        .prop_map(
            |(mode, uid, gid, (mtime, atime, ctime), xattrs)| Attributes {
                mode,
                uid,
                gid,
                mtime,
                atime,
                ctime,
                xattrs,
            },
        )
}

fn aggregate() -> impl Strategy<Value = AggregateId> {
    (any::<u32>(), 0..1_u64 << 48).prop_map(|(epoch, seq)| AggregateId { epoch, seq })
}

fn data() -> impl Strategy<Value = Data> {
    let copy =
        (1..u32::MAX, aggregate(), any::<u64>()).prop_map(|(tier, aggregate, header)| CopyHint {
            tier: crate::id::TierId(tier),
            aggregate,
            header,
        });
    (
        any::<[u8; 16]>(),
        any::<u64>(),
        any::<(u32, u32)>(),
        option::of((0..1_u64 << 62, time())),
        vec(copy, 0..3),
    )
        .prop_map(|(file, version, (crc, blocks), older, copies)| Data {
            file: FileId(file),
            version: DataVersion(version),
            crc: Crc32c(crc),
            blocks_crc: Crc32c(blocks),
            older,
            copies,
        })
}

fn what() -> impl Strategy<Value = What> {
    let kind = prop_oneof![
        (0..1_u64 << 62, option::of(data()))
            .prop_map(|(size, data)| InodeKind::File { size, data }),
        name().prop_map(InodeKind::Symlink),
        Just(InodeKind::Fifo),
        Just(InodeKind::Socket),
        any::<(u32, u32)>().prop_map(|(a, b)| InodeKind::CharDevice(a, b)),
        any::<(u32, u32)>().prop_map(|(a, b)| InodeKind::BlockDevice(a, b)),
    ];
    prop_oneof![
        node().prop_map(What::Directory),
        (kind, attributes(), option::of(node())).prop_map(|(kind, attributes, linked)| {
            What::Other(Inode {
                kind,
                attributes,
                linked,
            })
        }),
    ]
}

type Tree = Vec<(Directory, Vec<Entry>)>;

fn tree() -> impl Strategy<Value = Tree> {
    let entry = (name(), what()).prop_map(|(name, what)| Entry { name, what });
    let directory =
        (node(), vec(any::<u8>(), 0..20), attributes()).prop_map(|(node, path, attributes)| {
            Directory {
                node,
                path,
                attributes,
            }
        });
    vec((directory, vec(entry, 0..4)), 1..5)
}

fn head() -> Head {
    Head {
        snapshot: id(),
        fs: FsUuid([7; 16]),
        base: None,
        begun: Timestamp { sec: 5, nsec: 0 },
        horizon: AggregateId { epoch: 1, seq: 4 },
        root: NodeHandle {
            kind: 1,
            bytes: vec![2; 8],
        },
    }
}

fn id() -> AggregateId {
    AggregateId { epoch: 1, seq: 4 }.snapshot()
}

fn written(tree: &Tree) -> Vec<u8> {
    let mut writer = Writer::new(head());
    for (directory, entries) in tree {
        assert_eq!(writer.directory(directory.clone()), Put::Whole);
        for entry in entries {
            assert_eq!(writer.entry(entry.clone()), Put::Whole);
        }
    }
    writer.finish(Timestamp { sec: 6, nsec: 1 })
}

#[derive(Default)]
struct Read {
    head: Option<Head>,
    tree: Tree,
}

impl Fold for Read {
    type Error = ListingError;
    fn head(&mut self, head: Head) -> Result<(), ListingError> {
        self.head = Some(head);
        Ok(())
    }
    fn directory(&mut self, _: u64, _: u64, directory: Directory) -> Result<(), ListingError> {
        self.tree.push((directory, Vec::new()));
        Ok(())
    }
    fn entry(&mut self, _: u64, entry: Entry) -> Result<(), ListingError> {
        self.tree.last_mut().unwrap().1.push(entry);
        Ok(())
    }
}

fn read(bytes: &[u8], piece: usize) -> Result<Read, ListingError> {
    let (mut reader, mut read) = (Reader::new(id()), Read::default());
    for piece in bytes.chunks(piece) {
        reader.feed(piece, &mut read)?;
    }
    reader.finish()?;
    Ok(read)
}

/// Attributes as hostile as a filesystem could be.
fn odd_attributes() -> impl Strategy<Value = Attributes> {
    let xattr = (vec(any::<u8>(), 0..4), vec(any::<u8>(), 0..9));
    let many = prop_oneof![4 => 0_usize..3, 1 => Just((1 << 16) + 1)];
    (attributes(), xattr, many, any::<u32>()).prop_map(|(attributes, xattr, many, mode)| {
        Attributes {
            xattrs: std::iter::repeat_n(xattr, many).collect(),
            mode,
            ..attributes
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_the_writer_accepts_the_reader_accepts(
        odd in vec((vec(any::<u8>(), 0..300), odd_attributes()), 1..4),
        node in node(),
    ) {
        let mut writer = Writer::new(head());
        let mut wanted = (0, 0);
        for (name, attributes) in odd {
            let path = name.clone();
            let directory = Directory { node: node.clone(), path, attributes: attributes.clone() };
            if writer.directory(directory) == Put::Not {
                continue;
            }
            wanted.0 += 1;
            let kind = InodeKind::Symlink(name.clone());
            let what = What::Other(Inode { kind, attributes, linked: None });
            wanted.1 += u64::from(writer.entry(Entry { name, what }) != Put::Not);
        }
        prop_assert_eq!(writer.counts(), wanted);
        let found = read(&writer.finish(Timestamp::default()), 1 << 20).unwrap();
        prop_assert_eq!(found.tree.len() as u64, wanted.0);
    }
}

#[test]
fn a_line_longer_than_a_reader_takes_goes_without_its_attributes() {
    let mut writer = Writer::new(head());
    let attributes = |len: usize| Attributes {
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        atime: Timestamp::default(),
        ctime: Timestamp::default(),
        xattrs: vec![(b"user.long".to_vec(), vec![b'x'; len])],
    };
    let node = head().root;
    let directory = |len| Directory {
        node: node.clone(),
        path: Vec::new(),
        attributes: attributes(len),
    };
    assert_eq!(writer.directory(directory(9)), Put::Whole);
    let entry = |name: &str, len| Entry {
        name: name.as_bytes().to_vec(),
        what: What::Other(Inode {
            kind: InodeKind::Fifo,
            attributes: attributes(len),
            linked: None,
        }),
    };
    assert_eq!(writer.entry(entry("a", 64 << 20)), Put::Bare);
    assert_eq!(writer.entry(entry("b", 9)), Put::Whole);
    assert_eq!(writer.entry(entry("b/c", 9)), Put::Not);
    let bytes = writer.finish(Timestamp::default());
    let found = read(&bytes, 1 << 20).unwrap();
    let names: Vec<_> = found.tree[0].1.iter().map(|e| e.name.clone()).collect();
    assert_eq!(names, [b"a".to_vec(), b"b".to_vec()]);
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.lines().last().unwrap().contains("\"gaps\":2"));
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_in_any_pieces(tree in tree(), piece in 1_usize..500) {
        let found = read(&written(&tree), piece).unwrap();
        prop_assert_eq!(found.tree, tree);
        prop_assert_eq!(found.head, Some(head()));
    }

    #[test]
    fn a_listing_cut_short_or_flipped_is_not_taken(
        tree in tree(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u32,
    ) {
        let whole = written(&tree);
        let at = at.index(whole.len());
        prop_assert!(read(&whole[..at], 100).is_err());
        let mut flipped = whole;
        flipped[at] ^= 1 << bit;
        prop_assert!(read(&flipped, 100).is_err());
    }

    #[test]
    fn any_bytes_have_one_text(bytes in vec(any::<u8>(), 0..60)) {
        let text = encode_text(&bytes);
        prop_assert!(!text.bytes().any(|b| b.is_ascii_control()));
        prop_assert_eq!(decode_text(&text), Some(bytes));
    }

    #[test]
    fn nonsense_never_panics(text in "\\PC{0,80}") {
        let _ = decode_line(text.as_bytes());
        let _ = decode_line(format!("{{\"name\":\"{text}\",\"kind\":\"{text}\"}}").as_bytes());
    }
}

#[test]
fn a_name_that_leads_elsewhere_is_refused() {
    let line = |name: &str| {
        format!(
            "{{\"name\":\"{name}\",\"kind\":\"fifo\",\"mode\":\"0644\",\"uid\":0,\"gid\":0,\
             \"mtime\":\"1\",\"atime\":\"1\",\"ctime\":\"1\"}}"
        )
    };
    decode_line(line("fine").as_bytes()).unwrap();
    let long = "x".repeat(256);
    for bad in [
        "", ".", "..", "a/b", "/", "a%00b", "%2e", "a%41", "%", "%2", &long,
    ] {
        assert!(decode_line(line(bad).as_bytes()).is_err(), "{bad}");
    }
    // A key of something else, and one of nothing.
    let fine = line("fine");
    for more in [",\"target\":\"x\"}", ",\"root\":\"1:00\"}", ",\"other\":1}"] {
        let odd = fine.replace('}', more);
        assert!(decode_line(odd.as_bytes()).is_err(), "{odd}");
    }
}

#[test]
fn a_listing_is_for_people() {
    let directory = Directory {
        node: NodeHandle {
            kind: 1,
            bytes: vec![2; 8],
        },
        path: b"a b".to_vec(),
        attributes: Attributes {
            mode: 0o2755,
            uid: 3,
            gid: 4,
            mtime: Timestamp {
                sec: 5,
                nsec: 500_000_000,
            },
            atime: Timestamp {
                sec: -1,
                nsec: 500_000_000,
            },
            ctime: Timestamp { sec: 7, nsec: 0 },
            xattrs: vec![(b"user.x".to_vec(), b"50%\xff".to_vec())],
        },
    };
    let mut writer = Writer::new(head());
    writer.directory(directory);
    let text = String::from_utf8(writer.finish(Timestamp { sec: 6, nsec: 0 })).unwrap();
    assert_eq!(
        text.lines().nth(1).unwrap(),
        "{\"dir\":\"1:0202020202020202\",\"path\":\"a b\",\"mode\":\"2755\",\"uid\":3,\"gid\":4,\
         \"mtime\":\"5.5\",\"atime\":\"-0.5\",\"ctime\":\"7\",\
         \"xattrs\":[[\"user.x\",\"50%25%FF\"]]}"
    );
}
