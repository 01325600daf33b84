//! Every input that a fuzzer ever made trouble with, and its seeds: `fuzzed/<decoder>/` beside this
//! file. They run here, without a fuzzer. A find is added as a file named for what it broke.

use cairn::format::aggregate::{TRAILER_LEN, Trailer, decode_index, decode_trailer, find_index};
use cairn::format::record::Record;
use cairn::format::{acl, scan::Scanner};
use cairn_mover::Crc32c;
use std::fs;
use std::path::PathBuf;

fn record(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
}

fn trailer(bytes: &[u8]) {
    let at = bytes.len().saturating_sub(TRAILER_LEN as usize);
    let _ = decode_trailer(&bytes[at..], bytes.len() as u64);
}

fn index(bytes: &[u8]) {
    if let Ok(index) = find_index(bytes, 1 << 40) {
        let trailer = Trailer {
            aggregate: index.aggregate,
            fs: index.fs,
            index_offset: 1 << 40,
            index_len: bytes.len() as u64,
            index_crc: Crc32c::of(bytes),
            total_len: 2 << 40,
            in_parts: !index.parts().is_empty(),
        };
        let _ = decode_index(bytes, &trailer);
        for entry in &index.entries {
            let pieces = (0..entry.block_count()).flat_map(|n| entry.pieces(n));
            assert_eq!(pieces.map(|p| p.len).sum::<u64>(), entry.stored_len());
            let runs = entry.runs_of_blocks(0..u64::MAX);
            assert_eq!(runs.iter().map(|r| r.len).sum::<u64>(), entry.stored_len());
            let _ = (entry.tar_name(), entry.end());
        }
    }
}

fn scan(bytes: &[u8]) {
    let mut scanner = Scanner::new(bytes);
    while let Ok(Some(_)) = scanner.next_member() {
        let _ = scanner.entry();
    }
    let mut scanner = Scanner::seekable(std::io::Cursor::new(bytes));
    while let Ok(Some(_)) = scanner.next_member() {}
}

fn acl(bytes: &[u8]) {
    if let Ok(text) = acl::to_text(bytes) {
        assert_eq!(acl::from_text(text.as_bytes()).unwrap(), bytes);
    }
    if let Ok(value) = acl::from_text(bytes) {
        assert_eq!(acl::to_text(&value).unwrap().as_bytes(), bytes);
    }
}

type Decoder = fn(&[u8]);

#[test]
fn what_fuzzers_found_stays_fixed() {
    let decoders: [(&str, Decoder); 5] = [
        ("record", record),
        ("trailer", trailer),
        ("index", index),
        ("scan", scan),
        ("acl", acl),
    ];
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/fuzzed");
    for (name, decoder) in decoders {
        let mut inputs = 0;
        for file in fs::read_dir(root.join(name)).unwrap() {
            decoder(&fs::read(file.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs > 0, "no seed for {name}");
    }
    let known = fs::read_dir(&root).unwrap().count();
    assert_eq!(known, decoders.len(), "a folder that no decoder reads");
}

#[test]
fn golden_files_cut_anywhere_never_panic() {
    let v1 = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    let object = fs::read(v1.join("aggregate.cairn")).unwrap();
    for len in (0..object.len()).step_by(97) {
        scan(&object[..len]);
        trailer(&object[..len]);
        index(&object[len..]);
    }
}
