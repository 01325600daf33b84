//! What `cairn doctor` asks for: bytes of no file, to see which way streams can go and how fast.
//!
//! Invariant: no file is touched; what is dialled is what may be dialled for a transfer (P15); a probe has an end.

use super::Call;
use super::routes::Refused;
use super::transfers::Expectation;
use crate::error::Failure;
use crate::id::{bytes_of_hex, hex_of};
use crate::server::wire::{ProbeQuery, Probed};
use cairn_mover::{
    BLOCK_DEFAULT, ByteRange, DialRule, Dialler, Direction, Door, Iod, Meter, Mode, Options, Place,
    Protect, Secret, Source, Streams, TransferId,
};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of one probe, at most.
const MOST: u64 = 1 << 30;
/// Streams of one.
const STREAMS: u16 = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a first stream may take.
const REACH: Duration = Duration::from_secs(5);

/// Bytes that are nothing of anybody's.
struct Nothing;

impl Source for Nothing {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        // Not all the same: what lies between may compress.
        let mut state = offset | 1;
        for chunk in buffer.chunks_mut(8) {
            state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ 0x5bd1;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(true)
    }
}

fn usage(why: impl ToString) -> Refused {
    Refused::new(Failure::Usage, why)
}

fn options(meter: &Arc<Meter>) -> Options {
    Options {
        streams: Streams::All,
        meter: Arc::clone(meter),
        handshake: REACH,
        patience: REACH,
        ..Options::default()
    }
}

/// Answers one: dials the caller, or says where to dial.
pub(super) async fn probe(call: &Call, asked: ProbeQuery) -> Result<Probed, Refused> {
    let Some(counted) = call.agent.transfers.place() else {
        return Err(Refused::new(
            Failure::OverBudget,
            "too many transfers of yours are open",
        ));
    };
    match &asked.iod {
        Some(text) => dial(call, text).await,
        None => offer(call, &asked, counted),
    }
}

async fn dial(call: &Call, text: &str) -> Result<Probed, Refused> {
    let bytes = bytes_of_hex(text).ok_or_else(|| usage("no descriptor"))?;
    let iod = Iod::decode(&bytes).map_err(usage)?;
    if iod.size > MOST || iod.direction != Direction::ToListener || iod.streams > STREAMS {
        return Err(usage("a probe is of 1 GiB and 16 streams at most"));
    }
    let rule = DialRule::new(call.from.ip(), call.agent.dial.clone());
    let unreached = |code: Failure, why: String| {
        Refused::new(code, format!("the server cannot reach you: {why}"))
    };
    let dialler = Dialler::new(&iod, &rule).await;
    let dialler = dialler.map_err(|e| unreached(Failure::NotPermitted, e.to_string()))?;
    let meter = Arc::<Meter>::default();
    let door = Door::Dialling(dialler);
    let options = options(&meter);
    let sent = cairn_mover::send(door, &iod, Arc::new(Nothing), &options);
    match timeout(PATIENCE, sent).await {
        Ok(Ok(_)) => Ok(Probed {
            iod: None,
            here: false,
            streams: meter.most() as u64,
        }),
        Ok(Err(error)) => Err(unreached(Failure::TimedOut, error.to_string())),
        Err(_) => Err(unreached(Failure::TimedOut, "it took too long".to_owned())),
    }
}

fn offer(
    call: &Call,
    asked: &ProbeQuery,
    counted: super::register::Counted,
) -> Result<Probed, Refused> {
    let internal = |error: String| Refused::new(Failure::Internal, error);
    let protect: Protect = asked.protect.parse().map_err(usage)?;
    let size = asked.bytes.clamp(1, MOST);
    let agent = &call.agent;
    let here = agent.advertise.is_empty();
    let places = match "0.0.0.0".parse() {
        Ok(host) if here => vec![Place::new(host, &[1024])],
        _ => agent.advertise.clone(),
    };
    let transfer = TransferId::generate().map_err(|e| internal(e.to_string()))?;
    let iod = Iod {
        transfer,
        secret: Secret::generate().map_err(|e| internal(e.to_string()))?,
        direction: Direction::FromListener,
        mode: Mode::Firewall,
        protect,
        block: BLOCK_DEFAULT,
        streams: asked.streams.clamp(1, STREAMS),
        offer: 10,
        size,
        version: transfer.0.to_vec(),
        places,
        ranges: ByteRange::new(0, size).into_iter().collect(),
    };
    let bytes = iod.encode().map_err(usage)?;
    let door = agent.listener.expect(&iod);
    let door = door.map_err(|e| internal(e.to_string()))?;
    let expectation = Expectation::new(agent, transfer).map_err(|e| internal(e.to_string()))?;
    tokio::spawn(async move {
        let _both = (expectation, counted);
        let options = options(&Arc::<Meter>::default());
        let sent = cairn_mover::send(door, &iod, Arc::new(Nothing), &options);
        // The caller sees how it ends.
        let _ = timeout(PATIENCE, sent).await;
    });
    Ok(Probed {
        iod: Some(hex_of(&bytes)),
        here,
        streams: 0,
    })
}
