//! `cairn repair`: files that are lost, foreign or in conflict (P4, P6), what would mend each and why,
//! and the mending.
//!
//! Invariants:
//! - A plan is a value: what is found, what would be done. Nothing is changed for it but that a file
//!   which is in order is no longer counted as troubled.
//! - Doing it looks at everything once more with users shut out ([`crate::hsm::release::put_stub`] and
//!   the others), and what an administrator gives up is kept under another name beside it.
//! - A stub is put back only if a tier's own index bears it out: identity, size, sums and owner.

mod act;
mod beside;

use super::{EngineError, Shared, tree};
use crate::catalog::{CopyState, Durability, Node, NodeId, Sighting, Trouble};
use crate::error::Failure;
use crate::format::record::{CopyHint, Record, State};
use crate::hsm::backing::{BackingError, FileStat, How, NodeKind, belongs_to};
use crate::hsm::recall::mismatch;
use crate::id::NodeHandle;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

/// Files looked at between two reads of the catalog.
const PAGE: usize = 1000;

/// What stays in place where disk and archive differ; the other goes beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepWhat {
    /// What is on disk.
    Disk,
    /// What was archived.
    Archive,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairAsk {
    /// Files, and directories for all below them; none: everything.
    pub nodes: Vec<NodeHandle>,
    /// Do it.
    pub apply: bool,
    /// The administrator's choice.
    pub keep: Option<KeepWhat>,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ill {
    /// Its stub is gone, or was overwritten by an older record.
    Lost,
    /// Its stub is another file's.
    Foreign,
    /// It is not as its stub says.
    Conflict,
}

/// What mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// Its stub is put back.
    PutStubBack,
    /// Its stub is dropped, and what is on disk is the file.
    KeepDisk,
    /// What is on disk goes beside it, and the stub stands.
    KeepArchive,
    /// Nothing that could be done here; what may help.
    Nothing(String),
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Went {
    /// It was not to be done.
    Planned,
    /// Done; what was given up lies here, if anything was.
    Done(Option<Vec<u8>>),
    /// Not done, and why.
    Failed(Failure, String),
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// Where it is.
    pub path: Vec<u8>,
    /// What is wrong.
    pub ill: Ill,
    /// In words.
    pub why: String,
    /// What mends it.
    pub remedy: Remedy,
    /// How it went.
    pub went: Went,
}

/// A file that was judged.
struct Case {
    node: Node,
    path: Vec<u8>,
    stat: FileStat,
    ill: Ill,
    why: String,
    /// The stub that it has, or that it is to have.
    record: Option<Record>,
    remedy: Remedy,
}

impl super::Engine {
    /// Hands what is wrong, and what was or would be done about it, to `sink`, which says whether to go
    /// on.
    ///
    /// # Errors
    /// The catalog cannot be read; a node is not known here.
    pub fn repair(
        &self,
        ask: &RepairAsk,
        sink: &mut dyn FnMut(Repair) -> bool,
    ) -> Result<(), EngineError> {
        let shared = &*self.shared;
        let _ = shared.drain_changelog();
        let wanted = Wanted::of(shared, &ask.nodes)?;
        let mut seen = BTreeSet::new();
        for what in [None, Some(Trouble::Conflict), Some(Trouble::Foreign)] {
            let mut after = None;
            loop {
                let page = match what {
                    None => shared.catalog.lost_files(after, PAGE)?,
                    Some(trouble) => shared.catalog.troubled(trouble, after, PAGE)?,
                };
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                for node in page {
                    if !wanted.holds(shared, &node)? || !seen.insert(node.id) {
                        continue;
                    }
                    if let Some(repair) = shared.repair_one(node, ask)?
                        && !sink(repair)
                    {
                        return Ok(());
                    }
                }
            }
        }
        // Named, and not known to be ill: a look says whether they are.
        for id in wanted.files.difference(&seen) {
            if let Some(node) = shared.catalog.node(*id)?
                && let Some(repair) = shared.repair_one(node, ask)?
                && !sink(repair)
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Which files are meant.
struct Wanted {
    all: bool,
    files: BTreeSet<NodeId>,
    /// Paths of directories.
    below: Vec<Vec<u8>>,
}

impl Wanted {
    fn of(shared: &Shared, nodes: &[NodeHandle]) -> Result<Self, EngineError> {
        let mut wanted = Self {
            all: nodes.is_empty(),
            files: BTreeSet::new(),
            below: Vec::new(),
        };
        for handle in nodes {
            let row = match shared.catalog.node_by_handle(handle)? {
                Some(row) => Some(row),
                // Put there around the mount, and no scan met it yet.
                None => meet(shared, handle)?,
            };
            let Some(row) = row else { continue };
            if row.attributes.kind == crate::catalog::FileKind::Directory {
                wanted.below.extend(shared.catalog.path_of(row.id)?);
            } else {
                wanted.files.insert(row.id);
            }
        }
        Ok(wanted)
    }

    fn holds(&self, shared: &Shared, node: &Node) -> Result<bool, EngineError> {
        if self.all || self.files.contains(&node.id) {
            return Ok(true);
        }
        if self.below.is_empty() {
            return Ok(false);
        }
        let path = shared.catalog.path_of(node.id)?.unwrap_or_default();
        let is_below = |top: &Vec<u8>| {
            top.is_empty()
                || path
                    .strip_prefix(&top[..])
                    .is_some_and(|rest| rest.first() == Some(&b'/'))
        };
        Ok(self.below.iter().any(is_below))
    }
}

/// A node that the catalog does not know, noted under its name.
fn meet(shared: &Shared, handle: &NodeHandle) -> Result<Option<Node>, EngineError> {
    let backing = &shared.backing;
    let fd = backing.open_node(handle, None, How::Path)?;
    let path = backing.path_of(fd.as_fd())?;
    let (above, name) = match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], &path[..]),
    };
    let directory = backing.open_beneath(above)?;
    let parent = tree::ensure_directory(shared, &backing.handle_of(directory.as_fd())?)?;
    let seen = Sighting {
        handle: handle.clone(),
        attributes: tree::attributes(&backing.stat(fd.as_fd())?),
        place: Some((parent, name.to_vec())),
    };
    shared.catalog.note(vec![seen], Durability::Relaxed)?;
    Ok(shared.catalog.node_by_handle(handle)?)
}

impl Shared {
    fn repair_one(&self, node: Node, ask: &RepairAsk) -> Result<Option<Repair>, EngineError> {
        let hint = tree::hint(self, &node.handle)?;
        let opened = self
            .backing
            .open_node(&node.handle, hint.as_deref(), How::Path);
        let fd = match opened {
            Ok(fd) => fd,
            // The scan forgets it.
            Err(BackingError::Gone { .. }) => return Ok(None),
            Err(why) => return Err(why.into()),
        };
        let id = node.id;
        let Some(case) = self.judge_case(node, &fd, ask.keep)? else {
            // In order by now.
            self.catalog
                .set_trouble(vec![(id, None)], Durability::Relaxed)?;
            return Ok(None);
        };
        let went = match &case.remedy {
            _ if !ask.apply => Went::Planned,
            Remedy::Nothing(_) => Went::Planned,
            _ => self.mend(&case, hint.as_deref()),
        };
        Ok(Some(Repair {
            path: case.path,
            ill: case.ill,
            why: case.why,
            remedy: case.remedy,
            went,
        }))
    }

    /// What is wrong with a file now, and what mends it; `None`: nothing is.
    fn judge_case(
        &self,
        node: Node,
        fd: &OwnedFd,
        keep: Option<KeepWhat>,
    ) -> Result<Option<Case>, EngineError> {
        let stat = self.backing.stat(fd.as_fd())?;
        if stat.kind != NodeKind::Regular {
            return Ok(None);
        }
        let path = match self.backing.path_of(fd.as_fd()) {
            Ok(path) => path,
            Err(_) => self.catalog.path_of(node.id)?.unwrap_or_default(),
        };
        let record = self.backing.record(fd.as_fd())?;
        let case = |ill, why: String, record, remedy| Case {
            node: node.clone(),
            path,
            stat,
            ill,
            why,
            record,
            remedy,
        };
        let stub = record.as_ref().filter(|r| r.state != State::Resident);
        let Some(stub) = stub else {
            let lost = node.version.is_some() && self.is_lost(&node.handle, fd.as_fd())?;
            if !lost {
                return Ok(None);
            }
            let why = node
                .note
                .clone()
                .unwrap_or_else(|| "its stub is gone".into());
            let (record, remedy) = self.lost_stub(&node, &stat)?;
            return Ok(Some(case(Ill::Lost, why, record, remedy)));
        };
        let data = self.has_data(fd)?;
        if !belongs_to(stub, self.backing.fs(), &node.handle) {
            let (why, remedy) = self.foreign(stub, &stat, data, keep);
            return Ok(Some(case(Ill::Foreign, why, Some(stub.clone()), remedy)));
        }
        let differs = differences(stub, &stat, data);
        let half_way = stub.state == State::Recalling && stat.size == stub.size;
        if half_way || stat.size == 0 || differs.is_empty() {
            return Ok(None);
        }
        let why = format!("somebody wrote into the stub: {}", differs.join(", "));
        let remedy = match keep {
            Some(KeepWhat::Disk) => Remedy::KeepDisk,
            Some(KeepWhat::Archive) => Remedy::KeepArchive,
            None => Remedy::Nothing(
                "choose: --keep archive puts the archived data back, --keep disk keeps what is there; \
                 the other stays beside it under a new name"
                    .to_owned(),
            ),
        };
        Ok(Some(case(Ill::Conflict, why, Some(stub.clone()), remedy)))
    }

    fn has_data(&self, fd: &OwnedFd) -> Result<bool, EngineError> {
        let file = self.backing.reopen(fd.as_fd(), How::Read)?;
        Ok(self.backing.has_data(file.as_fd())?)
    }

    /// The stub that a lost file is to have, if a tier bears it out.
    fn lost_stub(
        &self,
        node: &Node,
        stat: &FileStat,
    ) -> Result<(Option<Record>, Remedy), EngineError> {
        let nothing = |why: &str| Ok((None, Remedy::Nothing(why.to_owned())));
        let Some(version) = node.version else {
            return nothing("no copy of it is known; restore it from a backup");
        };
        let mut record = Record {
            state: State::Released,
            fs: self.backing.fs(),
            file: version.file,
            version: version.version,
            crc: version.crc,
            handle: node.handle.clone(),
            size: stat.size,
            mtime: stat.mtime,
            user_ctime: stat.ctime,
            ctime_floor: None,
            blocks_crc: version.blocks_crc,
            copies: Vec::new(),
        };
        let (mut away, mut differs) = (None, None);
        for copy in self.catalog.copies(version.file, version.version)? {
            if copy.state == CopyState::Bad || copy.crc != version.crc {
                continue;
            }
            let hint = CopyHint {
                tier: copy.tier,
                aggregate: copy.aggregate,
                header: copy.header,
            };
            match self.borne_out(&hint, &record, stat) {
                Ok(None) => record.copies.push(hint),
                Ok(Some(why)) => differs = Some(why),
                Err(why) => away = Some(why),
            }
        }
        if !record.copies.is_empty() {
            return Ok((Some(record), Remedy::PutStubBack));
        }
        match (differs, away) {
            (Some(why), _) => nothing(&format!(
                "{why}: put that right and try again, or remove the file and restore it"
            )),
            (None, Some(why)) => nothing(&format!("{why}; try again when it is there")),
            (None, None) => nothing("no good copy is left; restore it from a backup"),
        }
    }

    /// What keeps a copy from being that of a stub on a file that looks so; `Err`: the tier cannot say.
    fn borne_out(
        &self,
        hint: &CopyHint,
        record: &Record,
        stat: &FileStat,
    ) -> Result<Option<String>, String> {
        let slot = self
            .slot(hint.tier)
            .ok_or_else(|| format!("tier {} is not configured", hint.tier))?;
        let indexes = self.recaller().ok_or("there is no recaller")?.indexes();
        let found = indexes.find(&*slot.tier, hint, record);
        let entry = match found {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(Some("the aggregate does not hold its data".to_owned())),
            Err(why) if why.is_passing() => return Err(why.to_string()),
            Err(why) => return Ok(Some(why.to_string())),
        };
        let member = &entry.member;
        if let Some(why) = mismatch(&entry, record) {
            return Ok(Some(why.to_owned()));
        }
        if entry.blocks_crc() != record.blocks_crc {
            return Ok(Some("the member has other block checksums".to_owned()));
        }
        if member.mtime != stat.mtime {
            return Ok(Some(format!(
                "its modification time is not that of its data ({}.{:09})",
                member.mtime.sec, member.mtime.nsec
            )));
        }
        if (member.uid, member.gid) != (stat.uid, stat.gid) {
            let (uid, gid) = (member.uid, member.gid);
            return Ok(Some(format!(
                "its data were archived for another owner ({uid}:{gid})"
            )));
        }
        Ok(None)
    }

    /// Why a stub is foreign, and the way out.
    fn foreign(
        &self,
        stub: &Record,
        stat: &FileStat,
        data: bool,
        keep: Option<KeepWhat>,
    ) -> (String, Remedy) {
        let why = "it carries the stub of another file";
        if data {
            let remedy = match keep {
                Some(KeepWhat::Disk) => Remedy::KeepDisk,
                Some(KeepWhat::Archive) | None => Remedy::Nothing(
                    "--keep disk drops the stub and keeps what is on disk; the data of the stub are \
                     those of the file that it was copied from"
                        .to_owned(),
                ),
            };
            return (format!("{why}, and holds data"), remedy);
        }
        let mut found = differences(stub, stat, false);
        if found.is_empty() {
            let hints = stub.copies.iter();
            let said = hints
                .map(|hint| self.borne_out(hint, stub, stat))
                .next_back();
            match said {
                None => found.push("it names no copy".to_owned()),
                Some(Ok(Some(differs)) | Err(differs)) => found.push(differs),
                Some(Ok(None)) => {
                    let remedy = "read it: everything agrees by now, and it is adopted".to_owned();
                    return (why.to_owned(), Remedy::Nothing(remedy));
                }
            }
        }
        let remedy =
            "put that right and read it, or delete it and copy the original through the mount";
        (
            format!("{why}, and {}", found.join(", ")),
            Remedy::Nothing(remedy.to_owned()),
        )
    }
}

/// What on disk is not as a stub says.
fn differences(stub: &Record, stat: &FileStat, data: bool) -> Vec<String> {
    let mut found = Vec::new();
    if stat.size != stub.size {
        found.push(format!("its size is {}, not {}", stat.size, stub.size));
    }
    if stat.mtime != stub.mtime {
        let (is, was) = (stat.mtime, stub.mtime);
        found.push(format!(
            "its modification time is {}.{:09}, not {}.{:09}",
            is.sec, is.nsec, was.sec, was.nsec
        ));
    }
    if data {
        found.push("it holds data".to_owned());
    }
    found
}
