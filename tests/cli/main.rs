//! The commands as users see them: the program as a process against a fake engine behind a real
//! server. Output and help are frozen as snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "a test fails by panicking; the rig is shared between its modules"
)]

mod deleted;
mod doors;
mod fake;
mod help;
mod output;
mod requests;
mod rig;
