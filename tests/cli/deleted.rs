//! `cairn undelete` and `cairn remove`, as users see them.

use crate::rig::{Rig, json_lines};
use cairn::server::wire::Verb;

#[test]
fn what_can_be_had_is_listed() {
    let rig = Rig::new();
    insta::assert_snapshot!(
        "undelete_list",
        rig.shown(&["undelete", "--list", "gone/proj"])
    );
    insta::assert_snapshot!(
        "undelete_list_json",
        rig.shown(&["undelete", "--list", "--json"])
    );
    let nothing = rig.shown(&["undelete", "--list", "lost"]);
    assert!(nothing.ends_with("lost\n--- exit 0\n"), "{nothing}");
}

#[test]
fn what_comes_back_is_said() {
    let rig = Rig::new();
    insta::assert_snapshot!("undelete", rig.shown(&["undelete", "notes.txt"]));
    insta::assert_snapshot!("undelete_tree", rig.shown(&["undelete", "-r", "gone"]));
    insta::assert_snapshot!(
        "undelete_json",
        rig.shown(&[
            "undelete",
            "--json",
            "--to",
            "sub/x",
            "--stage",
            "notes.txt"
        ])
    );
    insta::assert_snapshot!("undelete_lost", rig.shown(&["undelete", "lost"]));
    let last = rig.audit().pop().unwrap();
    assert_eq!(
        (&last["action"], &last["path"]),
        (&"undelete".into(), &"lost".into())
    );
    assert_eq!(last["result"], "failed");
}

#[test]
fn a_time_and_a_version_are_handed_on() {
    let rig = Rig::new();
    let run = |args: &[&str]| {
        let output = rig.run(args);
        assert!(output.status.success(), "{args:?}");
        json_lines(&output.stdout).pop().unwrap()
    };
    let at = run(&["undelete", "--json", "--at", "2026-01-31 12:00:00", "x"]);
    assert_eq!(at["deleted"], "2026-01-31T12:00:00.000Z");
    let version = run(&["undelete", "--json", "--version", "9", "x"]);
    assert_eq!(version["version"], 9);
}

#[test]
fn a_copy_is_given_up_with_what_was_agreed_to() {
    let rig = Rig::new();
    let shown = rig.shown(&["remove", "--wait", "--last-copy", "--tier", "cold", "warm"]);
    insta::assert_snapshot!("remove_last_copy", shown);
    let asked = rig.fake.asked().pop().unwrap();
    assert_eq!(asked.verb, Verb::Remove);
    assert!(asked.options.last_copy && !asked.options.below_policy);
    assert_eq!(asked.options.tier.as_deref(), Some("cold"));
    insta::assert_snapshot!("remove_without_tier", rig.shown(&["remove", "warm"]));
}
