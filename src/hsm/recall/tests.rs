//! Tests of recall by the numbers of its protocols, without a mount.

mod adoption;
mod crashes;
mod cycle;
mod failures;
mod meanwhile;
mod nearest;
mod p4;
mod parts;
pub(in crate::hsm) mod rig;
mod room;
mod tape;
mod thaw;
mod times;
mod together;
mod twice;
