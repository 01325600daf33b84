//! Tests of recall.
