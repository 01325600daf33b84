//! Which names are believed about the epoch.

use super::*;
use crate::format::aggregate::AggregateWriter;
use crate::id::{InstanceId, TierId, Timestamp};
use crate::tier::Mark;
use crate::tier::mem::MemTier;
use cairn_mover::Crc32c;
use std::io::Write;

const FS: FsUuid = FsUuid([2; 16]);

fn empty() -> MemTier {
    MemTier::new(Mark {
        tier: TierId(7),
        owner: InstanceId([1; 16]),
    })
}

fn put(tier: &MemTier, epoch: u32, bytes: &[u8]) {
    let name = AggregateId { epoch, seq: 9 };
    let mut put = tier.put(name, bytes.len() as u64).unwrap();
    put.write_all(bytes).unwrap();
    put.finish(Crc32c::of(bytes)).unwrap();
}

/// An empty aggregate of this name and backing.
fn end(epoch: u32, fs: FsUuid) -> Vec<u8> {
    let name = AggregateId { epoch, seq: 9 };
    let writer = AggregateWriter::new(Vec::new(), name, fs, Timestamp::default());
    writer.finish().unwrap().0
}

fn highest(tier: &MemTier, base: u32) -> (u32, usize) {
    let mut told = Vec::new();
    let found = highest_epoch(tier, FS, base, &mut |what| told.push(what)).unwrap();
    (found, told.len())
}

#[test]
fn p9_the_highest_epoch_is_found_without_listing_all() {
    for epochs in [
        &[][..],
        &[1],
        &[1, 2, 3],
        &[1, 1000, 70_000],
        &[0x7fff_ffff],
        &[5, u32::MAX - 1],
    ] {
        let tier = empty();
        epochs
            .iter()
            .for_each(|epoch| put(&tier, *epoch, &end(*epoch, FS)));
        let most = epochs.iter().max().copied().unwrap_or(0);
        assert_eq!(highest(&tier, 0), (most, 0), "{epochs:?}");
    }
}

#[test]
fn p9_a_stray_name_far_above_everything_else_does_not_use_the_epochs_up() {
    let tier = empty();
    put(&tier, 3, &end(3, FS));
    put(&tier, u32::MAX, b"somebody's");
    put(&tier, 900_000, &end(900_000, FsUuid([9; 16])));
    // Renamed: its end says another name.
    put(&tier, 800_000, &end(5, FS));
    assert_eq!(highest(&tier, 1), (3, 3));
    // By its name alone, where that is not far.
    put(&tier, 1 + FAR, b"damaged");
    assert_eq!(highest(&tier, 1), (1 + FAR, 3));
    assert_eq!(highest(&tier, 800_000), (800_000, 2));
    // And far above, where its end says so.
    put(&tier, 700_000, &end(700_000, FS));
    assert_eq!(highest(&tier, 1), (700_000, 3));
}
