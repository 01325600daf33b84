//! What is to be copied, as parcels: computed and shown before anything moves.
//!
//! Promises: a name is in one parcel, once; directories come after all that lies in them, the deepest first, so that
//! their times and modes are what they were.

use crate::client::ClientError;
use crate::parcel::{
    ALONE, Contents, Entry, Found, Kind, Layout, Packing, Tail, Time, Tree, Want, is_on_its_way,
};
use crate::server::wire::{EntryKind, EntryView, GivenPath, Problem};
use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

/// Small files are put together up to so many bytes,
pub(super) const TOGETHER: u64 = 64 << 20;
/// and so many entries.
pub(super) const ENTRIES: usize = 2000;

/// One name to be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// Where it lies here: below the parcel's directory.
    pub local: Vec<u8>,
    /// Where it lies there, and what it is.
    pub remote: EntryView,
    /// What it was when it was looked at (put).
    pub found: Option<Found>,
    /// It is to be another name of what lies here, below the parcel's directory.
    pub name_of: Option<Vec<u8>>,
}

impl Item {
    /// As an entry of a parcel, by the name that it has here.
    #[must_use]
    pub fn entry(&self) -> Entry {
        let target = self
            .remote
            .target
            .as_ref()
            .map(GivenPath::bytes)
            .unwrap_or_default();
        Entry {
            path: self.local.clone(),
            kind: match (&self.name_of, self.remote.kind) {
                (Some(of), _) => Kind::Name {
                    of: of.clone(),
                    size: self.remote.size,
                },
                (None, EntryKind::File) => Kind::File(self.remote.size),
                (None, EntryKind::Directory) => Kind::Directory,
                (None, EntryKind::Symlink) => Kind::Link(target),
            },
            mode: self.remote.mode,
            modified: modified(&self.remote),
        }
    }
}

/// When an entry was changed.
#[must_use]
pub const fn modified(view: &EntryView) -> Time {
    Time {
        seconds: view.mtime_s,
        nanos: view.mtime_ns,
    }
}

/// Some names that go together, below one directory.
#[derive(Debug, Clone)]
pub struct Parcel {
    /// The directory here.
    pub tree: Arc<Tree>,
    /// What.
    pub items: Vec<Item>,
    /// Bytes of it.
    pub bytes: u64,
    /// Its directories get their modes and times; else they are made.
    pub finishes: bool,
    /// It is no files there, but of an archive.
    pub tar: Option<Tar>,
}

impl Parcel {
    /// Is what was moved of it kept, when it breaks off? Of one large file it is, unless it has holes and comes out of an archive.
    pub(super) fn keeps_progress(&self) -> bool {
        let is_kept = match &self.tar {
            None | Some(Tar::Packs(_)) => true,
            Some(Tar::Unpacks(archive, wants)) => match wants.as_slice() {
                [want] => archive
                    .contents
                    .entry(*want)
                    .is_some_and(|entry| matches!(entry.kind, Kind::File(_))),
                _ => false,
            },
            Some(Tar::Reads(..) | Tar::Here) => false,
        };
        is_kept && self.bytes >= ALONE
    }
}

/// What a parcel has to do with an archive there.
#[derive(Debug, Clone)]
pub enum Tar {
    /// Its one item is made of what is packed here.
    Packs(Arc<Packing>),
    /// Its items are these members.
    Unpacks(Arc<Archive>, Vec<Want>),
    /// It is a range of it, for its index.
    Reads(Arc<Tail>, EntryView),
    /// Its items are made here, of what is known.
    Here,
}

/// An archive there, whose index was read.
#[derive(Debug)]
pub struct Archive {
    /// The file.
    pub view: EntryView,
    /// What is in it.
    pub contents: Arc<Contents>,
}

/// What is left out, of names that are there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Skip {
    /// Nothing.
    #[default]
    Nothing,
    /// What is there.
    Present,
    /// What is there and not older.
    NotOlder,
}

impl Skip {
    /// Whether an entry is left out, where that stands in its place.
    #[must_use]
    pub fn leaves_out(self, entry: &EntryView, there: Option<&EntryView>) -> bool {
        match (self, there) {
            (Self::Nothing, _) | (_, None) => false,
            // A directory is never instead of another.
            (_, Some(_)) if entry.kind == EntryKind::Directory => false,
            (Self::Present, Some(_)) => true,
            (Self::NotOlder, Some(there)) => modified(entry) <= modified(there),
        }
    }
}

/// A plan.
#[derive(Debug, Default)]
pub struct Plan {
    /// What is copied first, in any order.
    pub files: Vec<Parcel>,
    /// Further names of them, which come behind.
    pub names: Vec<Parcel>,
    /// What comes last, in this order.
    pub directories: Vec<Parcel>,
    /// Files and links in it.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names that are left out.
    pub skipped: u64,
    /// What could not be looked at.
    pub problems: Vec<Problem>,
    /// What was asked for, as it is called there.
    pub tops: Vec<Vec<u8>>,
    /// What is in it: there, and here.
    named: HashSet<(Vec<u8>, Vec<u8>)>,
}

impl Plan {
    /// A name that no parcel may have, or has already, is a problem, and the others go.
    pub(super) fn can_be(&mut self, item: &Item) -> bool {
        let fault = Layout::new(vec![item.entry()])
            .err()
            .map(|fault| fault.to_string());
        let there = (item.remote.path.bytes(), item.local.clone());
        let fault = fault.or_else(|| {
            (!self.named.insert(there)).then(|| "two things would have this name".to_owned())
        });
        match fault {
            None => true,
            Some(why) => {
                self.problems
                    .push(problem(&item.remote.path.bytes(), "usage", &why));
                false
            }
        }
    }

    /// Adds names below one directory.
    pub fn add(&mut self, tree: &Arc<Tree>, items: Vec<Item>) {
        let items: Vec<Item> = items.into_iter().filter(|item| self.can_be(item)).collect();
        let (mut directories, items): (Vec<_>, Vec<_>) = items
            .into_iter()
            .partition(|item| item.remote.kind == EntryKind::Directory);
        let mut together = Vec::new();
        let mut bytes = 0;
        for item in items {
            let size = item.remote.size;
            self.count += 1;
            self.bytes += size;
            if size >= ALONE {
                self.files.push(parcel(tree, vec![item]));
                continue;
            }
            if !together.is_empty() && (bytes + size > TOGETHER || together.len() >= ENTRIES) {
                self.files.push(parcel(tree, std::mem::take(&mut together)));
                bytes = 0;
            }
            bytes += size;
            together.push(item);
        }
        if !together.is_empty() {
            self.files.push(parcel(tree, together));
        }
        // The deepest first.
        directories.sort_by_key(|item| {
            std::cmp::Reverse(item.local.iter().filter(|b| **b == b'/').count())
        });
        for some in directories.chunks(ENTRIES) {
            self.directories.push(parcel(tree, some.to_vec()));
        }
    }
}

pub(super) fn parcel(tree: &Arc<Tree>, items: Vec<Item>) -> Parcel {
    Parcel {
        tree: Arc::clone(tree),
        bytes: items.iter().map(|item| item.remote.size).sum(),
        items,
        finishes: false,
        tar: None,
    }
}

fn local(step: &'static str) -> impl FnOnce(io::Error) -> ClientError {
    move |source| ClientError::Local { step, source }
}

/// A path's name, as what is copied into a directory is called there.
///
/// # Errors
/// It has none that could be told (`/`).
pub fn name_of(path: &Path) -> Result<Vec<u8>, ClientError> {
    let whole = match path.file_name() {
        Some(name) => return Ok(name.as_bytes().to_vec()),
        None => path
            .canonicalize()
            .map_err(local("find the name of a directory"))?,
    };
    let name = whole.file_name().map(|name| name.as_bytes().to_vec());
    name.ok_or_else(|| local("find the name of a directory")(io::ErrorKind::InvalidFilename.into()))
}

/// What lies at a local path and below it, to be put at `there`.
///
/// # Errors
/// The path itself cannot be opened; what below it cannot is among the problems.
pub fn walk(
    path: &Path,
    there: &[u8],
    problems: &mut Vec<Problem>,
) -> Result<(Arc<Tree>, Vec<Item>), ClientError> {
    let meta = path.symlink_metadata().map_err(|error| at(path, &error))?;
    let mut items = Vec::new();
    if meta.is_dir() {
        let tree = Arc::new(Tree::open(path).map_err(|error| at(path, &error))?);
        // The directory itself has no name below itself: it is made with what lies in it.
        descend(&tree, Vec::new(), there, &mut items, problems);
        return Ok((tree, items));
    }
    let parent = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let tree = Arc::new(Tree::open(parent).map_err(|error| at(parent, &error))?);
    let name = name_of(path)?;
    match view(&tree, &name, there) {
        Ok(Some(item)) => items.push(item),
        Ok(None) => problems.push(problem(
            path.as_os_str().as_bytes(),
            "not-a-file",
            "it is neither file, directory nor link",
        )),
        Err(error) => return Err(at(path, &error)),
    }
    Ok((tree, items))
}

fn at(path: &Path, error: &io::Error) -> ClientError {
    ClientError::from(told(path.as_os_str().as_bytes(), error))
}

/// An error about a local path.
#[must_use]
pub fn told(path: &[u8], error: &io::Error) -> Problem {
    // The kernel's words for what a strict tree refuses say something else.
    if error.raw_os_error() == Some(libc::ELOOP) {
        return problem(path, "not-permitted", "a symbolic link lies in the way");
    }
    let code = match error.kind() {
        io::ErrorKind::NotFound => "not-found",
        io::ErrorKind::CrossesDevices => "not-permitted",
        io::ErrorKind::PermissionDenied => "not-permitted",
        io::ErrorKind::StorageFull => "no-space",
        io::ErrorKind::ResourceBusy => "busy",
        _ => "internal",
    };
    let text = error.to_string();
    problem(
        path,
        code,
        text.split(" (os error").next().unwrap_or_default(),
    )
}

pub(super) fn problem(path: &[u8], code: &str, message: &str) -> Problem {
    Problem {
        path: Some(GivenPath::new(path)),
        code: code.to_owned(),
        message: message.to_owned(),
    }
}

/// `base` and a name below it.
#[must_use]
pub fn join(base: &[u8], name: &[u8]) -> Vec<u8> {
    match (base, name) {
        (b"", _) => name.to_vec(),
        (_, b"") => base.to_vec(),
        _ => [base, b"/", name].concat(),
    }
}

fn descend(
    tree: &Tree,
    top: Vec<u8>,
    there: &[u8],
    items: &mut Vec<Item>,
    problems: &mut Vec<Problem>,
) {
    let mut left = vec![top];
    while let Some(path) = left.pop() {
        let names = match tree.names(&path) {
            Ok(names) => names,
            Err(error) => {
                problems.push(told(&path, &error));
                continue;
            }
        };
        for name in names.into_iter().filter(|name| !is_on_its_way(name)) {
            let path = join(&path, &name);
            match view(tree, &path, &join(there, &path)) {
                Ok(Some(item)) => {
                    if item.remote.kind == EntryKind::Directory {
                        left.push(path);
                    }
                    items.push(item);
                }
                Ok(None) => {}
                Err(error) => problems.push(told(&path, &error)),
            }
        }
    }
}

fn view(tree: &Tree, path: &[u8], there: &[u8]) -> io::Result<Option<Item>> {
    let found = tree.look(path)?;
    let view = EntryView::of(tree, path, &found, there)?;
    Ok(view.map(|remote| Item {
        local: path.to_vec(),
        remote,
        found: Some(found),
        name_of: None,
    }))
}

/// Leaves out of `items` what `skip` says, by what is there.
#[must_use]
pub fn without(
    items: Vec<Item>,
    skip: Skip,
    there: &HashMap<Vec<u8>, EntryView>,
    key: impl Fn(&Item) -> Vec<u8>,
) -> (Vec<Item>, u64) {
    let before = items.len();
    let kept: Vec<Item> = items
        .into_iter()
        .filter(|item| !skip.leaves_out(&item.remote, there.get(&key(item))))
        .collect();
    let left_out = (before - kept.len()) as u64;
    (kept, left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: EntryKind, size: u64, mtime_s: i64) -> EntryView {
        EntryView {
            path: GivenPath::new(b"x"),
            kind,
            size,
            mode: 0o644,
            mtime_s,
            mtime_ns: 0,
            target: None,
        }
    }

    #[test]
    fn a_tree_becomes_parcels_and_its_directories_come_last() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("a/b")).unwrap();
        std::fs::write(top.path().join("a/b/small"), "1").unwrap();
        std::fs::write(top.path().join("a/.cairn-part-0-x"), "1").unwrap();
        std::fs::File::create(top.path().join("a/large"))
            .unwrap()
            .set_len(ALONE)
            .unwrap();
        std::os::unix::fs::symlink("large", top.path().join("a/link")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            top.path().join("pipe"),
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        let mut plan = Plan::default();
        let (tree, items) = walk(top.path(), b"to", &mut plan.problems).unwrap();
        plan.add(&tree, items);
        assert_eq!(
            (plan.count, plan.bytes, plan.problems.len()),
            (3, ALONE + 1, 0)
        );
        let named = |parcels: &[Parcel]| -> Vec<Vec<String>> {
            let of = |p: &Parcel| {
                p.items
                    .iter()
                    .map(|i| i.remote.path.text().to_owned())
                    .collect()
            };
            parcels.iter().map(of).collect()
        };
        assert_eq!(
            named(&plan.files),
            [vec!["to/a/large"], vec!["to/a/link", "to/a/b/small"]]
        );
        assert_eq!(named(&plan.directories), [["to/a/b", "to/a"]]);
    }

    #[test]
    fn what_is_there_is_left_out_as_asked() {
        use EntryKind::{Directory, File};
        let (old, new) = (entry(File, 1, 10), entry(File, 1, 20));
        assert!(!Skip::Nothing.leaves_out(&new, Some(&new)));
        assert!(Skip::Present.leaves_out(&new, Some(&old)));
        assert!(!Skip::Present.leaves_out(&new, None));
        assert!(Skip::NotOlder.leaves_out(&old, Some(&new)));
        assert!(Skip::NotOlder.leaves_out(&new, Some(&new)));
        assert!(!Skip::NotOlder.leaves_out(&new, Some(&old)));
        let directory = entry(Directory, 0, 10);
        assert!(!Skip::Present.leaves_out(&directory, Some(&directory)));
    }
}
