//! A service of one bucket in this process, for what no real server does when it is asked to: to be silent, to
//! answer another thing than it did, to be slow, to lose its memory.
//!
//! It looks at no signature. What it checks and what it says is set by its [`Manners`]; what befalls a request
//! is decided by a rule, which is asked before the request is served and sees all of it.

mod store;
mod wire;

pub(crate) use store::{Manners, Store, base64};
pub(crate) use wire::{Answer, Ask, Verb};

use super::access;
use cairn::tier::s3::{S3Place, S3Tier};
use cairn::tier::{OpenHow, TierError, TierUrl};
use parking_lot::Mutex;
use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What befalls a request.
pub(crate) enum Act {
    /// Answered so, and nothing done.
    Say(Answer),
    /// The connection is closed, and nothing done.
    Close,
    /// It is done, and the connection closed without a word.
    DoneThenClose,
    /// Nothing is ever said, and nothing done.
    Silence,
    /// It is done, and answered by this.
    DoneThenSay(Answer),
}

type Rule = Box<dyn FnMut(&Ask, &mut Store) -> Option<Act> + Send>;

struct Inner {
    store: Mutex<Store>,
    rule: Mutex<Option<Rule>>,
    log: Mutex<Vec<(Verb, String)>>,
    stopped: AtomicBool,
}

/// A service that is up.
pub(crate) struct Fake {
    pub(crate) at: SocketAddr,
    inner: Arc<Inner>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::Release);
        // Wakes the one who accepts.
        let _ = TcpStream::connect(self.at);
    }
}

impl Fake {
    pub(crate) fn new(manners: Manners) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let at = listener.local_addr().expect("its address");
        let inner = Arc::new(Inner {
            store: Mutex::new(Store::new(manners)),
            rule: Mutex::new(None),
            log: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let here = Arc::clone(&inner);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if here.stopped.load(Ordering::Acquire) {
                    return;
                }
                let (Ok(stream), here) = (stream, Arc::clone(&here)) else {
                    continue;
                };
                // Either side may break off at any time: that is what this is for.
                std::thread::spawn(move || drop(here.serve(&stream)));
            }
        });
        Self { at, inner }
    }

    /// From now on this decides what befalls requests.
    pub(crate) fn rule(&self, rule: impl FnMut(&Ask, &mut Store) -> Option<Act> + Send + 'static) {
        *self.inner.rule.lock() = Some(Box::new(rule));
    }

    /// From now on nothing befalls them.
    pub(crate) fn quiet(&self) {
        *self.inner.rule.lock() = None;
    }

    /// What it keeps.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut Store) -> T) -> T {
        look(&mut self.inner.store.lock())
    }

    /// The requests since this was asked last, with their keys.
    pub(crate) fn asked(&self) -> Vec<(Verb, String)> {
        std::mem::take(&mut *self.inner.log.lock())
    }

    /// How often since then.
    pub(crate) fn count(&self, verb: Verb) -> usize {
        self.inner
            .log
            .lock()
            .iter()
            .filter(|(v, _)| *v == verb)
            .count()
    }

    pub(crate) fn place(&self, prefix: &str, options: &str) -> S3Place {
        let at = self.at;
        let url = format!("s3://archive/{prefix}?endpoint=http://{at}&region=us-east-1{options}");
        match url.parse().expect("URL") {
            TierUrl::S3(place) => *place,
            other => panic!("{other}"),
        }
    }

    pub(crate) fn open(&self, options: &str, how: OpenHow) -> Result<S3Tier, TierError> {
        S3Tier::open_as(&self.place("p", options), how, access())
    }

    /// Waits for what must come true.
    pub(crate) fn until(&self, what: &str, look: impl Fn(&Store) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !look(&self.inner.store.lock()) {
            assert!(Instant::now() < end, "never: {what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Inner {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let Some(ask) = wire::read(&mut reader)? else {
            return Ok(());
        };
        self.log.lock().push((ask.verb, ask.key.clone()));
        let mut store = self.store.lock();
        let act = self
            .rule
            .lock()
            .as_mut()
            .and_then(|rule| rule(&ask, &mut store));
        let answer = match act {
            Some(Act::Say(answer)) => Some(answer),
            Some(Act::Close) => None,
            Some(Act::DoneThenClose) => {
                store.serve(&ask);
                None
            }
            Some(Act::DoneThenSay(answer)) => {
                store.serve(&ask);
                Some(answer)
            }
            Some(Act::Silence) => {
                drop(store);
                // Until whoever asked goes away.
                let _ = reader.read(&mut [0]);
                return Ok(());
            }
            None => Some(store.serve(&ask)),
        };
        drop(store);
        let mut stream = stream;
        if let Some(answer) = answer {
            stream.write_all(&answer.bytes(ask.verb))?;
        }
        // An orderly end, as a service that restarts makes it: no reset.
        stream.shutdown(Shutdown::Write)
    }
}
