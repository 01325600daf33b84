//! Archive, release, stage, verify; requests and their scheduler.

pub mod state_dir;
pub mod schedule;
