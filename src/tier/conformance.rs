//! The suite that every tier passes, as a library: `tests/conformance` runs it over each tier and
//! each wrapper. Later tiers run the same cases.
