//! Golden files of format version 2, which namespace snapshots have: a whole aggregate, and the
//! listing in it as it is for people.
//!
//! `CAIRN_WRITE_GOLDEN=1` writes files that are *missing*; it never changes one.

use cairn::format::aggregate::{
    AggregateError, AggregateWriter, TRAILER_LEN, decode_index, decode_trailer,
};
use cairn::format::member::{DataIdentity, Extent, Kind, Member, MemberPath};
use cairn::format::namespace::{
    Attributes, Base, Data, Directory, Entry, Fold, Head, Inode, InodeKind, ListingError, Reader,
    What, Writer, part_path,
};
use cairn::format::record::CopyHint;
use cairn::format::scan::Scanner;
use cairn::id::{AggregateId, DataVersion, FileId, FsUuid, NodeHandle, TierId, Timestamp};
use cairn_mover::Crc32c;
use std::fs;
use std::path::PathBuf;

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2")
}

fn compare(name: &str, found: &[u8]) {
    let path = dir().join(name);
    match fs::read(&path) {
        Ok(golden) => assert!(
            golden == found,
            "{name} differs from what this program writes: a change of the format needs a new \
             version and new files (README.md)\n{}",
            String::from_utf8_lossy(&found[..found.len().min(4000)])
        ),
        Err(_) if std::env::var_os("CAIRN_WRITE_GOLDEN").is_some() => {
            fs::write(path, found).unwrap();
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn id() -> AggregateId {
    AggregateId {
        epoch: 0x2a,
        seq: 0x17,
    }
    .snapshot()
}

fn at(sec: i64) -> Timestamp {
    Timestamp {
        sec,
        nsec: 250_000_000,
    }
}

fn node(n: u8) -> NodeHandle {
    NodeHandle {
        kind: 1,
        bytes: vec![n; 8],
    }
}

fn attributes(mode: u32) -> Attributes {
    Attributes {
        mode,
        uid: 1000,
        gid: 100,
        mtime: at(1_700_000_000),
        atime: at(-1),
        ctime: at(1_700_000_001),
        xattrs: vec![(b"user.note".to_vec(), b"50% \xff\0".to_vec())],
    }
}

fn other(name: &[u8], kind: InodeKind, linked: Option<NodeHandle>) -> Entry {
    Entry {
        name: name.to_vec(),
        what: What::Other(Inode {
            kind,
            attributes: attributes(0o640),
            linked,
        }),
    }
}

fn data() -> Data {
    Data {
        file: FileId([9; 16]),
        version: DataVersion(3),
        crc: Crc32c(0x0123_4567),
        blocks_crc: Crc32c(0x89ab_cdef),
        older: None,
        copies: vec![CopyHint {
            tier: TierId(0xc01d),
            aggregate: AggregateId {
                epoch: 0x2a,
                seq: 5,
            },
            header: 1024,
        }],
    }
}

fn entries() -> Vec<Entry> {
    let older = Data {
        older: Some((7, at(1_600_000_000))),
        ..data()
    };
    let file = |data| InodeKind::File { size: 12, data };
    vec![
        other(b"a-fifo", InodeKind::Fifo, None),
        other(b"b-socket", InodeKind::Socket, None),
        other(b"c-char", InodeKind::CharDevice(1, 3), None),
        other(b"d-block", InodeKind::BlockDevice(8, 1), None),
        other(b"e-link", InodeKind::Symlink(b"../to \xfe".to_vec()), None),
        Entry {
            name: b"f-dir".to_vec(),
            what: What::Directory(node(2)),
        },
        other(b"g-archived", file(Some(data())), None),
        other(b"h-changed since", file(Some(older)), Some(node(7))),
        other(b"i-on no tier\xff", file(None), None),
    ]
}

fn listing() -> Vec<u8> {
    let mut writer = Writer::new(Head {
        snapshot: id(),
        fs: FsUuid([7; 16]),
        base: Some(Base {
            snapshot: AggregateId {
                epoch: 0x2a,
                seq: 0x16,
            }
            .snapshot(),
            depth: 1,
        }),
        begun: at(1_700_000_100),
        horizon: AggregateId {
            epoch: 0x2a,
            seq: 0x15,
        },
        root: node(1),
    });
    writer.directory(Directory {
        node: node(1),
        path: Vec::new(),
        attributes: attributes(0o755),
    });
    for entry in entries() {
        let _ = writer.entry(entry);
    }
    writer.directory(Directory {
        node: node(2),
        path: b"f-dir".to_vec(),
        attributes: attributes(0o2750),
    });
    writer.gap();
    writer.finish(at(1_700_000_101))
}

fn snapshot(listing: &[u8]) -> Vec<u8> {
    let size = listing.len() as u64;
    let begun = at(1_700_000_100);
    let member = Member {
        path: MemberPath::new(part_path(id(), 1).into_bytes()).unwrap(),
        kind: Kind::Regular {
            size,
            extents: vec![Extent {
                offset: 0,
                len: size,
            }],
        },
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: begun,
        atime: begun,
        ctime: begun,
        xattrs: Vec::new(),
        identity: Some(DataIdentity {
            file: FileId([8; 16]),
            version: DataVersion(1),
            crc: None,
        }),
    };
    let mut writer = AggregateWriter::new(Vec::new(), id(), FsUuid([7; 16]), begun);
    writer.add(&member, &mut &*listing).unwrap();
    writer.finish().unwrap().0
}

#[test]
fn encoding_gives_the_golden_bytes() {
    let listing = listing();
    compare("listing.jsonl", &listing);
    compare("snapshot.cairn", &snapshot(&listing));
}

#[derive(Default)]
struct Read(usize, Vec<Entry>);

impl Fold for Read {
    type Error = ListingError;
    fn head(&mut self, head: Head) -> Result<(), ListingError> {
        assert_eq!(head.snapshot, id());
        Ok(())
    }
    fn directory(&mut self, _: u64, _: u64, _: Directory) -> Result<(), ListingError> {
        self.0 += 1;
        Ok(())
    }
    fn entry(&mut self, _: u64, entry: Entry) -> Result<(), ListingError> {
        self.1.push(entry);
        Ok(())
    }
}

#[test]
fn the_golden_snapshot_is_read_by_index_and_by_tar() {
    let object = fs::read(dir().join("snapshot.cairn")).unwrap();
    let end = object.len() - TRAILER_LEN as usize;
    let trailer = decode_trailer(&object[end..], object.len() as u64).unwrap();
    assert!(trailer.aggregate.is_snapshot());
    let index = &object[trailer.index_offset as usize..][..trailer.index_len as usize];
    let index = decode_index(index, &trailer).unwrap();
    let [part] = &index.entries[..] else {
        panic!("one part")
    };
    assert_eq!(
        part.member.path.to_string(),
        ".cairn-namespace/e0000002a-100000000017/000001.jsonl"
    );
    let listing = &object[part.data as usize..][..part.stored_len() as usize];
    let (mut reader, mut read) = (Reader::new(id()), Read::default());
    reader.feed(listing, &mut read).unwrap();
    assert_eq!(reader.finish().unwrap().gaps, 1);
    assert_eq!(read.0, 2);
    assert_eq!(read.1, entries());
    let mut scanner = Scanner::new(&object[..]);
    assert!(scanner.next_member().unwrap().is_some());
    assert_eq!(scanner.composition().unwrap().aggregate, id());
}

/// A program of version 1 sees a version that it does not know, and no users' files.
#[test]
fn a_reader_of_version_1_leaves_it_be() {
    let object = fs::read(dir().join("snapshot.cairn")).unwrap();
    let end = object.len() - TRAILER_LEN as usize;
    assert_eq!(object[end + 8..end + 16], [2, 0, 0, 0, 1, 0, 0, 0]);
    let text = String::from_utf8_lossy(&object[512..1024]).into_owned();
    assert!(
        text.contains("comment=cairn2 namespace=e0000002a-100000000017"),
        "{text}"
    );
    // The flags of the one with the name of the other are damage.
    let mut odd = object[end..].to_vec();
    odd[8..16].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0]);
    let sum = Crc32c::of(&odd[..508]).0.to_le_bytes();
    odd[508..].copy_from_slice(&sum);
    assert!(matches!(
        decode_trailer(&odd, object.len() as u64),
        Err(AggregateError::NoTrailer(_))
    ));
}
