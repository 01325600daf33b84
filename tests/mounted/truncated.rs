//! P5: a released file is cut, also while its recall runs.

use crate::needs_mounts;
use crate::rig::{Instance, tree, truncate, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

/// Ways to cut a file to nothing and write `new` into it.
const WAYS: [&str; 2] = ["O_TRUNC", "truncate"];

fn cut_and_write(cairn: &Instance, way: &str, new: &[u8]) -> Result<()> {
    let path = cairn.at("f");
    if way == "O_TRUNC" {
        fs::write(path, new)?;
    } else {
        truncate(&path, 0)?;
        File::options().write(true).open(path)?.write_all(new)?;
    }
    Ok(())
}

#[test]
fn p5_nothing_recalled_lands_behind_a_cut() -> Result<()> {
    needs_mounts!();
    for way in WAYS {
        let mut cairn = Instance::new(None)?;
        cairn.tier_options("rate=4MiB/s");
        cairn.up()?;
        cairn.released("f", &tree::bytes(1, 16 << 20))?;
        let reader = File::open(cairn.at("f"))?;
        reader.read_exact_at(&mut [0; 4096], 1 << 20)?;
        ensure!(
            cairn.shown_state("f")? == "recalling",
            "{way}: no recall runs"
        );
        cut_and_write(&cairn, way, b"what the user wrote")?;
        // What of the old data was on its way must not come later.
        wait_for("the recall to be forgotten", || {
            Ok(cairn.shown_state("f")? == "resident")
        })?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        for of in [cairn.at("f"), cairn.below("f")] {
            let now = fs::read(&of)?;
            ensure!(
                now == b"what the user wrote",
                "{way}: {} has {} bytes",
                of.display(),
                now.len()
            );
        }
        drop(reader);
        let new = tree::bytes(2, 100_000);
        cairn.released("f", &new)?;
        ensure!(fs::read(cairn.at("f"))? == new, "{way}: the next cycle");
        cairn.down()?;
    }
    Ok(())
}

/// Small files, so that the cut meets every step of a recall, its last ones too.
#[test]
fn p5_a_cut_at_any_moment_of_a_recall_wins() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    for round in 0..24_u64 {
        let way = WAYS[usize::try_from(round % 2)?];
        cairn.released("f", &tree::bytes(round, 200_000))?;
        let path = cairn.at("f");
        let reader = std::thread::spawn(move || -> std::io::Result<usize> {
            let mut got = Vec::new();
            File::open(path)?.read_to_end(&mut got)
        });
        std::thread::sleep(std::time::Duration::from_micros(700 * (round / 2)));
        let new = format!("round {round}");
        cut_and_write(&cairn, way, new.as_bytes())?;
        let read = reader.join().ok().context("the reader panicked")?;
        ensure!(
            read.is_ok(),
            "round {round}, {way}: the reader got {read:?}"
        );
        cairn.cold()?;
        let now = fs::read(cairn.at("f"))?;
        ensure!(
            now == new.as_bytes(),
            "round {round}, {way}: {} bytes instead of {new:?}",
            now.len()
        );
    }
    cairn.down()
}

#[test]
fn p5_other_sizes_while_a_recall_runs_keep_the_head() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.tier_options("rate=16MiB/s");
    cairn.up()?;
    let data = tree::bytes(3, 8 << 20);
    cairn.released("shorter", &data)?;
    cairn.released("longer", &data)?;
    for (name, size) in [("shorter", 3_000_001_usize), ("longer", (8 << 20) + 77)] {
        let reader = File::open(cairn.at(name))?;
        reader.read_exact_at(&mut [0; 4096], 0)?;
        truncate(&cairn.at(name), size as u64)?;
        let mut expected = data.clone();
        expected.resize(size, 0);
        let mut through_old = Vec::new();
        (&reader).read_to_end(&mut through_old)?;
        ensure!(through_old == expected, "{name} through the old descriptor");
        ensure!(fs::read(cairn.at(name))? == expected, "{name}");
    }
    // ftruncate through a descriptor beside a cached one.
    cairn.released("both", &data)?;
    let reader = File::open(cairn.at("both"))?;
    reader.read_exact_at(&mut [0; 10], 0)?;
    let writer = File::options().write(true).open(cairn.at("both"))?;
    writer.set_len(0)?;
    writer.set_len(10)?;
    ensure!(fs::read(cairn.at("both"))? == [0; 10]);
    drop((reader, writer));
    cairn.down()
}
