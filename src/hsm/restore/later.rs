//! What was archived after the snapshot: read from the indexes of aggregates that came later.
//!
//! Two uses: files that the snapshot does not know, or knows in an older version, came after it; and
//! a copy of a version that it does know may have been moved to a later aggregate. A directory's
//! listing may be as old as the full snapshot of the chain, so moves are looked for from there on;
//! what came later, only behind the newest. Memory grows with the files in these aggregates.

use super::find::Link;
use super::{Order, RestoreError};
use crate::format::member::Kind;
use crate::format::record::CopyHint;
use crate::hsm::index_cache::IndexCache;
use crate::id::{AggregateId, DataVersion, FileId, TierId};
use std::collections::BTreeMap;

/// A file's data in a later aggregate.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) version: DataVersion,
    pub(super) aggregate: AggregateId,
    pub(super) header: u64,
    pub(super) path: Vec<u8>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Later {
    tier: Option<TierId>,
    files: BTreeMap<FileId, Vec<Member>>,
    /// What lies before this one, the newest snapshot has seen.
    horizon: Option<AggregateId>,
    /// Later aggregates that could not be read, and why.
    pub(super) unread: Vec<(AggregateId, String)>,
}

impl Later {
    pub(super) fn read(
        order: &Order<'_>,
        indexes: &IndexCache,
        chain: &[Link],
    ) -> Result<Self, RestoreError> {
        let tier = order.tier;
        let mut later = Self {
            tier: Some(tier.mark().tier),
            ..Self::default()
        };
        let Some(newest) = chain.last() else {
            return Ok(later);
        };
        later.horizon = Some(newest.head.horizon);
        let first = chain.iter().map(|link| link.head.horizon).min();
        let horizon = first.unwrap_or(newest.head.horizon);
        let mut after = AggregateId {
            seq: horizon.seq.saturating_sub(1),
            ..horizon
        };
        loop {
            let page = tier.list(Some(after), 1000)?;
            let Some(last) = page.last() else {
                return Ok(later);
            };
            after = *last;
            for id in page
                .into_iter()
                .filter(|id| !id.is_snapshot() && !id.is_part())
            {
                later.take(order, indexes, id);
            }
        }
    }

    fn take(&mut self, order: &Order<'_>, indexes: &IndexCache, id: AggregateId) {
        let loaded = match indexes.load(order.tier, order.tier.mark().tier, id) {
            Ok(loaded) => loaded,
            Err(why) => {
                self.unread.push((id, why.to_string()));
                return;
            }
        };
        for entry in &loaded.index().entries {
            let member = &entry.member;
            let (Kind::Regular { .. }, Some(identity)) = (&member.kind, member.identity) else {
                continue;
            };
            self.files.entry(identity.file).or_default().push(Member {
                version: identity.version,
                aggregate: id,
                header: entry.header,
                path: member.path.as_bytes().to_vec(),
            });
        }
    }

    /// The snapshot has this version: where else it lies; older ones are of no interest any more.
    pub(super) fn known(&mut self, file: FileId, version: DataVersion) -> Vec<CopyHint> {
        let (Some(tier), Some(members)) = (self.tier, self.files.get_mut(&file)) else {
            return Vec::new();
        };
        let same = members.iter().filter(|m| m.version == version);
        let copies = same.map(|m| CopyHint {
            tier,
            aggregate: m.aggregate,
            header: m.header,
        });
        // The newest first: an older one may have been moved there.
        let copies: Vec<_> = copies.rev().collect();
        members.retain(|m| m.version > version);
        copies
    }

    /// What came after the snapshot: of each file its newest version, by path. What the snapshot had
    /// the chance to list and does not is gone, and so is what was put aside as deleted.
    pub(super) fn rest(self) -> Vec<(FileId, Member)> {
        let horizon = self.horizon;
        let newest = self.files.into_iter().filter_map(|(file, members)| {
            let newest = members
                .into_iter()
                .filter(|m| horizon.is_none_or(|horizon| m.aggregate >= horizon))
                .filter(|m| !is_aside(&m.path))
                .max_by_key(|m| (m.version, m.aggregate))?;
            Some((file, newest))
        });
        let mut rest: Vec<_> = newest.collect();
        // Of two files at one path the later one comes first, and so has the name.
        rest.sort_by(|(_, a), (_, b)| (&a.path, b.aggregate).cmp(&(&b.path, a.aggregate)));
        rest
    }
}

/// A place where repacking puts what no file of the namespace is.
fn is_aside(path: &[u8]) -> bool {
    path.strip_prefix(crate::hsm::reclaim::ASIDE.as_bytes())
        .is_some_and(|rest| rest.starts_with(b"/"))
}
