//! Actions on their way: taken into the dispatcher's window, started, ended.
//!
//! Invariants: an action is in at most one window; it starts only while its request is not
//! cancelled; a restart loses nothing, because whatever was taken or running is queued again.

use super::request::{Action, ActionId, Class, Finish, Started};
use super::{Catalog, CatalogError, Durability};
use crate::id::Timestamp;

impl Catalog {
    /// After a restart: what was taken or running is queued again (of cancelled requests:
    /// settled). Once, after [`Catalog::begin_incarnation`], before the first take. Gives how many.
    /// Durable.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn recover_actions(&self, now: Timestamp) -> Result<u64, CatalogError> {
        let _ = (now, Durability::Full);
        unimplemented!()
    }

    /// Takes up to `limit` actions of a class that may start at `now`, shared out among the users
    /// that have some, oldest requests first, by order on the medium within a request. They are
    /// not taken again until they end, are put back, or the process restarts.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn take_actions(
        &self,
        class: Class,
        limit: usize,
        now: Timestamp,
    ) -> Result<Vec<Action>, CatalogError> {
        let _ = (class, limit, now);
        unimplemented!()
    }

    /// Marks actions as running. Those whose request was cancelled meanwhile are refused. Relaxed:
    /// a crash queues them again.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn start_actions(
        &self,
        actions: Vec<ActionId>,
        now: Timestamp,
    ) -> Result<Started, CatalogError> {
        let _ = (actions, now);
        unimplemented!()
    }

    /// Notes how attempts ended. Ending an action twice has no effect. An attempt of a cancelled
    /// request that would be tried again ends as cancelled.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn finish_actions(
        &self,
        ended: Vec<(ActionId, Finish)>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<(), CatalogError> {
        let _ = (ended, now, durability);
        unimplemented!()
    }
}
