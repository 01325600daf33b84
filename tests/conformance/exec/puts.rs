//! Puts through a program that fails in the middle of them: no receipt without an object that is whole, no object
//! without a receipt, and nothing overwritten.

use super::{Site, names, opened};
use crate::{name, store};
use cairn::tier::{ErrorKind, Receipt, Tier, TierError};
use cairn_mover::Crc32c;
use std::io::Write;

fn data() -> Vec<u8> {
    (0..700_000_u32).flat_map(u32::to_le_bytes).collect()
}

fn put(tier: &dyn Tier, data: &[u8]) -> Result<Receipt, TierError> {
    let mut put = tier.put(name(1), data.len() as u64)?;
    put.write_all(data)
        .map_err(|e| TierError::from_write(e, "t", name(1)))?;
    put.finish(Crc32c::of(data))
}

/// Nothing of the object is there, and the next try under its name works.
fn left_nothing(site: &Site, tier: &dyn Tier, root: &str, fault: &str) {
    site.strike("");
    let stat = tier.stat(name(1));
    assert!(
        matches!(stat, Err(TierError::Missing { .. })),
        "{fault}: {stat:?}"
    );
    assert_eq!(names(&site.path(root)), [""; 0], "{fault}");
    let receipt = put(tier, &data()).expect(fault);
    assert_eq!(receipt.len, 2_800_000, "{fault}");
    tier.delete(name(1)).expect(fault);
}

#[test]
fn whatever_fails_before_the_commit_leaves_nothing() {
    use ErrorKind::{Corrupt, Full, Missing, Refused, Transient, Unavailable};
    let site = Site::new();
    let tier = opened(&site.faulty("place", "&timeout=3s")).expect("opens");
    for (fault, kind) in [
        ("put die-before", Transient),
        ("put die-half", Transient),
        ("put half", Transient),
        ("put die-after", Transient),
        ("put hang", Unavailable),
        ("put hang-after", Unavailable),
        ("put lie", Transient),
        ("put wrong", Corrupt),
        ("put 113", Full),
        ("put 114", Unavailable),
        ("put 117", Refused),
        ("put 111", Transient),
        ("put 112", Transient),
        ("put 1", Transient),
        ("put 118", Unavailable),
        ("put 127", Unavailable),
        ("get once-114", Unavailable),
        ("stat 114", Unavailable),
        ("stat lie", Unavailable),
        ("stat say=-1", Unavailable),
        ("commit die-before", Transient),
        ("commit 113", Full),
        ("commit 111", Transient),
        ("commit 1", Transient),
        ("commit hang", Unavailable),
        ("commit lie", Unavailable),
    ] {
        site.strike(fault);
        let failed = put(&*tier, &data()).expect_err(fault);
        assert_eq!(failed.kind(), kind, "{fault}: {failed}");
        assert!(kind != Missing);
        left_nothing(&site, &*tier, "place", fault);
    }
}

#[test]
fn what_is_read_back_otherwise_is_never_an_object() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "&timeout=3s")).expect("opens");
    for (fault, kind) in [
        ("get wrong", ErrorKind::Corrupt),
        ("get less", ErrorKind::Transient),
        ("get more", ErrorKind::Unavailable),
        ("get half", ErrorKind::Transient),
        ("get die-half", ErrorKind::Transient),
        ("get hang", ErrorKind::Unavailable),
        ("get 116", ErrorKind::Unreadable),
    ] {
        // After the mark was read, which comes through `get` too.
        let bytes = data();
        let mut put = tier.put(name(1), 0).expect("starts");
        put.write_all(&bytes).expect("taken");
        site.strike(fault);
        let failed = put.finish(Crc32c::of(&bytes)).expect_err(fault);
        assert_eq!(failed.kind(), kind, "{fault}: {failed}");
        left_nothing(&site, &*tier, "place", fault);
    }
}

#[test]
fn a_commit_that_failed_never_counts_however_whole_the_object_is() {
    use ErrorKind::{Transient, Unavailable};
    let site = Site::new();
    let tier = opened(&site.faulty("place", "&timeout=3s")).expect("opens");
    for (fault, kind) in [
        // It is there, and could not be made durable.
        ("commit then-115", Transient),
        ("commit then-111", Transient),
        ("commit die-after", Transient),
        ("commit hang-after", Unavailable),
    ] {
        site.strike(fault);
        let failed = put(&*tier, &data()).expect_err(fault);
        assert_eq!(failed.kind(), kind, "{fault}: {failed}");
        left_nothing(&site, &*tier, "place", fault);
    }
}

#[test]
fn a_commit_that_goes_on_after_it_was_given_up_finds_nothing_to_rename() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "&timeout=3s")).expect("opens");
    site.strike("commit late");
    let failed = put(&*tier, &data()).expect_err("given up");
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    std::fs::write(site.path("faults.go"), "").expect("go");
    let ended = site.path("faults.late");
    for _ in 0..2000 {
        if std::fs::read(&ended).is_ok_and(|t| t.ends_with(b"\n")) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(std::fs::read(&ended).expect("it ended"), b"111\n");
    left_nothing(&site, &*tier, "place", "late");
}

#[test]
fn a_name_that_is_taken_is_kept_whoever_finds_out() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "&timeout=3s")).expect("opens");
    // By the look before the commit, and by the commit alone.
    for fault in ["", "stat once-111"] {
        let other = opened(&site.plain("place")).expect("opens");
        let bytes = data();
        let mut put = tier.put(name(1), 0).expect("starts");
        put.write_all(&bytes).expect("taken");
        store(&*other, name(1), b"quicker");
        site.strike(fault);
        let failed = put.finish(Crc32c::of(&bytes)).expect_err("taken");
        assert_eq!(failed.kind(), ErrorKind::Exists, "{fault}: {failed}");
        assert_eq!(tier.read(name(1), 0, 7).expect("kept"), &b"quicker"[..]);
        assert_eq!(names(&site.path("place")), ["e00000001-000000000001.tar"]);
        tier.delete(name(1)).expect("deleted");
    }
}

#[test]
fn a_mark_that_changes_while_an_object_is_written_keeps_it_out() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "")).expect("opens");
    let bytes = data();
    let mut put = tier.put(name(1), 0).expect("starts");
    put.write_all(&bytes).expect("taken");
    let mark = site.path("place").join("cairn-tier.json");
    let text = std::fs::read_to_string(&mark).expect("mark");
    let other = text.replace(
        &crate::MARK.owner.to_string(),
        &cairn::id::InstanceId([4; 16]).to_string(),
    );
    std::fs::write(&mark, other).expect("taken over");
    let failed = put.finish(Crc32c::of(&bytes)).expect_err("another's");
    assert_eq!(failed.kind(), ErrorKind::Unavailable, "{failed}");
    assert_eq!(names(&site.path("place")), [""; 0]);
}

#[test]
fn a_put_asks_what_the_protocol_says_that_it_asks() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "")).expect("opens");
    let before = site.calls().len();
    store(&*tier, name(1), b"bytes");
    let calls = site.calls().split_off(before);
    let verbs: Vec<&str> = calls.iter().filter_map(|c| c.split(' ').next()).collect();
    let page = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/exec-protocol.md"
    ));
    let page = page.expect("the page");
    let said = page
        .split("One aggregate written: ")
        .nth(1)
        .and_then(|rest| rest.split(';').next())
        .expect("the sentence");
    let said: Vec<&str> = said.split('`').skip(1).step_by(2).collect();
    assert_eq!(verbs, said, "{calls:?}");
    let commit = calls
        .iter()
        .find(|c| c.starts_with("commit "))
        .expect("a commit");
    let words: Vec<&str> = commit.split(' ').collect();
    let crc = format!("{:08x}", Crc32c::of(b"bytes").0);
    assert!(
        words[1].starts_with("tmp-") && words[1].ends_with("-e00000001-000000000001"),
        "{commit}"
    );
    assert_eq!(words[2..], ["e00000001-000000000001.tar", "5", &crc]);
}
