//! How many descriptors the process may have, and how many of them the node cache takes.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::num::NonZeroUsize;

/// More than this the node cache does not keep, however many it may.
const CACHE_CEILING: u64 = 16 * 1024;
/// Beyond this the descriptor table is not grown ahead (it costs 8 bytes each).
const TABLE_CEILING: u64 = 256 * 1024;

const SHARED_CACHE: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Raises the soft limit to the hard one; returns what holds then.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if setrlimit(Resource::Nofile, raised).is_ok() {
        return limit.maximum.unwrap_or(u64::MAX);
    }
    limit.current.unwrap_or(u64::MAX)
}

/// To what size the table is grown at start.
pub(crate) fn table_size(limit: u64) -> u64 {
    limit.min(TABLE_CEILING)
}

/// How many of them record locks may take: where these are forwarded the node cache takes few.
pub(crate) fn for_locks(limit: u64) -> usize {
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}

/// Descriptors for the node cache: half of what there is, the rest is for opens and the owner.
/// Few on a shared backing: there they keep the blocks of files that others remove.
pub(crate) fn cache_size(limit: u64, shared: bool) -> NonZeroUsize {
    if shared {
        return SHARED_CACHE;
    }
    let half = (limit / 2).clamp(64, CACHE_CEILING);
    NonZeroUsize::new(usize::try_from(half).unwrap_or(64)).unwrap_or(NonZeroUsize::MIN)
}
