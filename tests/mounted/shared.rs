//! A backing directory that others change around the mount (`--shared`).

use crate::needs_mounts;
use crate::rig::{Instance, wait_for};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::FileExt;

#[test]
fn what_others_change_in_a_shared_backing_is_seen() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.args.push("--shared".to_owned());
    cairn.hold = Some("300s".to_owned());
    cairn.up()?;
    for round in 0..2 {
        let (file, name) = (format!("f{round}"), format!("new{round}"));
        fs::write(cairn.at(&file), b"old")?;
        ensure!(fs::metadata(cairn.at(&file))?.len() == 3);
        ensure!(!cairn.at(&name).exists());
        // In place: the same inode, of which the kernel has pages and attributes.
        let open = fs::File::open(cairn.at(&file))?;
        ensure!(fs::read(cairn.at(&file))? == b"old");
        fs::write(cairn.backing.join(&file), b"newer")?;
        fs::write(cairn.backing.join(&name), b"x")?;
        wait_for("the change to be seen", || {
            Ok(fs::metadata(cairn.at(&file))?.len() == 5 && cairn.at(&name).exists())
        })?;
        ensure!(fs::read(cairn.at(&file))? == b"newer");
        let mut seen = [0; 5];
        open.read_exact_at(&mut seen, 0)?;
        ensure!(&seen == b"newer");
        // To close it is to ask the server; so is what a child does that begins with it open.
        drop(open);
        fs::remove_file(cairn.backing.join(&file))?;
        wait_for("the name to go", || Ok(!cairn.at(&file).exists()))?;
        if round == 0 {
            // On the same terms a successor goes on with the mount.
            cairn.die()?;
            cairn.up()?;
        }
    }
    cairn.down()
}
