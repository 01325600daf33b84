//! What was deleted: brought back, or freed of its bytes; and copies that are given up.
//!
//! The window (`keep-deleted`) and the wait before a condemned object goes are a month and an hour. They
//! pass by making what the catalog says of the past older, from outside and while the instance lives.

use crate::check::{self, claims};
use crate::reference::{Content, May, Reference, look};
use crate::rig::tree::bytes;
use crate::site::Site;
use anyhow::{Context, Result, bail, ensure};
use rusqlite::Connection;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// Deleted: alone in its aggregate, and the larger part of one.
const DELETED: [&str; 2] = ["gone", "half/gone"];
/// Beside the second.
const KEPT: &str = "half/kept";

fn content(name: &str) -> Content {
    let (seed, len) = match name {
        "gone" => (70, 200_000),
        "half/gone" => (71, 90_000),
        _ => (72, 20_000),
    };
    Arc::new(bytes(seed, len))
}

/// Files that are archived in aggregates of their own, and deleted.
pub(crate) fn prepare(site: &Site, reference: &mut Reference) -> Result<()> {
    let mount = site.cairn.mount.as_path();
    fs::create_dir(mount.join("half"))?;
    for name in ["gone", "half/gone", KEPT] {
        fs::write(mount.join(name), &*content(name))?;
    }
    check::settle(site)?;
    for name in ["gone", "half"] {
        let args = ["archive", "--wait"];
        done(site, &args, &[name])?;
    }
    for name in DELETED {
        fs::remove_file(mount.join(name))?;
    }
    reference.files.insert(KEPT.to_owned(), content(KEPT));
    check::settle(site).map(drop)
}

/// Runs `cairn` on these names, which must succeed.
fn done(site: &Site, args: &[&str], names: &[&str]) -> Result<String> {
    let paths = names
        .iter()
        .map(|name| site.cairn.at(name).into_os_string());
    site.succeeds(args.iter().map(Into::into).chain(paths))
}

/// Makes what the catalog says of the past older.
fn passes(site: &Site, time: Duration, of: &[&str]) -> Result<()> {
    let catalog = Connection::open(site.cairn.state.join("catalog.sqlite"))?;
    catalog.busy_timeout(Duration::from_secs(30))?;
    let by = time.as_nanos();
    let sets = of.iter().map(|what| format!("UPDATE {what} - {by};"));
    let sets: String = sets.collect();
    catalog.execute_batch(&format!("BEGIN IMMEDIATE; {sets} COMMIT"))?;
    catalog.close().map_err(|(_, why)| why.into())
}

/// A month passes, and a scan comes behind it: no part of the verb, since one that fails rests for an
/// hour.
fn a_month(site: &Site) -> Result<()> {
    let supervisor = site.supervisor.as_ref().context("a supervisor")?;
    let armed = supervisor.arm(false);
    let month = Duration::from_secs(31 * 86_400);
    let past = [
        "tombstones SET at = at",
        "scan SET finished_at = finished_at",
    ];
    // Before time passes: the scan may be over before anybody can ask again.
    let last = check::finished(site)?;
    passes(site, month, &past)?;
    check::patiently("the next scan", || Ok(check::finished(site)? > last))?;
    check::settle(site)?;
    supervisor.arm(armed);
    Ok(())
}

/// `cairn tier collect` a month later: what is dead is condemned, what is half dead repacked. An hour
/// later the one goes and the other is condemned, and after another hour that goes, too.
pub(crate) fn collect(site: &Site, _: &mut Reference) -> Result<()> {
    a_month(site)?;
    for _ in 0..3 {
        site.succeeds(["tier", "collect", "--wait", "--json"])?;
        let decided = "aggregates SET since = since";
        passes(site, Duration::from_secs(3601), &[decided])?;
    }
    Ok(())
}

/// What can go does go: the deleted bytes lie nowhere, and all others do.
pub(crate) fn collected(site: &Site, reference: &mut Reference) -> Result<()> {
    let mut left = Vec::new();
    for _ in 0..4 {
        collect(site, reference)?;
        let there = check::tiers(site)?;
        let holds = |name: &&str| {
            let content = content(name);
            there.values().flatten().any(|there| *there == *content)
        };
        left = DELETED.iter().copied().filter(holds).collect();
        if left.is_empty() {
            check::proven(site, claims(site)?, reference, &Default::default())?;
            return reference.compare(&look(&site.cairn.mount)?);
        }
    }
    let dry = site.succeeds(["tier", "collect", "--dry-run", "--json"])?;
    bail!("KEPT: {left:?} never go: {dry}")
}

/// `cairn undelete` of what is not there.
pub(crate) fn undelete(site: &Site, reference: &mut Reference) -> Result<()> {
    let mut all = Ok(());
    for name in DELETED {
        let path = site.cairn.at(name);
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        let args: &[&str] = match name {
            "gone" => &["undelete"],
            _ => &["undelete", "--stage", "--wait"],
        };
        let done = done(site, args, &[name]);
        if done.is_ok() {
            // The kernel may still remember that there was none.
            let parent = path.parent().context("a parent")?;
            check::patiently("the name to be seen", || {
                let mut names = fs::read_dir(parent)?.filter_map(Result::ok);
                Ok(names.any(|n| n.path() == path) && path.exists())
            })?;
        }
        let content = content(name);
        reference.change(done.is_ok(), vec![(name, May::Be(content))], Vec::new());
        all = all.and(done.map(drop));
    }
    all
}

/// All of it can be had.
pub(crate) fn undeleted(site: &Site, reference: &mut Reference) -> Result<()> {
    undelete(site, reference)?;
    reference.compare(&look(&site.cairn.mount)?)
}

/// `cairn remove`: all copies on one tier, and the last one of a file.
pub(crate) fn remove(site: &Site, _: &mut Reference) -> Result<()> {
    let args = ["remove", "--wait", "--below-policy", "--tier"];
    done(site, &[&args[..], &["two"]].concat(), &[""])?;
    let path = site.cairn.at("small/1");
    if check::attribute(&path, "user.cairn.state")? == "resident" {
        return Ok(());
    }
    let args = [&args[..], &["one", "--last-copy"]].concat();
    done(site, &args, &["small/1"]).map(drop)
}

/// No file counts on what was given up.
pub(crate) fn removed(site: &Site, reference: &mut Reference) -> Result<()> {
    remove(site, reference)?;
    let path = site.cairn.at("small/1");
    let state = check::attribute(&path, "user.cairn.state")?;
    ensure!(state == "resident", "small/1 is {state}");
    let left = check::on_tier(site, "one")?;
    for (name, copies) in claims(site)? {
        let gone: Vec<_> = copies.iter().filter(|c| !left.contains_key(*c)).collect();
        ensure!(gone.is_empty(), "{name} still has {gone:?}");
    }
    check::settle(site)?;
    site.whole("archive")
        .context("an archive of what was given up")?;
    check::proven(site, claims(site)?, reference, &Default::default())?;
    reference.compare(&look(&site.cairn.mount)?)
}
