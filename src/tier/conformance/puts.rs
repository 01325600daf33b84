//! Cases of putting: durable and whole when finished, nothing before and nothing otherwise.

use super::{Case, absent, content, ensure, holds, name, refuses, start, store};
use crate::tier::{ErrorKind, Tier, TierError};
use cairn_mover::Crc32c;
use std::io::Write;
use std::sync::{Arc, Barrier};

pub(super) const CASES: &[Case] = &[
    ("a_finished_put_has_a_receipt_and_reads_back", receipt),
    ("an_object_of_no_bytes_is_an_object", empty),
    ("a_large_object_written_in_odd_pieces_reads_back", large),
    ("a_size_hint_may_be_wrong", wrong_hint),
    ("nothing_is_visible_before_finish", invisible),
    ("nothing_is_visible_after_abandon", abandoned),
    ("nothing_is_visible_after_drop", dropped),
    ("an_abandoned_name_can_be_put_again", again),
    ("a_wrong_sum_is_corrupt_and_leaves_nothing", wrong_sum),
    ("a_taken_name_is_refused_and_kept", taken),
    (
        "of_two_puts_of_one_name_the_second_to_finish_loses",
        overtaken,
    ),
    ("of_many_concurrent_puts_of_one_name_one_wins", race),
    ("concurrent_puts_of_many_names_all_arrive", crowd),
];

fn receipt(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(1, 100_000);
    let receipt = store(&**tier, name(1), &data)?;
    ensure(receipt.aggregate == name(1), || {
        "receipt of another".to_owned()
    })?;
    ensure(receipt.len == 100_000, || {
        format!("receipt says {} bytes", receipt.len)
    })?;
    ensure(receipt.crc == Crc32c::of(&data), || {
        "receipt has another sum".to_owned()
    })?;
    holds(&**tier, name(1), &data)
}

fn empty(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let receipt = store(&**tier, name(1), b"")?;
    ensure(receipt.len == 0, || {
        format!("receipt says {} bytes", receipt.len)
    })?;
    holds(&**tier, name(1), b"")
}

fn large(tier: &Arc<dyn Tier>) -> Result<(), String> {
    // No multiple of any block, written in pieces below, at and above likely buffer sizes.
    let data = content(2, (9 << 20) + 4097);
    let mut put = tier
        .put(name(1), data.len() as u64)
        .map_err(|e| e.to_string())?;
    let mut rest = &data[..];
    for size in [1, 511, 512, 4096, 65_537, (1 << 20) - 1, 1 << 20, 3 << 20]
        .iter()
        .cycle()
    {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(rest.len().min(*size));
        put.write_all(piece).map_err(|e| e.to_string())?;
        rest = after;
    }
    put.flush().map_err(|e| format!("flush: {e}"))?;
    put.finish(Crc32c::of(&data)).map_err(|e| e.to_string())?;
    holds(&**tier, name(1), &data)
}

fn wrong_hint(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(3, 70_000);
    for (seq, hint) in [(1, 0), (2, 10), (3, 3_000_000)] {
        let mut put = tier.put(name(seq), hint).map_err(|e| e.to_string())?;
        put.write_all(&data).map_err(|e| e.to_string())?;
        put.finish(Crc32c::of(&data)).map_err(|e| e.to_string())?;
        holds(&**tier, name(seq), &data)?;
    }
    Ok(())
}

fn invisible(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(4, 2 << 20);
    let put = start(&**tier, name(1), &data)?;
    absent(&**tier, name(1))?;
    put.finish(Crc32c::of(&data)).map_err(|e| e.to_string())?;
    holds(&**tier, name(1), &data)
}

fn abandoned(tier: &Arc<dyn Tier>) -> Result<(), String> {
    start(&**tier, name(1), &content(5, 2 << 20))?.abandon();
    absent(&**tier, name(1))
}

fn dropped(tier: &Arc<dyn Tier>) -> Result<(), String> {
    drop(start(&**tier, name(1), &content(6, 2 << 20))?);
    absent(&**tier, name(1))
}

fn again(tier: &Arc<dyn Tier>) -> Result<(), String> {
    start(&**tier, name(1), &content(7, 1000))?.abandon();
    let data = content(8, 2000);
    store(&**tier, name(1), &data)?;
    holds(&**tier, name(1), &data)
}

fn wrong_sum(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(9, 50_000);
    let right = Crc32c::of(&data);
    let wrong = Crc32c(right.0 ^ 0x8000_0000);
    match start(&**tier, name(1), &data)?.finish(wrong) {
        Err(TierError::Corrupt {
            expected, found, ..
        }) => {
            ensure(expected == wrong && found == right, || {
                format!("expected {expected}, found {found} are the wrong way round")
            })?;
        }
        Err(other) => return Err(format!("wanted corrupt, got {other:?}")),
        Ok(_) => return Err("a wrong sum got a receipt".to_owned()),
    }
    absent(&**tier, name(1))
}

fn taken(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let data = content(10, 3000);
    store(&**tier, name(1), &data)?;
    refuses(tier.put(name(1), 10), ErrorKind::Exists, "second put")?;
    holds(&**tier, name(1), &data)
}

fn overtaken(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let (first, second) = (content(11, 3000), content(12, 4000));
    let slow = start(&**tier, name(1), &first)?;
    store(&**tier, name(1), &second)?;
    refuses(
        slow.finish(Crc32c::of(&first)),
        ErrorKind::Exists,
        "late finish",
    )?;
    holds(&**tier, name(1), &second)
}

fn race(tier: &Arc<dyn Tier>) -> Result<(), String> {
    const WRITERS: usize = 4;
    let barrier = Barrier::new(WRITERS);
    let run = |seed: usize| {
        let data = content(seed as u64 + 20, 10_000 + seed);
        let put = start(&**tier, name(1), &data);
        barrier.wait();
        let result = put?.finish(Crc32c::of(&data));
        Ok::<_, String>((data, result))
    };
    let run = &run;
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..WRITERS)
            .map(|seed| scope.spawn(move || run(seed)))
            .collect();
        threads.into_iter().map(|t| t.join()).collect()
    });
    let mut winner = None;
    for result in results {
        let (data, finished) = result.map_err(|_| "a writer panicked".to_owned())??;
        match finished {
            Ok(_) if winner.is_some() => return Err("two puts of one name won".to_owned()),
            Ok(_) => winner = Some(data),
            Err(error) => refuses::<()>(Err(error), ErrorKind::Exists, "losing finish")?,
        }
    }
    holds(&**tier, name(1), &winner.ok_or("no put won")?)
}

fn crowd(tier: &Arc<dyn Tier>) -> Result<(), String> {
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..=8_u64)
            .map(|seed| {
                let put = move || store(&**tier, name(seed * 200), &content(seed, 20_000));
                scope.spawn(put)
            })
            .collect();
        threads.into_iter().map(|t| t.join()).collect()
    });
    for result in results {
        result.map_err(|_| "a writer panicked".to_owned())??;
    }
    (1..=8).try_for_each(|seed| holds(&**tier, name(seed * 200), &content(seed, 20_000)))
}
