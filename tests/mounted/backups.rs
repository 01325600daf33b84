//! Backups, and backups that are put back: of a tree with released files through the mount, and of the
//! backing directory from before, amid and after a release, restored over what is there now.

use crate::needs_mounts;
use crate::rig::{Instance, on_disk, tree};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const LEN: usize = 200_000;

/// Runs a line of shell in the instance's directory.
fn shell(cairn: &Instance, line: &str) -> Result<String> {
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-ec", line])
        .env("PATH", path_with_program()?)
        .env("CAIRN_SOCKET", cairn.state.join("run/control.sock"))
        .env("RESTIC_PASSWORD", "not a secret")
        .env("XDG_CACHE_HOME", cairn.dir.path())
        .current_dir(cairn.dir.path())
        .output()?;
    ensure!(
        output.status.success(),
        "{line}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The commands are those of docs/operations.md: they say `cairn`.
fn path_with_program() -> Result<String> {
    let program = std::path::PathBuf::from(crate::rig::program());
    let directory = program.parent().context("the program has a directory")?;
    let path = std::env::var("PATH").unwrap_or_default();
    Ok(format!("{}:{path}", directory.display()))
}

/// Recipes of docs/operations.md for a first backup: what is on disk is copied, nothing is recalled.
#[test]
fn a_first_backup_by_list_holds_what_is_on_disk_and_recalls_nothing() -> Result<()> {
    needs_mounts!();
    let recipes = [
        (
            "tar",
            "cd mount; cairn ls -Ra0 --on-disk . | tar --null --no-recursion -T - -cf ../tar.tar; \
             mkdir ../tar; tar -C ../tar -xf ../tar.tar",
        ),
        (
            "rsync",
            "cd mount; cairn ls -Ra0 --on-disk . | rsync -a --from0 --files-from=- . ../rsync",
        ),
        (
            "restic",
            "restic -q -r repo init; cd mount; \
             restic -q -r ../repo backup --files-from-raw <(cairn ls -Ra0 --on-disk --files .); \
             restic -q -r ../repo restore latest --target ../restic",
        ),
    ];
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::create_dir_all(cairn.at("old/.hidden"))?;
    for n in 0..6_u64 {
        fs::write(cairn.at(&format!("old/cold {n}\n")), tree::bytes(n, LEN))?;
    }
    cairn.archive("")?;
    cairn.release("")?;
    fs::write(cairn.at("old/.hidden/new"), b"written since")?;
    fs::write(cairn.at("small"), b"stays on disk")?;
    std::os::unix::fs::symlink("small", cairn.at("link"))?;
    cairn.cold()?;
    for (tool, line) in recipes {
        if Command::new(tool).arg("--version").output().is_err() {
            eprintln!("SKIPPED a_first_backup_by_list.../{tool}: not installed");
            continue;
        }
        shell(&cairn, line)?;
        let copy = cairn.dir.path().join(tool);
        ensure!(fs::read(copy.join("old/.hidden/new"))? == b"written since");
        ensure!(fs::read(copy.join("link"))? == b"stays on disk", "{tool}");
        ensure!(fs::symlink_metadata(copy.join("link"))?.is_symlink());
        for n in 0..6 {
            let name = format!("old/cold {n}\n");
            ensure!(!copy.join(&name).exists(), "{tool} copied {name:?}");
            let left = on_disk(&cairn.below(&name))?;
            ensure!(left <= 8192, "{tool} recalled {name:?}");
        }
    }
    cairn.down()
}

/// What a file may hold: what it held when the backup was made, and what it holds now.
type Contents = BTreeMap<String, Vec<Vec<u8>>>;

/// A tree with a history, the instance down, and backups of the backing directory in `backup-0` (all
/// resident), `backup-1` (half released) and `backup-2` (overwritten, deleted and released since),
/// made by `backup FROM TO`. What any of its files ever held.
fn with_history(backup: fn(&Instance, &str) -> Result<()>) -> Result<(Instance, Contents)> {
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let mut contents = Contents::new();
    let mut write = |cairn: &Instance, n: u64, seed: u64| -> Result<()> {
        let data = tree::bytes(seed, LEN);
        fs::write(cairn.at(&format!("f{n}")), &data)?;
        contents.entry(format!("f{n}")).or_default().push(data);
        Ok(())
    };
    for n in 0..8 {
        write(&cairn, n, n)?;
    }
    cairn.archive("")?;
    cairn.down()?;
    backup(&cairn, "backup-0")?;
    cairn.up()?;
    for n in 0..4 {
        cairn.release(&format!("f{n}"))?;
    }
    cairn.down()?;
    backup(&cairn, "backup-1")?;
    cairn.up()?;
    write(&cairn, 1, 101)?;
    write(&cairn, 5, 105)?;
    fs::remove_file(cairn.at("f7"))?;
    write(&cairn, 8, 108)?;
    cairn.archive("")?;
    cairn.release("")?;
    cairn.down()?;
    backup(&cairn, "backup-2")?;
    cairn.up()?;
    write(&cairn, 2, 202)?;
    ensure!(fs::read(cairn.at("f3"))? == tree::bytes(3, LEN));
    cairn.down()?;
    Ok((cairn, contents))
}

/// Every file reads as it once was, or its reading fails and its state says why. Gives how many failed.
fn read_all(cairn: &Instance, contents: &Contents, after: &str) -> Result<u64> {
    let mut failed = 0;
    for entry in fs::read_dir(&cairn.mount)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let known = contents.get(&name).context(name.clone())?;
        match fs::read(cairn.at(&name)) {
            Ok(data) => ensure!(
                known.contains(&data),
                "{after}: {name} reads wrong, {} bytes of it zeros",
                data.iter().filter(|b| **b == 0).count()
            ),
            Err(why) => {
                ensure!(why.raw_os_error() == Some(5), "{after}: {name}: {why}");
                let state = cairn.cairn(["state", "--json", &cairn.at(&name).to_string_lossy()])?;
                let named = ["lost", "foreign", "conflict"];
                ensure!(
                    named.iter().any(|word| state.contains(word)),
                    "{after}: {name}: {why}, but {state}"
                );
                failed += 1;
            }
        }
    }
    Ok(failed)
}

/// Restores each backup over the present backing directory and reads everything.
fn restored(
    tool: &str,
    backup: fn(&Instance, &str) -> Result<()>,
    restore: fn(&Instance, &str) -> Result<()>,
) -> Result<()> {
    if Command::new(tool).arg("--version").output().is_err() {
        eprintln!("SKIPPED restored/{tool}: not installed");
        return Ok(());
    }
    let mut failed = Vec::new();
    for from in ["backup-0", "backup-1", "backup-2"] {
        let (mut cairn, contents) = with_history(backup)?;
        restore(&cairn, from)?;
        cairn.up()?;
        cairn.cold()?;
        failed.push(read_all(&cairn, &contents, &format!("{tool}, {from}"))?);
        // What reads also goes through another round.
        drop(cairn.run(["archive", "--wait", &cairn.mount.to_string_lossy()])?);
        drop(cairn.run(["release", "--wait", &cairn.mount.to_string_lossy()])?);
        cairn.cold()?;
        read_all(&cairn, &contents, &format!("{tool}, {from}, again"))?;
        cairn.down()?;
    }
    println!("{tool}: files that are lost or in conflict after each restore: {failed:?}");
    Ok(())
}

fn rsync_to(cairn: &Instance, to: &str) -> Result<()> {
    shell(cairn, &format!("rsync -aHAXS guarded/backing/ {to}")).map(drop)
}

#[test]
fn p6_rsync_of_an_old_backing_over_the_present_one_reads_right_or_not_at_all() -> Result<()> {
    needs_mounts!();
    restored("rsync", rsync_to, |cairn, from| {
        shell(cairn, &format!("rsync -aHAXS {from}/ guarded/backing")).map(drop)
    })
}

/// Into the inodes that are there: their handles are those that the records name.
#[test]
fn p6_rsync_in_place_of_an_old_backing_reads_right_or_not_at_all() -> Result<()> {
    needs_mounts!();
    restored("rsync", rsync_to, |cairn, from| {
        let line = format!("rsync -aHAX --inplace --ignore-times {from}/ guarded/backing");
        shell(cairn, &line).map(drop)
    })
}

#[test]
fn p6_tar_of_an_old_backing_over_the_present_one_reads_right_or_not_at_all() -> Result<()> {
    needs_mounts!();
    restored(
        "tar",
        |cairn, to| {
            let tar = "tar --xattrs --xattrs-include='*' --acls -S";
            let line = format!("{tar} -C guarded/backing -cf {to}.tar .");
            shell(cairn, &line).map(drop)
        },
        |cairn, from| {
            let tar = "tar --xattrs --xattrs-include='*' --acls";
            let line = format!("{tar} -C guarded/backing -xpf {from}.tar");
            shell(cairn, &line).map(drop)
        },
    )
}

/// Nothing of a tree but its released files comes back by an overwritten attribute alone.
#[test]
fn p6_records_of_an_old_backing_put_back_alone_read_right_or_not_at_all() -> Result<()> {
    needs_mounts!();
    restored(
        "getfattr",
        |cairn, to| {
            let line = format!("getfattr -R --absolute-names -d -m - guarded/backing >{to}");
            shell(cairn, &line).map(drop)
        },
        |cairn, from| {
            // One file of it is gone by now; the rest is set all the same.
            shell(cairn, &format!("setfattr --restore={from} || true")).map(drop)
        },
    )
}

/// Made while the instance works, and put in the place of a state directory that is gone.
#[test]
fn a_backup_of_the_catalog_takes_the_place_of_a_lost_state_directory() -> Result<()> {
    use std::sync::atomic::{AtomicBool, Ordering};
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let mut content = BTreeMap::new();
    for n in 0..20_u64 {
        let (name, data) = (format!("f{n}"), tree::bytes(n, LEN));
        cairn.released(&name, &data)?;
        content.insert(name, data);
    }
    let to = cairn.dir.path().join("backup");
    let (state, place) = (cairn.state.clone(), to.clone());
    let again = |cairn: &Instance| {
        let args = ["catalog", "backup", "--json", "--state"].map(std::ffi::OsString::from);
        let paths = [
            state.clone().into_os_string(),
            place.clone().into_os_string(),
        ];
        cairn.cairn(args.into_iter().chain(paths))
    };
    let stop = AtomicBool::new(false);
    let written = std::thread::scope(|scope| -> Result<u64> {
        let writer = scope.spawn(|| -> Result<u64> {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                fs::write(cairn.at(&format!("new{n}")), tree::bytes(100 + n, 100_000))?;
                cairn.archive(&format!("new{n}"))?;
                n += 1;
            }
            Ok(n)
        });
        // The second one over the first.
        let made = (0..5).try_for_each(|_| {
            let said: serde_json::Value = serde_json::from_str(&again(&cairn)?)?;
            ensure!(said["schema"] == "cairn.catalog-backup.v1", "{said}");
            ensure!(said["bytes"].as_u64() > Some(0), "{said}");
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let written = writer.join();
        made?;
        written.map_err(|_| anyhow::anyhow!("the writer panicked"))?
    })?;
    for n in 0..written {
        content.insert(format!("new{n}"), tree::bytes(100 + n, 100_000));
    }
    cairn.down()?;
    fs::remove_dir_all(&cairn.state)?;
    fs::rename(&to, &cairn.state)?;
    cairn.up()?;
    cairn.cold()?;
    for (name, data) in &content {
        let read = fs::read(cairn.at(name)).with_context(|| format!("{name}\n{}", cairn.log()))?;
        ensure!(read == *data, "{name}");
    }
    cairn.archive("")?;
    cairn.release("new0")?;
    ensure!(fs::read(cairn.at("new0"))? == content["new0"]);
    cairn.down()
}
