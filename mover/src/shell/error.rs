//! What can go wrong with a transfer: the step, the object, and the cause.

use crate::arrival::ArrivalFault;
use crate::dial_rule::Refused;
use crate::frame::FrameFault;
use crate::handshake::HandshakeFault;
use crate::iod::{Host, IodFault};
use crate::progress::{Progress, ProgressFault};
use crate::schedule::ScheduleFault;
use crate::secret::{NoRandom, StreamIndex, TransferId};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Why the other end gave up, as it goes over the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AbortCode {
    /// The source changed while it was read: nothing that arrived may be used.
    SourceChanged,
    /// The source could not be read.
    SourceFailed,
    /// The sink has no space, or its user no quota.
    NoSpace,
    /// The sink could not be written or synchronised.
    SinkFailed,
    /// The other end said what cannot be.
    Protocol,
    /// Anything else, and what later versions may say.
    Other,
}

impl AbortCode {
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::SourceChanged => 1,
            Self::SourceFailed => 2,
            Self::NoSpace => 3,
            Self::SinkFailed => 4,
            Self::Protocol => 5,
            Self::Other => 6,
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Self {
        match byte {
            1 => Self::SourceChanged,
            2 => Self::SourceFailed,
            3 => Self::NoSpace,
            4 => Self::SinkFailed,
            5 => Self::Protocol,
            _ => Self::Other,
        }
    }
}

/// Why a transfer, or a step before it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor is none.
    #[error(transparent)]
    Iod(#[from] IodFault),
    /// No random bytes, so no secret.
    #[error(transparent)]
    Random(#[from] NoRandom),
    /// No port to listen on.
    #[error("cannot listen on {address}, ports {ports}: {source}")]
    Listen {
        /// The address to bind.
        address: IpAddr,
        /// The ports that were tried.
        ports: String,
        /// Why the last one failed.
        source: io::Error,
    },
    /// The descriptor's transfer is expected already.
    #[error("transfer {0} is expected already")]
    Expected(TransferId),
    /// A name that has no address.
    #[error("cannot find the address of {host}: {source}")]
    Resolve {
        /// The host.
        host: Host,
        /// Why.
        source: io::Error,
    },
    /// Nothing in the descriptor may be dialled.
    #[error("will not dial {address}: {why}")]
    Refused {
        /// The address.
        address: SocketAddr,
        /// Why not.
        why: Refused,
    },
    /// The descriptor has another direction than what was called.
    #[error("transfer {0} goes the other way")]
    Direction(TransferId),
    /// Nobody there, or a firewall.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Somebody else is there.
    #[error("{address} is not let in: {fault}")]
    Handshake {
        /// The address.
        address: SocketAddr,
        /// Why.
        fault: HandshakeFault,
    },
    /// A stream broke.
    #[error("stream {stream}: {step}: {source}")]
    Stream {
        /// Which.
        stream: StreamIndex,
        /// While it did what.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A stream was silent.
    #[error("stream {stream}: silent for {silent:?}")]
    Frozen {
        /// Which.
        stream: StreamIndex,
        /// How long.
        silent: Duration,
    },
    /// A stream brought what the other end did not send.
    #[error("stream {stream}: {fault}")]
    Frame {
        /// Which.
        stream: StreamIndex,
        /// What.
        fault: FrameFault,
    },
    /// The sender sent what was not asked for.
    #[error(transparent)]
    Arrival(#[from] ArrivalFault),
    /// The receiver acknowledged what was not sent.
    #[error(transparent)]
    Schedule(#[from] ScheduleFault),
    /// The source could not be read.
    #[error("cannot read the source at offset {offset}: {source}")]
    Source {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// What arrived before does not fit the descriptor.
    #[error(transparent)]
    Progress(#[from] ProgressFault),
    /// The source changed under the transfer.
    #[error("the source changed while it was read; what arrived is not to be used. Send it again")]
    SourceChanged,
    /// The sink failed.
    #[error("cannot {step} the sink{}: {source}", place(.offset))]
    Sink {
        /// `write`, `synchronise` or `keep the progress of`.
        step: &'static str,
        /// Where, of a write.
        offset: Option<u64>,
        /// Why.
        source: io::Error,
    },
    /// The other end gave up, and said why.
    #[error("the other end gave up: {text}")]
    Peer {
        /// Why.
        code: AbortCode,
        /// The same, in its words.
        text: String,
    },
    /// A task ended without a word: a `Source` or `Sink` panicked, or the runtime ends.
    #[error("a task of the transfer died: {0}")]
    Task(String),
    /// No stream for too long, or one after the other died without a byte.
    #[error("no stream: {what}{}", because(.last))]
    NoStream {
        /// What was waited for.
        what: String,
        /// The last that went wrong.
        last: Option<Box<Self>>,
    },
}

fn place(offset: &Option<u64>) -> String {
    offset.map_or(String::new(), |o| format!(" at offset {o}"))
}

fn because(last: &Option<Box<Error>>) -> String {
    last.as_ref().map_or(String::new(), |e| format!("; {e}"))
}

impl Error {
    /// What the other end is told.
    pub(crate) fn abort(&self) -> (AbortCode, String) {
        let code = match self {
            Self::SourceChanged => AbortCode::SourceChanged,
            Self::Source { .. } => AbortCode::SourceFailed,
            Self::Sink { source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AbortCode::NoSpace,
                _ => AbortCode::SinkFailed,
            },
            Self::Arrival(_) | Self::Schedule(_) => AbortCode::Protocol,
            _ => AbortCode::Other,
        };
        (code, self.to_string())
    }

    /// What the other end told.
    pub(crate) fn from_abort(code: AbortCode, text: String) -> Self {
        match code {
            AbortCode::SourceChanged => Self::SourceChanged,
            _ => Self::Peer { code, text },
        }
    }
}

/// A receive that failed, and how far it came.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Failed {
    /// Why.
    #[source]
    pub error: Error,
    /// What is there durably, to be resumed; nothing is if the source changed.
    pub progress: Progress,
}

/// How a stream ends, when not well.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The stream alone: its blocks go to the others.
    Stream(Error),
    /// The whole transfer.
    Transfer(Error),
}

impl Broken {
    pub(crate) fn io(stream: StreamIndex, step: &'static str, source: io::Error) -> Self {
        Self::Stream(Error::Stream {
            stream,
            step,
            source,
        })
    }

    pub(crate) fn frame(stream: StreamIndex, fault: FrameFault) -> Self {
        Self::Stream(Error::Frame { stream, fault })
    }
}

impl<E: Into<Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self::Transfer(error.into())
    }
}
