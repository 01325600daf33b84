//! What the users' files must hold: one content for each name, and for what a fault cut short,
//! those that it may have left.

use crate::rig::tree::bytes;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::sync::Arc;

pub(crate) type Content = Arc<Vec<u8>>;

/// What a name may hold.
#[derive(Debug, Clone)]
pub(crate) enum May {
    /// Exactly this.
    Be(Content),
    /// A beginning of this: its writing was cut short.
    Begin(Content),
    /// Nothing: no such name.
    Miss,
}

/// One of the ways in which a change may have ended: names with what they hold then.
pub(crate) type Ending = Vec<(&'static str, May)>;

/// All users' files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reference {
    pub(crate) files: BTreeMap<String, Content>,
    /// Changes of which it is not known how they ended.
    pub(crate) doubts: Vec<Vec<Ending>>,
}

const PLAIN: [(&str, usize); 7] = [
    ("small/1", 500),
    ("small/2", 5000),
    ("small/3", 20_000),
    ("empty", 0),
    ("70k", 70_000),
    ("100k", 100_001),
    ("large", 3 << 20),
];

/// Fills an empty directory.
pub(crate) fn fill(root: &Path) -> Result<Reference> {
    let mut files = BTreeMap::new();
    fs::create_dir(root.join("small"))?;
    for (n, (name, len)) in PLAIN.into_iter().enumerate() {
        let content = bytes(n as u64 + 1, len);
        fs::write(root.join(name), &content)?;
        files.insert(name.to_owned(), Arc::new(content));
    }
    let sparse = File::create(root.join("sparse"))?;
    sparse.set_len(4 << 20)?;
    sparse.write_all_at(&bytes(20, 90_000), 1 << 20)?;
    sparse.write_all_at(&bytes(21, 50_000), 3 << 20)?;
    files.insert(
        "sparse".to_owned(),
        Arc::new(fs::read(root.join("sparse"))?),
    );
    fs::hard_link(root.join("100k"), root.join("small/linked"))?;
    files.insert("small/linked".to_owned(), Arc::clone(&files["100k"]));
    symlink("large", root.join("symlink"))?;
    files.insert("symlink".to_owned(), Arc::clone(&files["large"]));
    Ok(Reference {
        files,
        doubts: Vec::new(),
    })
}

/// What is there: all files below `root`, by their names.
pub(crate) fn look(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found)?;
    Ok(found)
}

fn walk(root: &Path, at: &Path, found: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(at).with_context(|| at.display().to_string())? {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            walk(root, &path, found)?;
            continue;
        }
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        let content = fs::read(&path).with_context(|| format!("read {name}"))?;
        found.insert(name, content);
    }
    Ok(())
}

impl Reference {
    /// A change that was asked for: `done` if it was answered with success and synced.
    pub(crate) fn change(&mut self, done: bool, end: Ending, otherwise: Vec<Ending>) {
        let before = end
            .iter()
            .map(|(name, _)| (*name, self.now(name)))
            .collect();
        if done {
            self.settle(&end);
        } else {
            for (name, _) in &end {
                self.files.remove(*name);
            }
            self.doubts.push([vec![before, end], otherwise].concat());
        }
    }

    /// Names of which it is not known how their change ended.
    pub(crate) fn doubtful(&self) -> BTreeSet<String> {
        let all = self.doubts.iter().flatten().flatten();
        all.map(|(name, _)| (*name).to_owned()).collect()
    }

    fn now(&self, name: &str) -> May {
        self.files
            .get(name)
            .map_or(May::Miss, |c| May::Be(Arc::clone(c)))
    }

    fn settle(&mut self, end: &Ending) {
        for (name, may) in end {
            match may {
                May::Be(content) => self.files.insert((*name).to_owned(), Arc::clone(content)),
                May::Begin(_) | May::Miss => self.files.remove(*name),
            };
        }
    }

    /// Compares with what is there; what was in doubt is from now on what was found.
    pub(crate) fn compare(&mut self, found: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        for doubt in std::mem::take(&mut self.doubts) {
            let fits = |e: &&Ending| e.iter().all(|(name, may)| holds(may, found.get(*name)));
            let Some(ending) = doubt.iter().find(fits) else {
                let names: Vec<_> = doubt.iter().flatten().map(|(n, _)| *n).collect();
                let lens: Vec<_> = names.iter().map(|n| found.get(*n).map(Vec::len)).collect();
                bail!("{names:?} (of {lens:?} bytes) hold what no end of their change explains");
            };
            for (name, _) in ending {
                if let Some(there) = found.get(*name) {
                    let content = Arc::new(there.clone());
                    self.files.insert((*name).to_owned(), content);
                }
            }
        }
        let want: BTreeSet<_> = self.files.keys().collect();
        let have: BTreeSet<_> = found.keys().collect();
        ensure!(
            want == have,
            "names differ: {:?}",
            want.symmetric_difference(&have).collect::<Vec<_>>()
        );
        for (name, content) in &self.files {
            same(name, content, &found[name])?;
        }
        Ok(())
    }
}

fn holds(may: &May, found: Option<&Vec<u8>>) -> bool {
    match (may, found) {
        (May::Miss, None) => true,
        (May::Be(content), Some(there)) => **content == *there,
        (May::Begin(content), Some(there)) => content.starts_with(there),
        (May::Miss, Some(_)) | (May::Be(_) | May::Begin(_), None) => false,
    }
}

/// Are these the bytes of the file?
pub(crate) fn same(name: &str, want: &[u8], have: &[u8]) -> Result<()> {
    ensure!(
        want.len() == have.len(),
        "WRONG {name}: {} bytes, not {}",
        have.len(),
        want.len()
    );
    if let Some(at) = want.iter().zip(have).position(|(a, b)| a != b) {
        let zeros = have[at..].iter().take_while(|b| **b == 0).count();
        bail!("WRONG {name}: other bytes from {at} on, where {zeros} zeros stand");
    }
    Ok(())
}
