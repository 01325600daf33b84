//! Configuration: the vocabulary of settings, and the units they are written in.

mod nearest;
pub mod units;

pub use nearest::{hint, nearest};
