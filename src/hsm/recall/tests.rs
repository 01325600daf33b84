//! Tests of recall by the numbers of its protocols, without a mount.

mod crashes;
mod p4;
pub(in crate::hsm) mod rig;
mod room;
