//! A put of what has no end yet: one transfer whose ranges are named as its caller comes to know them.
//!
//! Invariants: the part stays locked from the first range to the last, so what was written before is what this transfer wrote; a
//! range is asked for after the one before it is durable; only `finish`, which says where the end is, gives the name.

use super::{
    Agent, End, Expectation, Number, OpenedTransfer, Refused, Streams, Transfer, TransferId, Way,
    offer, pairs_of, ranges_of, usage,
};
use crate::error::Failure;
use crate::id::hex_of;
use crate::server::wire::{ContinueTransfer, Dialling};
use cairn_mover::{Protect, RangeSet};
use std::sync::Arc;

/// What of these ranges is not there.
pub(super) fn lacking(
    progress: &cairn_mover::Progress,
    asked: &[[u64; 2]],
) -> Result<Vec<cairn_mover::ByteRange>, Refused> {
    let asked = ranges_of(asked).ok_or_else(|| usage("a range without bytes"))?;
    if asked.iter().any(|range| range.end() > progress.size()) {
        return Err(usage("a range behind the end"));
    }
    let mut lacking: RangeSet = asked.into_iter().collect();
    for (there, _) in progress.runs() {
        lacking.remove(there);
    }
    Ok(lacking.iter().collect())
}

/// Waits until what was asked for is there, and opens the transfer for more.
pub(in super::super) async fn go_on(
    agent: &Arc<Agent>,
    number: Number,
    asked: ContinueTransfer,
) -> Result<OpenedTransfer, Refused> {
    let mut transfer = agent.transfers.take(number)?;
    if matches!(transfer.end, End::Sends(_)) {
        agent.transfers.add_back(number, transfer);
        return Err(usage("only a put goes on"));
    }
    let moved = transfer.moved().await?;
    transfer.progress = moved.progress;
    transfer.expected.ranges = lacking(&transfer.progress, &asked.ranges)?;
    transfer.meter = Arc::default();
    let mut opened = OpenedTransfer {
        number,
        iod: None,
        here: agent.advertise.is_empty(),
        version: hex_of(&transfer.expected.version),
        ranges: pairs_of(&transfer.expected.ranges),
        finished: None,
    };
    if asked.dialling == Dialling::Firewall && !opened.ranges.is_empty() {
        let protect: Protect = asked.protect.parse().map_err(usage)?;
        opened.iod = Some(expect(agent, &mut transfer, asked.streams, protect)?);
    }
    // It may go on for days, and is not one that nobody began.
    transfer.opened = std::time::Instant::now();
    agent.transfers.add_back(number, transfer);
    Ok(opened)
}

/// Streams of a put are expected; the descriptor for its caller.
fn expect(
    agent: &Arc<Agent>,
    transfer: &mut Transfer,
    streams: u16,
    protect: Protect,
) -> Result<String, Refused> {
    let failed = |why: &dyn std::fmt::Display| Refused::new(Failure::Internal, why);
    let id = TransferId::generate().map_err(|e| failed(&e))?;
    let iod = offer(agent, id, Way::Put, &transfer.expected, streams, protect)?;
    let door = agent.listener.expect(&iod).map_err(|e| failed(&e))?;
    let bytes = iod.encode().map_err(usage)?;
    let expectation = Expectation::new(agent, id).map_err(|e| failed(&e))?;
    transfer.begin(Some(expectation), door, iod, Streams::All);
    Ok(hex_of(&bytes))
}
