//! Conformance: every tier, bare and under every wrapper, against one suite, and the crashes and
//! bad days of directories, tape libraries and programs.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "all of it is tests, also the functions they share"
)]

mod bad_days;
mod crash;
mod exec;
mod mover;
mod real;
#[cfg(feature = "s3")]
mod s3;
mod suite;
mod tape_batches;
mod tape_crash;
mod tape_damage;
mod tape_days;
mod tape_media;
mod tape_pools;
mod tape_strays;

use cairn::id::{AggregateId, InstanceId, TierId};
use cairn::tier::dir::DirTier;
use cairn::tier::{Mark, OpenHow, Tier};
use cairn_mover::Crc32c;
use std::io::Write;
use std::path::Path;

const MARK: Mark = Mark {
    tier: TierId(0xc0ffee),
    owner: InstanceId([9; 16]),
};

/// Opens (and at first makes) the directory tier at `root`.
fn dir(root: &Path) -> DirTier {
    DirTier::open(root, OpenHow::new(MARK.owner, MARK.tier)).expect("tier opens")
}

fn name(seq: u64) -> AggregateId {
    AggregateId { epoch: 1, seq }
}

fn store(tier: &dyn Tier, name: AggregateId, data: &[u8]) {
    let mut put = tier.put(name, data.len() as u64).expect("put starts");
    put.write_all(data).expect("bytes are taken");
    put.finish(Crc32c::of(data)).expect("receipt");
}

/// Files left in `incoming/`.
fn temporaries(root: &Path) -> usize {
    std::fs::read_dir(root.join("incoming"))
        .expect("incoming")
        .count()
}
