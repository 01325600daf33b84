//! The hatch: callers hand in O_PATH descriptors of their files and get one-use tokens, by which
//! they name the files in HTTP requests (P15).
//!
//! # Invariants
//! - A token is good once, for the process that handed the descriptor in (same uid and pid), for at
//!   most [`LIFETIME`], and not longer than the connection on which it was handed in.
//! - No descriptor is ever used here, only kept; and only O_PATH ones are kept, which give their
//!   holder no right that the path would not.
//! - What is kept is bounded for each user and in all.

use super::control::Peer;
use super::crowd::{Crowd, Place};
use super::socket::{MAX_BATCH, TOKEN_LEN, message};
use super::{MAX_SUBJECTS, peer, sys};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, SocketFlags,
};
use std::collections::HashMap;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long a token is good.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);
/// Most descriptors kept for one user.
const PER_USER: usize = 4 * MAX_SUBJECTS;
/// Most descriptors kept in all.
const IN_ALL: usize = 16 * MAX_SUBJECTS;

#[derive(Debug)]
struct Kept {
    fd: OwnedFd,
    uid: u32,
    pid: u32,
    connection: u64,
    until: Instant,
}

/// The descriptors that are kept, by token.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    kept: Mutex<HashMap<[u8; TOKEN_LEN], Kept>>,
}

impl Tokens {
    /// Gives the descriptor out, once, to the process that handed it in.
    pub(super) fn take(&self, token: &[u8; TOKEN_LEN], peer: &Peer) -> Option<OwnedFd> {
        let mut kept = self.kept.lock();
        let found = kept.get(token)?;
        if found.uid != peer.uid || found.pid != peer.pid || found.until < Instant::now() {
            return None;
        }
        kept.remove(token).map(|k| k.fd)
    }

    fn keep(
        &self,
        fds: Vec<OwnedFd>,
        peer: &Peer,
        connection: u64,
    ) -> Result<Vec<[u8; TOKEN_LEN]>, &'static str> {
        let names = random_tokens(fds.len()).map_err(|_| "no random numbers")?;
        const TOO_MANY: &str = "too many files handed over and not yet used; try again in a minute";
        let mut kept = self.kept.lock();
        let theirs = kept.values().filter(|k| k.uid == peer.uid).count();
        if theirs + fds.len() > PER_USER {
            return Err(TOO_MANY);
        }
        let mut dropped = Vec::new();
        while kept.len() + fds.len() > IN_ALL {
            // Who has least is served; who has most hands theirs in again.
            let Some(most) = greatest(&kept).filter(|(_, many)| *many > theirs + fds.len()) else {
                return Err(TOO_MANY);
            };
            dropped.extend(kept.extract_if(|_, k| k.uid == most.0).take(fds.len()));
        }
        let until = Instant::now() + LIFETIME;
        for (name, fd) in names.iter().zip(fds) {
            kept.insert(
                *name,
                Kept {
                    fd,
                    uid: peer.uid,
                    pid: peer.pid,
                    connection,
                    until,
                },
            );
        }
        drop(kept);
        // Not under the lock, as in `forget`.
        drop(dropped);
        Ok(names)
    }

    fn forget(&self, gone: impl Fn(&Kept) -> bool) {
        let dropped: Vec<Kept> = self
            .kept
            .lock()
            .extract_if(|_, kept| gone(kept))
            .map(|(_, kept)| kept)
            .collect();
        // Closing an O_PATH descriptor may send FORGET to our own mount: not under the lock.
        drop(dropped);
    }
}

/// The user of whom most is kept, and how much.
fn greatest(kept: &HashMap<[u8; TOKEN_LEN], Kept>) -> Option<(u32, usize)> {
    let mut by_user: HashMap<u32, usize> = HashMap::new();
    for one in kept.values() {
        *by_user.entry(one.uid).or_default() += 1;
    }
    by_user.into_iter().max_by_key(|(_, many)| *many)
}

fn random_tokens(count: usize) -> io::Result<Vec<[u8; TOKEN_LEN]>> {
    let mut names = vec![[0; TOKEN_LEN]; count];
    std::fs::File::open("/dev/urandom")?.read_exact(names.as_flattened_mut())?;
    Ok(names)
}

/// The listening end.
pub(super) struct Hatch {
    socket: AsyncFd<OwnedFd>,
    tokens: Arc<Tokens>,
    crowd: Crowd,
}

impl Hatch {
    /// Takes over a listening, non-blocking SOCK_SEQPACKET socket; inside a runtime.
    pub(super) fn new(socket: OwnedFd, tokens: Arc<Tokens>, crowd: Crowd) -> io::Result<Self> {
        let socket = sys::watch(socket)?;
        Ok(Self {
            socket,
            tokens,
            crowd,
        })
    }

    /// Accepts for as long as the runtime lives.
    pub(super) async fn serve(self) {
        let numbers = AtomicU64::new(0);
        let mut sweep = tokio::time::interval(LIFETIME / 4);
        loop {
            tokio::select! {
                _ = sweep.tick() => {
                    let now = Instant::now();
                    self.tokens.forget(|kept| kept.until < now);
                }
                accepted = self.accept() => match accepted {
                    Ok(Some((socket, peer, place))) => {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        let tokens = Arc::clone(&self.tokens);
                        tokio::spawn(converse(socket, peer, place, number, tokens));
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a handles connection");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }

    async fn accept(&self) -> io::Result<Option<(AsyncFd<OwnedFd>, Peer, Place)>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted = self
            .socket
            .async_io(Interest::READABLE, |s| {
                Ok(rustix::net::accept_with(s, flags)?)
            })
            .await?;
        let peer = peer::of(accepted.as_fd())?;
        let Some(place) = self.crowd.enter(peer.uid) else {
            tracing::warn!(uid = peer.uid, "too many handles connections");
            return Ok(None);
        };
        Ok(Some((sys::watch(accepted)?, peer, place)))
    }
}

/// Answers one caller until it goes away; then its unused tokens are void.
async fn converse(
    socket: AsyncFd<OwnedFd>,
    peer: Peer,
    _place: Place,
    connection: u64,
    tokens: Arc<Tokens>,
) {
    loop {
        let (nonce, fds) = match receive(&socket).await {
            Ok(Some(question)) => question,
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, uid = peer.uid, "handles connection broke");
                break;
            }
        };
        let answer = match fds.and_then(|fds| tokens.keep(fds, &peer, connection)) {
            Ok(names) => message::answer(nonce, &names),
            Err(why) => message::refusal(nonce, why),
        };
        let send = |s: &OwnedFd| Ok(rustix::net::send(s, &answer, SendFlags::NOSIGNAL)?);
        if socket.async_io(Interest::WRITABLE, send).await.is_err() {
            break;
        }
    }
    tokens.forget(|kept| kept.connection == connection);
}

type Question = (u64, Result<Vec<OwnedFd>, &'static str>);

/// One question; `None`: the caller hung up or speaks another language.
async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<Question>> {
    socket
        .async_io(Interest::READABLE, |s| Ok(receive_now(s)?))
        .await
}

fn receive_now(socket: &OwnedFd) -> rustix::io::Result<Option<Question>> {
    let mut bytes = [0; message::MAX_LEN];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_BATCH))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [io::IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights);
        }
    }
    let Some(nonce) = bytes
        .get(..received.bytes)
        .and_then(message::parse_question)
    else {
        return Ok(None);
    };
    let fds = if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_BATCH {
        Err("too many descriptors in one message")
    } else if fds.is_empty() {
        Err("no descriptor in the message")
    } else if !fds.iter().all(is_path_only) {
        Err("a descriptor was not opened with O_PATH")
    } else {
        Ok(fds)
    };
    Ok(Some((nonce, fds)))
}

fn is_path_only(fd: &OwnedFd) -> bool {
    rustix::fs::fcntl_getfl(fd).is_ok_and(|flags| flags.contains(OFlags::PATH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, pid: u32) -> Peer {
        Peer {
            uid,
            gid: uid,
            groups: vec![],
            pid,
        }
    }
    fn some_fds(count: usize) -> Vec<OwnedFd> {
        (0..count)
            .map(|_| std::fs::File::open("/").unwrap().into())
            .collect()
    }

    #[test]
    fn p15_a_token_is_good_once_for_its_process_alone() {
        let tokens = Tokens::default();
        let mine = tokens.keep(some_fds(1), &peer(1, 10), 1).unwrap()[0];
        assert!(tokens.take(&mine, &peer(2, 10)).is_none());
        assert!(tokens.take(&mine, &peer(1, 11)).is_none());
        assert!(tokens.take(&mine, &peer(1, 10)).is_some());
        assert!(tokens.take(&mine, &peer(1, 10)).is_none());
    }

    #[test]
    fn a_connection_takes_its_tokens_along() {
        let tokens = Tokens::default();
        let first = tokens.keep(some_fds(1), &peer(1, 10), 1).unwrap()[0];
        let second = tokens.keep(some_fds(1), &peer(1, 10), 2).unwrap()[0];
        tokens.forget(|kept| kept.connection == 1);
        assert!(tokens.take(&first, &peer(1, 10)).is_none());
        assert!(tokens.take(&second, &peer(1, 10)).is_some());
    }

    #[test]
    fn one_user_cannot_fill_the_store() {
        let tokens = Tokens::default();
        let mut kept = 0;
        while tokens.keep(some_fds(64), &peer(1, 10), 1).is_ok() {
            kept += 64;
        }
        assert_eq!(kept, PER_USER);
        assert!(tokens.keep(some_fds(1), &peer(2, 10), 1).is_ok());
    }

    #[test]
    fn several_users_who_fill_the_store_make_room_for_one_with_less() {
        let tokens = Tokens::default();
        let fill = |uid| while tokens.keep(some_fds(64), &peer(uid, 10), 1).is_ok() {};
        (1..=4).for_each(fill);
        assert_eq!(tokens.kept.lock().len(), IN_ALL);
        let mine = tokens.keep(some_fds(64), &peer(9, 10), 1);
        assert!(tokens.take(&mine.unwrap()[0], &peer(9, 10)).is_some());
        assert!(tokens.kept.lock().len() <= IN_ALL);
        fill(9);
        let theirs = |uid| tokens.kept.lock().values().filter(|k| k.uid == uid).count();
        assert!(theirs(9) < PER_USER, "nobody gets ahead of the others");
        assert!((1..=4).all(|uid| theirs(uid) > IN_ALL / 8));
    }
}
