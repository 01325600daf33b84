//! A file that is longer than a cartridge (P14): archived, read, restored by hand, found again from the
//! cartridges alone, moved and deleted.

use crate::needs_mounts;
use crate::rig::{Instance, tree, wait_for};
use anyhow::{Context, Result, ensure};
use cairn::id::AggregateId;
use cairn::tier::{OpenHow, TierUrl, mark_at, open};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Cartridges hold 4 MiB.
const LARGE: usize = 13 << 20;

struct Site {
    cairn: Instance,
    root: PathBuf,
}

impl Site {
    fn new(cartridges: u32, settings: &str) -> Result<Self> {
        let mut cairn = Instance::new(None)?;
        let config = cairn.dir.path().join("cairn.toml");
        let common = "snapshot-every = \"0s\"\nscrub-every = \"0s\"\nheal = false\n";
        fs::write(&config, format!("{common}{settings}"))?;
        let config = config.to_string_lossy().into_owned();
        cairn.args.extend(["--config".to_owned(), config]);
        let root = cairn.dir.path().join("library");
        let url = format!(
            "vault=tape:{}?capacity=4MiB&cartridges={cartridges}&drives=1",
            root.display()
        );
        cairn.args.extend(["--tier".to_owned(), url]);
        Ok(Self { cairn, root })
    }

    fn cartridges(&self) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.cairn.cairn(["tape", "list", "--json"])?)?;
        let all = list["libraries"][0]["cartridges"].as_array();
        Ok(all.context("cartridges")?.clone())
    }

    /// Barcodes of cartridges with something alive.
    fn used(&self) -> Result<BTreeSet<String>> {
        let used = self.cartridges()?.into_iter();
        let used = used.filter(|c| c["live"].as_u64() > Some(0));
        let barcode = |c: Value| Some(c["barcode"].as_str()?.to_owned());
        Ok(used.filter_map(barcode).collect())
    }

    /// Cartridges with something large on them.
    fn begun(&self) -> Result<usize> {
        let images = fs::read_dir(self.root.join("cartridges"))?;
        let lens = images.filter_map(|image| Some(image.ok()?.metadata().ok()?.len()));
        Ok(lens.filter(|len| *len > 1 << 20).count())
    }

    /// Bytes of objects that are alive.
    fn alive(&self) -> Result<u64> {
        let all = self.cartridges()?;
        Ok(all.iter().filter_map(|c| c["live"].as_u64()).sum())
    }

    /// The catalog is lost, and built anew from the cartridges.
    fn rebuilt_without_catalog(&self) -> Result<Value> {
        for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
            match fs::remove_file(self.cairn.state.join(name)) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why.into()),
                _ => {}
            }
        }
        let url = format!("vault=tape:{}", self.root.display());
        let state = self.cairn.state.to_string_lossy().into_owned();
        let backing = self.cairn.backing.to_string_lossy().into_owned();
        let report = self.cairn.cairn([
            "rebuild", "--json", "--from", "tiers", "--state", &state, "--tier", &url, &backing,
        ])?;
        let report: Value = serde_json::from_str(&report)?;
        ensure!(report["complete"] == true, "{report}");
        Ok(report)
    }

    /// The tape files of all cartridges, tar, and `cat` give these files back.
    fn restores_by_hand(&self, files: &[(&str, &[u8])]) -> Result<()> {
        let by_hand = self.cairn.dir.path().join("by hand");
        let objects = self.cairn.dir.path().join("objects");
        fs::create_dir(&by_hand)?;
        fs::create_dir(&objects)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tap_files.py");
        for image in fs::read_dir(self.root.join("cartridges"))? {
            let mut command = Command::new("python3");
            let done = command.arg(&script).arg(image?.path()).arg(&objects);
            let done = done.output()?;
            ensure!(done.status.success(), "{done:?}");
        }
        for object in fs::read_dir(&objects)? {
            let mut command = Command::new("tar");
            let done = command.arg("-xpf").arg(object?.path()).arg("-C");
            let done = done.arg(&by_hand).output()?;
            ensure!(done.status.success() && done.stderr.is_empty(), "{done:?}");
        }
        for (name, data) in files {
            let script = format!("cat {name}.cairn-part-[0-9][0-9][0-9][0-9]");
            let mut command = Command::new("sh");
            let joined = command.args(["-c", &script]);
            let joined = joined.current_dir(by_hand.join("d")).output()?;
            ensure!(
                joined.status.success() && joined.stdout == *data,
                "{name} by hand"
            );
        }
        Ok(())
    }

    /// While nothing uses the library.
    fn loses_a_part(&self) -> Result<AggregateId> {
        let url: TierUrl = format!("tape:{}", self.root.display()).parse()?;
        let mark = mark_at(&url)?;
        let tier = open(&url, OpenHow::known(mark.owner, mark.tier))?;
        let names = tier.list(None, 100)?;
        let part = names.into_iter().find(|id| id.is_part());
        let part = part.context("a part")?;
        tier.delete(part)?;
        Ok(part)
    }

    fn reads(&self, name: &str, data: &[u8]) -> Result<()> {
        self.cairn.cold()?;
        let found = fs::read(self.cairn.at(name));
        let found = found.with_context(|| format!("{name}\n{}", self.cairn.log()))?;
        ensure!(found == data, "{name}: other bytes\n{}", self.cairn.log());
        Ok(())
    }
}

fn holes(path: &Path) -> Result<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut content = vec![0; 30 << 20];
    let file = fs::File::create(path)?;
    file.set_len(content.len() as u64)?;
    for (at, len) in [(1 << 20, 5 << 20), (12 << 20, 5_u64 << 20)] {
        let bytes = tree::bytes(at, len as usize);
        file.write_all_at(&bytes, at)?;
        content[at as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    Ok(content)
}

#[test]
fn a_file_longer_than_a_cartridge_is_archived_read_and_rebuilt_from_the_cartridges() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new(14, "scan-every = \"0s\"\ncollect-every = \"1d\"\n")?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    let large = tree::bytes(1, LARGE);
    fs::write(site.cairn.at("d/large"), &large)?;
    let sparse = holes(&site.cairn.at("d/sparse"))?;
    fs::write(site.cairn.at("d/small"), b"beside")?;
    site.cairn.archive("d")?;
    site.cairn.release("d")?;
    for name in ["d/large", "d/sparse"] {
        let shown = site.cairn.shown_state(name)?;
        ensure!(
            shown == "released",
            "{name} is {shown}\n{}",
            site.cairn.log()
        );
    }
    ensure!(site.used()?.len() >= 7, "{:?}", site.used()?);
    site.reads("d/large", &large)?;
    site.reads("d/sparse", &sparse)?;
    let path = site.cairn.at("d").to_string_lossy().into_owned();
    site.cairn.cairn(["verify", "--wait", &path])?;
    site.cairn.release("d")?;
    site.cairn.down()?;

    site.restores_by_hand(&[("large", &large), ("sparse", &sparse)])?;
    let report = site.rebuilt_without_catalog()?;
    ensure!(!report.to_string().contains("its part"), "{report}");
    site.cairn.up()?;
    for name in ["d/large", "d/sparse"] {
        let shown = site.cairn.shown_state(name)?;
        ensure!(shown == "released", "{name} is {shown}");
    }
    site.reads("d/large", &large)?;
    site.reads("d/sparse", &sparse)?;
    site.cairn.release("d")?;
    site.cairn.down()?;

    // That it is gone is said, and the file is not taken for whole.
    let part = site.loses_a_part()?;
    let report = site.rebuilt_without_catalog()?.to_string();
    ensure!(report.contains(&format!("its part {part}")), "{report}");
    ensure!(report.contains("cannot be put together"), "{report}");
    site.cairn.up()?;
    site.cairn.cold()?;
    let read = ["d/large", "d/sparse"].map(|name| fs::read(site.cairn.at(name)));
    let whole = read.iter().filter(|read| read.is_ok()).count();
    ensure!(
        whole == 1,
        "{:?}",
        read.map(|read| read.map(|bytes| bytes.len()))
    );
    site.cairn.down()
}

#[test]
fn a_file_longer_than_a_cartridge_is_moved_and_deleted_as_one() -> Result<()> {
    needs_mounts!();
    let settings = "keep-deleted = \"0s\"\nscan-every = \"1s\"\ncollect-every = \"0s\"\ndelete-delay = \"0s\"\n";
    let mut site = Site::new(10, settings)?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    let large = tree::bytes(1, LARGE);
    fs::write(site.cairn.at("d/large"), &large)?;
    site.cairn.archive("d/large")?;
    site.cairn.release("d/large")?;
    let (before, alive) = (site.used()?, site.alive()?);
    ensure!(before.len() >= 4, "{before:?}");
    let one = before.first().context("a cartridge")?.clone();
    site.cairn.cairn(["tape", "repack", &one])?;
    // It leaves as a whole: nothing is alive twice when the old parts have gone.
    wait_for("the cartridge to be empty", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        Ok(!site.used()?.contains(&one) && site.alive()? < alive + (1 << 20))
    })?;
    site.reads("d/large", &large)?;
    site.cairn.release("d/large")?;
    fs::remove_file(site.cairn.at("d/large"))?;
    wait_for("everything to go", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        Ok(site.used()?.is_empty())
    })?;
    site.cairn.down()
}

#[test]
fn a_library_without_room_for_all_parts_says_how_many_cartridges_are_wanted() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new(2, "")?;
    site.cairn.up()?;
    fs::write(site.cairn.at("large"), tree::bytes(1, LARGE))?;
    site.cairn
        .run(["archive", &site.cairn.at("large").to_string_lossy()])?;
    wait_for("it to be said", || {
        let log = site.cairn.log();
        Ok(log.contains("parts, and 3 of them find no cartridge: add 3 or more"))
    })?;
    ensure!(site.used()?.is_empty(), "nothing is begun");
    let state = site.cairn.shown_state("large")?;
    ensure!(state != "archived", "{state}");
    // As many as were asked for, and it goes on by itself.
    for barcode in ["ADD001L8", "ADD002L8", "ADD003L8"] {
        site.cairn.cairn(["tape", "label", barcode])?;
    }
    site.cairn.archive("large")?;
    ensure!(site.cairn.shown_state("large")? == "archived");
    ensure!(site.used()?.len() >= 4, "{:?}", site.used()?);
    site.cairn.down()
}

/// A `cairn` command that nobody waits for; it ends with the test.
struct Background(std::process::Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_kill_leaves_between_two_parts_goes_and_the_file_is_whole() -> Result<()> {
    needs_mounts!();
    let settings = "keep-deleted = \"0s\"\nscan-every = \"1s\"\ncollect-every = \"0s\"\ndelete-delay = \"0s\"\n";
    let mut site = Site::new(30, settings)?;
    site.cairn.up()?;
    let large = tree::bytes(1, LARGE);
    fs::write(site.cairn.at("large"), &large)?;
    let path = site.cairn.at("large").to_string_lossy().into_owned();
    // Only the first rounds can strike: what was accepted goes on by itself.
    for round in 0..4 {
        let mut command = Command::new(crate::rig::program());
        command.args(["archive", "--wait", &path]);
        command.env("CAIRN_SOCKET", site.cairn.state.join("run/control.sock"));
        let nowhere = std::process::Stdio::null;
        command.stdin(nowhere()).stdout(nowhere()).stderr(nowhere());
        let mut run = Background(command.spawn()?);
        // Until so many parts are on cartridges; or it was done before.
        for _ in 0..2000 {
            if site.begun()? > round || run.0.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        site.cairn.kill()?;
        drop(run);
        site.cairn.up()?;
    }
    site.cairn.archive("large")?;
    site.cairn.release("large")?;
    site.reads("large", &large)?;
    eprintln!("{} bytes are alive of {LARGE}", site.alive()?);
    wait_for("what is nobody's to go", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        Ok(site.alive()? < (LARGE as u64) + (1 << 20))
    })?;
    site.reads("large", &large)?;
    site.cairn.down()
}
