//! What is done about a loss: the catalog built anew, the backing made anew from a tier (programs of
//! their own, while no instance runs), and lost stubs put back.

use crate::reference::{Reference, same};
use crate::site::Site;
use anyhow::{Context, Result};
use serde_json::Value;
use std::ffi::OsString;
use std::fs::{self, File};
use std::time::{Duration, UNIX_EPOCH};

/// A program, and what is different once it has done its work.
pub(crate) struct Program {
    pub(crate) arguments: fn(&Site) -> Vec<OsString>,
    /// If it did not end well, no instance starts before it did.
    pub(crate) is_needed: bool,
    /// After which the next instance starts.
    pub(crate) moved: fn(&mut Site) -> Result<()>,
}

impl Program {
    /// The same again: it goes on, or says that all was done before it could say so.
    pub(crate) fn again(&self, site: &Site) -> Result<()> {
        let Err(why) = site.succeeds((self.arguments)(site)) else {
            return Ok(());
        };
        let said = format!("{why:#}");
        let done = [
            "a rebuild of it is done",
            "is the backing of the instance in",
        ];
        if done.iter().any(|word| said.contains(word)) {
            Ok(())
        } else {
            Err(why)
        }
    }
}

pub(crate) const FROM_STUBS: Program = Program {
    arguments: |site| rebuild(site, &["--from", "stubs"]),
    // The first scan of a start does the same.
    is_needed: false,
    moved: |_| Ok(()),
};

/// Puts the catalog aside first.
pub(crate) const FROM_TIERS: Program = Program {
    arguments: |site| rebuild(site, &["--from", "tiers", "--anew"]),
    is_needed: true,
    moved: |_| Ok(()),
};

pub(crate) const RESTORE: Program = Program {
    arguments: restore,
    is_needed: true,
    moved: take_over,
};

fn rebuild(site: &Site, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = ["rebuild", "--json", "--state"].map(Into::into).into();
    args.push(site.cairn.state.clone().into());
    args.extend(site.cairn.args.iter().map(Into::into));
    args.extend(more.iter().map(Into::into));
    args.push(site.cairn.backing.clone().into());
    args
}

fn restore(site: &Site) -> Vec<OsString> {
    let (backing, state) = site.anew();
    let mut args: Vec<OsString> = ["restore", "--json", "--take", "--tier"]
        .map(Into::into)
        .into();
    args.push(site.url("one").into());
    args.extend([
        "--to".into(),
        backing.into(),
        "--state".into(),
        state.into(),
    ]);
    args
}

/// The new instance gets the other tier, too, and is the one that starts from now on.
fn take_over(site: &mut Site) -> Result<()> {
    (site.cairn.backing, site.cairn.state) = site.anew();
    let url = format!("dir:{}", site.tier("two").display());
    let owner = ["tier", "owner", &url, "--json", "--state"].map(OsString::from);
    let owner = [&owner[..], &[site.cairn.state.clone().into()]].concat();
    let told: Value = serde_json::from_str(&site.succeeds(&owner)?)?;
    let theirs = told["owner"].as_str().context("an owner")?.into();
    site.succeeds([&owner[..], &["--take".into(), theirs]].concat())
        .map(drop)
}

pub(crate) fn forget_catalog(site: &Site) -> Result<()> {
    for end in ["", "-wal", "-shm"] {
        let path = site.cairn.state.join(format!("catalog.sqlite{end}"));
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Their stubs go: of a file, and of one with two names.
const LOST: [&str; 2] = ["large", "100k"];

pub(crate) fn take_records(site: &Site) -> Result<()> {
    for name in LOST {
        rustix::fs::removexattr(site.cairn.below(name), "trusted.cairn.record")?;
    }
    Ok(())
}

/// Somebody reads them and is told; `cairn repair --apply` of everything.
pub(crate) fn repair(site: &Site, reference: &mut Reference) -> Result<()> {
    for name in LOST {
        if let Ok(read) = fs::read(site.cairn.at(name)) {
            same(name, &reference.files[name], &read)?;
        }
    }
    site.succeeds(["repair", "--apply", "--json"]).map(drop)
}

/// All files of the backing are gone, and the tiers were not written to for long.
pub(crate) fn lose_backing(site: &Site) -> Result<()> {
    fs::remove_dir_all(&site.cairn.backing)?;
    fs::create_dir(&site.cairn.backing)?;
    let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for tier in ["one", "two"] {
        File::open(site.tier(tier).join("incoming"))?.set_modified(long_ago)?;
    }
    Ok(())
}
