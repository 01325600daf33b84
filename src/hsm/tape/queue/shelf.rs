//! What waits for one cartridge, with what every choice asks of it counted along.

use super::{Job, JobId, Moment, Urgency};
use std::collections::{BTreeMap, BTreeSet};

/// Age and number: who comes first.
pub(super) type Key = (Moment, JobId);

/// See the module. Jobs by age.
#[derive(Debug, Clone)]
pub(super) struct Shelf<C> {
    jobs: BTreeMap<Key, Job<C>>,
    by_user: BTreeMap<u32, BTreeSet<Key>>,
    readers: BTreeSet<Key>,
    bytes: u64,
}

impl<C> Default for Shelf<C> {
    fn default() -> Self {
        Self {
            jobs: BTreeMap::new(),
            by_user: BTreeMap::new(),
            readers: BTreeSet::new(),
            bytes: 0,
        }
    }
}

fn key<C>(job: &Job<C>) -> Key {
    (job.since, job.id)
}

impl<C> Shelf<C> {
    pub(super) fn insert(&mut self, job: Job<C>) {
        let key = key(&job);
        self.by_user.entry(job.user).or_default().insert(key);
        if job.urgency == Urgency::Reader {
            self.readers.insert(key);
        }
        self.bytes += job.bytes;
        self.jobs.insert(key, job);
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Job<C>> {
        let job = self.jobs.remove(&key)?;
        self.readers.remove(&key);
        self.bytes -= job.bytes;
        if let Some(keys) = self.by_user.get_mut(&job.user) {
            keys.remove(&key);
            if keys.is_empty() {
                self.by_user.remove(&job.user);
            }
        }
        Some(job)
    }

    /// Readers, the oldest first.
    pub(super) fn readers(&self, most: usize) -> Vec<Key> {
        self.readers.iter().take(most).copied().collect()
    }

    /// Users in turns, each with the oldest first; the user of the oldest of all begins.
    pub(super) fn in_turns(&self, most: usize) -> Vec<Key> {
        let mut users: Vec<_> = self.by_user.values().map(|keys| keys.iter()).collect();
        users.sort_by_key(|keys| keys.clone().next().copied());
        let mut turns = Vec::new();
        while turns.len() < most && !users.is_empty() {
            users.retain_mut(|keys| match keys.next() {
                Some(key) => {
                    turns.push(*key);
                    true
                }
                None => false,
            });
        }
        turns.truncate(most);
        turns
    }

    pub(super) fn oldest(&self) -> Option<Key> {
        self.jobs.keys().next().copied()
    }

    pub(super) fn oldest_reader(&self) -> Option<Key> {
        self.readers.first().copied()
    }

    pub(super) fn users(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_user.keys().copied()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }
}
