//! Tape: a library of cartridges, drives and a robot, from its pieces up.

pub mod clock;
pub mod drive;
pub mod faults;
pub mod image;
pub mod label;
mod lock;
pub mod timing;
pub mod volume;
