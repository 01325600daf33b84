//! Requests from submission to their end: ids, waits, time-outs, Ctrl-C, lists, parts, keys.

use crate::rig::{Rig, as_root, json_lines, text, until};
use cairn::server::MAX_SUBJECTS;
use cairn::server::wire::{Flag, RequestState, Verb};
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::Ordering;

#[test]
fn without_wait_the_id_stands_alone_on_stdout() {
    let rig = Rig::new();
    let shown = rig.run(&["archive", "new", "sub"]);
    assert_eq!((shown.stdout, shown.stderr), (b"1\n".to_vec(), vec![]));
    let asked = rig.fake.asked();
    assert_eq!((asked[0].verb, asked[0].given.len()), (Verb::Archive, 2));
    insta::assert_snapshot!("accepted_json", rig.shown(&["archive", "--json", "new"]));
}

#[test]
fn options_arrive() {
    let rig = Rig::new();
    rig.run(&["pin", "--for", "2h", "--tier", "cold", "--key", "k", "new"]);
    rig.run(&["set", "norelease", "new"]);
    rig.run(&["clear", "noarchive", "new"]);
    let asked = rig.fake.asked();
    assert_eq!(asked[0].options.pin_for_s, Some(7200));
    assert_eq!(asked[0].options.tier.as_deref(), Some("cold"));
    assert_eq!(
        (asked[1].verb, &asked[1].options.flags[..]),
        (Verb::Set, &[Flag::NoRelease][..])
    );
    assert_eq!(
        (asked[2].verb, &asked[2].options.flags[..]),
        (Verb::Clear, &[Flag::NoArchive][..])
    );
}

#[test]
fn waits_are_frozen_and_failures_have_reasons() {
    if !as_root("waits_are_frozen_and_failures_have_reasons") {
        return;
    }
    let rig = Rig::new();
    for name in ["forbidden", "notier"] {
        rig.file(format!("tree/bad/{name}"), 3);
    }
    for (name, args) in [
        ("wait_done", &["stage", "--wait", "sub"][..]),
        ("wait_quiet", &["stage", "--wait", "-q", "sub"]),
        ("wait_json", &["stage", "--wait", "--json", "sub/cold"]),
        ("wait_some_failed", &["stage", "--wait", "bad", "sub"]),
        ("wait_all_forbidden", &["stage", "--wait", "bad/forbidden"]),
        ("wait_tier_away", &["stage", "--wait", "bad/notier"]),
        ("absent", &["stage", "absent"]),
        ("partly_absent", &["stage", "--wait", "absent", "new"]),
    ] {
        insta::assert_snapshot!(name, rig.shown(args));
    }
    insta::assert_snapshot!("requests_all", rig.shown(&["requests", "--all"]));
    insta::assert_snapshot!(
        "requests_failed",
        rig.shown(&["requests", "--failed", "--json"])
    );
    insta::assert_snapshot!("requests_one", rig.shown(&["requests", "4"]));
}

#[test]
fn a_time_out_leaves_the_request_running() {
    let rig = Rig::new();
    rig.file("tree/slow", 1000);
    insta::assert_snapshot!(
        "timed_out",
        rig.shown(&["stage", "--wait", "--timeout", "100ms", "slow"])
    );
    assert_eq!(
        rig.run(&["wait", "1", "--timeout", "1ms"]).status.code(),
        Some(4)
    );
    insta::assert_snapshot!("retry_running", rig.shown(&["retry", "1"]));
    insta::assert_snapshot!("cancelled", rig.shown(&["cancel", "1"]));
    insta::assert_snapshot!("wait_cancelled", rig.shown(&["wait", "1"]));
    insta::assert_snapshot!("retried", rig.shown(&["retry", "1"]));
}

#[test]
fn ctrl_c_detaches_and_says_how_to_cancel() {
    let rig = Rig::new();
    rig.file("tree/slow", 1000);
    let child = rig
        .command(&["stage", "--wait", "slow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The second look comes after the first view was sent.
    until("the wait began", || {
        rig.fake.looks.load(Ordering::SeqCst) >= 2
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    insta::assert_snapshot!("detached", text(&child.wait_with_output().unwrap()));
}

#[test]
fn a_wait_ends_when_the_request_does() {
    let rig = Rig::new();
    rig.file("tree/slow", 1000);
    rig.run(&["stage", "slow"]);
    let child = rig
        .command(&["wait", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    until("the wait began", || {
        rig.fake.looks.load(Ordering::SeqCst) >= 1
    });
    rig.fake.set_request(1, |view| {
        view.state = RequestState::Done;
        view.files_done = 1;
        view.bytes_done = 1000;
    });
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.stdout, b"request 1 done: stage, 1 file, 1000 B\n");
}

#[test]
fn an_instance_that_stops_ends_the_waits() {
    let mut rig = Rig::new();
    rig.file("tree/slow", 1000);
    let mut child = rig
        .command(&["stage", "--wait", "slow"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until("the wait began", || {
        rig.fake.looks.load(Ordering::SeqCst) >= 1
    });
    rig.stop();
    let mut code = None;
    until("the wait ended", || {
        code = child.try_wait().unwrap();
        code.is_some()
    });
    assert_eq!(code.unwrap().code(), Some(3));
}

fn with_list(rig: &Rig, args: &[&str], list: &[u8]) -> std::process::Output {
    let mut child = rig
        .command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(list).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn lists_of_files_are_taken_exactly() {
    let rig = Rig::new();
    rig.file("tree/two\nlines", 2);
    let shown = with_list(
        &rig,
        &["stage", "--files-from", "-", "-0"],
        b"new\0two\nlines\0\0sub/cold",
    );
    assert_eq!(shown.stdout, b"1\n", "{}", text(&shown));
    assert_eq!(
        rig.fake.asked()[0].given,
        [&b"new"[..], b"two\nlines", b"sub/cold"]
    );
    let list = rig.path("list");
    std::fs::write(&list, "new\n\nwarm\n").unwrap();
    rig.run(&["stage", "--files-from", list.to_str().unwrap()]);
    assert_eq!(rig.fake.asked()[1].given, [&b"new"[..], b"warm"]);
    let empty = with_list(&rig, &["stage", "--files-from", "-"], b"");
    assert_eq!((empty.status.code(), empty.stdout), (Some(0), vec![]));
}

#[test]
fn a_long_list_is_one_request_in_parts() {
    let rig = Rig::new();
    let count = 2 * MAX_SUBJECTS + 3;
    let list: String = (0..count).map(|_| "new\n").collect();
    let shown = with_list(
        &rig,
        &["stage", "--wait", "--json", "--files-from", "-"],
        list.as_bytes(),
    );
    let view = &json_lines(&shown.stdout)[0];
    assert_eq!(
        (&view["request"], &view["files"]),
        (&1.into(), &count.into())
    );
    let parts: Vec<_> = rig
        .fake
        .asked()
        .iter()
        .map(|a| (a.part.into, a.part.last))
        .collect();
    assert_eq!(parts, [(None, false), (Some(1), false), (Some(1), true)]);
    let plan = with_list(
        &rig,
        &["stage", "-n", "--json", "--files-from", "-"],
        list.as_bytes(),
    );
    assert_eq!(json_lines(&plan.stdout)[0]["files"], count);
}

#[test]
fn a_list_whose_end_is_missing_closes_the_request() {
    let rig = Rig::new();
    let list: String = (0..MAX_SUBJECTS)
        .map(|_| "new\n")
        .chain(["absent\n"])
        .collect();
    let shown = with_list(
        &rig,
        &["stage", "--wait", "--files-from", "-"],
        list.as_bytes(),
    );
    assert_eq!(shown.status.code(), Some(1), "{}", text(&shown));
    assert!(rig.fake.asked().last().unwrap().part.last);
}

#[test]
fn the_same_key_gives_the_same_request() {
    let rig = Rig::new();
    let ask = || rig.run(&["stage", "--key", "nightly", "new"]).stdout;
    assert_eq!((ask(), ask()), (b"1\n".to_vec(), b"1\n".to_vec()));
}

#[test]
fn lists_of_requests_are_paged() {
    let rig = Rig::new();
    for _ in 0..3 {
        rig.run(&["stage", "new"]);
    }
    let ids = |args: &[&str]| -> Vec<u64> {
        let lines = json_lines(&rig.run(args).stdout);
        lines
            .iter()
            .map(|line| line["request"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(
        ids(&["requests", "--json"]),
        [] as [u64; 0],
        "all are finished"
    );
    assert_eq!(ids(&["requests", "--json", "--all"]), [3, 2, 1]);
    assert_eq!(
        ids(&["requests", "--json", "--all", "--limit", "2"]),
        [3, 2]
    );
}

#[test]
fn progress_goes_to_stderr_and_only_results_to_stdout() {
    let rig = Rig::new();
    let shown = rig.run(&["stage", "--wait", "new"]);
    assert_eq!(shown.stdout, b"request 1 done: stage, 1 file, 100 B\n");
}
