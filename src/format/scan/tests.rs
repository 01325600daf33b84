//! Tests of reading aggregates that may be damaged.

use super::super::aggregate::AggregateWriter;
use super::super::arbitrary::{AGGREGATE, COMPOSED, FS, compose, members, stored};
use super::super::member::Extent;
use super::super::pax;
use super::*;
use crate::id::{DataVersion, FileId};
use proptest::prelude::*;
use std::io::Cursor;

fn scan_all(bytes: &[u8]) -> Result<Vec<Scanned>, AggregateError> {
    let mut scanner = Scanner::new(bytes);
    let mut found = Vec::new();
    while let Some(member) = scanner.next_member()? {
        found.push(member.clone());
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_scan_finds_what_was_written(members in members()) {
        let (bytes, index, _) = compose(&members);
        let mut scanner = Scanner::new(&bytes[..]);
        let mut n = 0;
        for (at, member) in members.iter().enumerate() {
            if member.kind == Kind::Socket {
                continue;
            }
            let found = scanner.next_member().unwrap().unwrap().clone();
            let entry = scanner.entry().unwrap().unwrap();
            let listed = index.by_path(&member.path).unwrap();
            prop_assert_eq!(entry.member.identity, listed.member.identity);
            let kept = member.xattrs.iter().filter(|x| !listed.member.xattrs.contains(x));
            let expected = Member {
                identity: listed.member.identity.filter(|_| member.identity.is_some()),
                xattrs: kept.cloned().collect(),
                ..member.clone()
            };
            prop_assert_eq!(&found.member, &expected);
            let same = (entry.header, entry.data, entry.header_crc, &entry.blocks);
            prop_assert_eq!(same, (listed.header, listed.data, listed.header_crc, &listed.blocks));
            let headers = &bytes[listed.header as usize..listed.data as usize];
            prop_assert_eq!(headers.len() as u64, listed.header_len());
            let mut whole = listed.whole_member(headers).unwrap();
            let mut all = member.xattrs.clone();
            whole.xattrs.sort();
            all.sort();
            prop_assert_eq!(whole.xattrs, all);
            prop_assert!(listed.whole_member(&headers[1..]).is_err());
            let data = &bytes[entry.data as usize..][..entry.stored_len() as usize];
            prop_assert_eq!(data, &stored(at, member)[..]);
            n += 1;
        }
        prop_assert!(scanner.next_member().unwrap().is_none());
        prop_assert!(scanner.next_member().unwrap().is_none());
        let composed = Composition { aggregate: AGGREGATE, fs: FS, composed: COMPOSED };
        prop_assert_eq!(scanner.composition(), Some(composed));
        let end = scanner.end().unwrap();
        let alone = super::super::aggregate::find_index(&bytes[end as usize..], end).unwrap();
        prop_assert_eq!(&alone, &index);
        // Skipping by reading and by seeking finds the same.
        let mut seeking = Scanner::seekable(Cursor::new(&bytes));
        let mut by_seek = Vec::new();
        while let Some(member) = seeking.next_member().unwrap() {
            by_seek.push(member.clone());
        }
        prop_assert_eq!(by_seek.len(), n);
        prop_assert_eq!(by_seek, scan_all(&bytes).unwrap());
    }

    #[test]
    fn damage_never_panics_and_truncation_is_seen(
        members in members(), at: prop::sample::Index, bit in 0..8_u32, cut: prop::sample::Index,
    ) {
        let (mut bytes, _, trailer) = compose(&members);
        let tar = trailer.index_offset as usize;
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let mut scanner = Scanner::new(&bytes[..]);
        while let Ok(Some(_)) = scanner.next_member() {
            let _ = scanner.entry();
        }
        bytes[at] ^= 1 << bit;
        bytes.truncate(cut.index(tar));
        if bytes.iter().rev().take_while(|b| **b == 0).count() < 1024 {
            prop_assert!(scan_all(&bytes).is_err());
        }
        let mut seeking = Scanner::seekable(Cursor::new(&bytes));
        while let Ok(Some(_)) = seeking.next_member() {}
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, kinds in proptest::collection::vec("[gxLK0-7SVA]", 0..4)) {
        let mut object = Vec::new();
        for kind in kinds {
            let header = Header {
                name: bytes.clone(), kind: kind.as_bytes()[0], size: bytes.len() as u64,
                ..Header::default()
            };
            object.extend_from_slice(&header.encode());
            object.extend_from_slice(&bytes);
            object.resize(object.len().next_multiple_of(512), 0);
        }
        let _ = scan_all(&object);
        let _ = scan_all(&bytes);
    }
}

/// An object of entries that no writer of ours makes.
#[derive(Default)]
struct Hostile(Vec<u8>);

impl Hostile {
    fn with(mut self, kind: u8, name: &str, link: &str, pax: &[(&str, &str)], data: &[u8]) -> Self {
        let mut body: Vec<u8> = Vec::new();
        if kind == b'0' {
            let comment = format!("cairn1 id={} v=1", FileId([1; 16]));
            body.extend(pax::record(b"comment", comment.as_bytes()));
        }
        for (key, value) in pax {
            body.extend(pax::record(key.as_bytes(), value.as_bytes()));
        }
        self.put(b'x', "pax", "", &body);
        self.put(kind, name, link, data);
        self
    }
    fn put(&mut self, kind: u8, name: &str, link: &str, data: &[u8]) {
        let header = Header {
            name: name.into(),
            link: link.into(),
            kind,
            size: data.len() as u64,
            ..Header::default()
        };
        self.0.extend_from_slice(&header.encode());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }
    fn scan(mut self) -> Result<Vec<Scanned>, AggregateError> {
        self.0.extend_from_slice(&[0; 1024]);
        scan_all(&self.0)
    }
    fn refused(self, why: &str) {
        match self.scan() {
            Err(AggregateError::BadMember { why: found, .. }) => assert_eq!(found, why),
            other => panic!("expected {why:?}, got {other:?}"),
        }
    }
}

fn one(kind: u8, name: &str, link: &str, pax: &[(&str, &str)]) -> Hostile {
    Hostile::default().with(kind, name, link, pax, b"")
}

#[test]
fn names_that_leave_the_tree_are_refused() {
    one(b'0', "../x", "", &[]).refused("it holds the component `..`");
    one(b'0', "a/../../x", "", &[]).refused("it holds the component `..`");
    let slash = "it holds an empty component, or begins or ends with a slash";
    one(b'0', "/etc/passwd", "", &[]).refused(slash);
    one(b'0', "x", "", &[("path", "/etc/passwd")]).refused(slash);
    one(b'0', "./x", "", &[]).refused("it holds the component `.`");
    one(b'1', "x", "../y", &[]).refused("it holds the component `..`");
    one(b'0', "", "", &[]).refused("a member without name");
}

#[test]
fn places_are_taken_once_and_never_below_a_link() {
    let link = || one(b'2', "a", "/etc", &[]);
    link()
        .with(b'0', "a/passwd", "", &[], b"")
        .refused("it lies below a member that is no directory");
    link()
        .with(b'5', "a/", "", &[], b"")
        .refused("the path is there already");
    one(b'0', "b/c", "", &[])
        .with(b'2', "b", "/etc", &[], b"")
        .refused("it is no directory, but members lie below it");
    one(b'1', "x", "nowhere", &[]).refused("a hard link to no member that came before");
}

#[test]
fn devices_and_links_out_are_values_only() {
    let found = one(b'2', "a", "/etc/shadow", &[])
        .with(b'4', "sda", "", &[], b"")
        .scan()
        .unwrap();
    assert_eq!(
        found[0].member.kind,
        Kind::Symlink {
            target: b"/etc/shadow".to_vec()
        }
    );
    assert_eq!(
        found[1].member.kind,
        Kind::BlockDevice { major: 0, minor: 0 }
    );
}

#[test]
fn lengths_and_maps_that_lie_are_refused() {
    let short = "the object ends before tar does";
    one(b'0', "x", "", &[("size", "18446744073709551615")]).refused("it is larger than any object");
    one(b'0', "x", "", &[("size", "1099511627776")]).refused(short);
    one(b'0', "x", "", &[("size", "99999999999999999999")]).refused("a pax number is none");
    one(b'2', "x", "y", &[("size", "5")]).refused("data where its kind has none");
    let sparse = |map: &str, size: &str| {
        let mut data = map.as_bytes().to_vec();
        data.resize(1024, 0);
        let keys = [
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", size),
        ];
        Hostile::default().with(b'0', "x", "", &keys, &data)
    };
    sparse("2\n4096\n512\n0\n512\n", "9999").refused("extents overlap, touch or are out of order");
    sparse("1\n512\n1024\n", "1536").refused("its length is not the sum of its runs");
    sparse("1\n18446744073709551000\n1024\n", "18446744073709551615")
        .refused("an extent reaches behind the end of the file");
    assert_eq!(sparse("1\n512\n512\n", "1024").scan().unwrap().len(), 1);
}

#[test]
fn foreign_headers_are_refused() {
    one(b'0', "x", "", &[("SCHILY.dev", "1")]).refused("an unknown pax keyword");
    one(b'S', "x", "", &[]).refused("a kind of member that Cairn does not write");
    one(b'2', "x", "y", &[("comment", "hello")]).refused("a comment that is not Cairn's");
    one(b'5', "x/", "", &[("SCHILY.acl.default", "user::rwx:7")]).refused("an ACL does not parse");
    let mut twice = Hostile::default();
    twice.put(b'x', "", "", b"");
    twice.put(b'x', "", "", b"");
    twice.refused("two pax headers for one member");
    let mut open = Hostile::default();
    open.put(b'x', "", "", b"");
    open.refused("tar ends behind a header that belongs to a member");
}

#[test]
fn the_largest_hole_is_a_member_like_any_other() {
    for size in [1, 1 << 33, i64::MAX as u64, u64::MAX] {
        let mut hole = file("hole");
        hole.kind = Kind::Regular {
            size,
            extents: Vec::new(),
        };
        let (bytes, index, _) = compose(&[hole.clone()]);
        let mut scanner = Scanner::new(&bytes[..]);
        assert_eq!(
            scanner.next_member().unwrap().unwrap().member.kind,
            hole.kind
        );
        assert_eq!(scanner.entry().unwrap().unwrap(), index.entries[0]);
        assert!(index.entries[0].blocks_for(0..size).is_empty());
    }
}

fn file(path: &str) -> Member {
    Member {
        path: MemberPath::new(path).unwrap(),
        kind: Kind::Regular {
            size: 5000,
            extents: vec![Extent {
                offset: 1024,
                len: 512,
            }],
        },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: COMPOSED,
        atime: COMPOSED,
        ctime: COMPOSED,
        xattrs: Vec::new(),
        identity: Some(DataIdentity {
            file: FileId([4; 16]),
            version: DataVersion(1),
            crc: None,
        }),
    }
}

#[test]
fn data_that_differ_from_their_sum_are_told_and_the_scan_goes_on() {
    let mut writer = AggregateWriter::new(Vec::new(), AGGREGATE, FS, COMPOSED);
    writer.add(&file("a"), &mut &[1; 512][..]).unwrap();
    writer.add(&file("b"), &mut &[2; 512][..]).unwrap();
    let (mut bytes, index, _) = writer.finish().unwrap();
    bytes[index.entries[0].data as usize] ^= 1;
    let mut scanner = Scanner::new(&bytes[..]);
    scanner.next_member().unwrap();
    assert!(matches!(
        scanner.entry(),
        Err(AggregateError::BadMember { .. })
    ));
    assert_eq!(
        scanner
            .next_member()
            .unwrap()
            .unwrap()
            .member
            .path
            .as_bytes(),
        b"b"
    );
    assert_eq!(
        scanner.entry().unwrap().unwrap().blocks,
        index.entries[1].blocks
    );
}
