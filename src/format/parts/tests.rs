//! Files in parts: cut, written, read back, and joined as `cat` does.

use super::super::aggregate::{
    AggregateError, AggregateWriter, PartsWriter, TRAILER_LEN, Trailer, decode_index,
    decode_trailer,
};
use super::super::member::DataIdentity;
use super::super::scan::Scanner;
use super::*;
use crate::id::{DataVersion, FileId, FsUuid, Timestamp};
use proptest::prelude::*;

const HEAD: AggregateId = AggregateId { epoch: 2, seq: 77 };
const FS: FsUuid = FsUuid([0xf5; 16]);
const MIB: u64 = BLOCK;

fn member(kind: Kind) -> Member {
    let at = Timestamp {
        sec: 1_700_000_000,
        nsec: 5,
    };
    Member {
        path: MemberPath::new("dir/large").expect("a path"),
        kind,
        mode: 0o640,
        uid: 7,
        gid: 8,
        mtime: at,
        atime: at,
        ctime: at,
        xattrs: vec![(b"user.kind".to_vec(), b"large".to_vec())],
        identity: Some(DataIdentity {
            file: FileId([9; 16]),
            version: DataVersion(4),
            crc: None,
        }),
    }
}

fn stored(kind: &Kind) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9) >> 11) as u8;
    (0..kind.stored_len()).map(byte).collect()
}

/// The file's content, holes as zeros.
fn content(kind: &Kind, stored: &[u8]) -> Vec<u8> {
    let Kind::Regular { size, extents } = kind else {
        panic!("no file");
    };
    let (mut out, mut rest) = (vec![0; *size as usize], stored);
    for run in extents {
        let (now, later) = rest.split_at(run.len as usize);
        out[run.offset as usize..][..now.len()].copy_from_slice(now);
        rest = later;
    }
    out
}

/// Writes a file in parts: objects in the order of its parts, the head last.
fn write(member: &Member, slices: &[Slice]) -> Vec<(AggregateId, Vec<u8>)> {
    let bytes = stored(&member.kind);
    let mut data = &bytes[..];
    let begin = |id| AggregateWriter::new(Vec::new(), id, FS, member.mtime);
    let mut file = PartsWriter::new(member, slices);
    let mut objects = Vec::new();
    while let Some(slice) = file.next() {
        let id = HEAD.part(slice.number);
        let mut writer = begin(id);
        writer.add_part(&mut file, &mut data).expect("a part");
        let (object, _, trailer) = writer.finish().expect("memory");
        file.sealed(trailer.total_len);
        objects.push((id, object));
    }
    let mut writer = begin(HEAD);
    writer
        .add_last_part(file, &mut data)
        .expect("the last part");
    let link = Member {
        path: MemberPath::new("dir/link").expect("a path"),
        kind: Kind::HardLink {
            target: member.path.clone(),
        },
        identity: None,
        xattrs: Vec::new(),
        ..member.clone()
    };
    let added = writer.add(&link, &mut std::io::empty()).expect("a link");
    assert_eq!(added.header, 0);
    objects.push((HEAD, writer.finish().expect("memory").0));
    objects
}

fn open(object: &[u8]) -> (Trailer, Index) {
    let at = object.len() - TRAILER_LEN as usize;
    let trailer = decode_trailer(&object[at..], object.len() as u64).expect("a trailer");
    let bytes = &object[trailer.index_offset as usize..][..trailer.index_len as usize];
    let index = decode_index(bytes, &trailer).expect("an index");
    (trailer, index)
}

/// What tar restores of an object: its files, in order.
fn restored(object: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut scanner = Scanner::new(object);
    let mut files = Vec::new();
    while let Some(found) = scanner.next_member().expect("tar") {
        let (path, kind) = (found.member.path.clone(), found.member.kind.clone());
        let mut bytes = Vec::new();
        while bytes.len() < kind.stored_len() as usize {
            bytes.extend(scanner.read_data().expect("data"));
        }
        files.push((path.as_bytes().to_vec(), content(&kind, &bytes)));
    }
    files
}

fn check(kind: Kind, limit: u64) -> Vec<Slice> {
    let member = member(kind);
    let around = around(&member, 1024);
    let slices = cut(&member.kind, limit, around).expect("parts");
    assert!(slices.len() > 1);
    let objects = write(&member, &slices);
    let (bytes, mut joined) = (stored(&member.kind), Vec::new());
    for ((id, object), slice) in objects.iter().zip(&slices) {
        assert!(object.len() as u64 <= limit, "{id}: {}", object.len());
        let files = restored(object);
        let [(path, part)] = &files[..] else {
            panic!("{id}: {} files", files.len());
        };
        let name = format!("dir/large.cairn-part-{:04}", slice.number);
        assert_eq!(String::from_utf8_lossy(path), name);
        joined.extend_from_slice(part);
    }
    assert!(
        joined == content(&member.kind, &bytes),
        "not what was written"
    );
    let (_, index) = open(&objects.last().expect("the head").1);
    let entry = index.by_path(&member.path).expect("the file");
    assert_eq!(entry.member.kind, member.kind);
    assert_eq!(entry.parts().len() + 1, slices.len());
    assert_eq!(
        entry.block_count(),
        bytes.len().div_ceil(BLOCK as usize) as u64
    );
    let object = |id| {
        &objects
            .iter()
            .find(|(of, _)| *of == id)
            .expect("an object")
            .1
    };
    for (n, block) in bytes.chunks(BLOCK as usize).enumerate() {
        let place = entry.block(n as u64).expect("a block");
        let found = &object(place.object(HEAD))[place.offset_in_object as usize..];
        assert!(&found[..place.len as usize] == block, "block {n}");
        assert_eq!(Crc32c::of(block), place.crc);
    }
    let all: Vec<u8> = entry
        .runs_of_blocks(0..u64::MAX)
        .iter()
        .flat_map(|run| {
            let object = object(run.object(HEAD));
            object[run.offset_in_object as usize..][..run.len as usize].to_vec()
        })
        .collect();
    assert!(all == bytes, "runs of blocks are all of them, once");
    let lens: usize = objects.iter().map(|(_, object)| object.len()).sum();
    let own = object(HEAD).len() as u64;
    assert_eq!(index.len_with_parts(own), lens as u64);
    slices
}

fn dense(size: u64) -> Kind {
    Kind::dense(size)
}

#[test]
fn a_dense_file_is_cut_at_whole_blocks() {
    let limit = 3 * MIB + 100 * 1024;
    for size in [9 * MIB, 9 * MIB + 1, 10 * MIB, 10 * MIB - 1, 12 * MIB] {
        let slices = check(dense(size), limit);
        let (last, others) = slices.split_last().expect("parts");
        assert!(others.iter().all(|s| s.stored_len() == 3 * MIB), "{size}");
        assert!(last.stored_len() > 0 && last.stored_len() < limit, "{size}");
        assert!(slices.iter().all(|s| s.content.start % MIB == 0));
        assert_eq!(slices.last().map(|s| s.content.end), Some(size));
    }
}

#[test]
fn holes_at_the_cuts_belong_to_the_part_before() {
    let run = |offset, len| Extent { offset, len };
    let kind = Kind::Regular {
        size: 40 * MIB + 5,
        extents: vec![
            run(MIB, MIB + 512),
            run(5 * MIB, 2 * MIB - 512),
            run(20 * MIB, 4 * MIB),
            run(30 * MIB, 700),
        ],
    };
    let slices = check(kind, 3 * MIB + 100 * 1024);
    let parts: Vec<_> = slices.iter().map(|s| s.content.clone()).collect();
    assert_eq!(
        parts,
        [0..20 * MIB, 20 * MIB..23 * MIB, 23 * MIB..40 * MIB + 5]
    );
}

#[test]
fn what_cannot_be_cut_is_said() {
    let around = 70_000;
    let none = cut(&dense(9 * MIB), MIB, around);
    assert_eq!(none, Err(Uncut::Short(MIB)));
    assert!(
        cut(&dense(MIB), MIB, around).is_err(),
        "one block is not cut"
    );
    let limit = 3 * MIB + 700_000;
    assert_eq!(
        cut(&dense(30_100 * MIB), limit, around),
        Err(Uncut::Many(limit))
    );
    assert!(cut(&dense(29_900 * MIB), limit, around).is_ok());
}

#[test]
fn a_long_name_is_shortened_for_its_number() {
    let path = |name: String| MemberPath::new(name).expect("a path");
    let named = |name: String, id: u8| {
        let mut member = member(dense(9 * MIB));
        member.path = path(name);
        let identity = member.identity.as_mut().expect("an identity");
        identity.file = FileId([id; 16]);
        member
    };
    let long = |end: &str, id| named(format!("d/{}{end}", "x".repeat(254)), id);
    let short = |id| path(format!("d/{}~{id}.cairn-part-0012", "x".repeat(230)));
    assert_eq!(part_path(&long("a", 0xab), 12), short("abababab"));
    // Of another file in the directory.
    assert_eq!(part_path(&long("b", 7), 12), short("07070707"));
    let fits = named("x".repeat(239), 1);
    let whole = path(format!("{}.cairn-part-0001", "x".repeat(239)));
    assert_eq!(part_path(&fits, 1), whole);
}

#[test]
fn beside_a_part_are_its_directories_and_nothing_else() {
    for kind in [Kind::Directory, Kind::Fifo] {
        let member = member(dense(9 * MIB));
        let slices = cut(&member.kind, 4 * MIB, 100_000).expect("parts");
        let bytes = stored(&member.kind);
        let mut file = PartsWriter::new(&member, &slices);
        let mut writer = AggregateWriter::new(Vec::new(), HEAD.part(1), FS, member.mtime);
        let beside = Member {
            path: MemberPath::new("beside").expect("a path"),
            kind: kind.clone(),
            identity: None,
            ..member.clone()
        };
        writer.add(&beside, &mut std::io::empty()).expect("added");
        writer.add_part(&mut file, &mut &bytes[..]).expect("a part");
        let (object, _, trailer) = writer.finish().expect("memory");
        let index = &object[trailer.index_offset as usize..][..trailer.index_len as usize];
        let taken = decode_index(index, &trailer).is_ok();
        assert_eq!(taken, kind == Kind::Directory);
    }
}

#[test]
fn each_object_says_what_it_is() {
    let member = member(dense(9 * MIB));
    let slices = cut(&member.kind, 4 * MIB, 100_000).expect("parts");
    let objects = write(&member, &slices);
    for (id, object) in &objects {
        let (trailer, index) = open(object);
        assert_eq!((trailer.aggregate, trailer.in_parts), (*id, !id.is_part()));
        assert_eq!(object[object.len() - 504], 3, "the version");
        assert_eq!(
            index.by_identity(FileId([9; 16]), DataVersion(4)).is_some(),
            !id.is_part()
        );
        // Of a file's own attributes nothing is lost, whichever object they are read from.
        let entry = index.entries.iter().find(|e| e.header > 0).expect("a file");
        let headers = &object[entry.header as usize..entry.data as usize];
        let whole = entry.whole_member(headers).expect("its headers");
        assert_eq!(
            (whole.xattrs, whole.mode),
            (member.xattrs.clone(), member.mode)
        );
    }
    let mut scanner = Scanner::new(&objects[1].1[..]);
    let found = scanner.next_member().expect("tar").expect("a part");
    let mark = PartMark {
        number: 2,
        offset: 3 * MIB,
        whole: None,
    };
    assert_eq!(found.part, Some(mark));
    let mut scanner = Scanner::new(&objects[2].1[..]);
    let found = scanner.next_member().expect("tar").expect("a part");
    assert_eq!(found.part.and_then(|p| p.whole), Some(9 * MIB));
    assert!(
        scanner.entry().expect("data").expect("an entry").is_part(),
        "no file by itself"
    );
}

/// An index of one kind under the name, or the trailer, of another.
#[test]
fn what_is_of_another_kind_than_it_says_is_refused() {
    let member = member(dense(5 * MIB));
    let slices = cut(&member.kind, 4 * MIB, 100_000).expect("parts");
    let objects = write(&member, &slices);
    let seal = |mut index: Index, in_parts: bool, id: AggregateId| {
        index.aggregate = id;
        let bytes = super::super::aggregate::encode_index(&index);
        let trailer = Trailer {
            aggregate: id,
            fs: FS,
            index_offset: 1 << 30,
            index_len: bytes.len() as u64,
            index_crc: Crc32c::of(&bytes),
            total_len: 1 << 31,
            in_parts,
        };
        decode_index(&bytes, &trailer)
    };
    let (part, head) = (open(&objects[0].1).1, open(&objects[1].1).1);
    assert!(seal(part.clone(), false, HEAD.part(1)).is_ok());
    assert!(seal(head.clone(), true, HEAD).is_ok());
    for (index, in_parts, id) in [
        (&part, false, HEAD.part(2)),
        (&part, false, HEAD),
        (&head, false, HEAD),
        (&head, true, HEAD.part(1)),
    ] {
        let refused = seal(index.clone(), in_parts, id);
        assert!(
            matches!(refused, Err(AggregateError::DamagedIndex(_))),
            "{id} {refused:?}"
        );
    }
    let bent = |bend: &dyn Fn(&mut PartPlace)| {
        let mut index = head.clone();
        for entry in &mut index.entries {
            if let Span::Parts(parts) = &mut entry.span {
                bend(&mut parts[0]);
            }
        }
        seal(index, true, HEAD)
    };
    assert!(bent(&|_| ()).is_ok());
    assert!(
        bent(&|part| part.blocks = 5).is_err(),
        "nothing is left for the last"
    );
    assert!(bent(&|part| part.blocks = 0).is_err());
    assert!(bent(&|part| part.len = part.data).is_err());
    assert!(bent(&|part| part.data = part.header).is_err());
    assert!(bent(&|part| part.header += 1).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn files_of_any_shape_are_joined_again(
        runs in proptest::collection::vec((1_u64..3000, 1_u64..3000), 3..20),
        cut in 0_u64..512, tail in 0_u64..3, room in 2_u64..4,
    ) {
        let mut end = 0;
        let mut extents: Vec<Extent> = runs.into_iter().map(|(gap, len)| {
            let run = Extent { offset: end + gap * 512, len: len * 512 };
            end = run.offset + run.len;
            run
        }).collect();
        if let Some(last) = extents.last_mut() {
            last.len -= cut;
            end -= cut;
        }
        let kind = Kind::Regular { size: end + tail * MIB, extents };
        let limit = room * MIB + 100 * 1024;
        if kind.stored_len() > limit {
            check(kind, limit);
        }
    }
}
