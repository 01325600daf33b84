//! What commands print, for people and as JSON.

use crate::rig::{Rig, as_root, json_lines, text};
use cairn::server::wire::TierHealth;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

macro_rules! frozen {
    ($test:ident: $($name:literal $args:expr),+ $(,)?) => {
        #[test]
                fn $test() {
            if !as_root(stringify!($test)) {
                return;
            }
            let rig = Rig::new();
            rig.file("tree/forbidden", 3);
            $(insta::assert_snapshot!($name, rig.shown(&$args));)+
        }
    };
}

frozen! { state_is_frozen:
    "state" ["state", "new", "warm", "sub/cold", "sub", "absent", "forbidden"],
    "state_recursive" ["state", "-r", "sub"],
    "state_json" ["state", "--json", "sub/cold", "absent"],
}
frozen! { ls_is_frozen:
    "ls" ["ls"],
    "ls_long" ["ls", "-l", "-a", "."],
    "ls_recursive" ["ls", "-R", "../tree", "new"],
    "ls_json" ["ls", "--json", "sub"],
}
frozen! { plans_are_frozen:
    "plan" ["stage", "--dry-run", "."],
    "plan_json" ["archive", "-n", "--json", "forbidden"],
}
frozen! { why_is_frozen:
    "why" ["why", "sub/cold"],
    "why_json" ["why", "--json", "new"],
}
frozen! { receipt_is_frozen:
    "receipt" ["receipt", "new"],
    "receipt_json" ["receipt", "--sha256", "--json", "new"],
}
frozen! { verify_is_frozen:
    "verify_all" ["verify", "--all"],
    "verify_sample_json" ["verify", "--sample", "5%", "--seed", "7", "--json"],
    "verify_nothing" ["verify"],
    "verify_both" ["verify", "--all", "new"],
}
frozen! { status_is_frozen:
    "status" ["status"],
    "status_json" ["status", "--json"],
    "status_check" ["status", "--check"],
}
frozen! { policy_is_frozen:
    "policy_check" ["policy", "check"],
    "policy_run_dry" ["policy", "run", "--dry-run"],
    "policy_run" ["policy", "run", "cool"],
    "policy_run_wait" ["policy", "run", "--wait", "cool"],
    "policy_run_json" ["policy", "run", "--dry-run", "--json"],
}
frozen! { tapes_are_frozen:
    "tape_list" ["tape", "list"],
    "tape_list_json" ["tape", "list", "--json"],
    "tape_show" ["tape", "show", "BAA001L8"],
    "tape_show_json" ["tape", "show", "BAA001L8", "--json"],
    "tape_show_map" ["tape", "show", "BAA001L8", "--map"],
    "tape_label" ["tape", "label", "--count", "2"],
    "tape_retire" ["tape", "retire", "drive", "2"],
    "tape_retire_wrong" ["tape", "retire", "drive"],
    "tape_verify" ["tape", "verify", "BAA001L8"],
    "tape_repack" ["tape", "repack", "BAA001L8"],
    "tape_repack_json" ["tape", "repack", "BAA001L8", "--json"],
    "tape_export" ["tape", "export", "BAA001L8"],
    "tape_nowhere" ["tape", "list", "--tier", "tape:/nonexistent/library"],
}

frozen! { tiers_are_frozen:
    "tier_list" ["tier", "list"],
    "tier_list_json" ["tier", "list", "--json"],
    "tier_collect" ["tier", "collect"],
    "tier_collect_dry" ["tier", "collect", "--dry-run"],
    "tier_collect_wait" ["tier", "collect", "--wait"],
    "tier_collect_json" ["tier", "collect", "-n", "--json"],
    "tier_check" ["tier", "check", "archive"],
    "tier_check_closely" ["tier", "check", "archive", "--closely"],
    "tier_check_json" ["tier", "check", "archive", "--closely", "--json"],
    "tier_owner_nothing" ["tier", "owner", "dir:/nonexistent/tier"],
    "tier_test_nothing" ["tier", "test", "dir:/nonexistent/tier"],
    "tier_test_program" ["tier", "test", "exec:/nonexistent/program"],
    "tier_test_wrong" ["tier", "test", "exec:program"],
}
frozen! { repairs_are_frozen:
    "repair" ["repair"],
    "repair_apply" ["repair", "--keep", "disk", "--apply"],
    "repair_json" ["repair", "--json", "new"],
}
frozen! { down_is_frozen:
    "down_busy" ["down", "/mnt/data"],
    "down_force" ["down", "--force", "/mnt/data"],
}
frozen! { refusals_are_frozen:
    "refused_tier" ["archive", "--tier", "nowhere", "new"],
    "refused_request" ["requests", "99"],
    "adopt_nothing" ["adopt", "absent"],
    "up_over_itself" ["up", ".", "."],
}

#[test]
fn a_place_is_tried_and_left_as_it_was() {
    let rig = Rig::new();
    let place = tempfile::tempdir().unwrap();
    let url = format!("dir:{}", place.path().display());
    let shown = rig.run(&["tier", "test", &url]);
    let out = String::from_utf8(shown.stdout.clone()).unwrap();
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown));
    assert!(
        out.starts_with("ok      ") && out.ends_with(" cases, 0 failed\n"),
        "{out}"
    );
    assert!(!out.contains("FAILED"), "{out}");
    let shown = rig.run(&["tier", "test", &url, "--json"]);
    let lines = json_lines(&shown.stdout);
    assert_eq!(lines[0]["schema"], "cairn.tier-test.v1");
    assert_eq!(lines[0]["cleared"], true);
    let cases = lines[0]["cases"].as_array().unwrap();
    assert_eq!(out.lines().count(), cases.len() + 1);
    assert!(cases.iter().all(|case| case["passed"] == true), "{cases:?}");
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
}

/// Whatever prints JSON prints one object a line, each with the name of its schema.
#[test]
fn every_line_of_json_says_its_schema() {
    let rig = Rig::new();
    rig.run(&["stage", "sub/cold"]);
    for args in [
        &["archive", "--json", "new"][..],
        &[
            "archive",
            "--dry-run",
            "--json",
            "new",
            "absent",
            "forbidden",
        ],
        &["stage", "--dry-run", "--json", "sub"],
        &["release", "-n", "--json", "."],
        &["stage", "--wait", "--json", "sub/cold", "forbidden"],
        &["state", "-r", "--json", ".", "absent"],
        &["ls", "--json"],
        &["why", "--json", "new"],
        &["receipt", "--json", "new"],
        &["requests", "--all", "--json"],
        &["requests", "1", "--json"],
        &["wait", "1", "--json"],
        &["cancel", "1", "--json"],
        &["retry", "2", "--json"],
        &["status", "--json"],
        &["status", "--check", "--json"],
        &["policy", "check", "--json"],
        &["policy", "run", "--dry-run", "--json"],
        &["policy", "run", "--wait", "--json"],
    ] {
        let shown = rig.run(args);
        let lines = json_lines(&shown.stdout);
        assert!(
            !lines.is_empty() || shown.status.code() == Some(1),
            "{args:?}: {}",
            text(&shown)
        );
        for line in lines {
            let schema = line["schema"].as_str().unwrap_or_default();
            assert!(
                cairn::server::wire::SCHEMAS.contains(&schema),
                "{args:?}: {line}"
            );
        }
    }
}

#[test]
fn ls_long_has_the_size_as_field_5_and_the_name_last() {
    let rig = Rig::new();
    rig.file("tree/with space", 12);
    let shown = rig.run(&["ls", "-l"]);
    let text = String::from_utf8(shown.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.ends_with("with space"))
        .unwrap();
    assert_eq!(line.split_whitespace().nth(4), Some("12"), "{line}");
}

#[test]
fn names_that_are_not_utf8_are_kept() {
    let rig = Rig::new();
    let name = OsStr::from_bytes(b"odd\xff\xfename");
    rig.file(
        [OsStr::from_bytes(b"tree/"), name]
            .map(OsStr::as_bytes)
            .concat()
            .as_os(),
        1,
    );
    let shown = rig.run(&[OsStr::new("state"), name]);
    assert_eq!(shown.stdout, b"odd\xff\xfename: resident copies=0 pins=0\n");
    let shown = rig.run(&[OsStr::new("state"), OsStr::new("--json"), name]);
    let line = &json_lines(&shown.stdout)[0];
    assert_eq!(line["path"], "odd\u{fffd}\u{fffd}name");
    assert_eq!(line["path_hex"], "6f6464fffe6e616d65");
    let listed = rig.run(&["ls"]);
    assert!(
        listed
            .stdout
            .windows(9)
            .any(|part| part == b"odd\xff\xfename")
    );
}

trait AsOs {
    fn as_os(&self) -> &OsStr;
}
impl AsOs for Vec<u8> {
    fn as_os(&self) -> &OsStr {
        OsStr::from_bytes(self)
    }
}

#[test]
fn status_check_exits_as_monitoring_plugins_do() {
    let mut rig = Rig::new();
    let check = |rig: &Rig| rig.run(&["status", "--check"]).status.code();
    assert_eq!(check(&rig), Some(2), "a tier is unavailable");
    rig.fake.set_status(|status| {
        status
            .tiers
            .iter_mut()
            .for_each(|tier| tier.state = TierHealth::Ok);
    });
    assert_eq!(check(&rig), Some(2), "a file is in conflict");
    rig.fake.set_status(|status| status.copies.conflict = 0);
    assert_eq!(check(&rig), Some(1), "warnings are left");
    rig.fake.set_status(|status| {
        status.warnings.clear();
        status.copies.foreign = 0;
        status.copies.fewer_than_asked = 0;
        status.changelog.rescans = 0;
    });
    assert_eq!(check(&rig), Some(0));
    rig.fake
        .set_status(|status| status.recalls.oldest_s = Some(7 * 3600));
    assert_eq!(check(&rig), Some(2), "a recall hangs");
    rig.stop();
    assert_eq!(check(&rig), Some(2), "the instance is dead");
    // Without a path the one mount of the machine is asked, if there is one: here none is, whatever runs beside.
    let alone = "while read -r _ at kind _; do case $kind in fuse*) umount -l \"$at\" || exit 90;; esac; done \
                 < /proc/self/mounts; cd /proc && exec \"$0\" \"$@\"";
    if !rustix::process::geteuid().is_root() {
        eprintln!(
            "SKIPPED status_check_exits_as_monitoring_plugins_do/nothing is known: only root makes mount namespaces"
        );
        return;
    }
    let lost = std::process::Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", alone])
        .arg(env!("CARGO_BIN_EXE_cairn"))
        .args(["status", "--check"])
        .env_remove("CAIRN_SOCKET")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&lost.stderr).into_owned();
    if lost.status.code() == Some(1) && said.contains("unshare") {
        eprintln!("SKIPPED status_check_exits_as_monitoring_plugins_do/nothing is known: {said}");
        return;
    }
    assert_eq!(lost.status.code(), Some(3), "nothing is known: {said}");
}

#[test]
fn a_policy_file_with_a_mistake_is_pointed_at() {
    let rig = Rig::new();
    let file = rig.path("new.policy");
    std::fs::write(&file, "good\nbad\n").unwrap();
    let shown = rig.run(&["policy", "check", file.to_str().unwrap()]);
    assert_eq!(shown.status.code(), Some(1));
    let said = String::from_utf8(shown.stderr).unwrap();
    assert!(said.contains("new.policy:2:1: unknown word"), "{said}");
}

#[test]
fn a_reader_that_stops_early_is_no_failure_to_complain_about() {
    let rig = Rig::new();
    for number in 0..500 {
        rig.file(format!("tree/many/{number}"), 0);
    }
    let mut child = rig
        .command(&["state", "-r", "many"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn adopt_tells_where_the_tree_went_and_undo_brings_it_back() {
    let rig = Rig::new();
    let top = rig.path("");
    let adopted = rig
        .command(&["adopt", "tree"])
        .current_dir(&top)
        .output()
        .unwrap();
    let said = rig.cleaned(&String::from_utf8_lossy(&adopted.stdout));
    assert_eq!(said, "TOP/.cairn-tree/backing\n");
    assert!(rig.path(".cairn-tree/backing/sub/cold").exists());
    let hint = rig.cleaned(&String::from_utf8_lossy(&adopted.stderr));
    assert_eq!(
        hint,
        "hint: mount it with: cairn up TOP/.cairn-tree/backing TOP/tree\n"
    );
    let back = rig
        .command(&["adopt", "--undo", "tree"])
        .current_dir(&top)
        .output()
        .unwrap();
    assert!(back.status.success());
    assert!(rig.path("tree/sub/cold").exists());
}
