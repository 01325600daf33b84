//! Random damage: one flipped bit, or one cut, anywhere that Cairn reads: aggregates, stubs, the
//! catalog, the indexes in the state directory. Each is detected or harmless; no wrong byte is read.
//! docs/faults.md has the table.

#[path = "../rig/rig.rs"]
mod rig;

#[path = "../crash/random.rs"]
mod random;

mod forged;
mod site;
mod table;
mod targets;

use anyhow::{Result, ensure};
use random::Random;
use site::Site;
use table::Table;

/// How many, and which: `CAIRN_DAMAGES`, `CAIRN_DAMAGE_SEED`.
fn asked(name: &str, otherwise: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[test]
fn whatever_is_damaged_no_wrong_byte_is_read() -> Result<()> {
    needs_mounts!();
    let (damages, seed) = (asked("CAIRN_DAMAGES", 60), asked("CAIRN_DAMAGE_SEED", 4));
    let mut random = Random::new(seed, 0);
    let mut site = Site::new()?;
    let mut table = Table::default();
    for n in 0..damages {
        let target = targets::choose(n, &mut random);
        let seen = site.suffer(target, &mut random)?;
        table.note(target, &seen);
        ensure!(
            seen.wrong.is_empty(),
            "{target:?}, {seen:?}: wrong bytes\n{}",
            site.log()
        );
        ensure!(
            seen.is_detected() || target.may_be_harmless(),
            "{target:?}, {seen:?}: not detected\n{}",
            site.log()
        );
    }
    println!("seed {seed}\n{table}");
    site.down()
}

/// The harness sees wrong bytes when there are some: all sums were made to fit them.
#[test]
fn wrong_bytes_whose_sums_were_all_forged_are_seen_by_this_harness() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new()?;
    let name = site.forge()?;
    let seen = site.look()?;
    ensure!(
        seen.wrong == [name.clone()],
        "{name} was forged, and seen is {seen:?}"
    );
    site.down()
}
