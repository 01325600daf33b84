//! A real mount, real processes: what a user does and sees.

#[path = "../rig/rig.rs"]
mod rig;

mod changes;
mod round_trip;
mod waiting;
