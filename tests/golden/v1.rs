//! Golden files of format version 1, in `v1/` beside this file: encoding the sample gives them
//! byte for byte, decoding them gives the dump, and each damaged one has its verdict.
//!
//! `CAIRN_WRITE_GOLDEN=1` writes files that are *missing*; it never changes one.

use super::sample::{AGGREGATE, FS, at, compose, few, golden, stored};
use cairn::format::aggregate::{
    AggregateError, Index, IndexEntry, TRAILER_LEN, Trailer, decode_index, decode_trailer,
};
use cairn::format::member::Kind;
use cairn::format::record::{CopyHint, Record, State};
use cairn::format::scan::Scanner;
use cairn::id::{DataVersion, FileId, NodeHandle, TierId};
use cairn_mover::{Checked, Crc32c};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

/// Compares with the golden file, or writes it where it is missing and that was asked for.
fn compare(name: &str, found: &[u8]) {
    let path = dir().join(name);
    match fs::read(&path) {
        Ok(golden) if golden == found => {}
        Ok(golden) => panic!(
            "{name} differs from what this program writes: a change of the format needs a new \
             version and new files (README.md)\n--- golden\n{}\n--- found\n{}",
            String::from_utf8_lossy(&golden[..golden.len().min(8000)]),
            String::from_utf8_lossy(&found[..found.len().min(8000)]),
        ),
        Err(_) if std::env::var_os("CAIRN_WRITE_GOLDEN").is_some() => {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, found).unwrap();
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn open(object: &[u8]) -> Result<(Trailer, Index), AggregateError> {
    let at = object.len().saturating_sub(TRAILER_LEN as usize);
    let trailer = decode_trailer(&object[at..], object.len() as u64)?;
    let index = &object[trailer.index_offset as usize..][..trailer.index_len as usize];
    Ok((trailer, decode_index(index, &trailer)?))
}

fn dump_kind(kind: &Kind) -> String {
    match kind {
        Kind::Symlink { target } => format!("Symlink \"{}\"", target.escape_ascii()),
        other => format!("{other:?}"),
    }
}

fn dump_entry(entry: &IndexEntry) -> String {
    let member = &entry.member;
    let mut line = format!(
        "{:?} {} mode {:o} owner {}:{} mtime {}.{:09} atime {}.{:09} ctime {}.{:09} header {} data {} sum {}",
        member.path,
        dump_kind(&member.kind),
        member.mode,
        member.uid,
        member.gid,
        member.mtime.sec,
        member.mtime.nsec,
        member.atime.sec,
        member.atime.nsec,
        member.ctime.sec,
        member.ctime.nsec,
        entry.header,
        entry.data,
        entry.header_crc,
    );
    if let Some(identity) = member.identity {
        let crc = identity.crc.unwrap();
        write!(
            line,
            " id {} v {} crc {crc}",
            identity.file, identity.version.0
        )
        .unwrap();
    }
    write!(line, " blocks {:?}", entry.blocks).unwrap();
    line
}

fn dump(object: &[u8]) -> String {
    let (trailer, index) = open(object).unwrap();
    let mut text = format!("{trailer:?}\ncomposed {:?}\n\nindex:\n", index.composed);
    for entry in &index.entries {
        writeln!(text, "{}", dump_entry(entry)).unwrap();
    }
    text.push_str("\ntar:\n");
    let mut scanner = Scanner::new(object);
    while let Some(found) = scanner.next_member().unwrap().cloned() {
        let entry = scanner.entry().unwrap().unwrap();
        writeln!(text, "{}", dump_entry(&entry)).unwrap();
        for (name, value) in found.member.xattrs {
            writeln!(text, "  {} = {}", name.escape_ascii(), value.escape_ascii()).unwrap();
        }
    }
    writeln!(text, "end {:?} {:?}", scanner.end(), scanner.composition()).unwrap();
    text
}

/// What each part of Cairn says of an object: index, blocks, scan.
fn verdict(object: &[u8]) -> String {
    let mut text = String::new();
    match open(object) {
        Err(error) => writeln!(text, "  index: {error}").unwrap(),
        Ok((_, index)) => {
            writeln!(text, "  index: good, {} entries", index.entries.len()).unwrap();
            for entry in &index.entries {
                for n in 0..entry.block_count() {
                    let place = entry.block(n).unwrap();
                    let bytes = &object[place.offset_in_object as usize..][..place.len as usize];
                    let bytes = bytes::Bytes::copy_from_slice(bytes);
                    if let Err(error) = Checked::verify(bytes, place.crc) {
                        writeln!(text, "  {} block {n}: {error}", entry.member.path).unwrap();
                    }
                }
            }
        }
    }
    let mut scanner = Scanner::new(object);
    let mut good = 0;
    loop {
        match scanner.next_member() {
            Ok(Some(_)) => {}
            Ok(None) => break writeln!(text, "  scan: {good} members").unwrap(),
            Err(error) => break writeln!(text, "  scan: {good} members, then {error}").unwrap(),
        }
        match scanner.entry() {
            Ok(_) => good += 1,
            Err(error) => writeln!(text, "  scan: {error}").unwrap(),
        }
    }
    text
}

/// Damaged objects made of the good one.
fn damaged(good: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let (trailer, index) = open(good).unwrap();
    let by_name = |name: &str| {
        let found = index
            .entries
            .iter()
            .find(|e| e.member.path.as_bytes() == name.as_bytes());
        found.unwrap()
    };
    let end = good.len() - TRAILER_LEN as usize;
    let flip = |at: usize| {
        let mut object = good.to_vec();
        object[at] ^= 0x10;
        object
    };
    let mut newer = good.to_vec();
    newer[end + 8] = 2;
    let sum = Crc32c::of(&newer[end..good.len() - 4]).0.to_le_bytes();
    newer[good.len() - 4..].copy_from_slice(&sum);
    let file = by_name("acl/file");
    vec![
        ("trailer-cut-off", good[..end].to_vec()),
        ("trailer-bit", flip(end + 50)),
        ("trailer-newer", newer),
        ("index-bit", flip(trailer.index_offset as usize + 300)),
        ("data-bit", flip(file.data as usize + 1000)),
        ("header-bit", flip(file.data as usize - 400)),
        ("pax-bit", flip(file.header as usize + 512 + 20)),
        ("cut-in-data", good[..file.data as usize + 512].to_vec()),
        ("twice", [good, good].concat()),
        ("zeros", vec![0; 2048]),
    ]
}

#[test]
fn the_aggregate_encodes_as_ever_and_decodes_as_ever() {
    let members = golden();
    let (object, index) = compose(&members);
    assert!(object.len() < 65_536, "{}", object.len());
    compare("aggregate.cairn", &object);
    compare("aggregate.txt", dump(&object).as_bytes());
    for member in &members {
        let entry = index.by_path(&member.path).unwrap();
        if matches!(member.kind, Kind::Regular { .. }) {
            let data = &object[entry.data as usize..][..entry.stored_len() as usize];
            assert_eq!(data, &stored(member)[..]);
        }
    }
}

#[test]
fn damaged_aggregates_have_their_verdict() {
    let (good, _) = compose(&few());
    let mut text = String::new();
    for (name, object) in damaged(&good) {
        compare(&format!("damaged/{name}.cairn"), &object);
        let kept = fs::read(dir().join(format!("damaged/{name}.cairn"))).unwrap();
        write!(text, "{name}\n{}", verdict(&kept)).unwrap();
    }
    compare("damaged/verdicts.txt", text.as_bytes());
}

fn record() -> Record {
    let copy = |n: u64| CopyHint {
        tier: TierId(0x7a00_0000 + n as u32),
        aggregate: AGGREGATE,
        header: 1024 + n,
    };
    Record {
        state: State::Released,
        fs: FS,
        file: FileId(*b"golden-file-0001"),
        version: DataVersion(3),
        crc: Crc32c(0x0123_4567),
        handle: NodeHandle {
            kind: 1,
            bytes: vec![1, 2, 3, 4, 5, 6, 7, 8],
        },
        size: 123_456_789,
        mtime: at(1_600_000_000, 123_456_789),
        user_ctime: at(1_600_000_001, 5),
        ctime_floor: Some(at(1_700_000_000, 4_000_000)),
        blocks_crc: Crc32c(0x89ab_cdef),
        copies: vec![copy(0), copy(1)],
    }
}

#[test]
fn the_record_encodes_as_ever_and_decodes_as_ever() {
    let bytes = record().encode();
    compare("record.bin", &bytes);
    let kept = fs::read(dir().join("record.bin")).unwrap();
    assert_eq!(Record::decode(&kept), Ok(record()));
}

#[test]
fn damaged_records_have_their_verdict() {
    let good = record().encode();
    let mut bit = good.clone();
    bit[60] ^= 1;
    let mut newer = good.clone();
    newer[4] = 2;
    let at = newer.len() - 4;
    let sum = Crc32c::of(&newer[..at]).0.to_le_bytes();
    newer[at..].copy_from_slice(&sum);
    let mut text = String::new();
    for (name, bytes) in [
        ("bit", bit),
        ("newer", newer),
        ("cut", good[..100].to_vec()),
        ("longer", [&good[..], &[0; 200]].concat()),
        ("zeros", vec![0; 149]),
    ] {
        compare(&format!("damaged/record-{name}.bin"), &bytes);
        let kept = fs::read(dir().join(format!("damaged/record-{name}.bin"))).unwrap();
        writeln!(text, "{name}: {}", Record::decode(&kept).unwrap_err()).unwrap();
    }
    compare("damaged/record-verdicts.txt", text.as_bytes());
}
