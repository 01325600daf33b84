//! Archive, release, stage, verify; requests and their scheduler.
pub mod schedule;
