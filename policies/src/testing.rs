//! Files and runs for tests.
