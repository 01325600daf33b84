//! Tape libraries under a mount: cartridges that are emptied while the instance is killed, archives to
//! tape that are, and everything lost but the cartridges.
//!
//! `CAIRN_TEST_TAPE_KILLS` says how many kills each of the first two strikes; few if it is not set.

use crate::needs_mounts;
use crate::rig::{Instance, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How many kills strike.
fn kills() -> u64 {
    let told = std::env::var("CAIRN_TEST_TAPE_KILLS").ok();
    told.and_then(|n| n.parse().ok()).unwrap_or(4)
}

struct Site {
    cairn: Instance,
    /// The library's directory.
    root: PathBuf,
}

impl Site {
    fn new(options: &str) -> Result<Self> {
        let mut cairn = Instance::new(None)?;
        let config = cairn.dir.path().join("cairn.toml");
        let settings = "collect-every = \"1d\"\ndelete-delay = \"1s\"\nsnapshot-every = \"0s\"\n\
                        scan-every = \"0s\"\nscrub-every = \"0s\"\nheal = false\n";
        fs::write(&config, settings)?;
        let config = config.to_string_lossy().into_owned();
        cairn.args.extend(["--config".to_owned(), config]);
        let root = cairn.dir.path().join("library");
        let url = format!("vault=tape:{}?{options}", root.display());
        cairn.args.extend(["--tier".to_owned(), url]);
        Ok(Self { cairn, root })
    }

    /// The library as the instance shows it.
    fn cartridges(&self) -> Result<Vec<Value>> {
        let list = self.cairn.cairn(["tape", "list", "--json"])?;
        self::cartridges(&list)
    }

    /// The same while nothing uses it.
    fn direct(&self, args: &[&str]) -> Result<String> {
        let url = format!("tape:{}", self.root.display());
        let args = ["tape"].iter().chain(args).copied();
        self.cairn.cairn(args.chain(["--tier", &url]))
    }

    fn images(&self) -> PathBuf {
        self.root.join("cartridges")
    }

    /// A `cairn` command that nobody waits for.
    fn begin(&self, args: &[&str]) -> Result<Background> {
        let mut command = Command::new(program());
        command.args(args);
        command.env("CAIRN_SOCKET", self.cairn.state.join("run/control.sock"));
        let nowhere = [Stdio::null(), Stdio::null(), Stdio::null()];
        let [a, b, c] = nowhere;
        Ok(Background(command.stdin(a).stdout(b).stderr(c).spawn()?))
    }
}

/// Ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cartridges(list: &str) -> Result<Vec<Value>> {
    let list: Value = serde_json::from_str(list)?;
    ensure!(list["schema"] == "cairn.tapes.v1", "{list}");
    let all = list["libraries"][0]["cartridges"].as_array();
    Ok(all.context("cartridges")?.clone())
}

fn is(cartridge: &Value, word: &str) -> bool {
    let words = cartridge["state"].as_array();
    words.is_some_and(|words| words.iter().any(|w| w == word))
}

fn live(cartridge: &Value) -> u64 {
    cartridge["live"].as_u64().unwrap_or(0)
}

fn barcode(cartridge: &Value) -> Result<&str> {
    cartridge["barcode"].as_str().context("barcode")
}

fn data(seed: u64) -> Vec<u8> {
    tree::bytes(seed, 400_000 + 1000 * seed as usize)
}

/// Every file of these is there, whole.
fn reads(cairn: &Instance, seeds: impl Iterator<Item = u64>) -> Result<()> {
    cairn.cold()?;
    for seed in seeds {
        let name = format!("d/f{seed}");
        let found =
            fs::read(cairn.at(&name)).with_context(|| format!("{name}\n{}", cairn.log()))?;
        ensure!(found == data(seed), "{name}: other bytes\n{}", cairn.log());
    }
    Ok(())
}

/// Takes all archives out of all images, and has standard tar read each; how many there are.
fn read_by_tar(images: &Path, into: &Path) -> Result<usize> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tap_files.py");
    let mut archives = 0;
    for image in fs::read_dir(images)? {
        let image = image?.path();
        let out = into.join(image.file_stem().context("a name")?);
        fs::create_dir_all(&out)?;
        let done = Command::new("python3")
            .arg(&script)
            .args([&image, &out])
            .output()?;
        ensure!(done.status.success(), "{}: {done:?}", image.display());
        for archive in fs::read_dir(&out)? {
            let archive = archive?.path();
            let done = Command::new("tar").arg("-tvf").arg(&archive).output()?;
            let whole = done.status.success() && done.stderr.is_empty();
            ensure!(whole, "{}: {done:?}", archive.display());
            archives += 1;
        }
    }
    Ok(archives)
}

/// A file that takes a while to be written to a cartridge.
const LARGE: usize = 12 << 20;

/// Bytes of all images.
fn bytes_of(images: &Path) -> Result<u64> {
    let sizes = fs::read_dir(images)?.map(|image| Ok(image?.metadata()?.len()));
    sizes.sum()
}

/// Images that go on behind the tape mark of their last closing labels that count, and how far.
fn torn(images: &Path) -> Result<BTreeMap<PathBuf, usize>> {
    let mut torn = BTreeMap::new();
    for image in fs::read_dir(images)? {
        let path = image?.path();
        let image = fs::read(&path)?;
        let last = image.windows(4).rposition(|w| w == b"UTL1");
        let end = last.map_or(88, |at| at + 80 + 4);
        if image.get(end..).is_some_and(|rest| rest.len() > 4) {
            torn.insert(path, image.len());
        }
    }
    Ok(torn)
}

#[test]
fn a_cartridge_is_emptied_while_the_instance_is_killed_and_nothing_is_lost() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("capacity=12MiB&cartridges=4")?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    const FILES: u64 = 12;
    for seed in 0..FILES {
        fs::write(site.cairn.at(&format!("d/f{seed}")), data(seed))?;
        if seed % 3 == 2 {
            site.cairn.archive("d")?;
        }
    }
    site.cairn.release("d")?;
    let (mut midway, mut freed) = (0, 0);
    for round in 0..kills() {
        let all = site.cartridges()?;
        let fullest = all.iter().filter(|c| live(c) > 0 && !is(c, "repacking"));
        let fullest = fullest.max_by_key(|c| live(c));
        let run = match fullest {
            Some(fullest) => Some(site.begin(&["tape", "repack", barcode(fullest)?])?),
            // What was cut short goes on by itself.
            None => None,
        };
        std::thread::sleep(Duration::from_millis(40 + round * 67 % 500));
        site.cairn.kill()?;
        drop(run);
        let left = self::cartridges(&site.direct(&["list", "--json"])?)?;
        midway += u64::from(left.iter().any(|c| is(c, "repacking") && live(c) > 0));
        ensure!(
            !left.iter().any(|c| is(c, "damaged") || is(c, "unusable")),
            "{left:?}"
        );
        site.cairn.up()?;
        // Some of them, so that the others stay on tape alone.
        reads(&site.cairn, (0..FILES).filter(|seed| seed % 4 == round % 4))?;
        site.cairn.release("d")?;
        freed = site
            .cartridges()?
            .iter()
            .filter_map(|c| c["freed"].as_u64())
            .sum::<u64>();
    }
    ensure!(midway > 0, "no kill struck while a cartridge was emptied");
    // It comes to its end: what was to be emptied is empty when the old objects have gone.
    wait_for("the cartridges to be freed", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        let all = site.cartridges()?;
        Ok(!all.iter().any(|c| is(c, "repacking")))
    })?;
    let all = site.cartridges()?;
    let now: u64 = all.iter().filter_map(|c| c["freed"].as_u64()).sum();
    ensure!(now > 0 && now >= freed, "none was freed: {all:?}");
    reads(&site.cairn, 0..FILES)?;
    let said = site
        .cairn
        .cairn(["verify", "--wait", &site.cairn.at("d").to_string_lossy()]);
    said.context("a copy is bad")?;
    site.cairn.down()?;
    let archives = read_by_tar(&site.images(), &site.cairn.dir.path().join("out"))?;
    ensure!(archives > 0, "no archive is left");
    eprintln!(
        "{} kills, {midway} while a cartridge was emptied, {now} freed",
        kills()
    );
    Ok(())
}

#[test]
fn cartridges_that_are_emptied_at_the_same_time_do_not_wait_for_each_other() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("capacity=12MiB&cartridges=2")?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    let write = |seed| fs::write(site.cairn.at(&format!("d/f{seed}")), data(seed));
    write(0)?;
    site.cairn.archive("d")?;
    // The second goes to the other one.
    let all = site.cartridges()?;
    let first = all.iter().find(|c| live(c) > 0).context("one has it")?;
    site.cairn.cairn(["tape", "retire", barcode(first)?])?;
    write(1)?;
    site.cairn.archive("d")?;
    site.cairn
        .cairn(["tape", "retire", "--undo", barcode(first)?])?;
    site.cairn.release("d")?;
    ensure!(site.cartridges()?.iter().all(|c| live(c) > 0));
    site.cairn.down()?;
    // As kills leave them, each amid a repack of its own.
    let path = site.root.join("library.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let entries = state["cartridges"].as_array_mut().context("cartridges")?;
    for entry in entries {
        entry["repack"] = Value::Bool(true);
    }
    fs::write(&path, serde_json::to_vec(&state)?)?;
    let whole = |all: &[Value]| all.iter().map(live).sum::<u64>();
    let before = whole(&cartridges(&site.direct(&["list", "--json"])?)?);
    site.cairn.up()?;
    wait_for("what is on one to be on the other, too", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        Ok(whole(&site.cartridges()?) > before)
    })?;
    // Nothing goes before a whole scan has found that no file names it: a start after a kill makes one.
    site.cairn.kill()?;
    site.cairn.up()?;
    wait_for("one of them to be freed", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        let all = site.cartridges()?;
        let freed = all.iter().any(|c| c["freed"].as_u64() > Some(0));
        Ok(freed && !all.iter().any(|c| is(c, "repacking")))
    })?;
    reads(&site.cairn, 0..2)
}

#[test]
fn archives_to_tape_are_cut_short_by_kills_and_nothing_is_lost() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("capacity=256MiB&cartridges=8&speed=100")?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    let (mut struck, mut tails, mut rounds, mut left) = (0, 0, 0, BTreeMap::new());
    // Where a kill strikes is chance: more of them, if none struck in the middle of a write.
    while rounds < kills() || (struck == 0 || tails == 0) && rounds < 5 * kills() {
        let begun = bytes_of(&site.images())?;
        fs::write(site.cairn.at(&format!("d/f{rounds}")), data(rounds))?;
        // A cartridge gets an object only when it is whole, and then fast: every other kill waits for
        // that moment, and has a longer write to strike.
        let aimed = rounds % 2 == 1;
        if aimed {
            fs::write(site.cairn.at("d/large"), tree::bytes(rounds, LARGE))?;
        }
        let path = site.cairn.at("d").to_string_lossy().into_owned();
        let mut run = site.begin(&["archive", "--wait", &path])?;
        if aimed {
            let patience = Instant::now() + Duration::from_secs(5);
            while run.0.try_wait()?.is_none()
                && bytes_of(&site.images())? < begun + LARGE as u64 / 8
                && Instant::now() < patience
            {
                std::thread::sleep(Duration::from_micros(200));
            }
        } else {
            std::thread::sleep(Duration::from_millis(20 + rounds * 61 % 400));
        }
        struck += u64::from(run.0.try_wait()?.is_none());
        site.cairn.kill()?;
        drop(run);
        // One that was left by an earlier kill is not counted again.
        let before = std::mem::replace(&mut left, torn(&site.images())?);
        let is_new = |&(image, len): &(&PathBuf, &usize)| before.get(image) != Some(len);
        tails += left.iter().filter(is_new).count();
        let all = self::cartridges(&site.direct(&["list", "--json"])?)?;
        ensure!(
            !all.iter().any(|c| is(c, "damaged") || is(c, "unusable")),
            "{all:?}"
        );
        site.cairn.up()?;
        rounds += 1;
    }
    ensure!(struck > 0, "no kill struck while something was archived");
    ensure!(tails > 0, "no kill struck while a cartridge was written to");
    // The accepted requests go on by themselves; what was never accepted is asked for once more.
    site.cairn.archive("d")?;
    site.cairn.release("d")?;
    reads(&site.cairn, 0..rounds)?;
    let last = (0..rounds).rev().find(|round| round % 2 == 1);
    if let Some(last) = last {
        let large = fs::read(site.cairn.at("d/large")).context("d/large")?;
        ensure!(large == tree::bytes(last, LARGE), "d/large: other bytes");
    }
    let all = site.cartridges()?;
    for cartridge in all.iter().filter(|c| live(c) > 0) {
        site.cairn.cairn(["tape", "verify", barcode(cartridge)?])?;
    }
    site.cairn.down()?;
    let archives = read_by_tar(&site.images(), &site.cairn.dir.path().join("out"))?;
    eprintln!(
        "{rounds} kills, {struck} while something was archived, {tails} torn tails, {archives} whole archives"
    );
    Ok(())
}

#[test]
fn the_cartridges_alone_give_everything_back() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("capacity=8MiB&cartridges=3")?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    const FILES: u64 = 14;
    for seed in 0..FILES {
        fs::write(site.cairn.at(&format!("d/f{seed}")), data(seed))?;
        if seed % 4 == 3 {
            site.cairn.archive("d")?;
        }
    }
    site.cairn.archive("d")?;
    site.cairn.release("d")?;
    site.cairn.down()?;

    let vault = site.cairn.dir.path().join("vault");
    fs::create_dir(&vault)?;
    let to = vault.to_string_lossy().into_owned();
    let before = self::cartridges(&site.direct(&["list", "--json"])?)?;
    for cartridge in &before {
        site.direct(&["export", barcode(cartridge)?, "--to", &to])?;
    }
    fs::remove_file(site.root.join("library.json"))?;
    fs::remove_dir_all(site.root.join("files"))?;
    for name in ["catalog.sqlite", "catalog.sqlite-wal", "catalog.sqlite-shm"] {
        match fs::remove_file(site.cairn.state.join(name)) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why.into()),
            _ => {}
        }
    }
    let mut images = Vec::new();
    for image in fs::read_dir(&vault)? {
        images.push(image?.path().to_string_lossy().into_owned());
    }
    let import: Vec<&str> = ["import"]
        .into_iter()
        .chain(images.iter().map(|i| &**i))
        .collect();
    let said = site.direct(&import)?;
    ensure!(said.lines().count() == before.len(), "{said}");
    let archives = read_by_tar(&site.images(), &site.cairn.dir.path().join("out"))?;
    ensure!(archives >= 4, "{archives}");

    let url = format!("vault=tape:{}", site.root.display());
    let state = site.cairn.state.to_string_lossy().into_owned();
    let backing = site.cairn.backing.to_string_lossy().into_owned();
    let report = site.cairn.cairn([
        "rebuild", "--json", "--from", "tiers", "--state", &state, "--tier", &url, &backing,
    ])?;
    let report: Value = serde_json::from_str(&report)?;
    ensure!(report["complete"] == true, "{report}");
    site.cairn.up()?;
    for seed in 0..FILES {
        let shown = site.cairn.shown_state(&format!("d/f{seed}"))?;
        ensure!(shown == "released", "f{seed} is {shown}");
    }
    reads(&site.cairn, 0..FILES)?;
    site.cairn.down()
}

/// A catalog of yesterday, and a cartridge of today that comes back from elsewhere.
#[test]
fn a_cartridge_that_the_catalog_does_not_know_is_learned_when_it_is_taken_in() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("capacity=8MiB&cartridges=1")?;
    let catalog = site.cairn.state.join("catalog.sqlite");
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    fs::write(site.cairn.at("d/f0"), data(0))?;
    site.cairn.archive("d")?;
    site.cairn.down()?;
    let old = fs::read(&catalog)?;
    site.cairn.up()?;
    let said = site.cairn.cairn(["tape", "label", "VLT777L8"])?;
    ensure!(said.contains("VLT777L8 in slot 2"), "{said}");
    let first = site.cartridges()?;
    let first = barcode(first.iter().find(|c| live(c) > 0).context("used")?)?.to_owned();
    site.cairn.cairn(["tape", "retire", &first])?;
    fs::write(site.cairn.at("d/f1"), data(1))?;
    site.cairn.archive("d")?;
    site.cairn.release("d")?;
    let to = site.cairn.dir.path().join("vault");
    fs::create_dir(&to)?;
    site.cairn
        .cairn(["tape", "export", "VLT777L8", "--to", &to.to_string_lossy()])?;
    // Away: who reads is told which cartridge is asked for.
    let away = site.cartridges()?;
    ensure!(away.iter().any(|c| is(c, "away")), "{away:?}");
    site.cairn.cold()?;
    ensure!(
        fs::read(site.cairn.at("d/f1")).is_err(),
        "read without its cartridge"
    );
    site.cairn.down()?;
    fs::write(&catalog, old)?;
    fs::remove_file(site.root.join("files/VLT777L8.jsonl"))?;
    // Two starts: the second lies above all that was written.
    site.cairn.up()?;
    site.cairn.down()?;
    site.cairn.up()?;
    let image = to.join("VLT777L8.tap").to_string_lossy().into_owned();
    let said = site.cairn.cairn(["tape", "import", &image])?;
    ensure!(
        said.contains("VLT777L8 is in the library: 1 files"),
        "{said}"
    );
    wait_for("the catalog to know it", || {
        let tiers: Value = serde_json::from_str(&site.cairn.cairn(["tier", "list", "--json"])?)?;
        let tier = &tiers["tiers"][0];
        let known = [&tier["ordinary"], &tier["quarantined"]].map(|c| c["objects"].as_u64());
        Ok(known.iter().flatten().sum::<u64>() == 2)
    })?;
    reads(&site.cairn, 0..2)?;
    site.cairn.down()
}

#[test]
fn a_bad_cartridge_is_found_told_and_its_copies_with_it() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("capacity=8MiB&cartridges=2")?;
    site.cairn.up()?;
    fs::create_dir(site.cairn.at("d"))?;
    fs::write(site.cairn.at("d/f0"), data(0))?;
    site.cairn.archive("d")?;
    let all = site.cartridges()?;
    let used = barcode(all.iter().find(|c| live(c) > 0).context("used")?)?.to_owned();
    let good = site.cairn.cairn(["tape", "verify", &used])?;
    ensure!(
        good.contains("1 file read") && good.contains("0 bad"),
        "{good}"
    );
    site.cairn.down()?;
    let path = site.images().join(format!("{used}.tap"));
    let mut image =
        cairn::tier::tape::image::Image::open(&path, cairn::tier::tape::image::Access::Write)?;
    // The first block of the first file.
    image.spoil(5)?;
    drop(image);
    site.cairn.up()?;
    let verify = site.cairn.run(["tape", "verify", &used, "--json"])?;
    ensure!(verify.status.code() == Some(1), "{verify:?}");
    let run: Value = serde_json::from_slice(&verify.stdout)?;
    let bad = run["trouble"].as_array().context("trouble")?;
    ensure!(bad.len() == 1 && run["bad_copies"] == 1, "{run}");
    let status: Value = serde_json::from_str(&site.cairn.cairn(["status", "--json"])?)?;
    let warnings = status["warnings"].as_array().context("warnings")?;
    ensure!(
        warnings.iter().any(|w| w["code"] == "tape-cartridge"),
        "{status}"
    );
    ensure!(status["copies"]["bad"] == 1, "{status}");
    // As a picture, and after a start.
    site.cairn.down()?;
    let svg = site.cairn.dir.path().join("tape.svg");
    let shown = site.direct(&["show", &used, "--map", "--svg", &svg.to_string_lossy()])?;
    ensure!(shown.contains('!'), "{shown}");
    let svg = fs::read_to_string(svg)?;
    ensure!(
        svg.contains("<rect class=\"bad\"") && svg.ends_with("</svg>\n"),
        "{svg}"
    );
    Ok(())
}
