//! Tests of the backing.
