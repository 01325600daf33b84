//! Moves byte ranges between two endpoints over authenticated, checksummed streams.
//!
//! It knows offsets, bytes and sockets; nothing of files' meaning, catalogs or tiers. The protocol, byte by
//! byte, is in docs/mover.md.
//!
//! Five nouns: the [`Iod`] tells the far side where to connect, and what for; a *stream* is one of the
//! transfer's TCP connections, which proves itself before a byte flows ([`handshake`]); a *frame* is a
//! block of the file on a stream ([`frame`]); the [`Schedule`] gives blocks to the sender's streams, and
//! the [`Arrival`] takes them at the receiver; [`Progress`] is what survives both.
//!
//! ```text
//!   control channel (not here):  Iod, Secret
//!   Listener ── accepts ─┐                        ┌─ dials ── Dialler
//!                        ├── handshake ── frames ─┤
//!   Source ── Schedule ──┘                        └── Arrival ── Sink
//! ```
//!
//! All but `shell` is free of I/O (but for random numbers), clocks and tokio.
//!
//! Promises: what arrives is what was sent, or an error; a source that changed gives an error, not
//! a mixture; a dead stream costs what it had outstanding; what was kept after it was durable is not moved
//! again; memory is bounded by streams and blocks.
//!
//! ```
//! use cairn_mover::{Checked, Crc32c};
//! let sum = Crc32c::of(b"hello");
//! let good = Checked::verify(bytes::Bytes::from_static(b"hello"), sum).expect("same bytes");
//! assert_eq!(good.as_slice(), b"hello");
//! assert!(Checked::verify(bytes::Bytes::from_static(b"hallo"), sum).is_err());
//! ```

mod arrival;
mod checked;
mod checksum;
mod dial_rule;
pub mod frame;
pub mod handshake;
mod iod;
mod pace;
mod ports;
mod progress;
mod range;
mod schedule;
mod seal;
mod secret;
mod settings;
mod shell;
mod width;

pub use arrival::{Arrival, ArrivalFault, Claim};
pub use checked::{Checked, Mismatch};
pub use checksum::{Crc32c, Crc32cHasher};
pub use dial_rule::{DialRule, Network, NetworkFault, Refused};
pub use iod::{
    BLOCK_DEFAULT, BLOCK_MAX, BLOCK_MIN, Direction, Host, HostFault, Iod, IodFault,
    MAX_LEN as IOD_LEN_MAX, Mode, Place, Protect, RANGES_MAX, STREAMS_MAX,
};
pub use pace::Bucket;
pub use ports::{PortFault, PortMap, PortRange};
pub use progress::{Progress, ProgressFault, Runs};
pub use range::{ByteRange, RangeSet};
pub use schedule::{Next, Pattern, Schedule, ScheduleFault};
pub use seal::{NotAuthentic, StreamKey};
pub use secret::{NoRandom, Secret, StreamIndex, TransferId};
pub use settings::{Given, HOST_VARIABLES, PORT_VARIABLES, SettingFault, Settings};
pub use shell::{
    AbortCode, Dialler, Door, Error, Failed, Incoming, Limit, ListenOptions, Listener, Meter,
    Options, Received, Sent, Shortfall, Sink, Source, Streams, receive, send,
};
pub use width::Width;
