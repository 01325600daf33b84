//! Is an aggregate needed, and how much of it? Every member of its own index is asked for, and
//! everything that the catalog has in it besides.
//!
//! Names without data: a directory holds nothing (every aggregate with something below it enters it
//! anew); a link, a pipe, a device or a socket is needed while the namespace has the same at that
//! path, because plain tar would miss it. An aggregate that holds names alone is left alone: it
//! may be what a restore of the namespace is made from.

use super::{Ground, ReclaimError, Report, later, orphans};
use crate::catalog::{Aggregate, Departed, Grave, Hold, MemberKey};
use crate::format::aggregate::{Index, IndexEntry};
use crate::format::member::{Kind, MemberPath};
use crate::hsm::backing::{Access, BackingError, How, NodeKind};
use crate::hsm::verify::read_index;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::AsFd;

/// What is to be done with an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing in it is needed.
    Goes,
    /// So much of it can go that the rest is copied.
    Repack,
    /// It is left as it is.
    Stays,
}

/// What became of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its bytes can go.
    Gone,
    /// They lie elsewhere by now.
    Moved,
    /// This keeps it.
    Kept(Hold),
}

/// A judged aggregate.
pub(super) struct Judged {
    /// Its own index.
    pub(super) index: Index,
    /// What became of each entry of the index, in its order.
    pub(super) fates: Vec<Fate>,
    /// All versions in it, by its index and by the catalog.
    pub(super) keys: Vec<MemberKey>,
    /// Those that are dead.
    pub(super) dead_keys: Vec<MemberKey>,
    /// Bytes of members with data, headers included.
    weight: u64,
    /// Those that can go.
    pub(super) dead: u64,
    /// Something of it must not be copied elsewhere.
    fixed: Option<Hold>,
    /// What keeps members, counted.
    holds: BTreeMap<Hold, u64>,
}

/// Do the catalog's rows alone say that nothing can be done about an aggregate?
pub(super) fn hopeless(
    ground: &Ground<'_>,
    row: &Aggregate,
    share: u64,
    report: &mut Report,
) -> Result<bool, ReclaimError> {
    let rows = ground.catalog.all_members(ground.id, row.id)?;
    let keys: Vec<MemberKey> = rows.iter().map(|c| (c.file, c.version)).collect();
    let departed = ground
        .catalog
        .departed(ground.id, row.id, &keys, ground.bound())?;
    let (mut dead, mut all, mut kept) = (0_u64, 0_u64, false);
    let mut holds = BTreeMap::new();
    for (copy, departed) in rows.iter().zip(&departed) {
        let weight = copy.stored_len + 1024;
        all += weight;
        match departed {
            Ok(_) => dead += weight,
            Err(hold) => {
                kept = true;
                *holds.entry(*hold).or_default() += 1;
                if *hold == Hold::Young
                    && let Some(at) = ground.catalog.died((copy.file, copy.version))?
                {
                    report.wait_until(later(at, ground.rules.keep), (ground.now)());
                }
            }
        }
    }
    // Half of what is asked for: headers are longer than was guessed here.
    let hopeless = kept && (dead == 0 || dead.saturating_mul(200) < all.saturating_mul(share));
    if hopeless {
        add(&mut report.holds, &holds);
        if dead > 0 {
            report.below_share += 1;
        }
    }
    Ok(hopeless)
}

fn add(to: &mut BTreeMap<Hold, u64>, more: &BTreeMap<Hold, u64>) {
    for (hold, count) in more {
        *to.entry(*hold).or_default() += count;
    }
}

/// Reads the aggregate's index and judges it.
pub(super) fn judge(ground: &Ground<'_>, row: &Aggregate) -> Result<Judged, ReclaimError> {
    let id = row.id;
    if id.is_part() {
        return orphans::judge(ground, id);
    }
    let (_, index) = read_index(ground.tier, id).map_err(|source| ReclaimError::Index {
        aggregate: id,
        source,
    })?;
    let of_index: Vec<MemberKey> = index.entries.iter().filter_map(key_of).collect();
    let mut keys = of_index.clone();
    let rows = ground.catalog.all_members(ground.id, id)?;
    keys.extend(rows.iter().map(|c| (c.file, c.version)));
    let mut seen = HashSet::new();
    keys.retain(|key| seen.insert((key.0.0, key.1)));
    let departed = ground
        .catalog
        .departed(ground.id, id, &keys, ground.bound())?;
    let mut fates = HashMap::new();
    let mut dead_keys = Vec::new();
    for (key, departed) in keys.iter().zip(departed) {
        ground.go_on()?;
        let fate = match departed {
            Ok(Departed::Moved) => Fate::Moved,
            Ok(Departed::GivenUp) => Fate::Gone,
            Ok(Departed::Dead(grave)) => {
                inode_holds(ground, *key, &grave).map_or(Fate::Gone, Fate::Kept)
            }
            Err(hold) => Fate::Kept(hold),
        };
        if fate == Fate::Gone {
            dead_keys.push(*key);
        }
        fates.insert(*key, fate);
    }
    let own: HashSet<MemberKey> = of_index.into_iter().collect();
    let is_shared =
        |(key, fate): (&MemberKey, &Fate)| matches!(fate, Fate::Kept(_)) && !own.contains(key);
    let mut fixed = fates.iter().any(is_shared).then_some(Hold::Shared);
    let rowed: HashSet<MemberKey> = rows.iter().map(|c| (c.file, c.version)).collect();
    let is_rowless =
        |(key, fate): (&MemberKey, &Fate)| matches!(fate, Fate::Kept(_)) && !rowed.contains(key);
    if fates.iter().any(is_rowless) {
        fixed = Some(Hold::Unclear);
    }
    if own.is_empty() || row.id.is_snapshot() {
        fixed = Some(Hold::OnlyNames);
    }
    let mut judged = Judged {
        fates: Vec::with_capacity(index.entries.len()),
        index,
        keys,
        dead_keys,
        weight: 0,
        dead: 0,
        fixed,
        holds: BTreeMap::new(),
    };
    judged.weigh(ground, row.moved_to.is_some(), &fates);
    Ok(judged)
}

pub(super) fn key_of(entry: &IndexEntry) -> Option<MemberKey> {
    let data = matches!(entry.member.kind, Kind::Regular { .. });
    // What is a part of a file is no version of it.
    let identity = entry.member.identity.filter(|_| data && !entry.is_part())?;
    Some((identity.file, identity.version))
}

impl Judged {
    /// Of a part: nothing in it is needed, or `why` it is left alone.
    pub(super) fn of_part(index: Index, key: Option<MemberKey>, why: Option<Hold>) -> Self {
        let fates = index.entries.iter().map(|_| Fate::Gone).collect();
        Self {
            index,
            fates,
            keys: key.into_iter().collect(),
            dead_keys: Vec::new(),
            weight: 0,
            dead: 0,
            fixed: why,
            holds: why.map(|why| (why, 1)).into_iter().collect(),
        }
    }

    /// `moved`: it was repacked, and its names went along.
    fn weigh(&mut self, ground: &Ground<'_>, moved: bool, fates: &HashMap<MemberKey, Fate>) {
        let name_fate = |entry| {
            if moved {
                Fate::Moved
            } else {
                name_fate(ground, entry)
            }
        };
        let mut by_path: HashMap<&MemberPath, Fate> = HashMap::new();
        for entry in &self.index.entries {
            if let Some(fate) = key_of(entry).and_then(|key| fates.get(&key)) {
                by_path.insert(&entry.member.path, *fate);
            }
        }
        for entry in &self.index.entries {
            let fate = match &entry.member.kind {
                Kind::Regular { .. } => key_of(entry)
                    .and_then(|key| fates.get(&key).copied())
                    .unwrap_or(Fate::Kept(Hold::NoTombstone)),
                Kind::Directory => Fate::Gone,
                Kind::HardLink { target } => match by_path.get(target) {
                    Some(fate) => *fate,
                    None => name_fate(entry),
                },
                _ => name_fate(entry),
            };
            let weight = entry.stored_len() + entry.header_len();
            if key_of(entry).is_some() {
                self.weight += weight;
                if !matches!(fate, Fate::Kept(_)) {
                    self.dead += weight;
                }
            }
            if let Fate::Kept(hold) = fate {
                *self.holds.entry(hold).or_default() += 1;
            }
            self.fates.push(fate);
        }
        if let Some(fixed) = self.fixed {
            *self.holds.entry(fixed).or_default() += 1;
        }
    }

    pub(super) fn verdict(&self, share: u64) -> Verdict {
        let kept = |fate: &Fate| matches!(fate, Fate::Kept(_));
        if self.fixed.is_some() {
            return Verdict::Stays;
        }
        if !self.fates.iter().any(kept) {
            return Verdict::Goes;
        }
        // What was moved already is in the way of nothing: its object goes whole.
        let moved = self.fates.contains(&Fate::Moved);
        let enough = self.dead.saturating_mul(100) >= self.weight.saturating_mul(share);
        if self.dead > 0 && enough && !moved {
            Verdict::Repack
        } else {
            Verdict::Stays
        }
    }

    /// Is anything of it needed?
    pub(super) fn is_needed(&self) -> bool {
        self.fixed.is_some() || self.fates.iter().any(|f| matches!(f, Fate::Kept(_)))
    }

    /// Why what is needed of it cannot be copied elsewhere.
    pub(super) fn why_it_cannot_move(&self) -> Option<String> {
        let fixed = match self.fixed? {
            Hold::Shared => "an adopted copy of a file shares bytes in it",
            Hold::OnlyNames => "there is nothing in it but names",
            _ => "its index names what the catalog does not place there",
        };
        Some(fixed.to_owned())
    }

    /// What keeps members, for people.
    pub(super) fn tell(&self, report: &mut Report) {
        add(&mut report.holds, &self.holds);
    }

    /// The first thing that keeps it.
    pub(super) fn first_hold(&self) -> Option<Hold> {
        self.holds.keys().next().copied()
    }

    pub(super) fn why_it_goes(&self) -> String {
        match self.fates.contains(&Fate::Moved) {
            false => format!("nobody needs its {} members", self.keys.len()),
            true => "what is needed of it lies in another aggregate".to_owned(),
        }
    }

    pub(super) fn why_it_is_repacked(&self) -> String {
        let percent = self.dead.saturating_mul(100) / self.weight.max(1);
        format!("{percent} % of it can go")
    }
}

/// What the inode that had a dead version says against it.
pub(super) fn inode_holds(
    ground: &Ground<'_>,
    (file, version): MemberKey,
    grave: &Grave,
) -> Option<Hold> {
    let handle = match &grave.handle {
        Some(handle) if ground.backing.access() == Access::Handles => handle,
        // No descriptor from before lives on, and what has a name the scan has met.
        Some(_) | None if grave.outlived => return row_holds(ground, (file, version)),
        Some(_) | None => return Some(Hold::NoHandle),
    };
    let fd = match ground.backing.open_node(handle, None, How::Path) {
        Ok(fd) => fd,
        Err(BackingError::Gone { .. }) => return row_holds(ground, (file, version)),
        Err(_) => return Some(Hold::Unclear),
    };
    match ground.backing.record(fd.as_fd()) {
        Ok(Some(record)) if (record.file, record.version) == (file, version) => {
            Some(Hold::InodeNamesIt)
        }
        Ok(_) => None,
        Err(_) => Some(Hold::Unclear),
    }
}

/// A row that names the version outlives the inode until it is forgotten, whatever its state: the end
/// of the file has no tombstone before, and its window has not begun.
fn row_holds(ground: &Ground<'_>, (file, version): MemberKey) -> Option<Hold> {
    let Ok(rows) = ground.catalog.nodes_by_file(file) else {
        return Some(Hold::Unclear);
    };
    let mut versions = rows.iter().filter_map(|row| row.version);
    versions
        .any(|v| v.version == version)
        .then_some(Hold::NamedByFile)
}

/// Does the namespace have the same at that path?
pub(super) fn name_fate(ground: &Ground<'_>, entry: &IndexEntry) -> Fate {
    let fd = match ground.backing.open_beneath(entry.member.path.as_bytes()) {
        Ok(fd) => fd,
        Err(why) if is_absent(&why) => return Fate::Gone,
        Err(_) => return Fate::Kept(Hold::Unclear),
    };
    let Ok(stat) = ground.backing.stat(fd.as_fd()) else {
        return Fate::Kept(Hold::Unclear);
    };
    let same = match &entry.member.kind {
        Kind::Symlink { target } => {
            stat.kind == NodeKind::Symlink
                && rustix::fs::readlinkat(&fd, c"", Vec::new())
                    .is_ok_and(|there| there.as_bytes() == &target[..])
        }
        Kind::Fifo => stat.kind == NodeKind::Fifo,
        Kind::Socket => stat.kind == NodeKind::Socket,
        Kind::CharDevice { .. } => stat.kind == NodeKind::CharDevice,
        Kind::BlockDevice { .. } => stat.kind == NodeKind::BlockDevice,
        // Another name of one of these.
        Kind::HardLink { .. } => !matches!(stat.kind, NodeKind::Directory | NodeKind::Regular),
        Kind::Regular { .. } | Kind::Directory => true,
    };
    if same {
        Fate::Kept(Hold::Name)
    } else {
        Fate::Gone
    }
}

/// Nothing has that name.
pub(super) fn is_absent(why: &BackingError) -> bool {
    match why {
        BackingError::Gone { .. } => true,
        BackingError::Io { source, .. } => matches!(
            source.raw_os_error(),
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)
        ),
        _ => false,
    }
}
