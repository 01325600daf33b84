//! Days on which a program, or its place, fails.

use super::{Site, names, opened};
use crate::{MARK, name, store};
use cairn::id::{InstanceId, TierId};
use cairn::tier::{ErrorKind, OpenHow, Tier, TierError, open, owner};
use std::fs;
use std::io::Write;

fn kind<T>(result: Result<T, TierError>) -> ErrorKind {
    match result {
        Ok(_) => panic!("succeeded"),
        Err(error) => error.kind(),
    }
}

#[test]
fn an_answer_that_is_no_answer_is_never_believed() {
    use ErrorKind::{Full, Missing, Refused, Short, Transient, Unavailable, Unreadable};
    let site = Site::new();
    let tier = opened(&site.faulty("place", "&timeout=3s")).expect("opens");
    store(&*tier, name(1), &[7; 100_000]);
    let read = |tier: &dyn Tier| tier.read(name(1), 10, 50_000).map(|_| ());
    let stat = |tier: &dyn Tier| tier.stat(name(1)).map(|_| ());
    let list = |tier: &dyn Tier| tier.list(None, 9).map(|_| ());
    let space = |tier: &dyn Tier| tier.space().map(|_| ());
    let delete = |tier: &dyn Tier| tier.delete(name(9));
    type Ask<'a> = &'a dyn Fn(&dyn Tier) -> Result<(), TierError>;
    let cases: [(&str, Ask<'_>, ErrorKind); 29] = [
        ("get less", &read, Transient),
        ("get half", &read, Transient),
        ("get die-half", &read, Transient),
        ("get more", &read, Unavailable),
        ("get hang", &read, Unavailable),
        ("get 1", &read, Transient),
        ("get 75", &read, Transient),
        ("get 114", &read, Unavailable),
        ("get object-116", &read, Unreadable),
        // The mark cannot be read either: of another place's object nothing is said.
        ("get 116", &read, Unavailable),
        ("get 117", &read, Refused),
        // What is missing is asked for once more, through the mark: which is missing too.
        ("get 111", &read, Unavailable),
        // It was not there, and was: mounted in between.
        ("get once-111", &read, Transient),
        ("stat once-111", &stat, Transient),
        ("stat 111", &stat, Missing),
        ("stat lie", &stat, Unavailable),
        ("stat say=12K", &stat, Unavailable),
        ("stat say=1\\n2\\n", &stat, Unavailable),
        ("stat 113", &stat, Full),
        ("stat die-before", &stat, Transient),
        ("list 111", &list, Unavailable),
        // Another place's, for all that is known.
        ("list lie", &list, Unavailable),
        ("list die-half", &list, Transient),
        ("list say=e00000001-0000", &list, Unavailable),
        ("list hang", &list, Unavailable),
        ("space say=many", &space, Unavailable),
        ("space lie", &space, Unavailable),
        ("space 2", &space, Transient),
        ("delete 2", &delete, Transient),
    ];
    for (fault, ask, wanted) in cases {
        site.strike(fault);
        let failed = ask(&*tier).expect_err(fault);
        assert_eq!(failed.kind(), wanted, "{fault}: {failed}");
    }
    site.strike("");
    assert_eq!(kind(tier.read(name(1), 99_999, 2)), Short);
    assert_eq!(
        tier.read(name(1), 0, 100_000).expect("whole"),
        vec![7; 100_000]
    );
}

#[test]
fn its_last_words_are_in_the_error_and_harmless() {
    let site = Site::new();
    let tier = opened(&site.faulty("place", "")).expect("opens");
    site.strike("space 114");
    let error = tier.space().expect_err("fails").to_string();
    assert!(error.contains("told to fail; \\u{1b}[31mred"), "{error}");
    assert!(
        error.contains("exit code 114: the place cannot be reached"),
        "{error}"
    );
}

#[test]
fn an_unmounted_place_is_unavailable_and_nothing_in_it_missing() {
    let site = Site::new();
    let (root, aside) = (site.empty("place"), site.path("aside"));
    let tier = opened(&site.plain("place")).expect("opens");
    store(&*tier, name(1), b"kept");
    let mut put = tier.put(name(2), 3).expect("starts");
    put.write_all(b"new").expect("taken");
    fs::rename(&root, &aside).expect("unmounted");
    fs::create_dir(&root).expect("the empty mount point");
    let known = OpenHow::known(MARK.owner, MARK.tier);
    let later = open(&site.plain("place"), known).expect("waits");
    for tier in [&tier, &later] {
        for failed in [
            tier.read(name(1), 0, 4).map(|_| ()),
            tier.stat(name(1)).map(|_| ()),
            tier.put(name(3), 0).map(|_| ()),
            tier.delete(name(1)),
            tier.list(None, 9).map(|_| ()),
        ] {
            assert_eq!(kind(failed), ErrorKind::Unavailable);
        }
    }
    let finished = put.finish(cairn_mover::Crc32c::of(b"new"));
    assert!(
        matches!(
            kind(finished),
            ErrorKind::Unavailable | ErrorKind::Transient
        ),
        "not committed"
    );
    assert_eq!(names(&root), [""; 0]);
    fs::remove_dir(&root).expect("still empty");
    fs::rename(&aside, &root).expect("mounted");
    for tier in [tier, later] {
        assert_eq!(tier.stat(name(1)).expect("back"), 4);
        assert_eq!(kind(tier.stat(name(2))), ErrorKind::Missing);
    }
}

#[test]
fn a_place_with_other_things_or_another_mark_is_refused_and_left_alone() {
    let site = Site::new();
    let root = site.empty("place");
    fs::write(root.join("thesis.tex"), b"mine").expect("file");
    match opened(&site.plain("place")) {
        Err(TierError::Refused { why, .. }) => assert!(why.contains("thesis.tex"), "{why}"),
        other => panic!("{:?}", other.map(|_| ())),
    }
    assert_eq!(names(&root), ["thesis.tex"]);
    for (n, text) in ["{\"format\":\"cairn-tier\",\"version\":2}", "x", ""]
        .iter()
        .enumerate()
    {
        let place = format!("marked{n}");
        let mark = site.empty(&place).join("cairn-tier.json");
        fs::write(&mark, text).expect("mark");
        assert_eq!(
            kind(opened(&site.plain(&place))),
            ErrorKind::Refused,
            "{text}"
        );
        assert_eq!(fs::read_to_string(&mark).expect("mark"), *text);
    }
}

#[test]
fn a_program_that_cannot_be_trusted_or_understood_says_what_is_wrong() {
    let site = Site::new();
    let url = site.faulty("place", "");
    for (describe, says) in [
        ("describe say=protocol=2\\n", "speaks 1"),
        ("describe lie", "protocol="),
        ("describe 127", "not there"),
        ("describe 118", "not known"),
        ("describe flood", ""),
    ] {
        site.strike(describe);
        match opened(&url) {
            Ok(_) => assert_eq!(says, "", "{describe}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{describe}");
                assert!(error.to_string().contains(says), "{describe}: {error}");
            }
        }
    }
    site.strike("");
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    fs::set_permissions(site.path("faulty"), permissions).expect("chmod");
    let error = opened(&url).map(|_| ()).expect_err("anybody's");
    assert!(error.to_string().contains("chmod go-w"), "{error}");
    fs::remove_file(site.path("faulty")).expect("removed");
    let known = OpenHow::known(MARK.owner, MARK.tier);
    let tier = open(&url, known).expect("may come back");
    assert_eq!(kind(tier.space()), ErrorKind::Unavailable);
}

/// As a writer would have begun it so many seconds ago.
fn half_written(ago: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    format!("tmp-{:010x}-{:016x}-e00000001-000000000009", now - ago, ago)
}

#[test]
fn what_dead_writers_left_goes_after_a_fortnight_and_a_living_one_keeps_his() {
    let site = Site::new();
    let root = site.empty("place");
    let tier = opened(&site.plain("place")).expect("opens");
    let mut put = tier.put(name(1), 5).expect("starts");
    put.write_all(b"bytes").expect("taken");
    let (old, young) = (half_written(15 * 86_400), half_written(13 * 86_400));
    let foreign = [
        "tmp-notes",
        "tmp-0000000001-1-x",
        "near-tmp-0000000001-0000000000000001-x",
    ];
    for name in foreign.iter().chain([&&*old, &&*young]) {
        fs::write(root.join(name), b"half").expect("file");
    }
    assert_eq!(tier.list(None, 9).expect("list"), []);
    opened(&site.plain("place")).expect("opens again");
    let left = names(&root);
    assert!(!left.contains(&old) && left.contains(&young), "{left:?}");
    assert!(
        foreign.iter().all(|name| left.iter().any(|l| l == name)),
        "{left:?}"
    );
    put.finish(cairn_mover::Crc32c::of(b"bytes"))
        .expect("receipt");
    assert_eq!(tier.read(name(1), 0, 5).expect("read"), &b"bytes"[..]);
}

#[test]
fn what_was_left_at_a_place_that_is_not_ours_stays_and_goes_when_ours_is_back() {
    let site = Site::new();
    let root = site.empty("place");
    opened(&site.plain("place")).expect("opens");
    let mark = root.join("cairn-tier.json");
    let text = fs::read_to_string(&mark).expect("mark");
    let old = half_written(15 * 86_400);
    let waiting = format!("tmp-{:010x}-{:016x}-mark", 1, 1);
    let other = text.replace(&MARK.owner.to_string(), &InstanceId([4; 16]).to_string());
    let known = OpenHow::known(MARK.owner, MARK.tier);
    for there in [None, Some(&other)] {
        match there {
            None => fs::remove_file(&mark).expect("removed"),
            Some(text) => fs::write(&mark, text).expect("another's"),
        }
        for name in [&old, &waiting] {
            fs::write(root.join(name), b"half").expect("file");
        }
        let tier = open(&site.plain("place"), known);
        assert_eq!(names(&root).len(), 2, "{there:?}");
        fs::write(&mark, &text).expect("back");
        if let Ok(tier) = tier {
            tier.put(name(1), 0).expect("starts").abandon();
            assert_eq!(names(&root), [""; 0], "{there:?}");
        }
    }
}

#[test]
fn an_object_that_cannot_be_read_is_no_shorter_one() {
    let site = Site::new();
    let broken = "#!/bin/sh\nhead -c 10 /dev/zero\necho \"tail: error reading: Input/output error\" >&2\nexit 1\n";
    site.install("tail", broken.as_bytes());
    let text = fs::read_to_string(site.path("quick")).expect("example");
    let broken = text.replace(
        "    { err=$({ tail ",
        &format!("    {{ err=$({{ {} ", site.path("tail").display()),
    );
    assert_ne!(broken, text, "the example reads with tail");
    site.install("broken", broken.as_bytes());
    let root = site.empty("place");
    let tier = opened(&site.plain("place")).expect("opens");
    store(&*tier, name(1), &[7; 1000]);
    let status = std::process::Command::new(site.path("broken"))
        .args(["get", "e00000001-000000000001.tar", "0", "1000"])
        .env("CAIRN_TIER_ROOT", &root)
        .output()
        .expect("runs");
    assert_eq!(status.status.code(), Some(116), "{status:?}");
}

#[test]
fn a_place_changes_hands_by_the_word_of_who_saw_whose_it_was() {
    let site = Site::new();
    let url = site.faulty("place", "");
    let (first, second) = (MARK.owner, InstanceId([2; 16]));
    let tier = opened(&url).expect("opens");
    store(&*tier, name(1), b"kept");
    assert_eq!(owner::of(&url).expect("owner"), MARK);
    assert_eq!(kind(owner::take(&url, second, first)), ErrorKind::Refused);
    fs::write(site.path("place").join(half_written(10)), b"half").expect("a sign of life");
    match owner::take(&url, first, second) {
        Err(TierError::Refused { why, .. }) => assert!(why.contains("alive"), "{why}"),
        other => panic!("{other:?}"),
    }
    for name in names(&site.path("place")) {
        if name.starts_with("tmp-") {
            fs::remove_file(site.path("place").join(name)).expect("removed");
        }
    }
    // Broken off between the old mark and the new one: the same command finishes it.
    site.strike("commit once-die-before");
    assert!(owner::take(&url, first, second).is_err());
    assert!(
        names(&site.path("place")).len() == 2,
        "the object, and the mark that waits"
    );
    assert_eq!(kind(tier.put(name(2), 0)), ErrorKind::Unavailable);
    let mark = owner::take(&url, first, second).expect("finished");
    assert_eq!((mark.owner, mark.tier), (second, MARK.tier));
    for failed in [
        tier.put(name(2), 0).map(|_| ()),
        tier.delete(name(1)),
        tier.list(None, 9).map(|_| ()),
        tier.stat(name(2)).map(|_| ()),
    ] {
        assert_eq!(kind(failed), ErrorKind::Unavailable);
    }
    let how = OpenHow::new(second, TierId(5));
    let taken = open(&url, how).expect("opens");
    assert_eq!(taken.read(name(1), 0, 4).expect("kept"), &b"kept"[..]);
    assert_eq!(kind(opened(&url)), ErrorKind::Refused);
}
