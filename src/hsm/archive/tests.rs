//! P2 by its rules.
