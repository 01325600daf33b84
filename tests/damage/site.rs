//! An instance whose files are released, half of them with a second copy, and what it shows after a
//! damage.
//!
//! Invariant of the harness: what a damage took that nothing can heal is put back before the next.

use crate::random::Random;
use crate::rig::{Instance, tree, wait_for};
use crate::targets::{Part, Target};
use anyhow::{Context, Result, bail, ensure};
use cairn::format::aggregate::{Index, IndexEntry, Trailer, decode_index, decode_trailer};
use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

pub(crate) const RECORD: &str = "trusted.cairn.record";
/// Files with one copy, and with two.
const FILES: u64 = 6;

/// What was seen after a damage.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The instance did not start, and said what to do.
    pub(crate) refused: bool,
    /// Reading all files told of it: by an error, or in the audit log.
    pub(crate) told_by_reads: bool,
    /// Verifying all copies did.
    pub(crate) told_by_verify: bool,
    /// Copies that were made again.
    pub(crate) healed: u64,
    /// Files that could not be read.
    pub(crate) errors: Vec<String>,
    /// Files that read as something else than was written.
    pub(crate) wrong: Vec<String>,
}

impl Seen {
    pub(crate) fn is_detected(&self) -> bool {
        self.refused || self.told_by_reads || self.told_by_verify
    }
}

/// Bytes of a file before it was damaged.
struct Before(PathBuf, Vec<u8>);

impl Before {
    fn of(path: &Path) -> Result<Self> {
        Ok(Self(path.to_owned(), fs::read(path)?))
    }
    fn put_back(&self) -> Result<()> {
        Ok(fs::write(&self.0, &self.1)?)
    }
}

pub(crate) struct Site {
    cairn: Instance,
    other: PathBuf,
    files: BTreeMap<String, Vec<u8>>,
}

impl Site {
    pub(crate) fn new() -> Result<Self> {
        let mut cairn = Instance::new(None)?;
        let other = cairn.dir.path().join("other");
        fs::create_dir(&other)?;
        let config = cairn.dir.path().join("cairn.toml");
        fs::write(
            &config,
            "min-residency = \"0s\"\nrelease-min-size = 4096\nscrub-every = \"0s\"\n",
        )?;
        let policy = cairn.dir.path().join("none.policy");
        fs::write(&policy, "rule archive none\n  never\n")?;
        cairn.args = vec!["--config".into(), config.display().to_string()];
        cairn
            .args
            .extend(["--policy".into(), policy.display().to_string()]);
        for (name, at) in [("a", &cairn.tier), ("b", &other)] {
            let url = format!("{name}=dir:{}", at.display());
            cairn.args.extend(["--tier".into(), url]);
        }
        cairn.up()?;
        let mut files = BTreeMap::new();
        for dir in ["single", "double"] {
            fs::create_dir(cairn.at(dir))?;
            for n in 0..FILES {
                let name = format!("{dir}/f{n}");
                let len = if n == 0 { 3 << 20 } else { 20_000 + 7777 * n };
                let data = tree::bytes(n + 10 * len, len as usize);
                fs::write(cairn.at(&name), &data)?;
                files.insert(name, data);
            }
        }
        let site = Self {
            cairn,
            other,
            files,
        };
        let archive = |tier: &str, name: &str| {
            let path = site.cairn.at(name);
            let args = ["archive", "--wait", "--tier", tier].map(OsStr::new);
            site.cairn.cairn(args.into_iter().chain([path.as_os_str()]))
        };
        archive("a", "single")?;
        archive("a", "double")?;
        archive("b", "double")?;
        site.release()?;
        Ok(site)
    }

    pub(crate) fn log(&self) -> String {
        self.cairn.log()
    }

    pub(crate) fn down(&mut self) -> Result<()> {
        self.cairn.down()
    }

    /// All files are released, with nothing of them in memory.
    fn release(&self) -> Result<()> {
        for dir in ["single", "double"] {
            // What cannot be proven stays: that is no matter here.
            let path = self.cairn.at(dir);
            let args = ["release", "--wait", "--quiet"].map(OsStr::new);
            self.cairn.run(args.into_iter().chain([path.as_os_str()]))?;
        }
        self.cairn.cold()
    }

    fn audit(&self) -> Result<Vec<serde_json::Value>> {
        let text = fs::read_to_string(self.cairn.state.join("audit.jsonl"))?;
        text.lines()
            .map(|line| Ok(serde_json::from_str(line)?))
            .collect()
    }

    fn told(&self, action: &str) -> Result<usize> {
        Ok(self
            .audit()?
            .iter()
            .filter(|e| e["action"] == action)
            .count())
    }

    /// Reads every file through the mount, and then every copy.
    pub(crate) fn look(&mut self) -> Result<Seen> {
        let mut seen = Seen::default();
        let (bad, healed) = (self.told("bad copy")?, self.told("healed")?);
        for (name, data) in &self.files {
            match fs::read(self.cairn.at(name)) {
                Ok(read) if read == *data => {}
                Ok(_) => seen.wrong.push(name.clone()),
                Err(_) => seen.errors.push(name.clone()),
            }
        }
        seen.told_by_reads = !seen.errors.is_empty() || self.told("bad copy")? > bad;
        let verified = self.cairn.run(["verify", "--all", "--wait", "--quiet"])?;
        seen.told_by_verify = self.told("bad copy")? > bad;
        let said = String::from_utf8_lossy(&verified.stderr);
        if said.contains("the catalog's file is damaged") {
            // Nothing that is written in it may ever end; the way out is told.
            ensure!(said.contains("cairn rebuild"), "it says no way out: {said}");
            seen.told_by_verify = true;
            return Ok(seen);
        }
        self.settle()?;
        seen.healed = (self.told("healed")? - healed) as u64;
        Ok(seen)
    }

    fn status(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(
            &self.cairn.cairn(["status", "--json"])?,
        )?)
    }

    /// Waits until bad copies are made again wherever that can be done.
    fn settle(&self) -> Result<()> {
        wait_for("bad copies to be healed", || {
            let status = self.status()?;
            let hopeless = |t: &serde_json::Value| {
                let path = t["path"].as_str().unwrap_or_default();
                t["state"] == "bad copy" && !path.starts_with("single/")
            };
            let troubled = status["troubled"].as_array().cloned().unwrap_or_default();
            Ok(!troubled.iter().any(hopeless))
        })
    }

    /// Damages, starts again, looks; then everything is as before.
    pub(crate) fn suffer(&mut self, target: Target, random: &mut Random) -> Result<Seen> {
        self.release()?;
        self.cairn.down()?;
        if random.chance(50) || matches!(target.part, Part::Index | Part::Trailer) {
            // What is at hand in the state directory would hide it from reads.
            let _ = fs::remove_dir_all(self.cairn.state.join("indexes"));
        }
        let seen = match target.part {
            Part::Stub => self.stub(target, random),
            Part::Catalog => self.catalog(target, random),
            Part::Kept => self.kept(target, random),
            _ => self.aggregate(target, random),
        };
        seen.with_context(|| format!("{target:?}\n{}", self.log()))
    }

    /// Objects that hold the newest copies of some file, and the members in them.
    fn objects(&self) -> Result<Vec<(PathBuf, Trailer, Index)>> {
        let mut found = Vec::new();
        for root in [&self.cairn.tier, &self.other] {
            for path in walk(&root.join("aggregates"))? {
                let bytes = fs::read(&path)?;
                let Some(end) = bytes.len().checked_sub(512) else {
                    continue;
                };
                let Ok(trailer) = decode_trailer(&bytes[end..], bytes.len() as u64) else {
                    continue;
                };
                let range = trailer.index_offset..trailer.index_offset + trailer.index_len;
                let range = range.start as usize..range.end as usize;
                if let Ok(index) = decode_index(&bytes[range], &trailer)
                    && index.entries.iter().any(has_data)
                {
                    found.push((path, trailer, index));
                }
            }
        }
        found.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(found)
    }

    /// Those that some stub names: the others' bytes nobody reads any more.
    fn needed(&self) -> Result<Vec<(PathBuf, Trailer, Index)>> {
        let mut named = Vec::new();
        for name in self.files.keys() {
            named.extend(self.record(name)?.copies);
        }
        let mut objects = self.objects()?;
        objects.retain(|(_, trailer, _)| named.iter().any(|c| c.aggregate == trailer.aggregate));
        Ok(objects)
    }

    pub(crate) fn record(&self, name: &str) -> Result<cairn::format::record::Record> {
        let bytes = xattr(&self.cairn.below(name))?;
        Ok(cairn::format::record::Record::decode(&bytes)?)
    }

    fn aggregate(&mut self, target: Target, random: &mut Random) -> Result<Seen> {
        let objects = self.needed()?;
        let at = random.below(objects.len() as u64) as usize;
        let (path, trailer, index) = objects.get(at).context("no object")?;
        // Only what stubs name: a copy that was made again elsewhere is nobody's.
        let mut live = Vec::new();
        for name in self.files.keys() {
            for copy in self.record(name)?.copies {
                let here = |e: &&IndexEntry| e.header == copy.header && has_data(e);
                if copy.aggregate == trailer.aggregate {
                    live.extend(index.entries.iter().find(here));
                }
            }
        }
        let entry = *live
            .get(random.below(live.len().max(1) as u64) as usize)
            .context("no live member")?;
        let range = match target.part {
            Part::Data => entry.data..entry.data + entry.stored_len(),
            Part::Headers => entry.header..entry.data,
            Part::Index => trailer.index_offset..trailer.index_offset + trailer.index_len,
            Part::Trailer => trailer.total_len - 512..trailer.total_len,
            _ => 0..trailer.total_len,
        };
        let before = Before::of(path)?;
        damage(path, range, target.cut, random)?;
        self.cairn.up()?;
        let seen = self.look()?;
        self.cairn.down()?;
        before.put_back()?;
        self.cairn.up()?;
        // A copy that could not be made again is good again, once it was read.
        self.cairn.run(["verify", "--all", "--wait", "--quiet"])?;
        ensure!(
            self.status()?["copies"]["bad"] == 0,
            "not as before: {}",
            self.status()?
        );
        Ok(seen)
    }

    fn stub(&mut self, target: Target, random: &mut Random) -> Result<Seen> {
        let names: Vec<_> = self.files.keys().cloned().collect();
        let name = &names[random.below(names.len() as u64) as usize];
        let path = self.cairn.below(name);
        let good = xattr(&path)?;
        let mut bad = good.clone();
        let at = random.below(good.len() as u64) as usize;
        if target.cut {
            bad.truncate(at);
        } else {
            bad[at] ^= 1 << random.below(8);
        }
        lsetxattr(&path, RECORD, &bad, XattrFlags::REPLACE)?;
        self.cairn.up()?;
        let seen = self.look()?;
        ensure!(seen.errors.iter().all(|n| n == name), "{seen:?} of {name}");
        self.cairn.down()?;
        lsetxattr(&path, RECORD, &good, XattrFlags::empty())?;
        self.cairn.up()?;
        let read = fs::read(self.cairn.at(name)).with_context(|| format!("{name}, put back"))?;
        ensure!(read == self.files[name], "{name} is not what it was");
        Ok(seen)
    }

    fn kept(&mut self, target: Target, random: &mut Random) -> Result<Seen> {
        // They are there after a start that reads them.
        self.cairn.up()?;
        self.look()?;
        self.release()?;
        self.cairn.down()?;
        let kept = walk(&self.cairn.state.join("indexes"))?;
        let path = kept
            .get(random.below(kept.len().max(1) as u64) as usize)
            .context("no index is kept")?;
        let len = fs::metadata(path)?.len();
        damage(path, 0..len, target.cut, random)?;
        self.cairn.up()?;
        self.look()
    }

    fn catalog(&mut self, target: Target, random: &mut Random) -> Result<Seen> {
        let files: Vec<_> = ["", "-wal", "-shm"]
            .iter()
            .map(|end| self.cairn.state.join(format!("catalog.sqlite{end}")))
            .collect();
        let before: Vec<_> = files.iter().filter_map(|f| Before::of(f).ok()).collect();
        let (stubs, objects) = (self.stubs()?, self.tiers()?);
        let len = fs::metadata(&files[0])?.len();
        damage(&files[0], 0..len, target.cut, random)?;
        let log = self.log().len();
        let seen = match self.cairn.up() {
            Ok(()) => {
                let seen = self.look();
                // It may be too damaged to stop in good order.
                if self.cairn.down().is_err() {
                    self.cairn.kill()?;
                }
                seen?
            }
            Err(_) => {
                let said = self.log()[log..].to_owned();
                ensure!(said.contains("cairn rebuild"), "it says no way out: {said}");
                ensure!(self.stubs()? == stubs, "stubs were touched");
                ensure!(self.tiers()? == objects, "a tier was touched");
                Seen {
                    refused: true,
                    ..Seen::default()
                }
            }
        };
        for file in &files {
            let _ = fs::remove_file(file);
        }
        before.iter().try_for_each(Before::put_back)?;
        self.cairn.up()?;
        Ok(seen)
    }

    /// Every file's record.
    fn stubs(&self) -> Result<Vec<Vec<u8>>> {
        let each = self.files.keys().map(|name| xattr(&self.cairn.below(name)));
        each.collect()
    }

    /// Every object with its bytes.
    fn tiers(&self) -> Result<Vec<(PathBuf, u64)>> {
        let mut found = Vec::new();
        for root in [&self.cairn.tier, &self.other] {
            for path in walk(&root.join("aggregates"))? {
                let len = fs::metadata(&path)?.len();
                found.push((path, len));
            }
        }
        Ok(found)
    }

    /// Changes a file's data on its tier, and makes all sums fit. Its name.
    pub(crate) fn forge(&mut self) -> Result<String> {
        self.cairn.down()?;
        let _ = fs::remove_dir_all(self.cairn.state.join("indexes"));
        let name = "single/f1".to_owned();
        let record = self.record(&name)?;
        let copy = *record.copies.first().context("a copy")?;
        let objects = self.objects()?;
        let (path, trailer, index) = objects
            .iter()
            .find(|(_, trailer, _)| trailer.aggregate == copy.aggregate)
            .context("its object")?;
        let forged = crate::forged::forge(path, trailer, index, copy.header)?;
        let record = cairn::format::record::Record {
            crc: forged.0,
            blocks_crc: forged.1,
            ..record
        };
        let bytes = record.encode();
        lsetxattr(self.cairn.below(&name), RECORD, &bytes, XattrFlags::REPLACE)?;
        self.cairn.up()?;
        Ok(name)
    }
}

pub(crate) fn has_data(entry: &IndexEntry) -> bool {
    entry.stored_len() > 0
}

fn xattr(path: &Path) -> Result<Vec<u8>> {
    let mut buffer = [0_u8; 512];
    let len = lgetxattr(path, RECORD, &mut buffer[..])?;
    Ok(buffer[..len].to_vec())
}

/// Regular files below a directory, sorted.
fn walk(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(found);
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(walk(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Flips a bit within the range, or cuts the file there.
fn damage(path: &Path, range: std::ops::Range<u64>, cut: bool, random: &mut Random) -> Result<()> {
    if range.is_empty() {
        bail!("nothing to damage in {}", path.display());
    }
    let at = range.start + random.below(range.end - range.start);
    let file = File::options().read(true).write(true).open(path)?;
    if cut {
        return Ok(file.set_len(at)?);
    }
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 1 << random.below(8);
    Ok(file.write_all_at(&byte, at)?)
}
