//! A path between the two ends on which things go wrong.

use crate::rig::LOCAL;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What happens to the first connections, behind so many bytes of one direction.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// It is cut.
    Cut(usize),
    /// One bit of that byte is changed.
    Corrupt(usize),
    /// Nothing passes any more, and nobody is told.
    Freeze(usize),
    /// It is cut for the end that dialled, and the listener is not told.
    Forget(usize),
}

/// Which direction has the fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToListener,
    FromListener,
}

pub(crate) struct Proxy {
    pub(crate) port: u16,
    connections: Arc<AtomicUsize>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Passes connections on to `target`; the first `bad` of them have `fault`.
    pub(crate) async fn start(target: u16, bad: usize, way: Way, fault: Fault) -> Self {
        let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&connections);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut passing = JoinSet::new();
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let number = seen.fetch_add(1, Ordering::SeqCst);
                let fault = (number < bad).then_some((way, fault));
                passing.spawn(pass(near, target, fault));
            }
        });
        Self {
            port,
            connections,
            _task: task,
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn pass(near: TcpStream, target: u16, fault: Option<(Way, Fault)>) {
    let far = TcpStream::connect((LOCAL, target)).await.unwrap();
    let of = |way| fault.filter(|(w, _)| *w == way).map(|(_, fault)| fault);
    let (mut near_read, mut near_write) = near.into_split();
    let (mut far_read, mut far_write) = far.into_split();
    let there = copy(&mut near_read, &mut far_write, of(Way::ToListener));
    let back = copy(&mut far_read, &mut near_write, of(Way::FromListener));
    match fault {
        // Either direction ends both.
        Some((_, Fault::Cut(_))) => tokio::select! { () = there => {} () = back => {} },
        Some((_, Fault::Forget(_))) => {
            tokio::select! { () = there => {} () = back => {} }
            drop((near_read, near_write));
            std::future::pending::<()>().await;
        }
        _ => {
            tokio::join!(there, back);
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    fault: Option<Fault>,
) {
    let mut buffer = vec![0; 16 << 10];
    let mut passed = 0;
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let chunk = &mut buffer[..read];
        match fault {
            Some(Fault::Cut(at)) if passed + read > at => break,
            Some(Fault::Forget(at)) if passed + read > at => return,
            Some(Fault::Corrupt(at)) if (passed..passed + read).contains(&at) => {
                chunk[at - passed] ^= 0x10;
            }
            Some(Fault::Freeze(at)) if passed + read > at => std::future::pending().await,
            _ => {}
        }
        passed += read;
        if to.write_all(chunk).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
