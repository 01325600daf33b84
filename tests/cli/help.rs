//! Help texts, completions and manual pages.

use crate::rig::{Rig, text};
use std::process::Command;

const COMMANDS: [&str; 66] = [
    "up",
    "adopt",
    "rebuild",
    "catalog backup",
    "catalog dump",
    "upgrade",
    "down",
    "state",
    "ls",
    "archive",
    "release",
    "stage",
    "verify",
    "remove",
    "undelete",
    "receipt",
    "pin",
    "unpin",
    "set",
    "clear",
    "repair",
    "why",
    "requests",
    "wait",
    "cancel",
    "retry",
    "restore",
    "status",
    "policy check",
    "policy run",
    "tier list",
    "tier collect",
    "tier check",
    "tier owner",
    "tier test",
    "tape list",
    "tape show",
    "tape label",
    "tape retire",
    "tape verify",
    "tape repack",
    "tape export",
    "tape import",
    "put",
    "get",
    "doctor",
    "serve",
    "mover",
    "token issue",
    "token list",
    "token revoke",
    "ports list",
    "ports lease",
    "job check",
    "job submit",
    "job resume",
    "job stage-in",
    "job status",
    "job pin",
    "job release",
    "job stage-out",
    "sbatch",
    "slurm install",
    "demo",
    "completions",
    "man",
];

fn help(command: &str) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_cairn"));
    program
        .args(command.split_whitespace())
        .arg("--help")
        .env_remove("CAIRN_SOCKET");
    format!(
        "$ cairn {command}{}--help\n{}",
        if command.is_empty() { "" } else { " " },
        text(&program.output().unwrap())
    )
}

#[test]
fn the_main_help_names_every_command() {
    let main = help("");
    let listed = main
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next());
    for name in listed {
        assert!(
            COMMANDS.iter().any(|c| c.split(' ').next() == Some(name)),
            "{name} is not frozen"
        );
    }
    insta::assert_snapshot!("help", main);
}

#[test]
fn help_of_every_command() {
    for command in COMMANDS {
        let text = help(command);
        assert!(
            text.contains("Example: "),
            "cairn {command} --help has no example"
        );
        assert!(
            text.contains("Exit codes: 0 "),
            "cairn {command} --help does not say what it exits with"
        );
        assert!(text.ends_with("--- exit 0\n"));
        insta::assert_snapshot!(format!("help_{}", command.replace(' ', "_")), text);
    }
}

#[test]
fn completions_and_manual_pages_are_made() {
    let rig = Rig::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let made = rig.run(&["completions", shell]);
        assert!(made.status.success());
        assert!(
            String::from_utf8_lossy(&made.stdout).contains("norelease"),
            "{shell}"
        );
    }
    let pages = rig.path("man");
    std::fs::create_dir(&pages).unwrap();
    assert!(
        rig.run(&["man".as_ref(), pages.as_os_str()])
            .status
            .success()
    );
    for command in COMMANDS {
        let page = pages.join(format!("cairn-{}.1", command.replace(' ', "-")));
        let text = std::fs::read_to_string(&page).unwrap();
        for part in ["Example: ", "Exit codes: "] {
            assert!(text.contains(part), "{}: no {part}", page.display());
        }
    }
    assert!(String::from_utf8_lossy(&rig.run(&["man"]).stdout).starts_with(".ie"));
}

#[test]
fn wrong_usage_exits_with_2() {
    let rig = Rig::new();
    for wrong in [
        &["stage"][..],
        &["stag", "x"],
        &["pin", "x"],
        &["set", "nothing", "x"],
        &["stage", "--timeout", "5s", "x"],
        &["stage", "--wait", "--dry-run", "x"],
        &["stage", "-0", "x"],
        &["wait", "x"],
        &["undelete"],
        &["undelete", "--list", "--stage", "x"],
        &["undelete", "--to", "y", "x", "z"],
        &["undelete", "--at", "yesterday", "x"],
        &["undelete", "gone/../x"],
        &["remove", "warm"],
        &["demo", "--size", "much"],
        &["up", "/nonexistent", "/"],
    ] {
        assert_eq!(rig.run(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
