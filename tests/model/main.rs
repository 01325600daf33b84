//! The protocols, small enough that all their states can be looked at (docs/faults.md, "The model").

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of it is tests, also the functions they share"
)]

mod deletion;
mod deletion_controls;
mod explorer;
mod file;
mod file_controls;
mod survived;
