//! What the sweep found, by name.

use crate::apart;
use crate::controls::supervised;
use crate::fault::{Aim, Lie};
use crate::needs_mounts;
use crate::point::{Class, Point};
use crate::rig::sys;
use crate::run::again;
use crate::seccomp::{Answer, Asked};
use crate::site::Site;
use crate::suite::backing;
use crate::verb::From;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::sync::Arc;

/// The removal of a record fails, once.
fn no_removal() -> Lie {
    let mut done = false;
    Box::new(move |point: &Point, _: &Asked| {
        let is = point.call == "removexattr" && point.object.ends_with("trusted.cairn.record");
        let first = is && !done;
        done |= is;
        first.then_some(Answer::Fail(libc::EIO))
    })
}

/// The opening said yes, what was written then was synced with success, and lay under a stub of
/// another size: EIO to every reader.
#[test]
fn an_open_that_truncates_fails_when_the_stub_cannot_go() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let (mut site, mut reference) = supervised(From::Released, Aim::Lie(no_removal()))?;
    let path = site.cairn.mount.join("70k");
    let refused = File::create(&path).err().context("opened, with its stub")?;
    ensure!(refused.raw_os_error() == Some(libc::EIO), "{refused}");
    let content = crate::rig::tree::bytes(60, 80_000);
    fs::write(&path, &content).context("a second time")?;
    ensure!(fs::read(&path)? == content);
    reference.files.insert("70k".to_owned(), Arc::new(content));
    site.down()?;
    again(&mut site, &mut reference, false)
}

/// At the end, the log cannot be folded into the database.
fn no_fold() -> Lie {
    let mut ends = false;
    Box::new(move |point: &Point, _: &Asked| {
        ends |= point.call == "syncfs" && point.class == Class::Backing;
        let is = point.call == "pwrite" && point.object == "catalog.sqlite";
        (ends && is).then_some(Answer::Fail(libc::EIO))
    })
}

/// It was done, durable, and said that it had failed; the same again said that it was done, and failed,
/// too.
#[test]
fn a_rebuild_whose_log_cannot_be_folded_is_done() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let images = From::Uncatalogued.prepare(backing())?;
    let (mut site, mut reference) = (Site::on(&images)?, images.reference.clone());
    let args = (apart::FROM_STUBS.arguments)(&site);
    site.apart(Aim::Lie(no_fold()), &args)?;
    let supervisor = site.supervisor.as_ref().context("a supervisor")?;
    ensure!(supervisor.lies() > 0, "nothing failed");
    again(&mut site, &mut reference, false)
}

/// The name of a file fails once, and, if the disk does not get `better`, each attribute from then on.
fn no_name(better: bool) -> Lie {
    let mut failed = false;
    Box::new(move |point: &Point, _: &Asked| {
        let is_first = point.call == "rename" && !failed;
        let is_later = point.call == "setxattr" && failed && !better;
        let fails = point.class == Class::Backing && (is_first || is_later);
        failed |= fails;
        fails.then_some(Answer::Fail(libc::EDQUOT))
    })
}

/// It went on without the file, was done, took the tier, and could not be asked for again.
#[test]
fn a_restore_that_the_targets_disk_fails_goes_on() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let images = From::Gone.prepare(backing())?;
    let (mut site, mut reference) = (Site::on(&images)?, images.reference.clone());
    let program = apart::RESTORE;
    let args = (program.arguments)(&site);
    let told = site.apart(Aim::Lie(no_name(false)), &args);
    let told = told.err().context("a name failed, and nothing was said")?;
    ensure!(format!("{told:#}").contains("goes on"), "{told:#}");
    site.succeeds(&args)?;
    let told = site.succeeds(&args).err().context("a second time")?;
    let told = format!("{told:#}");
    ensure!(told.contains("is the backing of the instance in"), "{told}");
    (program.moved)(&mut site)?;
    again(&mut site, &mut reference, false)
}

/// It ended there, though the disk was good by the time anybody looked.
#[test]
fn a_name_that_the_targets_disk_fails_once_is_made_again() -> Result<()> {
    needs_mounts!();
    sys::own_mounts()?;
    let images = From::Gone.prepare(backing())?;
    let (mut site, mut reference) = (Site::on(&images)?, images.reference.clone());
    let program = apart::RESTORE;
    let args = (program.arguments)(&site);
    site.apart(Aim::Lie(no_name(true)), &args)?;
    let supervisor = site.supervisor.as_ref().context("a supervisor")?;
    ensure!(supervisor.lies() == 1, "{} lies", supervisor.lies());
    (program.moved)(&mut site)?;
    again(&mut site, &mut reference, false)
}
