//! Tape: a library of cartridges, drives and a robot, from its pieces up.

pub mod image;
pub mod label;
mod lock;
