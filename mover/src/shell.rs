//! The thin shell around the core: sockets, tasks and time, on tokio.
//!
//! What it adds to the core's invariants:
//! - memory is bounded: a stream has one block in memory at each end, whatever waits is a parked task;
//! - each end hears something from the other within `freeze`, or calls the stream dead; so that
//!   silence means death and nothing else, whoever waits for a disk, a limit or a tape says that it lives;
//! - what is kept ([`Sink::keep`]) was synchronised before, and what is synchronised was written before;
//! - dropping the future of a transfer ends it: tasks and sockets go with it. One read or write for
//!   each stream may still end on its thread.

mod crew;
mod dialler;
mod ends;
mod error;
mod listener;
mod options;
mod receiver;
mod sender;
mod stream;

pub use crew::Door;
pub use dialler::Dialler;
pub use ends::{Sink, Source};
pub use error::{AbortCode, Error, Failed};
pub use listener::{Incoming, ListenOptions, Listener, Shortfall};
pub use options::{Limit, Meter, Options, Streams};
pub use receiver::{Received, receive};
pub use sender::{Sent, send};
