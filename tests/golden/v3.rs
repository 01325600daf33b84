//! Golden files of format version 3, which a file in parts has: two parts and the aggregate with the last, and
//! what must be said where one is missing or of another version.
//!
//! `CAIRN_WRITE_GOLDEN=1` writes files that are *missing*; it never changes one.

use super::sample::{at, member, sparse};
use cairn::format::aggregate::{
    AggregateError, AggregateWriter, Index, PartsWriter, TRAILER_LEN, Trailer, decode_index,
    decode_trailer,
};
use cairn::format::member::{Kind, Member};
use cairn::format::parts;
use cairn::format::scan::Scanner;
use cairn::id::{AggregateId, DataVersion, FsUuid};
use cairn_mover::Crc32c;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

const FS: FsUuid = FsUuid([7; 16]);
const MIB: u64 = 1 << 20;
const HEAD: AggregateId = AggregateId {
    epoch: 0x2a,
    seq: 0x17,
};

type Objects = BTreeMap<AggregateId, Vec<u8>>;

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v3")
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
            fs::create_dir_all(dir()).unwrap();
            fs::write(path, found).unwrap();
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

/// A file with holes: one within a part, one at a cut, one at the end.
fn large() -> Member {
    let runs = [(4096, 512 << 10), (MIB, 768 << 10), (3 * MIB, MIB - 1000)];
    let mut large = member("dir/large", sparse(5 * MIB + 7, &runs));
    large.xattrs = vec![(b"user.note".to_vec(), b"in parts".to_vec())];
    large
}

/// Bytes that take no room in the history of this repository.
fn stored(member: &Member) -> Vec<u8> {
    let byte = |at: u64| (at / 4096) as u8;
    (0..member.kind.stored_len()).map(byte).collect()
}

fn compose(version: u64) -> Objects {
    let mut large = large();
    large.identity = large
        .identity
        .map(|identity| cairn::format::member::DataIdentity {
            version: DataVersion(version),
            ..identity
        });
    let mut bytes = stored(&large);
    bytes[0] = version as u8;
    let mut data = &bytes[..];
    let (top, composed) = (member("dir", Kind::Directory), at(1_700_000_000, 5));
    let begin = |id| {
        let mut writer = AggregateWriter::new(Vec::new(), id, FS, composed);
        writer.add(&top, &mut std::io::empty()).unwrap();
        writer
    };
    let slices = parts::cut(&large.kind, MIB + (200 << 10), parts::around(&large, 2048)).unwrap();
    let (mut file, mut objects) = (PartsWriter::new(&large, &slices), Objects::new());
    while let Some(slice) = file.next() {
        let id = HEAD.part(slice.number);
        let mut writer = begin(id);
        writer.add_part(&mut file, &mut data).unwrap();
        let (object, _, trailer) = writer.finish().unwrap();
        file.sealed(trailer.total_len);
        objects.insert(id, object);
    }
    let mut writer = begin(HEAD);
    writer.add_last_part(file, &mut data).unwrap();
    let link = Member {
        kind: Kind::HardLink {
            target: large.path.clone(),
        },
        identity: None,
        ..member("dir/link", Kind::Fifo)
    };
    writer.add(&link, &mut std::io::empty()).unwrap();
    objects.insert(HEAD, writer.finish().unwrap().0);
    objects
}

fn open(object: &[u8]) -> Result<(Trailer, Index), AggregateError> {
    let at = object.len().saturating_sub(TRAILER_LEN as usize);
    let trailer = decode_trailer(&object[at..], object.len() as u64)?;
    let index = &object[trailer.index_offset as usize..][..trailer.index_len as usize];
    Ok((trailer, decode_index(index, &trailer)?))
}

fn dump(object: &[u8]) -> String {
    let (trailer, index) = open(object).unwrap();
    let mut text = format!("{trailer:?}\n\nindex:\n");
    for entry in &index.entries {
        let member = &entry.member;
        let identity = member.identity.map(|i| (i.file, i.version, i.crc));
        let place = (entry.header, entry.data, entry.header_crc);
        writeln!(
            text,
            "{:?} {:?}\n  {place:?} {identity:?}",
            member.path, member.kind
        )
        .unwrap();
        writeln!(text, "  {:?} blocks {:?}", entry.span, entry.blocks).unwrap();
    }
    text.push_str("\ntar:\n");
    let mut scanner = Scanner::new(object);
    while let Some(found) = scanner.next_member().unwrap().cloned() {
        let (member, part) = (found.member, found.part);
        writeln!(text, "{:?} {:?} {part:?}", member.path, member.kind).unwrap();
    }
    writeln!(text, "{:?}", scanner.composition()).unwrap();
    text
}

/// What is said of each block of the file, read through the head's index.
fn verdict(objects: &Objects) -> String {
    let (_, index) = open(&objects[&HEAD]).unwrap();
    let entry = index.by_path(&large().path).unwrap();
    let mut text = String::new();
    for n in 0..entry.block_count() {
        let place = entry.block(n).unwrap();
        let id = place.object(HEAD);
        let said = match objects.get(&id) {
            None => "is missing",
            Some(object) => {
                let bytes = &object[place.offset_in_object as usize..][..place.len as usize];
                match Crc32c::of(bytes) == place.crc {
                    true => "is good",
                    false => "has another checksum",
                }
            }
        };
        writeln!(text, "  block {n} in {id} {said}").unwrap();
    }
    text
}

fn name(id: AggregateId) -> String {
    format!("{id}.cairn")
}

fn golden() -> Objects {
    let ids = [HEAD, HEAD.part(1), HEAD.part(2)];
    ids.map(|id| (id, fs::read(dir().join(name(id))).unwrap()))
        .into()
}

#[test]
fn parts_encode_as_ever_and_decode_as_ever() {
    let objects = compose(3);
    assert_eq!(objects.len(), 3);
    for (id, object) in &objects {
        compare(&name(*id), object);
    }
    let dumps: String = golden()
        .iter()
        .map(|(id, object)| format!("{id}\n{}\n", dump(object)))
        .collect();
    compare("dump.txt", dumps.as_bytes());
}

#[test]
fn what_is_missing_or_another_versions_has_its_verdict() {
    let mut text = format!("whole\n{}", verdict(&golden()));
    let mut missing = golden();
    missing.remove(&HEAD.part(2));
    write!(text, "a part missing\n{}", verdict(&missing)).unwrap();
    let (mut mixed, mut other) = (golden(), compose(4));
    let part = HEAD.part(1);
    mixed.insert(part, other.remove(&part).unwrap());
    write!(text, "a part of another version\n{}", verdict(&mixed)).unwrap();
    compare("verdicts.txt", text.as_bytes());
}

/// Standard tar restores each, and `cat` joins them.
#[test]
fn tar_and_cat_restore_the_file() {
    for program in ["tar", "bsdtar"] {
        let to = tempfile::tempdir().unwrap();
        for id in golden().keys() {
            let mut command = std::process::Command::new(program);
            let done = command
                .arg("-xf")
                .arg(dir().join(name(*id)))
                .arg("-C")
                .arg(to.path());
            let done = match done.output() {
                Ok(done) => done,
                Err(why) => {
                    eprintln!("not tested with {program}: {why}");
                    break;
                }
            };
            assert!(
                done.status.success() && done.stderr.is_empty(),
                "{program}: {done:?}"
            );
        }
        let script = "cat large.cairn-part-* > whole && ls";
        let mut command = std::process::Command::new("sh");
        let there = to.path().join("dir");
        if !there.exists() {
            continue;
        }
        let done = command
            .args(["-c", script])
            .current_dir(&there)
            .output()
            .unwrap();
        let listed = String::from_utf8(done.stdout).unwrap();
        let parts = ["0001", "0002", "0003"].map(|n| format!("large.cairn-part-{n}\n"));
        assert_eq!(listed, format!("{}whole\n", parts.concat()), "{program}");
        let large = large();
        let Kind::Regular { size, extents } = &large.kind else {
            panic!("a file");
        };
        let mut expected = vec![0; *size as usize];
        let mut bytes = stored(&large);
        bytes[0] = 3;
        let mut data = &bytes[..];
        for run in extents {
            let into = &mut expected[run.offset as usize..][..run.len as usize];
            data.read_exact(into).unwrap();
        }
        assert!(
            fs::read(there.join("whole")).unwrap() == expected,
            "{program}"
        );
    }
}

/// The commands of docs/format.md.
fn documented() -> String {
    let doc = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("docs/format.md");
    let doc = fs::read_to_string(doc).unwrap();
    let scripts = doc.split("```sh\n").skip(1);
    let mut scripts = scripts.filter_map(|rest| rest.split("```").next());
    let script = scripts.find(|script| script.contains("comment=cairn3"));
    script.expect("the commands").to_owned()
}

/// Runs them in a directory with these objects; what was said, and what was put together.
fn joined(objects: &Objects, head: AggregateId, end: &str) -> (String, Option<Vec<u8>>) {
    let place = tempfile::tempdir().unwrap();
    for (id, object) in objects {
        fs::write(place.path().join(format!("{id}{end}")), object).unwrap();
    }
    let mut command = std::process::Command::new("sh");
    let command = command.args(["-c", &documented()]);
    let command = command.env("HEAD", format!("{head}{end}"));
    let done = command.env("NAME", "large file");
    let done = done.current_dir(place.path()).output().unwrap();
    let left = fs::read_dir(place.path()).unwrap().count() - objects.len();
    let found = fs::read(place.path().join("large file")).ok();
    assert_eq!(left, usize::from(found.is_some()), "nothing else is left");
    if found.is_some() {
        let about = fs::metadata(place.path().join("large file")).unwrap();
        use std::os::unix::fs::MetadataExt;
        assert_eq!(
            (about.mode() & 0o7777, about.mtime()),
            (large().mode & 0o7777, large().mtime.sec)
        );
    }
    (String::from_utf8(done.stderr).unwrap(), found)
}

fn content(version: u64) -> Vec<u8> {
    let large = large();
    let Kind::Regular { size, extents } = &large.kind else {
        panic!("a file");
    };
    let mut content = vec![0; *size as usize];
    let mut bytes = stored(&large);
    bytes[0] = version as u8;
    let mut data = &bytes[..];
    for run in extents {
        let into = &mut content[run.offset as usize..][..run.len as usize];
        data.read_exact(into).unwrap();
    }
    content
}

#[test]
fn the_documented_commands_put_a_file_together_and_no_two_versions() {
    for end in ["", ".tar"] {
        let (said, found) = joined(&golden(), HEAD, end);
        assert!(
            said.is_empty() && found == Some(content(3)),
            "{end}: {said}"
        );
    }
    // Two versions of one size; of the second a part is lost.
    let mut both = golden();
    let newer = AggregateId {
        seq: HEAD.seq + 1,
        ..HEAD
    };
    for (id, object) in compose(4) {
        let id = match id.part_number() {
            0 => newer,
            number => newer.part(number),
        };
        both.insert(id, object);
    }
    assert_eq!(joined(&both, newer, "").1, Some(content(4)));
    both.remove(&newer.part(2));
    let (said, found) = joined(&both, newer, "");
    assert!(found.is_none() && said.contains("is not there"), "{said}");
    // Another version's stands in its place, as plain tar would leave it.
    both.insert(newer.part(2), both[&HEAD.part(2)].clone());
    let (said, found) = joined(&both, newer, "");
    assert!(
        found.is_none() && said.contains("of another version"),
        "{said}"
    );
    assert_eq!(
        joined(&both, HEAD, "").1,
        Some(content(3)),
        "the older one is whole"
    );
}

/// A program of version 1 or 2 sees a version that it does not know.
#[test]
fn older_readers_leave_it_be() {
    for (id, object) in golden() {
        let end = object.len() - TRAILER_LEN as usize;
        let flags = if id.is_part() { 1 } else { 2 };
        assert_eq!(object[end + 8..end + 16], [3, 0, 0, 0, flags, 0, 0, 0]);
        let (trailer, _) = open(&object).unwrap();
        let index = &object[trailer.index_offset as usize..];
        assert_eq!(index[8..16], [3, 0, 0, 0, flags, 0, 0, 0]);
        // The flags of the one with the name of the other are damage.
        let mut odd = object[end..].to_vec();
        odd[12] = 3 - flags;
        let sum = Crc32c::of(&odd[..508]).0.to_le_bytes();
        odd[508..].copy_from_slice(&sum);
        let odd = decode_trailer(&odd, object.len() as u64);
        assert!(matches!(odd, Err(AggregateError::NoTrailer(_))), "{odd:?}");
    }
}
