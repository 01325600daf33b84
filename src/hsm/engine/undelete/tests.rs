//! Undelete: what comes back, and what a crash leaves.
