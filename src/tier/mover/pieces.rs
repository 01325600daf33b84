//! A piece of an object on its way between instance and mover: one transfer, from and to memory.
//!
//! Whoever listens is the instance, through its server's door; the mover dials, so that one open port at the server is
//! enough. A piece is at most [`PIECE`] bytes, and is checked on the way (docs/mover.md).

use super::wire::Fault;
use bytes::Bytes;
use cairn_mover::{
    ByteRange, DialRule, Dialler, Direction, Door, Host, Iod, Mode, Options, Place, Progress,
    Protect, Secret, Sink, Source, Streams, TransferId,
};
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The longest piece, bytes: what each end holds in memory of it.
pub(super) const PIECE: u64 = 16 << 20;
/// A block of a piece: small enough that all streams have some of it.
const BLOCK: u32 = 512 << 10;
/// Seconds until a first stream must come, from when a piece was offered: a mover that waits for a tape dials after that.
/// The offer ends with the mover's connection, too.
const OFFER: u32 = 24 * 3600;

/// How pieces travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Carrying {
    pub streams: u16,
    pub protect: Protect,
}

/// Bytes in memory that are received. Room is made when the first come: a mover may wait for a tape before.
struct Memory {
    len: usize,
    bytes: Mutex<Vec<u8>>,
}

impl Sink for Memory {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let mut all = self.bytes.lock();
        if all.is_empty() {
            let room = all.try_reserve_exact(self.len);
            room.map_err(|_| io::ErrorKind::OutOfMemory)?;
            all.resize(self.len, 0);
        }
        let to = from.checked_add(bytes.len());
        let place = to.and_then(|to| all.get_mut(from..to));
        place
            .ok_or(io::ErrorKind::InvalidInput)?
            .copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

struct Sent(Bytes);

impl Source for Sent {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let to = from.checked_add(buffer.len());
        let bytes = to.and_then(|to| self.0.get(from..to));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(true)
    }
}

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The mover sends.
    ToInstance,
    /// The instance sends.
    ToMover,
}

/// The descriptor of a piece of `len` bytes, at least one. Where to dial is not in it: the mover dials where it called.
pub(super) fn offer(way: Way, len: u64, carrying: Carrying) -> Result<Iod, Fault> {
    let transfer = TransferId::generate().map_err(Fault::passing)?;
    let here: Host = "0.0.0.0".parse().map_err(Fault::passing)?;
    let blocks = u16::try_from(len.div_ceil(BLOCK.into())).unwrap_or(u16::MAX);
    Ok(Iod {
        secret: Secret::generate().map_err(Fault::passing)?,
        direction: match way {
            Way::ToInstance => Direction::ToListener,
            Way::ToMover => Direction::FromListener,
        },
        mode: Mode::Firewall,
        protect: carrying.protect,
        block: BLOCK,
        streams: carrying.streams.min(blocks).max(1),
        offer: OFFER,
        size: len,
        version: transfer.0.to_vec(),
        places: vec![Place::new(here, &[1024])],
        ranges: ByteRange::new(0, len).into_iter().collect(),
        transfer,
    })
}

fn options() -> Options {
    Options {
        streams: Streams::All,
        ..Options::default()
    }
}

/// Receives the piece that `iod` describes, at most [`PIECE`] bytes.
pub(super) async fn receive(door: Door, iod: &Iod) -> Result<Vec<u8>, Fault> {
    let len = usize::try_from(iod.size.min(PIECE)).map_err(Fault::passing)?;
    if iod.size > PIECE {
        return Err(Fault::passing(format!(
            "a piece of {} bytes is too long",
            iod.size
        )));
    }
    let memory = Arc::new(Memory {
        len,
        bytes: Mutex::default(),
    });
    let sink: Arc<dyn Sink> = Arc::<Memory>::clone(&memory);
    let progress = Progress::new(&iod.version, iod.size);
    let received = cairn_mover::receive(door, iod, sink, progress, &options()).await;
    received.map_err(|failed| Fault::passing(failed.error))?;
    Ok(std::mem::take(&mut *memory.bytes.lock()))
}

/// Sends the piece that `iod` describes.
pub(super) async fn send(door: Door, iod: &Iod, bytes: Bytes) -> Result<(), Fault> {
    let sent = cairn_mover::send(door, iod, Arc::new(Sent(bytes)), &options()).await;
    sent.map(drop).map_err(Fault::passing)
}

/// The mover's end: dials where it called, and nowhere else (P15).
pub(super) async fn dial(iod: &mut Iod, server: SocketAddr) -> Result<Door, Fault> {
    iod.places = vec![Place::new(Host::Address(server.ip()), &[server.port()])];
    let rule = DialRule::new(server.ip(), Vec::new());
    let dialler = Dialler::new(iod, &rule).await.map_err(Fault::passing)?;
    Ok(Door::Dialling(dialler))
}
