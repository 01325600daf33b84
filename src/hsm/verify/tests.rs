//! Good, damaged and truncated copies.
