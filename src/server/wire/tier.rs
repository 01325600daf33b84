//! Tiers as the control API shows them: what lies there, and what can go (P8).

use super::When;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Objects of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ObjectCount {
    /// How many.
    pub objects: u64,
    /// Their length, bytes.
    pub bytes: u64,
}

/// An object that is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrangeObject {
    /// Its name.
    pub object: String,
    /// Why.
    pub why: String,
}

/// What the catalog knows of a tier's objects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierObjects {
    /// The tier's name.
    pub tier: String,
    /// Where it is, without secrets.
    pub url: String,
    /// Ordinary ones.
    pub ordinary: ObjectCount,
    /// Stored bytes in them that some file needs.
    pub live_bytes: u64,
    /// Stored bytes in them that no file needs.
    pub dead_bytes: u64,
    /// Those that go after a delay.
    pub condemned: ObjectCount,
    /// Those that the catalog did not know.
    pub quarantined: ObjectCount,
    /// Bytes that could go when that was last looked at; absent: not yet since the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimable: Option<u64>,
    /// When more may go, as far as was known then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<When>,
    /// Objects of the catalog that were not there then.
    #[serde(default)]
    pub missing: u64,
    /// Objects that are left alone: damaged, another instance's; the first 100.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub strange: Vec<StrangeObject>,
}

/// Answer to `GET /v1/tiers`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TierList {
    /// In the order they were named.
    pub tiers: Vec<TierObjects>,
}

/// Whose a tier is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierOwner {
    /// Where it is, without secrets.
    pub url: String,
    /// Its number.
    pub tier: String,
    /// The instance that may write there.
    pub owner: String,
    /// Whether that is the one that asks; absent: nobody said who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<bool>,
}

/// What came of trying a place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierTest {
    /// Where it is, without secrets.
    pub url: String,
    /// Where it was tried: a directory, or what names began with.
    pub area: String,
    /// Nothing of that remains.
    pub cleared: bool,
    /// In the order in which they ran.
    pub cases: Vec<TierTestCase>,
}

/// One case of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierTestCase {
    /// Its name.
    pub case: String,
    /// Whether it passed.
    pub passed: bool,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Body of `POST /v1/tiers/collect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CollectQuery {
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was, or would be, done with one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectDeed {
    /// Its name.
    pub object: String,
    /// `condemn`, `wait`, `delete`, `repack`, `spare`, `quarantine`, `release` or `fail`.
    pub act: String,
    /// Bytes that the tier has more room for, now or then.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// What a run did on one tier.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CollectTier {
    /// The tier.
    pub tier: String,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Objects on the tier.
    pub objects: u64,
    /// Bytes that can go, or went.
    pub reclaimable: u64,
    /// How often what was done.
    pub done: BTreeMap<String, u64>,
    /// One by one, the first 1000.
    pub deeds: Vec<CollectDeed>,
    /// Members that cannot go yet, by the condition that is missing.
    pub kept: BTreeMap<String, u64>,
    /// Objects of which some can go, but less than is worth a repack.
    pub below_share: u64,
    /// When more may go, as far as is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<When>,
}

/// A run of the collector: answer to `POST /v1/tiers/collect` and
/// `GET /v1/tiers/collect/{number}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Collect {
    /// Its number.
    pub number: u64,
    /// It changes nothing.
    pub dry_run: bool,
    /// When it began; absent: it waits for another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<When>,
    /// When it ended; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<When>,
    /// Tiers that it is done with.
    pub tiers: Vec<CollectTier>,
}

/// Body of `POST /v1/tiers/check`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TierCheckQuery {
    /// The tier's name.
    pub tier: String,
    /// Each object is asked for, not only listed.
    #[serde(default)]
    pub closely: bool,
}

/// An object that is not as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierDifference {
    /// Its name.
    pub object: String,
    /// `missing`, `unknown`, `unlike` or `unseen`.
    pub differs: String,
    /// What was seen.
    pub why: String,
}

/// A tier held against the catalog: answer to `POST /v1/tiers/check` and `GET /v1/tiers/check/{number}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TierCheck {
    /// Its number.
    pub number: u64,
    /// The tier's name.
    pub tier: String,
    /// When it began; absent: it waits for another run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<When>,
    /// When it ended; absent: it has not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<When>,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Objects that the tier lists.
    pub objects: u64,
    /// Of them, those that the catalog has, too.
    pub alike: u64,
    /// Those that keep the namespace.
    pub snapshots: u64,
    /// Those that may just have been written.
    pub young: u64,
    /// Those that are on their way out.
    pub leaving: u64,
    /// How many differ, by the kinds of difference.
    pub counts: BTreeMap<String, u64>,
    /// One by one, the first 1000.
    pub differences: Vec<TierDifference>,
}
