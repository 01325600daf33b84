//! What status tells of bad copies and of the scrub.

use crate::config::units::format_duration;
use crate::config::units::shown::{Bytes, counted, seconds};
use crate::hsm::engine::{Engine, EngineError, ScrubFacts, ScrubTier, now};
use crate::server::instance::views::when;
use crate::server::wire::{Level, ProofStatus, TierProof, TroubledFile, Warning};

pub(super) fn status(facts: &ScrubFacts) -> ProofStatus {
    let one = |tier: &ScrubTier| TierProof {
        tier: tier.tier.clone(),
        copies: tier.copies,
        bytes: tier.bytes,
        bad: tier.bad,
        oldest: tier.oldest.map(when),
        takes_s: tier.takes.as_secs(),
    };
    ProofStatus {
        every_s: facts.every.as_secs(),
        bandwidth: facts.bandwidth,
        heal: facts.heal,
        tiers: facts.tiers.iter().map(one).collect(),
    }
}

/// Files with bad copies, the first of each tier.
pub(super) fn bad_files(engine: &Engine, most: usize) -> Result<Vec<TroubledFile>, EngineError> {
    let (catalog, mut files) = (engine.catalog(), Vec::new());
    for slot in engine.tiers() {
        for bad in catalog.bad_copies(slot.id, None, most)? {
            let path = bad.node.map(|node| catalog.path_of(node)).transpose()?;
            let path = path.flatten().unwrap_or_default();
            files.push(TroubledFile {
                state: "bad copy".to_owned(),
                path: String::from_utf8_lossy(&path).into_owned(),
                note: Some(format!("{} on tier {}", bad.copy.aggregate, slot.name)),
            });
        }
    }
    files.truncate(most);
    Ok(files)
}

pub(super) fn warnings(facts: &ScrubFacts) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |code: &str, message: String| {
        found.push(Warning {
            code: code.into(),
            level: Level::Warning,
            message,
        });
    };
    let bad: u64 = facts.tiers.iter().map(|t| t.bad).sum();
    if bad > 0 {
        let made = if facts.heal {
            "are made again where a good one is left"
        } else {
            "are not made again (heal = false)"
        };
        let copies = if bad == 1 { "copy is" } else { "copies are" };
        warn("bad-copies", format!("{bad} {copies} bad, and {made}"));
    }
    for tier in &facts.tiers {
        let every = format_duration(facts.every);
        if !facts.is_kept(tier) {
            let message = format!(
                "tier {} cannot be read in time: {} at {} a second take {}, more than scrub-every ({every})",
                tier.tier,
                Bytes(tier.bytes),
                Bytes(facts.bandwidth),
                seconds(tier.takes.as_secs()),
            );
            warn("scrub-slow", message);
        } else if facts.is_late(tier, now()) {
            let message = format!(
                "copies on tier {} were not read for longer than scrub-every ({every}): {} to read",
                tier.tier,
                counted(tier.copies, "copy").replace("copys", "copies"),
            );
            warn("scrub-late", message);
        }
    }
    found
}
