//! Negative controls: one fsync left out, one check left out. The supervisor answers a call with
//! success and does not make it; the program is the same. What the sweep looks at must show it.

use crate::call::LEASE;
use crate::check;
use crate::fault::{Aim, Lie};
use crate::needs_mounts;
use crate::point::Point;
use crate::reference::same;
use crate::rig::{sys, wait_for};
use crate::run::again;
use crate::seccomp::{Answer, Asked, Mapping};
use crate::site::Site;
use crate::suite::backing;
use crate::verb::From;
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;

/// A supervised site over these files that has settled.
pub(crate) fn supervised(from: From, aim: Aim) -> Result<(Site, crate::reference::Reference)> {
    let images = from.prepare(backing())?;
    let mut site = Site::on(&images)?;
    site.up(aim, false)?;
    check::settle(&site)?;
    // Not before: the start looks whether leases work here.
    site.supervisor.as_ref().context("a supervisor")?.arm(true);
    Ok((site, images.reference))
}

/// Leaves out the sync of the directory into which an object was moved under its name (P2, step
/// 4), on both tiers.
fn no_sync_of_the_name() -> Lie {
    let mut moved = HashSet::new();
    Box::new(move |point: &Point, _: &Asked| {
        if !point.class.is_tier() {
            return None;
        }
        if point.call == "rename" {
            moved.insert(point.class);
        }
        let directory = point.call == "fsync" && point.object == "a directory of objects";
        (directory && moved.remove(&point.class)).then_some(Answer::Say(0))
    })
}

/// Archived and released, then the power goes.
fn released_then_power_loss(aim: Aim) -> Result<Result<()>> {
    let (mut site, mut reference) = supervised(From::Resident, aim)?;
    site.whole("archive")?;
    site.whole("release")?;
    let supervisor = site.supervisor.clone().context("a supervisor")?;
    site.outage()?;
    eprintln!("left out: {} calls", supervisor.lies());
    site.power_on()?;
    Ok(again(&mut site, &mut reference, true))
}

#[test]
fn with_one_fsync_left_out_a_power_loss_is_seen_to_lose_files() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    released_then_power_loss(Aim::Count)?.context("with every fsync made")?;
    let seen = released_then_power_loss(Aim::Lie(no_sync_of_the_name()))?;
    let why = seen
        .err()
        .context("an object's name was not synced, and nothing was seen")?;
    eprintln!("with one fsync left out: {why:#}");
    Ok(())
}

/// Leaves out the check that nobody else has the file (P3, step 2): the lease for writing is
/// granted, and held, without asking the kernel.
fn no_lease() -> Lie {
    let mut granted = HashSet::new();
    Box::new(move |point: &Point, asked: &Asked| {
        if point.call != LEASE {
            return None;
        }
        // An int: what the register holds above it means nothing, and differs from call to call.
        let fd = asked.arguments[0] as i32;
        let (command, kind) = (asked.arguments[1] as i32, asked.arguments[2] as i32);
        match (command, kind) {
            (libc::F_SETLEASE, libc::F_WRLCK) => {
                granted.insert(fd);
                Some(Answer::Say(0))
            }
            (libc::F_SETLEASE, libc::F_UNLCK) => granted.remove(&fd).then_some(Answer::Say(0)),
            (libc::F_GETLEASE, _) => granted
                .contains(&fd)
                .then_some(Answer::Say(libc::F_WRLCK.into())),
            _ => None,
        }
    })
}

/// A mapping outlives the last close; then the file is released, or is `refused`. What is seen through the mapping.
fn released_under_a_mapping(aim: Aim, refused: bool) -> Result<(String, Result<()>)> {
    let (mut site, reference) = supervised(From::Archived, aim)?;
    let path = site.cairn.mount.join("large");
    let content = &reference.files["large"];
    let mapping = Mapping::of(&File::open(&path)?, content.len())?;
    same("large", content, &mapping.bytes()).context("before the release")?;
    let asked = site.run([OsStr::new("release"), site.cairn.mount.as_os_str()])?;
    ensure!(
        asked.status.success(),
        "{}",
        String::from_utf8_lossy(&asked.stderr)
    );
    // Also where no lease is asked for it may be in use for a moment, and is tried again.
    wait_for("the release, or a reason against it", || {
        if !refused {
            return Ok(check::attribute(&path, "user.cairn.state")? == "released");
        }
        let why = site.run([OsStr::new("why"), path.as_os_str()])?;
        Ok(String::from_utf8_lossy(&why.stdout).contains("in use"))
    })?;
    let state = check::attribute(&path, "user.cairn.state")?;
    let seen = same("large", content, &mapping.bytes());
    let supervisor = site.supervisor.clone().context("a supervisor")?;
    eprintln!("left out: {} calls", supervisor.lies());
    drop(mapping);
    site.down()?;
    Ok((state, seen))
}

#[test]
fn with_the_lease_left_out_a_mapping_is_seen_to_read_zeros() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let (state, seen) = released_under_a_mapping(Aim::Count, true)?;
    seen.context("with the lease taken")?;
    ensure!(state == "archived", "in use, and {state}");
    let (state, seen) = released_under_a_mapping(Aim::Lie(no_lease()), false)?;
    let why = seen
        .err()
        .context("no lease was taken, and nothing was seen")?;
    ensure!(state == "released", "{state}");
    let text = format!("{why:#}");
    ensure!(text.contains("zeros"), "{text}");
    eprintln!("with the lease left out: {text}");
    Ok(())
}
