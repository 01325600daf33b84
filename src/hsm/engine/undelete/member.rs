//! A deleted version as its aggregate has it: layout from the index, attributes from the headers.

use super::super::{EngineError, Shared};
use crate::catalog::{Copy, CopyState, Tombstone};
use crate::error::Failure;
use crate::format::aggregate::{Index, IndexEntry};
use crate::format::member::{Kind, Member, MemberPath};
use crate::hsm::index_cache::{Loaded, tier_is_passing};
use crate::id::{AggregateId, TierId};
use crate::tier::Tier;
use cairn_mover::Crc32c;
use std::sync::Arc;

/// Where a version was found, and what it was.
pub(super) struct Source {
    pub(super) member: Member,
    pub(super) crc: Crc32c,
    pub(super) blocks_crc: Crc32c,
    /// Bytes of its data.
    pub(super) stored: u64,
    /// The copy that was looked at.
    pub(super) place: (TierId, AggregateId),
    loaded: Arc<Loaded>,
    tier: Arc<dyn Tier>,
}

/// Why a copy does not serve.
enum Miss {
    /// Its tier does not answer.
    Passing(String),
    /// It is bad.
    Bad(String),
}

impl Source {
    pub(super) fn size(&self) -> u64 {
        match self.member.kind {
            Kind::Regular { size, .. } => size,
            _ => 0,
        }
    }

    /// A directory, if it lies in the same aggregate, with all its attributes.
    pub(super) fn directory(&self, path: &[u8]) -> Option<Member> {
        let path = MemberPath::new(path).ok()?;
        let entry = self.loaded.index().by_path(&path)?;
        if entry.member.kind != Kind::Directory {
            return None;
        }
        whole(&*self.tier, self.place.1, entry).ok()
    }
}

impl Shared {
    /// The version from the first of its copies that serves. Waits for tiers.
    pub(super) fn source_of(&self, stone: &Tombstone) -> Result<Source, EngineError> {
        let copies = self.catalog.copies(stone.file, stone.version)?;
        let (mut passing, mut bad) = (None, None);
        for copy in copies.iter().filter(|c| c.state != CopyState::Bad) {
            match self.look_into(copy) {
                Ok(source) => return Ok(source),
                Err(Miss::Passing(why)) => passing = Some(why),
                Err(Miss::Bad(why)) => {
                    tracing::warn!(tier = %copy.tier, aggregate = %copy.aggregate, why, "a deleted file's copy does not serve");
                    bad = Some(why);
                }
            }
        }
        Err(match (passing, bad) {
            (Some(why), _) => EngineError::refused(Failure::TierUnavailable, why),
            (None, Some(why)) => EngineError::refused(Failure::NoGoodCopy, why),
            (None, None) => EngineError::refused(Failure::NoGoodCopy, "no copy of it is known"),
        })
    }

    fn look_into(&self, copy: &Copy) -> Result<Source, Miss> {
        let slot = self
            .slot(copy.tier)
            .ok_or_else(|| Miss::Passing(format!("tier {} is not configured here", copy.tier)))?;
        let recaller = self
            .recaller()
            .ok_or_else(|| Miss::Passing("the instance is starting".to_owned()))?;
        let loaded = recaller
            .indexes()
            .load(&*slot.tier, copy.tier, copy.aggregate)
            .map_err(|why| match why.is_passing() {
                true => Miss::Passing(why.to_string()),
                false => Miss::Bad(why.to_string()),
            })?;
        let entry = find(loaded.index(), copy)
            .ok_or_else(|| Miss::Bad("the aggregate does not hold it".to_owned()))?;
        let crc = entry.member.identity.and_then(|i| i.crc);
        if crc != Some(copy.crc) || !matches!(entry.member.kind, Kind::Regular { .. }) {
            return Err(Miss::Bad("the aggregate holds something else".to_owned()));
        }
        let member = whole(&*slot.tier, copy.aggregate, entry)?;
        let (blocks_crc, stored) = (entry.blocks_crc(), entry.stored_len());
        Ok(Source {
            member,
            crc: copy.crc,
            blocks_crc,
            stored,
            place: (copy.tier, copy.aggregate),
            tier: slot.tier.clone(),
            loaded,
        })
    }
}

/// By identity; a file that shares another's copies by place.
fn find<'a>(index: &'a Index, copy: &Copy) -> Option<&'a IndexEntry> {
    let shared = || {
        let at = index.position_by_place(copy.header, copy.crc)?;
        index.entries.get(at)
    };
    index.by_identity(copy.file, copy.version).or_else(shared)
}

fn whole(tier: &dyn Tier, aggregate: AggregateId, entry: &IndexEntry) -> Result<Member, Miss> {
    let headers = tier
        .read(aggregate, entry.header, entry.header_len())
        .map_err(|why| match tier_is_passing(&why) {
            true => Miss::Passing(why.to_string()),
            false => Miss::Bad(why.to_string()),
        })?;
    entry
        .whole_member(&headers)
        .map_err(|why| Miss::Bad(why.to_string()))
}
