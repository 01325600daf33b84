//! Tests of composing aggregates.

use super::super::arbitrary::{AGGREGATE, COMPOSED, FS, compose};
use super::super::member::Extent;
use super::*;
use crate::id::{DataVersion, FileId};
use std::io::{self, Cursor};

fn file(path: &str, kind: Kind) -> Member {
    Member {
        path: MemberPath::new(path).unwrap(),
        identity: matches!(kind, Kind::Regular { .. }).then_some(DataIdentity {
            file: FileId([1; 16]),
            version: DataVersion(1),
            crc: None,
        }),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: COMPOSED,
        atime: COMPOSED,
        ctime: COMPOSED,
        xattrs: Vec::new(),
    }
}

fn writer() -> AggregateWriter<Vec<u8>> {
    AggregateWriter::new(Vec::new(), AGGREGATE, FS, COMPOSED)
}

fn refused(member: &Member, data: &[u8], why: &str) {
    match writer().add(member, &mut &data[..]) {
        Err(AggregateError::Misuse { why: found, .. }) => assert_eq!(found, why),
        other => panic!("expected {why:?}, got {other:?}"),
    }
}

#[test]
fn data_must_be_exactly_as_long_as_announced() {
    refused(
        &file("x", Kind::dense(5)),
        b"four",
        "its data end before its size",
    );
    refused(
        &file("x", Kind::dense(5)),
        b"sixsix",
        "its data go on behind its size",
    );
    refused(
        &file("x", Kind::Fifo),
        b"x",
        "its data go on behind its size",
    );
    let large = file("x", Kind::dense(WHOLE + 1));
    refused(&large, &[0; 100], "its data end before its size");
    refused(
        &large,
        &vec![0; WHOLE as usize + 2],
        "its data go on behind its size",
    );
}

#[test]
fn an_announced_sum_is_compared_and_an_unknown_one_told() {
    let mut member = file("x", Kind::dense(5));
    let added = writer().add(&member, &mut &b"hello"[..]).unwrap();
    assert_eq!(added.crc, Crc32c::of(b"hello"));
    if let Some(identity) = &mut member.identity {
        identity.crc = Some(Crc32c(1));
    }
    refused(
        &member,
        b"hello",
        "its data do not have the checksum that was announced",
    );
}

#[test]
fn large_members_stream_with_the_sum_in_the_index_alone() {
    let bytes: Vec<u8> = (0..WHOLE + 3).map(|n| (n % 253) as u8).collect();
    let mut writer = writer();
    let added = writer
        .add(&file("big", Kind::dense(WHOLE + 3)), &mut &bytes[..])
        .unwrap();
    let (object, index, _) = writer.finish().unwrap();
    let entry = &index.entries[0];
    assert_eq!(added.crc, Crc32c::of(&bytes));
    assert_eq!(entry.member.identity.unwrap().crc, Some(added.crc));
    assert_eq!(entry.blocks.len(), 9);
    assert_eq!(added.blocks_crc, entry.blocks_crc());
    let header = &object[entry.header as usize..entry.data as usize];
    assert!(!header.windows(4).any(|w| w == b"crc="));
    assert_eq!(&object[entry.data as usize..][..bytes.len()], &bytes[..]);
}

#[test]
fn misuse_is_named() {
    let touching = vec![
        Extent {
            offset: 0,
            len: 512,
        },
        Extent {
            offset: 512,
            len: 5,
        },
    ];
    let uneven = vec![
        Extent { offset: 0, len: 5 },
        Extent {
            offset: 512,
            len: 5,
        },
    ];
    let kind = |extents| Kind::Regular {
        size: 9000,
        extents,
    };
    refused(
        &file("x", kind(touching)),
        b"",
        "extents overlap, touch or are out of order",
    );
    refused(
        &file("x", kind(uneven)),
        b"",
        "an extent before the last is not a multiple of 512 bytes",
    );
    let link = Kind::HardLink {
        target: MemberPath::new("gone").unwrap(),
    };
    refused(
        &file("x", link),
        b"",
        "its target is no member that came before",
    );
    let mut nameless = file("x", Kind::dense(0));
    nameless.identity = None;
    refused(&nameless, b"", "a regular file without identity");
    let mut writer = writer();
    writer
        .add(
            &file(
                "a",
                Kind::Symlink {
                    target: b"/etc".to_vec(),
                },
            ),
            &mut io::empty(),
        )
        .unwrap();
    assert!(
        writer
            .add(&file("a", Kind::Fifo), &mut io::empty())
            .is_err()
    );
    let mut writer = self::writer();
    writer
        .add(
            &file(
                "a",
                Kind::Symlink {
                    target: b"/etc".to_vec(),
                },
            ),
            &mut io::empty(),
        )
        .unwrap();
    assert!(
        writer
            .add(&file("a/b", Kind::Fifo), &mut io::empty())
            .is_err()
    );
}

#[test]
fn attributes_without_room_are_counted_and_kept_in_the_index() {
    let mut member = file("x", Kind::Directory);
    for n in 0..20 {
        member
            .xattrs
            .push((format!("user.n{n}").into_bytes(), vec![n; 64 << 10]));
    }
    member
        .xattrs
        .push((super::super::acl::ACCESS.to_vec(), b"nonsense".to_vec()));
    let mut writer = writer();
    let added = writer.add(&member, &mut io::empty()).unwrap();
    let (object, index, _) = writer.finish().unwrap();
    assert_eq!(added.xattrs_in_index, 6);
    assert_eq!(index.entries[0].member.xattrs, member.xattrs[15..]);
    let mut scanner = super::super::scan::Scanner::new(&object[..]);
    let found = scanner.next_member().unwrap().unwrap();
    assert_eq!(found.member.xattrs, member.xattrs[..15]);
}

#[test]
fn an_aggregate_that_failed_gets_no_trailer() {
    let mut writer = writer();
    let member = file("x", Kind::dense(5));
    assert!(writer.add(&member, &mut &b"four"[..]).is_err());
    let other = file("y", Kind::dense(4));
    assert!(writer.add(&other, &mut &b"four"[..]).is_err());
    assert!(matches!(
        writer.finish(),
        Err(AggregateError::Misuse { .. })
    ));
}

#[test]
fn sockets_stand_in_the_index_alone() {
    let (with, index, _) = compose(&[file("s", Kind::Socket)]);
    let (without, ..) = compose(&[]);
    assert_eq!(with[..4096], without[..4096]);
    assert_eq!((index.entries[0].header, index.entries[0].data), (0, 0));
}

#[test]
fn a_sink_that_fails_at_any_byte_is_an_error() {
    let member = file("x", Kind::dense(700));
    let (whole, ..) = compose(std::slice::from_ref(&member));
    for room in 0..whole.len() {
        let mut space = vec![0; room];
        let mut writer = AggregateWriter::new(Cursor::new(&mut space[..]), AGGREGATE, FS, COMPOSED);
        let added = writer.add(&member, &mut &[0; 700][..]);
        let done = added.and_then(|_| writer.finish().map(|_| ()));
        assert!(matches!(done, Err(AggregateError::Io { .. })), "{room}");
    }
}

#[test]
fn ends_are_aligned_and_zero_filled() {
    let (object, _, trailer) = compose(&[file("x", Kind::dense(700))]);
    assert_eq!(trailer.index_offset % INDEX_ALIGN, 0);
    assert_eq!(object.len() as u64, trailer.total_len);
    assert_eq!(object.len() % 512, 0);
    let end = (trailer.index_offset + trailer.index_len) as usize;
    assert!(object[end..object.len() - 512].iter().all(|b| *b == 0));
}
