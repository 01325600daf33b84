//! `cairn tier`: what lies on a tier, what goes of it, and whose it is.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;

fn json(cairn: &Instance, args: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&cairn.cairn(args)?)?)
}

/// A deleted file's object is condemned once a scan that began later is at its end; the others' are
/// not, and read.
#[test]
fn p8_a_deleted_file_is_condemned_and_shown() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let config = cairn.dir.path().join("cairn.toml");
    fs::write(&config, "keep-deleted = \"0s\"\nscan-every = \"1s\"\n")?;
    let config = config.to_string_lossy().into_owned();
    cairn.args.extend(["--config".to_owned(), config]);
    cairn.args.extend([
        "--tier".to_owned(),
        format!("disk=dir:{}", cairn.tier.display()),
    ]);
    cairn.up()?;
    let data = tree::bytes(81, 200_000);
    for name in ["goes", "stays"] {
        cairn.released(name, &data)?;
    }
    fs::remove_file(cairn.at("goes"))?;
    let mut last = Value::Null;
    wait_for("the object to be condemned", || {
        cairn.cairn(["tier", "collect", "--wait"])?;
        last = json(&cairn, &["tier", "list", "--json"])?;
        Ok(last["tiers"][0]["condemned"]["objects"] == 1)
    })?;
    ensure!(last["tiers"][0]["ordinary"]["objects"] == 1, "{last}");
    let dry = json(&cairn, &["tier", "collect", "--dry-run", "--json"])?;
    ensure!(dry["tiers"][0]["deeds"][0]["act"] == "wait", "{dry}");
    let status = json(&cairn, &["status", "--json"])?;
    let can_go = status["tiers"][0]["reclaimable"].as_u64();
    ensure!(can_go.context("reclaimable")? > 200_000, "{status}");
    ensure!(fs::read(cairn.at("stays"))? == data, "wrong bytes");
    cairn.down()
}

/// A tier of another instance is refused, and changes hands by its owner's name alone, and not while
/// that one lives.
#[test]
fn p8_a_foreign_tier_changes_hands_by_the_word_of_who_saw_whose_it_is() -> Result<()> {
    needs_mounts!();
    let mut theirs = Instance::new(None)?;
    theirs.up()?;
    fs::write(theirs.at("f"), tree::bytes(82, 10_000))?;
    theirs.archive("f")?;
    let mut ours = Instance::new(None)?;
    ours.up()?;
    ours.down()?;
    let tier = format!("dir:{}", theirs.tier.display());
    let state = ours.state.to_string_lossy().into_owned();
    let shown = json(
        &ours,
        &["tier", "owner", &tier, "--state", &state, "--json"],
    )?;
    ensure!(shown["own"] == false, "{shown}");
    let owner = shown["owner"].as_str().context("owner")?.to_owned();
    let take = |word: &str| {
        let done = ours.run(["tier", "owner", &tier, "--state", &state, "--take", word])?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        anyhow::Ok((done.status.code(), said))
    };
    let (code, said) = take("yes")?;
    ensure!(code == Some(2) && said.contains(&owner), "{said}");
    let (code, said) = take(&owner)?;
    ensure!(code == Some(1) && said.contains("serves"), "{said}");
    theirs.down()?;
    let (code, said) = take(&owner)?;
    ensure!(code == Some(1) && said.contains("written to"), "{said}");
    // As if it were quiet for long.
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(theirs.tier.join("incoming"))?.set_modified(long_ago)?;
    let (code, said) = take(&owner)?;
    ensure!(code == Some(0), "{said}");
    // Now it is refused to the other one, and the message says the way out.
    let child = theirs.up().err().context("it started")?.to_string();
    ensure!(child.contains("tier owner"), "{child}");
    ours.args = vec!["--tier".to_owned(), format!("theirs={tier}")];
    ours.up()?;
    let list = json(&ours, &["tier", "list", "--json"])?;
    ensure!(list["tiers"][0]["ordinary"]["objects"] == 0, "{list}");
    ours.down()
}
