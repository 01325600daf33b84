//! Archives of real files: laid out, read in any order, and written elsewhere again.

use super::*;
use crate::format::aggregate::{Index, TRAILER_LEN, decode_index, decode_trailer};
use crate::parcel::{Contents, Fate, Incoming, Placing, Unpacking, Want};
use cairn_mover::{Sink, Source as _};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;

const BIG: usize = 2_500_000;

fn data(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + n / 251 + seed) as u8).collect()
}

/// A tree with one of everything.
fn tree(top: &Path) -> Arc<Tree> {
    std::fs::create_dir_all(top.join("d/empty")).unwrap();
    std::fs::write(top.join("d/big"), data(1, BIG)).unwrap();
    std::fs::write(top.join("d/small"), data(2, 700)).unwrap();
    std::fs::write(top.join("d/nothing"), "").unwrap();
    std::fs::write(top.join(OsStr::from_bytes(b"d/\xff\n")), "bytes").unwrap();
    std::fs::hard_link(top.join("d/small"), top.join("d/the same")).unwrap();
    symlink("small", top.join("d/link")).unwrap();
    let sparse = File::create(top.join("d/sparse")).unwrap();
    sparse.set_len(9 << 20).unwrap();
    sparse.write_all_at(&data(3, 100_000), 4 << 20).unwrap();
    sparse.write_all_at(b"end", (9 << 20) - 3).unwrap();
    File::create(top.join("d/hole"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    Arc::new(Tree::open(top).unwrap())
}

fn names(tree: &Arc<Tree>) -> Vec<Named> {
    let (mut out, mut left) = (Vec::new(), vec![b"d".to_vec()]);
    while let Some(path) = left.pop() {
        let found = tree.look(&path).unwrap();
        if found.kind == FileType::Directory {
            let names = tree.names(&path).unwrap();
            left.extend(names.into_iter().map(|n| [&path, &b"/"[..], &n].concat()));
        }
        out.push(Named {
            tree: Arc::clone(tree),
            local: path.clone(),
            name: path,
            found,
        });
    }
    out
}

/// All of it, the last block first.
fn bytes(packing: &Packing, block: usize) -> Vec<u8> {
    let mut out = vec![0; packing.size() as usize];
    for (n, chunk) in out.chunks_mut(block).enumerate().rev() {
        packing.read_at((n * block) as u64, chunk).unwrap();
    }
    out
}

fn index(bytes: &[u8]) -> Index {
    let last = &bytes[bytes.len() - TRAILER_LEN as usize..];
    let trailer = decode_trailer(last, bytes.len() as u64).unwrap();
    let at = trailer.index_offset as usize;
    decode_index(&bytes[at..at + trailer.index_len as usize], &trailer).unwrap()
}

fn unpack(
    to: &Path,
    bytes: &[u8],
    index: Index,
    wants: impl Fn(&Contents) -> Vec<Want>,
) -> (u64, Vec<(usize, Fate)>) {
    let tree = Arc::new(Tree::strict(to).unwrap());
    let contents = Contents::new(index, b"v".to_vec(), bytes.len() as u64).unwrap();
    let wants = wants(&contents);
    let settle = Box::new(|| Ok(()));
    let made = Unpacking::new(
        tree,
        Arc::new(contents),
        &wants,
        Placing::default(),
        "tag".to_owned(),
        settle,
    );
    let made = made.unwrap();
    let (mut moved, mut progress) = (0, made.progress(b"v"));
    for range in made.lacking(b"v") {
        let whole = &bytes[range.start() as usize..range.end() as usize];
        // In pieces that fit no block, the last one first.
        for (n, piece) in whole.chunks(300_007).enumerate().rev() {
            let at = range.start() + n as u64 * 300_007;
            made.write_at(at, piece).unwrap();
        }
        moved += range.len();
        progress.add(range, cairn_mover::Crc32c::of(whole));
    }
    (moved, made.place(&progress, &BTreeMap::new()).unwrap())
}

fn all(contents: &Contents) -> Vec<Want> {
    let all = (0..contents.members().len()).map(|member| Want {
        member,
        data: member,
    });
    let is_file = |want: &Want| {
        contents.entry(*want).is_some_and(|entry| {
            matches!(
                entry.kind,
                super::super::Kind::File(_)
                    | super::super::Kind::Sparse { .. }
                    | super::super::Kind::Link(_)
            )
        })
    };
    all.filter(is_file).collect()
}

#[test]
fn a_tree_is_packed_and_comes_out_as_it_was() {
    let top = tempfile::tempdir().unwrap();
    let (from, to) = (top.path().join("from"), top.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::create_dir_all(&to).unwrap();
    let tree = tree(&from);
    let (packing, left_out) = Packing::new(names(&tree)).unwrap();
    assert!(left_out.is_empty(), "{left_out:?}");
    let packed = bytes(&packing, 1 << 20);
    assert!(packing.unchanged().unwrap());
    // Laid out again, and read otherwise: the same, byte for byte.
    let (again, _) = Packing::new(names(&tree)).unwrap();
    assert_eq!(again.version(), packing.version());
    assert!(bytes(&again, 77_777) == packed);
    // The hole of a tebibyte is not in it.
    assert!(packed.len() < 4 << 20, "{} bytes", packed.len());
    let (_, fates) = unpack(&to, &packed, index(&packed), all);
    assert!(fates.is_empty(), "{fates:?}");
    for name in [
        &b"d/big"[..],
        b"d/small",
        b"d/nothing",
        b"d/\xff\n",
        b"d/sparse",
    ] {
        let name = OsStr::from_bytes(name);
        let (one, other) = (from.join(name), to.join(name));
        assert!(std::fs::read(&one).unwrap() == std::fs::read(&other).unwrap());
        let (one, other) = (one.metadata().unwrap(), other.metadata().unwrap());
        assert_eq!(one.modified().unwrap(), other.modified().unwrap());
    }
    assert_eq!(to.join("d/hole").metadata().unwrap().len(), 1 << 40);
    assert!(to.join("d/sparse").metadata().unwrap().blocks() < 4000);
    assert_eq!(
        std::fs::read_link(to.join("d/link")).unwrap(),
        Path::new("small")
    );
}

#[test]
fn one_member_needs_its_own_bytes_alone() {
    let top = tempfile::tempdir().unwrap();
    let (from, to) = (top.path().join("from"), top.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::create_dir_all(&to).unwrap();
    let (packing, _) = Packing::new(names(&tree(&from))).unwrap();
    let packed = bytes(&packing, 1 << 20);
    let one = |contents: &Contents| {
        let member = contents.find(&MemberPath::new("d/big").unwrap()).unwrap();
        vec![Want {
            member,
            data: member,
        }]
    };
    let (moved, fates) = unpack(&to, &packed, index(&packed), one);
    assert!(fates.is_empty() && moved == BIG as u64, "{moved} {fates:?}");
    assert!(std::fs::read(to.join("d/big")).unwrap() == data(1, BIG));
    assert!(!to.join("d/small").exists());
}

#[test]
fn data_that_are_not_those_of_the_index_get_no_name() {
    let top = tempfile::tempdir().unwrap();
    let (from, to) = (top.path().join("from"), top.path().join("to"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::create_dir_all(&to).unwrap();
    let (packing, _) = Packing::new(names(&tree(&from))).unwrap();
    let mut packed = bytes(&packing, 1 << 20);
    let index = index(&packed);
    let small = index.by_path(&MemberPath::new("d/small").unwrap());
    packed[small.unwrap().data as usize + 5] ^= 1;
    let (_, fates) = unpack(&to, &packed, index, all);
    assert_eq!(fates.len(), 1, "{fates:?}");
    assert!(matches!(&fates[0].1, Fate::Failed("check it", _)));
    assert!(!to.join("d/small").exists() && to.join("d/big").exists());
}

#[test]
fn members_on_top_of_each_other_are_refused() {
    let top = tempfile::tempdir().unwrap();
    let (packing, _) = Packing::new(names(&tree(top.path()))).unwrap();
    let packed = bytes(&packing, 1 << 20);
    let mut index = index(&packed);
    let big = index.by_path(&MemberPath::new("d/big").unwrap()).unwrap();
    let place = (big.header, big.data);
    for entry in &mut index.entries {
        if entry.member.path.as_bytes() == b"d/small" {
            (entry.header, entry.data) = place;
        }
    }
    assert!(Contents::new(index, Vec::new(), packed.len() as u64).is_err());
}

#[test]
fn a_file_that_changes_is_named() {
    let top = tempfile::tempdir().unwrap();
    let (packing, _) = Packing::new(names(&tree(top.path()))).unwrap();
    // Another length, so that it does not hang on how finely times are told.
    std::fs::write(top.path().join("d/small"), "other").unwrap();
    let mut block = vec![0; packing.size() as usize];
    let error = packing.read_at(0, &mut block).unwrap_err();
    assert!(error.to_string().contains("d/small"), "{error}");
    assert!(!packing.unchanged().unwrap());
    assert_eq!(packing.changed(), Some(b"d/small".to_vec()));
}

#[test]
fn bytes_that_did_not_pass_are_read_for_the_index() {
    let top = tempfile::tempdir().unwrap();
    let tree = tree(top.path());
    let (packing, _) = Packing::new(names(&tree)).unwrap();
    let packed = bytes(&packing, 1 << 20);
    let (later, _) = Packing::new(names(&tree)).unwrap();
    let at = packed.len() - 5000;
    let mut end = vec![0; 5000];
    later.read_at(at as u64, &mut end).unwrap();
    assert!(end == packed[at..]);
}

#[test]
fn what_changed_before_it_was_laid_out_is_left_out_and_told() {
    let top = tempfile::tempdir().unwrap();
    let names = names(&tree(top.path()));
    std::fs::write(top.path().join("d/big"), "shorter").unwrap();
    std::fs::remove_file(top.path().join("d/nothing")).unwrap();
    let (packing, left_out) = Packing::new(names).unwrap();
    let told: Vec<_> = left_out.iter().map(|(name, _)| name.as_slice()).collect();
    assert_eq!(told, [&b"d/big"[..], b"d/nothing"]);
    assert!(packing.unchanged().unwrap());
    let index = index(&bytes(&packing, 1 << 20));
    assert!(index.by_path(&MemberPath::new("d/big").unwrap()).is_none());
    assert!(
        index
            .by_path(&MemberPath::new("d/small").unwrap())
            .is_some()
    );
}
