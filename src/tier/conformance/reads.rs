//! Cases of reading: exactly what was asked for, or an error that says why not.

use super::{Case, content, ensure, holds, name, refuses, store};
use crate::tier::{ErrorKind, Tier, TierError};
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    ("ranges_read_exactly", ranges),
    ("reads_of_no_bytes_within_the_object_give_none", nothing),
    ("reads_beyond_the_end_are_short_and_say_where_it_is", short),
    ("what_is_not_there_is_missing", missing),
    ("concurrent_readers_each_read_right", readers),
    ("readers_go_on_while_others_write", beside_writers),
];

fn ranges(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(1, 300_000);
    store(&**tier, name(1), &data)?;
    for (offset, len) in [
        (0, 1),
        (299_999, 1),
        (4095, 2),
        (511, 100_000),
        (0, 300_000),
    ] {
        let bytes = tier
            .read(name(1), offset, len)
            .map_err(|e| format!("read of {len} at {offset}: {e}"))?;
        // Both are below 300,000.
        let (from, count) = (offset as usize, len as usize);
        ensure(bytes == data[from..from + count], || {
            format!("{len} bytes at {offset} are others")
        })?;
    }
    Ok(())
}

fn nothing(tier: &Arc<dyn Tier>) -> Result<(), String> {
    store(&**tier, name(1), &content(2, 1000))?;
    for offset in [0, 500, 1000] {
        let bytes = tier
            .read(name(1), offset, 0)
            .map_err(|e| format!("read of nothing at {offset}: {e}"))?;
        ensure(bytes.is_empty(), || {
            format!("{} bytes at {offset}", bytes.len())
        })?;
    }
    Ok(())
}

fn short(tier: &Arc<dyn Tier>) -> Result<(), String> {
    store(&**tier, name(1), &content(3, 1000))?;
    for (offset, len) in [
        (0, 1001),
        (999, 2),
        (1000, 1),
        (1001, 0),
        (5000, 10),
        (u64::MAX, 2),
        (0, u64::MAX),
    ] {
        match tier.read(name(1), offset, len) {
            Err(TierError::Short {
                object,
                len: end,
                wanted,
                ..
            }) => {
                ensure(
                    object == name(1) && end == 1000 && wanted == offset.saturating_add(len),
                    || format!("{len} at {offset}: ends at {end}, wanted {wanted}"),
                )?;
            }
            other => return Err(format!("{len} at {offset}: wanted short, got {other:?}")),
        }
    }
    Ok(())
}

fn missing(tier: &Arc<dyn Tier>) -> Result<(), String> {
    refuses(tier.read(name(1), 0, 10), ErrorKind::Missing, "read")?;
    refuses(tier.stat(name(1)), ErrorKind::Missing, "stat")?;
    // A neighbour does not change that.
    store(&**tier, name(2), b"neighbour")?;
    refuses(
        tier.read(name(1), 0, 0),
        ErrorKind::Missing,
        "read of nothing",
    )?;
    refuses(
        tier.stat(name(1)),
        ErrorKind::Missing,
        "stat beside another",
    )
}

fn readers(tier: &Arc<dyn Tier>) -> Result<(), String> {
    // More objects than a small cache of descriptors holds.
    const OBJECTS: u64 = 40;
    for seq in 1..=OBJECTS {
        store(&**tier, name(seq), &content(seq, 5000))?;
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4_u64)
            .map(|reader| {
                scope.spawn(move || {
                    (0..OBJECTS).try_for_each(|n| {
                        let seq = (n * (2 * reader + 1)) % OBJECTS + 1;
                        holds(&**tier, name(seq), &content(seq, 5000))
                    })
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join()).collect()
    });
    results
        .into_iter()
        .try_for_each(|r| r.map_err(|_| "a reader panicked".to_owned())?)
}

fn beside_writers(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(5, 200_000);
    store(&**tier, name(1), &data)?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            (2..10).try_for_each(|seq| store(&**tier, name(seq), &content(seq, 50_000)).map(|_| ()))
        });
        let read = (0..20).try_for_each(|_| holds(&**tier, name(1), &data));
        let wrote = writer
            .join()
            .map_err(|_| "the writer panicked".to_owned())?;
        read.and(wrote)
    })
}
