//! Tests of the residency.
