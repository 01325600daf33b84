//! Fair shares of what is bounded: threads for calls and for walks, memory for large bodies. Each
//! user has a share of their own; who has used theirs up waits, without a thread, for nobody but
//! themselves. Root and the instance's own user do not draw on what the others share.

use super::control::Peer;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One bounded thing.
#[derive(Debug)]
pub(super) struct Shares {
    each: usize,
    rulers: usize,
    users: Mutex<HashMap<u32, Weak<Semaphore>>>,
    all: Arc<Semaphore>,
}

/// A part of it, until dropped.
#[derive(Debug)]
pub(super) struct Share {
    _own: OwnedSemaphorePermit,
    _common: Option<OwnedSemaphorePermit>,
}

impl Shares {
    /// `each` for every user, `all` for all of them together; `rulers` for root, and for who runs
    /// the instance.
    pub(super) fn new(each: usize, all: usize, rulers: usize) -> Self {
        Self {
            each,
            rulers,
            users: Mutex::default(),
            all: Arc::new(Semaphore::new(all)),
        }
    }

    /// Waits for a part.
    pub(super) async fn enter(&self, peer: &Peer) -> Option<Share> {
        let rules = peer.is_root() || peer.uid == rustix::process::geteuid().as_raw();
        let own = self.own(peer.uid, if rules { self.rulers } else { self.each });
        let own = own.acquire_owned().await.ok()?;
        // After the own share: no user stands here more often than `each`.
        let common = if rules {
            None
        } else {
            Some(Arc::clone(&self.all).acquire_owned().await.ok()?)
        };
        Some(Share {
            _own: own,
            _common: common,
        })
    }

    fn own(&self, uid: u32, size: usize) -> Arc<Semaphore> {
        let mut users = self.users.lock();
        if let Some(own) = users.get(&uid).and_then(Weak::upgrade) {
            return own;
        }
        users.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(size));
        users.insert(uid, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn peer(uid: u32) -> Peer {
        Peer {
            uid,
            gid: uid,
            groups: vec![],
            pid: 1,
        }
    }

    /// At once, or not.
    fn now(shares: &Shares, uid: u32) -> Option<Share> {
        let peer = peer(uid);
        let mut enters = pin!(shares.enter(&peer));
        match enters
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(share) => share,
            Poll::Pending => None,
        }
    }

    #[test]
    fn who_has_used_up_their_share_waits_alone() {
        let shares = Shares::new(2, 3, 1);
        let first = [now(&shares, 54_321), now(&shares, 54_321)];
        assert!(first.iter().all(Option::is_some));
        assert!(now(&shares, 54_321).is_none(), "no more than the share");
        let other = now(&shares, 54_322);
        assert!(other.is_some());
        assert!(now(&shares, 54_322).is_none(), "all is in use");
        assert!(now(&shares, 0).is_some(), "the administrator gets in");
        drop(first);
        assert!(now(&shares, 54_322).is_some());
        drop(other);
        now(&shares, 7);
        assert!(shares.users.lock().len() <= 1, "nobody is remembered");
    }
}
