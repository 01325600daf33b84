//! One thread of users: it works in a directory of its own and knows what must be in it.

use crate::model::{Entry, Model, Pending};
use crate::random::Random;
use crate::rig::tree::bytes;
use crate::tally::Tally;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Files that a directory may have before some go.
const MANY: usize = 14;

pub(crate) struct Writer {
    dir: PathBuf,
    pub(crate) model: Model,
    random: Random,
    names: u64,
    backing_is_dead: Arc<AtomicBool>,
    pub(crate) tally: Tally,
}

impl Writer {
    pub(crate) fn new(dir: PathBuf, random: Random) -> Self {
        Self {
            dir,
            model: Model::default(),
            random,
            names: 0,
            backing_is_dead: Arc::default(),
            tally: Tally::default(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Works until told to stop. What fails after that is the stop's doing and stays pending.
    ///
    /// `dead`: nothing is synced to the backing any more, whatever is said.
    ///
    /// # Errors
    /// What failed, or read wrong, before the stop.
    pub(crate) fn work(&mut self, stop: &AtomicBool, dead: &Arc<AtomicBool>) -> Result<()> {
        self.backing_is_dead = Arc::clone(dead);
        while !stop.load(Ordering::SeqCst) {
            // Users think, too; and a file that never rests is never archived.
            std::thread::sleep(Duration::from_millis(self.random.below(25)));
            let done = self.step();
            if done.is_err() && !stop.load(Ordering::SeqCst) {
                return done.with_context(|| {
                    format!("{:?} in {}", self.model.pending, self.dir.display())
                });
            }
            if done.is_err() {
                return Ok(());
            }
            self.tally.operations += 1;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        let many = self.model.files.len();
        if many == 0 {
            return self.create();
        }
        match self.random.below(100) {
            0..18 if many < MANY => self.create(),
            0..32 => self.change(),
            32..36 => self.resize(),
            36..42 => self.rename(),
            42..48 => self.unlink(),
            48..54 if many >= MANY => self.unlink(),
            _ => self.read(),
        }
    }

    /// Any file.
    fn any(&mut self) -> Result<(String, Entry)> {
        self.pick(self.model.files.len())
    }

    /// A file of the older third: these change, the others mostly rest.
    fn hot(&mut self) -> Result<(String, Entry)> {
        self.pick(self.model.files.len().div_ceil(3))
    }

    fn pick(&mut self, among: usize) -> Result<(String, Entry)> {
        let among = if self.random.chance(10) {
            self.model.files.len()
        } else {
            among
        };
        let at = self.random.below(among.max(1) as u64) as usize;
        let (name, entry) = self.model.files.iter().nth(at).context("there are files")?;
        Ok((name.clone(), entry.clone()))
    }

    fn fresh(&mut self) -> String {
        self.names += 1;
        format!("f{:05}", self.names)
    }

    fn length(&mut self) -> usize {
        let len = match self.random.below(10) {
            0 | 1 => 1 + self.random.below(60_000),
            9 => 1_000_000 + self.random.below(2_500_000),
            _ => 65_536 + self.random.below(300_000),
        };
        len as usize
    }

    fn create(&mut self) -> Result<()> {
        let name = self.fresh();
        let content = bytes(self.random.next(), self.length());
        self.model.pending = Some(Pending::Write { name: name.clone() });
        let file = File::create_new(self.dir.join(&name)).context("create")?;
        file.write_all_at(&content, 0).context("write")?;
        let entry = Entry {
            content: Arc::new(content),
            mtime: None,
            data_synced: false,
            name_synced: false,
        };
        self.settle(&name, entry, &file)
    }

    fn change(&mut self) -> Result<()> {
        let (name, mut entry) = self.hot()?;
        let mut content = entry.content.to_vec();
        let at = self.random.below(content.len() as u64 + 1) as usize;
        let len = 1 + self.random.below(100_000) as usize;
        let piece = bytes(self.random.next(), len);
        if content.len() < at + len {
            content.resize(at + len, 0);
        }
        content[at..at + len].copy_from_slice(&piece);
        self.model.pending = Some(Pending::Write { name: name.clone() });
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.dir.join(&name))
            .context("open")?;
        file.write_all_at(&piece, at as u64).context("write")?;
        entry = Entry {
            content: Arc::new(content),
            mtime: None,
            data_synced: false,
            ..entry
        };
        self.settle(&name, entry, &file)
    }

    /// O_TRUNC and a new content, or another length.
    fn resize(&mut self) -> Result<()> {
        let (name, mut entry) = self.hot()?;
        self.model.pending = Some(Pending::Write { name: name.clone() });
        let path = self.dir.join(&name);
        let (content, file) = if self.random.chance(50) {
            let content = bytes(self.random.next(), self.length());
            let file = File::create(&path).context("truncate")?;
            file.write_all_at(&content, 0).context("write")?;
            (content, file)
        } else {
            let mut content = entry.content.to_vec();
            content.resize(
                self.random.below(content.len() as u64 * 3 / 2 + 1) as usize,
                0,
            );
            let file = File::options().write(true).open(&path).context("open")?;
            file.set_len(content.len() as u64)
                .context("set the length")?;
            (content, file)
        };
        entry = Entry {
            content: Arc::new(content),
            mtime: None,
            data_synced: false,
            ..entry
        };
        self.settle(&name, entry, &file)
    }

    /// The write was answered; mostly it is synced too, file and directory.
    fn settle(&mut self, name: &str, mut entry: Entry, file: &File) -> Result<()> {
        self.model.files.insert(name.to_owned(), entry.clone());
        self.model.pending = None;
        match self.random.below(10) {
            0 => return Ok(()),
            // Not the times: they need not be durable after it.
            1 => {
                file.sync_data().context("fdatasync")?;
                self.answered()?;
            }
            _ => {
                file.sync_all().context("fsync")?;
                self.answered()?;
                let meta = file.metadata().context("stat")?;
                entry.mtime = Some((meta.mtime(), meta.mtime_nsec()));
            }
        }
        entry.data_synced = true;
        self.model.files.insert(name.to_owned(), entry);
        self.sync_directory()
    }

    fn sync_directory(&mut self) -> Result<()> {
        self.directory_to_disk()?;
        self.model.directory_synced();
        Ok(())
    }

    fn directory_to_disk(&self) -> Result<()> {
        File::open(&self.dir)
            .and_then(|d| d.sync_all())
            .context("sync the directory")?;
        self.answered()
    }

    /// A sync counts if it was answered before the backing's power went. Power that is lost answers
    /// nothing more; a filesystem that was told to shut down may: docs/faults.md.
    fn answered(&self) -> Result<()> {
        ensure!(
            !self.backing_is_dead.load(Ordering::SeqCst),
            "it was answered after the power had gone"
        );
        Ok(())
    }

    fn rename(&mut self) -> Result<()> {
        let (from, mut entry) = self.hot()?;
        let to = if self.random.chance(50) {
            self.hot()?.0
        } else {
            self.fresh()
        };
        if from == to {
            return Ok(());
        }
        self.model.pending = Some(Pending::Rename {
            from: from.clone(),
            to: to.clone(),
        });
        fs::rename(self.dir.join(&from), self.dir.join(&to)).context("rename")?;
        let synced = self.random.chance(80);
        if synced {
            self.directory_to_disk()?;
        }
        self.model.pending = None;
        self.model.files.remove(&from);
        entry.name_synced = false;
        self.model.files.insert(to.clone(), entry);
        self.model.ghosts.extend([from, to]);
        if synced {
            self.model.directory_synced();
        }
        Ok(())
    }

    fn unlink(&mut self) -> Result<()> {
        let (name, _) = self.hot()?;
        self.model.pending = Some(Pending::Unlink { name: name.clone() });
        fs::remove_file(self.dir.join(&name)).context("unlink")?;
        self.model.pending = None;
        self.model.files.remove(&name);
        self.model.ghosts.insert(name);
        if self.random.chance(70) {
            self.sync_directory()
        } else {
            Ok(())
        }
    }

    fn read(&mut self) -> Result<()> {
        let (name, entry) = self.any()?;
        let file = File::open(self.dir.join(&name)).context("open")?;
        let mut state = vec![0_u8; 256];
        let released = rustix::fs::fgetxattr(&file, "user.cairn.state", &mut state[..])
            .is_ok_and(|len| String::from_utf8_lossy(&state[..len]).contains("released"));
        let len = entry.content.len();
        let at = self.random.below(len as u64 + 1) as usize;
        let many = if self.random.chance(50) {
            len - at
        } else {
            (len - at).min(4096)
        };
        let mut piece = vec![0; many];
        file.read_exact_at(&mut piece, at as u64)
            .with_context(|| format!("read {name}"))?;
        ensure!(
            piece == entry.content[at..at + many],
            "{name} read wrong at {at}, {many} bytes"
        );
        self.tally.read += 1;
        self.tally.recalls += u64::from(released);
        Ok(())
    }
}
