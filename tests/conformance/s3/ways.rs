//! What people do at a shell with a tier in a bucket: hand it over, try a place out, and restore from it without
//! Cairn.

use super::fake::{Fake, Manners};
use super::{access, ours};
use crate::{MARK, name, store};
use cairn::format::aggregate::AggregateWriter;
use cairn::format::member::{DataIdentity, Kind, Member, MemberPath};
use cairn::hsm::state_dir::StateDir;
use cairn::id::{DataVersion, FileId, FsUuid, Timestamp};
use cairn::tier::s3::S3Tier;
use cairn::tier::{ErrorKind, OpenHow, Tier};
use cairn_mover::Crc32c;
use std::process::{Command, Output};

const KEYS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "cairn-test"),
    ("AWS_SECRET_ACCESS_KEY", "cairn-test-secret"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

fn url(fake: &Fake, prefix: &str) -> String {
    format!("s3:{}", fake.place(prefix, ""))
}

fn cairn(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    command.args(args).envs(KEYS);
    command.output().expect("runs")
}

fn text(output: &Output) -> String {
    let (out, err) = (&output.stdout, &output.stderr);
    String::from_utf8_lossy(out).into_owned() + &String::from_utf8_lossy(err)
}

#[test]
fn s3_a_tier_changes_hands_by_the_word_of_who_saw_whose_it_is() {
    let fake = Fake::new(Manners::default());
    let tier = fake.open("", ours()).expect("opens");
    store(&tier, name(1), b"one");
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("state");
    let next = StateDir::open(&path, None).expect("a state").instance;
    let (url, state) = (url(&fake, "p"), path.to_string_lossy().into_owned());
    let owner = MARK.owner.to_string();
    let shown = cairn(&["tier", "owner", &url]);
    assert!(
        shown.status.success() && text(&shown).contains(&owner),
        "{}",
        text(&shown)
    );
    let wrong = cairn(&[
        "tier",
        "owner",
        &url,
        "--state",
        &state,
        "--take",
        &next.to_string(),
    ]);
    assert!(!wrong.status.success(), "{}", text(&wrong));
    let done = cairn(&["tier", "owner", &url, "--state", &state, "--take", &owner]);
    assert!(
        done.status.success() && text(&done).contains(&next.to_string()),
        "{}",
        text(&done)
    );
    // From now on it is the other's, with what is in it; the first one sees that before it writes.
    let known = OpenHow::known(next, MARK.tier);
    let taken = S3Tier::open_as(&fake.place("p", ""), known, access()).expect("opens");
    assert_eq!(taken.read(name(1), 0, 3).expect("reads"), "one");
    assert_eq!(
        tier.space().expect_err("another's").kind(),
        ErrorKind::Refused
    );
    assert_eq!(
        tier.put(name(2), 1).err().expect("refused").kind(),
        ErrorKind::Refused
    );
}

#[test]
fn s3_a_place_is_tried_out_in_an_area_of_its_own_and_left_as_it_was() {
    let fake = Fake::new(Manners::default());
    drop(fake.open("", ours()).expect("opens"));
    let before = fake.with(|s| s.objects.keys().cloned().collect::<Vec<_>>());
    let refused = cairn(&["tier", "test", &url(&fake, "p")]);
    assert!(
        text(&refused).contains("no tier uses"),
        "{}",
        text(&refused)
    );
    let tried = cairn(&["tier", "test", &url(&fake, "fresh")]);
    assert!(tried.status.success(), "{}", text(&tried));
    println!("{}", text(&tried));
    let after = fake.with(|s| s.objects.keys().cloned().collect::<Vec<_>>());
    assert_eq!((after, fake.with(|s| s.uploads.len())), (before, 0));
}

/// A file as an aggregate of one.
fn aggregate(seq: u64, path: &str, content: &[u8]) -> Vec<u8> {
    let when = Timestamp {
        sec: 1_700_000_000,
        nsec: 0,
    };
    let mut writer = AggregateWriter::new(Vec::new(), name(seq), FsUuid([7; 16]), when);
    let member = Member {
        path: MemberPath::new(path.as_bytes()).expect("a path"),
        kind: Kind::dense(content.len() as u64),
        mode: 0o640,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: when,
        atime: when,
        ctime: when,
        xattrs: Vec::new(),
        identity: Some(DataIdentity {
            file: FileId([seq as u8; 16]),
            version: DataVersion(1),
            crc: Some(Crc32c::of(content)),
        }),
    };
    writer.add(&member, &mut &content[..]).expect("is added");
    writer.finish().expect("is finished").0
}

#[test]
fn s3_files_are_restored_with_curl_and_tar_alone() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("SKIPPED s3_files_are_restored_with_curl_and_tar_alone: no curl");
        return;
    }
    let fake = Fake::new(Manners::default());
    let tier = fake.open("", ours()).expect("opens");
    for (seq, path, content) in [
        (1, "a/one", &b"before"[..]),
        (2, "b/two", b"second"),
        (3, "a/one", b"as it was last"),
    ] {
        store(&tier, name(seq), &aggregate(seq, path, content));
    }
    let dir = tempfile::tempdir().expect("directory");
    let to = dir.path().to_string_lossy().into_owned();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/conformance/s3/restore.sh"
    );
    let endpoint = format!("http://{}", fake.at);
    let mut command = Command::new(script);
    command
        .args([&endpoint, "archive", "p", "us-east-1", &to])
        .envs(KEYS);
    let done = command.output().expect("runs");
    assert!(done.status.success(), "{}", text(&done));
    let read = |path: &str| std::fs::read(dir.path().join(path)).expect("was restored");
    assert_eq!(read("a/one"), b"as it was last");
    assert_eq!(read("b/two"), b"second");
}
