//! How many connections each user has: bounded, so that no user can shut the others out.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Most connections of one user.
const PER_USER: usize = 256;
/// Root's share: its own users never shut out the administrator.
const FOR_ROOT: usize = 1024;

/// Connections by user.
#[derive(Debug, Clone, Default)]
pub(super) struct Crowd(Arc<Mutex<HashMap<u32, usize>>>);

/// One counted connection.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Crowd,
    uid: u32,
}

impl Crowd {
    /// Counts a connection of `uid`, unless that user has too many.
    pub(super) fn enter(&self, uid: u32) -> Option<Place> {
        let mut users = self.0.lock();
        let count = users.entry(uid).or_default();
        if *count >= if uid == 0 { FOR_ROOT } else { PER_USER } {
            return None;
        }
        *count += 1;
        Some(Place {
            crowd: self.clone(),
            uid,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.crowd.0.lock();
        if let Some(count) = users.get_mut(&self.uid) {
            *count -= 1;
            if *count == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_take_anothers_place() {
        let crowd = Crowd::default();
        let places: Vec<_> = (0..PER_USER).map(|_| crowd.enter(7).unwrap()).collect();
        assert!(crowd.enter(7).is_none());
        assert!(crowd.enter(8).is_some() && crowd.enter(0).is_some());
        drop(places);
        assert!(crowd.enter(7).is_some());
        assert_eq!(crowd.0.lock().len(), 0, "nothing is remembered of who left");
    }
}
