//! Durable requests: accepted, cancelled, retried, listed.
//!
//! Invariants: what [`Catalog::submit`] gave back survives any crash; a key names one request per
//! user; a request's counts equal its rows at every commit, where the rows of a cancelled request
//! count as settled before they are.

use super::request::{
    Action, ActionState, NewAction, NewRequest, Request, RequestFilter, Submitted,
};
use super::{Catalog, CatalogError, Durability, NodeId};
use crate::id::{RequestId, Timestamp};

impl Catalog {
    /// Accepts a request with its first actions. Always durable. Tens of thousands of actions are
    /// best given in chunks: the first here with `sealed: false`, then [`Catalog::add_actions`].
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn submit(
        &self,
        request: NewRequest,
        actions: Vec<NewAction>,
        now: Timestamp,
    ) -> Result<Submitted, CatalogError> {
        let _ = (request, actions, now, Durability::Full);
        unimplemented!()
    }

    /// Adds actions to a request that is not sealed; those it has already are left out. Gives how
    /// many were added (0 if the request was cancelled).
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::Refused`] if it is sealed.
    pub fn add_actions(
        &self,
        request: RequestId,
        actions: Vec<NewAction>,
        now: Timestamp,
        durability: Durability,
    ) -> Result<u64, CatalogError> {
        let _ = (request, actions, now, durability);
        unimplemented!()
    }

    /// No more actions will come. A request without open actions ends here. Durable.
    ///
    /// # Errors
    /// [`CatalogError::Missing`].
    pub fn seal(&self, request: RequestId, now: Timestamp) -> Result<(), CatalogError> {
        let _ = (request, now);
        unimplemented!()
    }

    /// Cancels: one change of one row, durable, effective when it returns. Actions that are
    /// running are the caller's to stop; they end by [`Catalog::finish_actions`]. `false`: it had
    /// ended before.
    ///
    /// # Errors
    /// [`CatalogError::Missing`].
    pub fn cancel(&self, request: RequestId, now: Timestamp) -> Result<bool, CatalogError> {
        let _ = (request, now);
        unimplemented!()
    }

    /// Writes the cancelled state into at most `limit` action rows of cancelled requests; gives
    /// how many. Background work, invisible to readers.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn settle_cancelled(&self, now: Timestamp, limit: usize) -> Result<u64, CatalogError> {
        let _ = (now, limit);
        unimplemented!()
    }

    /// Queues the failed actions of a request anew; gives how many. Durable.
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::Refused`] for a cancelled request.
    pub fn retry_failed(&self, request: RequestId, now: Timestamp) -> Result<u64, CatalogError> {
        let _ = (request, now);
        unimplemented!()
    }

    /// One request.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn request(&self, id: RequestId) -> Result<Option<Request>, CatalogError> {
        let _ = id;
        unimplemented!()
    }

    /// A user's request by its key.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn request_by_key(&self, uid: u32, key: &str) -> Result<Option<Request>, CatalogError> {
        let _ = (uid, key);
        unimplemented!()
    }

    /// Requests, newest first.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn requests(
        &self,
        filter: RequestFilter,
        limit: usize,
    ) -> Result<Vec<Request>, CatalogError> {
        let _ = (filter, limit);
        unimplemented!()
    }

    /// Requests that were accepted but not sealed when the last incarnation ended: to be expanded
    /// again from their options (actions they have already are left out), or cancelled.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn unsealed(&self) -> Result<Vec<Request>, CatalogError> {
        unimplemented!()
    }

    /// A request's actions by ascending number from after `after`; with `state`, those in it.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn actions(
        &self,
        request: RequestId,
        state: Option<ActionState>,
        after: Option<super::ActionId>,
        limit: usize,
    ) -> Result<Vec<Action>, CatalogError> {
        let _ = (request, state, after, limit);
        unimplemented!()
    }

    /// The actions about a node that have not ended, newest first, at most 100.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub fn open_actions_of(&self, node: NodeId) -> Result<Vec<Action>, CatalogError> {
        let _ = node;
        unimplemented!()
    }
}
