//! Tests of the plan of `cairn up`.

use super::*;
use clap::Parser;

#[derive(Parser)]
struct Up {
    #[command(flatten)]
    args: UpArgs,
}

fn plan(dir: &Path, more: &[&str]) -> Result<UpPlan, String> {
    let (backing, mount) = (dir.join("backing"), dir.join("mount"));
    for path in [&backing, &mount] {
        std::fs::create_dir_all(path).unwrap();
    }
    let words = ["up", backing.to_str().unwrap(), mount.to_str().unwrap()];
    let words = words.into_iter().chain(more.iter().copied());
    let args = Up::try_parse_from(words).map_err(|e| e.to_string())?.args;
    UpPlan::new(&args).map_err(|error| {
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    })
}

#[test]
fn prices_are_those_of_the_file_for_the_tier_of_that_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("site.toml");
    let text = "tier.cold.url = \"dir:/cold\"\ntier.near.url = \"dir:/near\"\n\
                [tier.cold.prices]\ncurrency = \"USD\"\nread-gb = 0.09\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let filed = plan(dir.path(), &["--config", file]).unwrap().prices();
    assert_eq!(filed.keys().collect::<Vec<_>>(), ["cold"]);
    assert_eq!(filed["cold"].prices.read_gb.to_string(), "0.09");
    assert_eq!(
        (filed["cold"].restore_days, filed["cold"].part),
        (7, 8 << 20)
    );
    let bucket = "cold=s3://bucket/p?restore-days=3&part-size=16MiB";
    let flags = ["--config", file, "--tier", bucket, "--tier", "new=dir:/n"];
    let flagged = plan(dir.path(), &flags).unwrap().prices();
    assert_eq!(flagged.keys().collect::<Vec<_>>(), ["cold"]);
    assert_eq!(flagged["cold"].prices, filed["cold"].prices);
    assert_eq!(
        (flagged["cold"].restore_days, flagged["cold"].part),
        (3, 16 << 20)
    );
    assert!(plan(dir.path(), &[]).unwrap().prices().is_empty());
}

#[test]
fn the_embedded_archive_lies_in_the_state_directory() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let plan = plan(dir.path(), &["--state", state.to_str().unwrap()]).unwrap();
    assert!(plan.embedded && plan.state.is_absolute());
    assert_eq!(
        plan.tiers[0].url,
        TierUrl::Tape {
            path: plan.state.join("library"),
            options: Default::default()
        }
    );
}

#[test]
fn an_embedded_archive_of_an_earlier_version_stays_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::create_dir_all(state.join("archive")).unwrap();
    let plan = plan(dir.path(), &["--state", state.to_str().unwrap()]).unwrap();
    let url = plan.tiers[0].url.to_string();
    assert_eq!(url, format!("dir:{}", plan.state.join("archive").display()));
}

#[test]
fn the_default_state_directory_depends_on_the_backing_alone() {
    let dir = tempfile::tempdir().unwrap();
    let first = plan(dir.path(), &[]).unwrap().state;
    assert_eq!(
        first,
        plan(dir.path(), &["--tier", "a=dir:/x"]).unwrap().state
    );
    assert_ne!(first, plan(&dir.path().join("other"), &[]).unwrap().state);
    assert_eq!(
        hash(Path::new("/srv/data")),
        0xdc1a_3595,
        "must never change"
    );
}

#[test]
fn nothing_of_cairns_may_lie_inside_what_it_mirrors() {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("backing/x");
    let link = dir.path().join("link");
    std::fs::create_dir_all(&inside).unwrap();
    std::os::unix::fs::symlink(&inside, &link).unwrap();
    let (inside, link) = (inside.to_str().unwrap(), link.to_str().unwrap());
    for state in [inside, link, &format!("{link}/deep/er")] {
        let error = plan(dir.path(), &["--state", state]).unwrap_err();
        assert!(error.contains("lies inside BACKING"), "{error}");
    }
    let error = plan(dir.path(), &["--tier", &format!("a=dir:{link}/t")]).unwrap_err();
    assert!(error.starts_with("tier a"), "{error}");
}

#[test]
fn tiers_are_named_and_placed_once() {
    let dir = tempfile::tempdir().unwrap();
    for (tiers, complaint) in [
        (
            &["--tier", "a=dir:/x", "--tier", "a=dir:/y"][..],
            "two tiers are named a",
        ),
        (
            &["--tier", "a=dir:/x", "--tier", "b=dir:/x"],
            "two tiers are at dir:/x",
        ),
        (&["--tier", "dir:/x"], "write NAME=URL"),
        (&["--tier", "a=dir:x"], "must be absolute"),
        (&["--tier", "a=ftp:/x"], "known are"),
        (&["--tier", "a b=dir:/x"], "names are"),
    ] {
        let error = plan(dir.path(), tiers).unwrap_err();
        assert!(error.contains(complaint), "{error}");
    }
    let same = [
        "--tier",
        "c=s3://bkt/p",
        "--tier",
        "d=s3://bkt/p/?connections=2",
    ];
    let error = plan(dir.path(), &same).unwrap_err();
    assert!(error.contains("two tiers are at s3://bkt/p"), "{error}");
    let program = |options| format!("exec:/bin/true?{options}");
    let of = |first, second| {
        [
            format!("c={}", program(first)),
            format!("d={}", program(second)),
        ]
    };
    let [first, second] = of("opt.root=/a", "opt.root=/a&timeout=1m");
    let error = plan(dir.path(), &["--tier", &first, "--tier", &second]).unwrap_err();
    assert!(error.contains("two tiers are at exec:/"), "{error}");
    let [first, second] = of("opt.root=/a", "opt.root=/b");
    let two = plan(dir.path(), &["--tier", &first, "--tier", &second]).unwrap();
    assert_eq!(two.tiers.len(), 2);
    let inside = format!("c=exec:{}/tool", dir.path().join("backing").display());
    let error = plan(dir.path(), &["--tier", &inside]).unwrap_err();
    assert!(
        error.contains("the program of tier c") && error.contains("inside BACKING"),
        "{error}"
    );
    let apart = ["--tier", "c=s3://bkt/p", "--tier", "d=s3://bkt/q"];
    let apart = plan(dir.path(), &apart).unwrap();
    assert_eq!(apart.tiers.len(), 2);
}

#[test]
fn the_command_line_wins_over_the_file_and_the_file_over_the_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("site.policy"), "").unwrap();
    let text = format!(
        "backing = {:?}\nmount = {:?}\nstate = {:?}\npolicy = {:?}\nrecall-timeout = \"1h\"\n\
         ballast-size = \"1MiB\"\ntier.cold.url = \"dir:/cold\"\n",
        at("backing"),
        at("mount"),
        at("filed"),
        at("site.policy")
    );
    let file = at("site.toml");
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let given = at("given");
    let given = given.to_str().unwrap();
    let filed = plan(dir.path(), &["--config", file]).unwrap();
    assert_eq!(filed.state, resolved(&at("filed")).unwrap());
    assert_eq!(
        (filed.tiers[0].name.as_str(), filed.embedded),
        ("cold", false)
    );
    assert!(filed.policy.is_some());
    assert_eq!(filed.settings.ballast_size, 1 << 20);
    let flags = [
        "--config",
        file,
        "--state",
        given,
        "--tier",
        "a=dir:/a",
        "--recall-timeout",
        "2h",
    ];
    let flagged = plan(dir.path(), &flags).unwrap();
    assert_eq!(flagged.state, resolved(Path::new(given)).unwrap());
    assert_eq!(flagged.tiers.len(), 1);
    assert_eq!(flagged.tiers[0].name, "a");
    assert_eq!(
        flagged.settings.recall_timeout,
        Some(std::time::Duration::from_secs(7200))
    );
    let args = Up::try_parse_from(["up", "--config", file]).unwrap().args;
    assert_eq!(UpPlan::new(&args).unwrap(), filed);
    std::fs::write(file, "").unwrap();
    let error = UpPlan::new(&args).unwrap_err().to_string();
    assert!(error.contains("BACKING is named neither"), "{error}");
    assert!(Up::try_parse_from(["up"]).is_err());
    std::fs::write(file, "tier.cold.url = \"ftp:/x\"\n").unwrap();
    let error = plan(dir.path(), &["--config", file]).unwrap_err();
    assert!(
        error.contains("tier.cold.url") && error.contains("known are"),
        "{error}"
    );
}
