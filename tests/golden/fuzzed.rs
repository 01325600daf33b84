//! Fuzzed.
