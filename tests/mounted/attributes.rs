//! P15: `user.cairn.*`, answered by name and never listed.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Result, ensure};
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;
use std::fs;
use std::process::Command;

#[test]
fn p15_attributes_tell_of_a_file_and_stage_it() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 200_000);
    cairn.released("f", &data)?;
    let path = cairn.at("f");
    let get = |name: &str| -> Result<String> {
        let mut value = [0; 256];
        let len = getxattr(&path, name, &mut value[..])?;
        Ok(String::from_utf8_lossy(&value[..len]).into_owned())
    };
    ensure!(get("user.cairn.state")? == "released");
    ensure!(get("user.cairn.copies")?.lines().count() == 1);
    ensure!(fs::metadata(get("user.cairn.socket")?).is_ok());
    for name in ["eta", "id", "version"] {
        ensure!(
            !get(&format!("user.cairn.{name}"))?.is_empty(),
            "{name} is empty"
        );
    }
    let mut names = [0; 4096];
    let len = listxattr(&path, &mut names[..])?;
    ensure!(
        !String::from_utf8_lossy(&names[..len]).contains("cairn"),
        "listed: {}",
        String::from_utf8_lossy(&names[..len])
    );
    for private in ["trusted.cairn.record", "user.cairn.nothing"] {
        ensure!(
            getxattr(&path, private, &mut names[..]) == Err(Errno::NODATA),
            "{private}"
        );
    }
    for name in [
        "user.cairn.state",
        "user.cairn.copies",
        "trusted.cairn.record",
    ] {
        let set = setxattr(&path, name, b"x", XattrFlags::empty());
        ensure!(set == Err(Errno::PERM), "setting {name}: {set:?}");
        ensure!(removexattr(&path, name).is_err(), "{name} was removed");
    }
    if let Ok(shown) = Command::new("getfattr")
        .args(["-d", "-m", "-"])
        .arg(&path)
        .output()
    {
        ensure!(
            shown.stdout.is_empty(),
            "{}",
            String::from_utf8_lossy(&shown.stdout)
        );
        let by_name = Command::new("getfattr")
            .args(["-n", "user.cairn.state"])
            .arg(&path)
            .output()?;
        ensure!(String::from_utf8_lossy(&by_name.stdout).contains("\"released\""));
    }
    ensure!(get("user.cairn.state")? == "released", "asking recalled it");
    let wrong = setxattr(&path, "user.cairn.stage", b"yes", XattrFlags::empty());
    ensure!(wrong == Err(Errno::INVAL), "{wrong:?}");
    setxattr(&path, "user.cairn.stage", b"1", XattrFlags::empty())?;
    wait_for("the file to be staged", || {
        Ok(get("user.cairn.state")? == "archived")
    })?;
    ensure!(fs::read(&path)? == data);
    cairn.down()
}

/// Sets `user.cairn.stage` as a user with these groups.
fn wish(user: u32, groups: &str, path: &std::path::Path) -> Result<bool> {
    let id = user.to_string();
    let done = Command::new("setpriv")
        .args(["--reuid", &id, "--regid", &id, "--groups", groups])
        .args(["setfattr", "-n", "user.cairn.stage", "-v", "1"])
        .arg(path)
        .status()?;
    Ok(done.success())
}

/// What is asked for by the attribute is done with the rights of who set it: their own group and
/// supplementary groups, not root's group and none.
#[test]
fn p15_a_stage_by_attribute_has_exactly_its_callers_rights() -> Result<()> {
    use std::os::unix::fs::{PermissionsExt, chown};
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let (user, group) = (54_321, 54_400);
    let mode =
        |name: &str, mode| fs::set_permissions(cairn.at(name), fs::Permissions::from_mode(mode));
    for name in ["open", "open/roots", "open/groups"] {
        fs::create_dir(cairn.at(name))?;
    }
    let data = tree::bytes(1, 200_000);
    for name in ["open/roots/f", "open/groups/f", "open/f"] {
        cairn.released(name, &data)?;
    }
    mode("open", 0o777)?;
    mode("open/roots", 0o750)?;
    mode("open/groups", 0o750)?;
    chown(cairn.at("open/groups"), Some(0), Some(group))?;
    ensure!(wish(user, &group.to_string(), &cairn.at("open"))?);
    wait_for("the stage", || {
        Ok(cairn.shown_state("open/f")? == "archived")
    })?;
    wait_for("the stage in the group's directory", || {
        Ok(cairn.shown_state("open/groups/f")? == "archived")
    })?;
    // Its request has ended, so nothing more will come.
    wait_for("the request to end", || {
        Ok(cairn.cairn(["requests"])?.trim().is_empty())
    })?;
    ensure!(
        cairn.shown_state("open/roots/f")? == "released",
        "a user staged what only root's group may reach"
    );
    cairn.down()
}
