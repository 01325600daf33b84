//! A tape library behind a mount: what lies on it comes back through its desk, and who waits is told.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

/// An instance with one tape tier, up.
fn site(options: &str) -> Result<Instance> {
    site_with(options, "")
}

fn site_with(options: &str, settings: &str) -> Result<Instance> {
    let mut cairn = Instance::new(None)?;
    let config = cairn.dir.path().join("cairn.toml");
    fs::write(&config, settings)?;
    let config = config.to_string_lossy().into_owned();
    cairn.args.extend(["--config".to_owned(), config]);
    let url = format!(
        "tape=tape:{}?capacity=64MiB&{options}",
        cairn.tier.display()
    );
    cairn.args.extend(["--tier".to_owned(), url]);
    cairn.up()?;
    Ok(cairn)
}

fn status(cairn: &Instance) -> Result<Value> {
    Ok(serde_json::from_str(&cairn.cairn(["status", "--json"])?)?)
}

fn image(cairn: &Instance) -> Result<PathBuf> {
    let images = fs::read_dir(cairn.tier.join("cartridges"))?;
    let mut images: Vec<_> = images.map(|i| Ok(i?.path())).collect::<Result<_>>()?;
    images.sort();
    // The first is written first.
    images.into_iter().next().context("no image")
}

/// How many files of all cartridges count by themselves, and how many with a later one.
fn labels(cairn: &Instance) -> Result<(usize, usize)> {
    let (mut proofs, mut provisional) = (0, 0);
    for image in fs::read_dir(cairn.tier.join("cartridges"))? {
        let image = fs::read(image?.path())?;
        let count = |word: &[u8; 4]| image.windows(4).filter(|w| w == word).count();
        proofs += count(b"UTL1");
        provisional += count(b"UTLP");
    }
    Ok((proofs, provisional))
}

#[test]
fn one_worker_composes_the_next_aggregates_while_others_wait_to_be_written_together() -> Result<()>
{
    needs_mounts!();
    // Nothing is written before three aggregates are there, and one thread composes them all.
    let mut cairn = Instance::new(None)?;
    let file = |name: &str| cairn.dir.path().join(name).to_string_lossy().into_owned();
    let (config, policy) = (file("cairn.toml"), file("none.policy"));
    fs::write(&config, "workers.archive = 1\nsnapshot-every = \"0s\"\n")?;
    fs::write(&policy, "rule archive none\n  never\n")?;
    let url = format!(
        "tape=tape:{}?capacity=64MiB&cartridges=2&drives=1&batch-files=3&batch-age=1min",
        cairn.tier.display()
    );
    for (option, value) in [("--config", config), ("--policy", policy), ("--tier", url)] {
        cairn.args.extend([option.to_owned(), value]);
    }
    cairn.up()?;
    let data = |n: usize| tree::bytes(n as u64, (9 << 20) + n);
    for n in 0..6 {
        // Each is an aggregate of its own.
        fs::write(cairn.at(&format!("{n}")), data(n))?;
    }
    let all: Vec<OsString> = (0..6).map(|n| cairn.at(&format!("{n}")).into()).collect();
    let mut args: Vec<OsString> = vec!["archive".into(), "--wait".into()];
    args.extend(all.iter().cloned());
    cairn.cairn(args)?;
    ensure!(labels(&cairn)? == (2, 4), "{:?}", labels(&cairn)?);
    // A stop waits for no company.
    fs::write(cairn.at("lone"), data(7))?;
    cairn.cairn([OsString::from("archive"), cairn.at("lone").into()])?;
    cairn.down()?;
    cairn.up()?;
    for n in 0..6 {
        cairn.release(&format!("{n}"))?;
        ensure!(fs::read(cairn.at(&format!("{n}")))? == data(n), "{n}");
    }
    cairn.down()
}

/// `user.cairn.eta` of a file.
fn eta(cairn: &Instance, name: &str) -> Result<String> {
    let mut value = [0; 64];
    let len = rustix::fs::getxattr(cairn.at(name), "user.cairn.eta", &mut value[..])?;
    Ok(String::from_utf8_lossy(&value[..len]).into_owned())
}

#[test]
fn many_files_come_back_from_tape_staged_and_read_in_any_order() -> Result<()> {
    needs_mounts!();
    let mut cairn = site("cartridges=3&drives=2")?;
    const FILES: u64 = 120;
    let data = |n: u64| tree::bytes(n, 70_000 + (n as usize * 7919) % 300_000);
    for round in ["a", "b"] {
        fs::create_dir(cairn.at(round))?;
        for n in 0..FILES {
            fs::write(cairn.at(&format!("{round}/{n}")), data(n))?;
        }
        cairn.archive(round)?;
    }
    for round in ["a", "b"] {
        cairn.release(round)?;
    }
    ensure!(cairn.shown_state("b/119")? == "released");
    // One directory is staged by name in a mixed order, the other is read in another one meanwhile.
    let mut args: Vec<OsString> = vec!["stage".into(), "--wait".into()];
    args.extend((0..FILES).map(|n| cairn.at(&format!("a/{}", n * 83 % FILES)).into()));
    std::thread::scope(|scope| -> Result<()> {
        let readers: Vec<_> = (0..4)
            .map(|reader| {
                let cairn = &cairn;
                scope.spawn(move || -> Result<()> {
                    for n in (0..FILES).filter(|n| n % 4 == reader) {
                        let n = n * 47 % FILES;
                        let name = format!("b/{n}");
                        ensure!(
                            fs::read(cairn.at(&name))? == data(n),
                            "wrong bytes of {name}"
                        );
                    }
                    Ok(())
                })
            })
            .collect();
        cairn.cairn(args)?;
        for reader in readers {
            reader.join().expect("no panic")?;
        }
        Ok(())
    })?;
    for n in 0..FILES {
        let name = format!("a/{n}");
        ensure!(
            cairn.shown_state(&name)? == "archived",
            "{name} did not come back"
        );
        ensure!(
            fs::read(cairn.at(&name))? == data(n),
            "wrong bytes of {name}"
        );
    }
    cairn.cairn(["verify", "--wait", &cairn.at("a").to_string_lossy()])?;
    cairn.down()
}

#[test]
fn who_waits_for_a_cartridge_is_told_which_and_how_long() -> Result<()> {
    needs_mounts!();
    let mut cairn = site("cartridges=1&drives=1&speed=20")?;
    let data = tree::bytes(3, 200_000);
    cairn.released("f", &data)?;
    // From a library whose drives are empty: for one file nothing is mounted at once.
    cairn.down()?;
    cairn.up()?;
    ensure!(eta(&cairn, "f")? == "unknown");
    let path = cairn.at("f");
    cairn.cairn([OsString::from("stage"), path.clone().into()])?;
    let barcode = image(&cairn)?;
    let barcode = barcode.file_stem().context("name")?.to_string_lossy();
    let mut told = String::new();
    wait_for("what is told", || {
        told = eta(&cairn, "f")?;
        Ok(told != "unknown")
    })?;
    let seconds: u64 = told.parse()?;
    ensure!((1..200).contains(&seconds), "{told}");
    let all: Value = serde_json::from_str(&cairn.cairn(["requests", "--json"])?)?;
    let request = &all;
    ensure!(request["cartridges"][0]["barcode"] == *barcode, "{all}");
    ensure!(request["cartridges"][0]["files"] == 1, "{all}");
    ensure!(request["eta_s"].as_u64().is_some(), "{all}");
    let number = request["request"].to_string();
    let shown = cairn.cairn(["requests", &number])?;
    let line = format!("waits for cartridge {barcode} (1 file)");
    ensure!(shown.contains(&line), "{shown}");
    let why = cairn.cairn([OsString::from("why"), path.clone().into()])?;
    let line = format!("cartridge {barcode} in drive 1, none before this one; about ");
    ensure!(why.contains(&line), "{why}");
    // A reader does not wait for more to come together.
    ensure!(fs::read(&path)? == data);
    wait_for("the end", || Ok(eta(&cairn, "f")? == "0"))?;
    cairn.down()
}

#[test]
fn a_cartridge_that_is_asked_for_and_away_is_shown() -> Result<()> {
    needs_mounts!();
    let mut cairn = site("cartridges=1&drives=1")?;
    let data = tree::bytes(4, 200_000);
    cairn.released("f", &data)?;
    let (there, aside) = (image(&cairn)?, cairn.dir.path().join("aside"));
    fs::rename(&there, &aside)?;
    let error = fs::read(cairn.at("f")).err().and_then(|e| e.raw_os_error());
    ensure!(error == Some(libc::EHOSTDOWN), "reading gave {error:?}");
    let barcode = there.file_stem().context("name")?.to_string_lossy();
    let shown = status(&cairn)?;
    ensure!(
        shown["tiers"][0]["absent_cartridges"][0] == *barcode,
        "{shown}"
    );
    let warned = shown["warnings"].as_array().context("warnings")?;
    let warned = warned.iter().find(|w| w["code"] == "cartridge-absent");
    let said = warned.context("no warning")?["message"].to_string();
    ensure!(said.contains(&*barcode), "{said}");
    fs::rename(&aside, &there)?;
    ensure!(
        status(&cairn)?["tiers"][0]
            .get("absent_cartridges")
            .is_none()
    );
    ensure!(fs::read(cairn.at("f"))? == data);
    cairn.down()
}

/// One drive: what is read has it, and then what is written.
#[test]
fn an_aggregate_on_tape_is_repacked_with_one_drive() -> Result<()> {
    needs_mounts!();
    let settings = "keep-deleted = \"0s\"\nscan-every = \"1s\"\ncollect-every = \"0s\"\n\
         delete-delay = \"0s\"\nsnapshot-every = \"0s\"\nrepack-share = \"25%\"\n";
    let mut cairn = site_with("cartridges=2&drives=1", settings)?;
    fs::create_dir(cairn.at("d"))?;
    for n in 0..6 {
        fs::write(cairn.at(&format!("d/{n}")), tree::bytes(n, 200_000))?;
    }
    cairn.archive("d")?;
    cairn.release("d")?;
    for n in 1..6 {
        fs::remove_file(cairn.at(&format!("d/{n}")))?;
    }
    wait_for("the repack", || {
        let run = cairn.cairn(["tier", "collect", "--wait", "--json"])?;
        let run: Value = serde_json::from_str(&run)?;
        ensure!(run["tiers"][0]["error"].is_null(), "{run}");
        let deeds = run["tiers"][0]["deeds"].as_array().context("deeds")?;
        Ok(deeds.iter().any(|deed| deed["act"] == "repack"))
    })?;
    ensure!(cairn.shown_state("d/0")? == "released");
    ensure!(
        fs::read(cairn.at("d/0"))? == tree::bytes(0, 200_000),
        "wrong bytes"
    );
    cairn.down()
}
