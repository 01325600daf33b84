//! The suite that every tier passes, as a library: `tests/conformance` runs it over each tier and
//! each wrapper, and whoever writes another [`Tier`] runs the same cases.
//!
//! Cases judge by the contract at the head of [`super`] alone: nothing here knows a kind of tier.

mod objects;
mod owners;
mod puts;
mod reads;

pub use owners::run_opening;

use super::{ErrorKind, Put, Receipt, Tier, TierError};
use crate::id::AggregateId;
use cairn_mover::Crc32c;
use std::io::Write;
use std::sync::Arc;

/// One case and what came of it.
#[derive(Debug)]
pub struct Outcome {
    /// Name of the case, a sentence in snake_case.
    pub case: &'static str,
    /// Why it failed.
    pub result: Result<(), String>,
}

type Case = (&'static str, fn(&Arc<dyn Tier>) -> Result<(), String>);

/// Runs every case, each on a tier of its own that `fresh` makes: empty, and with room for 64 MiB.
pub fn run(fresh: &dyn Fn() -> Arc<dyn Tier>) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    run_each(&|| Ok(fresh()), &mut |outcome| outcomes.push(outcome));
    outcomes
}

/// The same where a tier may not be had; `each` hears of each case when it has ended.
pub fn run_each(fresh: &dyn Fn() -> Result<Arc<dyn Tier>, String>, each: &mut dyn FnMut(Outcome)) {
    for (case, test) in puts::CASES.iter().chain(reads::CASES).chain(objects::CASES) {
        let result = fresh().and_then(|tier| test(&tier));
        each(Outcome { case, result });
    }
}

/// A name of the first epoch.
fn name(seq: u64) -> AggregateId {
    AggregateId { epoch: 1, seq }
}

/// `len` bytes that repeat nowhere near and differ for each `seed`.
fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(len);
    data
}

fn start(tier: &dyn Tier, name: AggregateId, data: &[u8]) -> Result<Box<dyn Put>, String> {
    let mut put = tier
        .put(name, data.len() as u64)
        .map_err(|e| format!("put of {name}: {e}"))?;
    put.write_all(data)
        .map_err(|e| format!("write of {name}: {e}"))?;
    Ok(put)
}

fn store(tier: &dyn Tier, name: AggregateId, data: &[u8]) -> Result<Receipt, String> {
    start(tier, name, data)?
        .finish(Crc32c::of(data))
        .map_err(|e| format!("finish of {name}: {e}"))
}

fn holds(tier: &dyn Tier, name: AggregateId, data: &[u8]) -> Result<(), String> {
    let len = tier.stat(name).map_err(|e| format!("stat: {e}"))?;
    ensure(len == data.len() as u64, || {
        format!("{name} has {len} bytes, wanted {}", data.len())
    })?;
    let bytes = tier.read(name, 0, len).map_err(|e| format!("read: {e}"))?;
    ensure(bytes == data, || format!("{name} reads back different"))
}

fn absent(tier: &dyn Tier, name: AggregateId) -> Result<(), String> {
    refuses(tier.stat(name), ErrorKind::Missing, "stat")?;
    refuses(tier.read(name, 0, 0), ErrorKind::Missing, "read")?;
    let names = tier
        .list(None, usize::MAX)
        .map_err(|e| format!("list: {e}"))?;
    ensure(!names.contains(&name), || format!("{name} is listed"))
}

fn refuses<T>(result: Result<T, TierError>, kind: ErrorKind, what: &str) -> Result<(), String> {
    match result {
        Ok(_) => Err(format!("{what} succeeded, wanted {}", kind.as_str())),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(format!("{what}: wanted {}, got {error:?}", kind.as_str())),
    }
}

fn ensure(good: bool, why: impl FnOnce() -> String) -> Result<(), String> {
    if good { Ok(()) } else { Err(why()) }
}
