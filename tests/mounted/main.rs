//! A real mount, real processes: what a user does and sees.

#[path = "../rig/rig.rs"]
mod rig;

mod attributes;
mod changes;
mod full;
mod lost;
mod released;
mod round_trip;
mod tier_away;
mod truncated;
mod waiting;
