//! The doors of a running instance: an HTTP API over a Unix socket, beside it the socket through
//! which local callers hand over descriptors of their files, and the audit log. Who may do what
//! is decided behind [`control::Control`], never here; who is asking is established here, from
//! the socket's peer (P15).

pub mod control;
pub mod wire;

/// Most subjects in one call; more are handed over in parts (`wire::Part`).
pub const MAX_SUBJECTS: usize = 512;
