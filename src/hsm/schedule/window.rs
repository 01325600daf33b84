//! The waiting items of one class, and whose turn it is.

use super::Item;
use crate::catalog::ActionId;
use crate::id::RequestId;
use std::collections::{BTreeMap, HashMap};

/// Waiting items by user and by age. Users take turns in the order of their numbers.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// By user, then by arrival.
    users: BTreeMap<u32, BTreeMap<i64, Item>>,
    arrival: HashMap<ActionId, (u32, i64)>,
    next: i64,
    front: i64,
    /// The user served last.
    last: Option<u32>,
}

impl Window {
    pub(super) fn len(&self) -> usize {
        self.arrival.len()
    }

    pub(super) fn contains(&self, action: ActionId) -> bool {
        self.arrival.contains_key(&action)
    }

    pub(super) fn insert(&mut self, item: Item) {
        let at = self.next;
        self.next += 1;
        self.place(item, at);
    }

    /// Before all others of its user: it had its turn already.
    pub(super) fn put_back(&mut self, item: Item) {
        self.front -= 1;
        let at = self.front;
        self.place(item, at);
    }

    fn place(&mut self, item: Item, at: i64) {
        self.arrival.insert(item.action, (item.uid, at));
        self.users.entry(item.uid).or_default().insert(at, item);
    }

    pub(super) fn remove(&mut self, action: ActionId) -> Option<Item> {
        let (uid, at) = self.arrival.remove(&action)?;
        let items = self.users.get_mut(&uid)?;
        let item = items.remove(&at);
        if items.is_empty() {
            self.users.remove(&uid);
        }
        item
    }

    pub(super) fn remove_request(&mut self, request: RequestId) -> Vec<ActionId> {
        let of_request = self.iter().filter(|i| i.request == request);
        let actions: Vec<ActionId> = of_request.map(|i| i.action).collect();
        for action in &actions {
            self.remove(*action);
        }
        actions
    }

    /// The oldest item that may start of the user whose turn it is; the turn passes on.
    pub(super) fn choose(&mut self, may: impl Fn(&Item) -> bool) -> Option<Item> {
        let after = self.last.map_or(0, |uid| u64::from(uid) + 1);
        let later = self
            .users
            .iter()
            .filter(|(uid, _)| u64::from(**uid) >= after);
        let earlier = self
            .users
            .iter()
            .filter(|(uid, _)| u64::from(**uid) < after);
        let found = later
            .chain(earlier)
            .find_map(|(uid, items)| items.values().find(|i| may(i)).map(|i| (*uid, *i)));
        let (uid, item) = found?;
        self.last = Some(uid);
        Some(item)
    }

    /// All items, by user and age.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Item> {
        self.users.values().flat_map(BTreeMap::values)
    }

    /// One user's items, oldest first.
    pub(super) fn of_user(&self, uid: u32) -> impl Iterator<Item = &Item> {
        self.users.get(&uid).into_iter().flat_map(BTreeMap::values)
    }
}
