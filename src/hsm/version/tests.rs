//! Tests of the version.
