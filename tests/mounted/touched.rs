//! Times and modes that users set on a released file, or on one that is on its way back, through
//! restarts and crashes: what they set is what is there.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Result, bail, ensure};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

const SIZE: usize = 8 << 20;
const NEW: i64 = 1_500_000_000;

/// `touch -c -d @TIME`, without an open.
fn touch(path: &Path, to: i64) -> Result<()> {
    let done = std::process::Command::new("touch")
        .args(["-c", "-d", &format!("@{to}")])
        .arg(path)
        .status()?;
    ensure!(done.success(), "touch: {done}");
    ensure!(fs::metadata(path)?.mtime() == to, "not shown at once");
    Ok(())
}

/// Reads the head, so that the recall runs. On a busy machine it may be over when the test looks;
/// what must hold holds then as well.
fn head(cairn: &Instance, name: &str) -> Result<()> {
    cairn.cold()?;
    let mut head = [0; 10];
    fs::File::open(cairn.at(name))?.read_exact_at(&mut head, 0)?;
    Ok(())
}

fn slow(cairn: &mut Instance, names: &[&str], data: &[u8]) -> Result<()> {
    cairn.up()?;
    for name in names {
        cairn.released(name, data)?;
    }
    cairn.down()?;
    cairn.tier_options("rate=1MiB/s");
    cairn.up()
}

/// The file comes back with this time, and shows a ctime that a backup would notice.
fn comes_back(
    cairn: &Instance,
    name: &str,
    data: &[u8],
    time: i64,
    since: SystemTime,
) -> Result<()> {
    cairn.cold()?;
    ensure!(fs::read(cairn.at(name))? == data, "{name}\n{}", cairn.log());
    wait_for("the recall", || Ok(cairn.shown_state(name)? == "archived"))?;
    let shown = fs::metadata(cairn.at(name))?;
    ensure!(shown.mtime() == time, "{name}: {}", shown.mtime());
    let since = since.duration_since(SystemTime::UNIX_EPOCH)?;
    let ctime = Duration::new(shown.ctime().cast_unsigned(), shown.ctime_nsec() as u32);
    // The clock that stamps files is a tick behind.
    ensure!(
        ctime + Duration::from_millis(20) >= since,
        "{name}: an old ctime"
    );
    Ok(())
}

#[test]
fn p4_a_touch_of_a_released_file_is_kept() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 300_000);
    for name in ["before", "after", "killed"] {
        cairn.released(name, &data)?;
    }
    let since = SystemTime::now();
    touch(&cairn.at("before"), NEW)?;
    comes_back(&cairn, "before", &data, NEW, since)?;
    touch(&cairn.at("killed"), NEW + 1)?;
    cairn.kill()?;
    cairn.up()?;
    let later = SystemTime::now();
    touch(&cairn.at("after"), NEW + 2)?;
    comes_back(&cairn, "killed", &data, NEW + 1, since)?;
    comes_back(&cairn, "after", &data, NEW + 2, later)?;
    cairn.down()
}

#[test]
fn p4_a_touch_during_a_recall_is_kept_through_a_crash() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let data = tree::bytes(2, SIZE);
    slow(&mut cairn, &["during", "killed", "after"], &data)?;
    let since = SystemTime::now();
    head(&cairn, "during")?;
    touch(&cairn.at("during"), NEW)?;
    comes_back(&cairn, "during", &data, NEW, since)?;
    head(&cairn, "killed")?;
    touch(&cairn.at("killed"), NEW + 1)?;
    head(&cairn, "after")?;
    cairn.kill()?;
    cairn.up()?;
    touch(&cairn.at("after"), NEW + 2)?;
    comes_back(&cairn, "killed", &data, NEW + 1, since)?;
    comes_back(&cairn, "after", &data, NEW + 2, since)?;
    cairn.down()
}

#[test]
fn p4_a_chmod_during_a_recall_shows_afterwards() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let data = tree::bytes(3, SIZE);
    slow(&mut cairn, &["during", "killed"], &data)?;
    let mtime = |name: &str| -> Result<i64> { Ok(fs::metadata(cairn.at(name))?.mtime()) };
    let (during, killed) = (mtime("during")?, mtime("killed")?);
    for name in ["during", "killed"] {
        head(&cairn, name)?;
    }
    let since = SystemTime::now();
    for name in ["during", "killed"] {
        fs::set_permissions(cairn.at(name), fs::Permissions::from_mode(0o640))?;
    }
    comes_back(&cairn, "during", &data, during, since)?;
    if cairn.shown_state("killed")? == "recalling" {
        cairn.kill()?;
        cairn.up()?;
    }
    comes_back(&cairn, "killed", &data, killed, since)?;
    for name in ["during", "killed"] {
        ensure!(fs::metadata(cairn.at(name))?.mode() & 0o777 == 0o640);
    }
    cairn.down()
}

/// A recall that a stop cut short holds no room afterwards.
#[test]
fn p4_a_stop_in_the_middle_of_a_recall_leaves_no_room_taken() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let data = tree::bytes(4, SIZE);
    slow(&mut cairn, &["f"], &data)?;
    for _ in 0..20 {
        head(&cairn, "f")?;
        cairn.down()?;
        let left = crate::rig::on_disk(&cairn.below("f"))?;
        cairn.up()?;
        let state = cairn.shown_state("f")?;
        if state == "archived" {
            // The stop came when the recall was over.
            cairn.release("f")?;
            continue;
        }
        ensure!(state == "released", "{state}");
        ensure!(left <= 8192, "{left} bytes are held\n{}", cairn.log());
        ensure!(fs::read(cairn.at("f"))? == data);
        return cairn.down();
    }
    bail!("no stop came in the middle of a recall")
}
