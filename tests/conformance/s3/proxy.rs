//! A proxy with bad days: between a tier and its server, it breaks what goes by, seeded, and counts.
//!
//! Faults, one for a request at most:
//! - *reset*: the connection is reset before the request goes on;
//! - *lost*: the request goes on and is done, its answer never comes;
//! - *slow down*: 503 with the service's own words, and nothing goes on;
//! - *page*: an HTML page with status 200, and nothing goes on;
//! - *truncated*: half of the answer's bytes, and the end;
//! - *flipped up*, *flipped down*: one bit of what is uploaded, of an object's bytes that come back;
//! - *late*: some time before anything goes on.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Reset,
    Lost,
    SlowDown,
    Page,
    Truncated,
    FlippedUp,
    FlippedDown,
    Late,
}

pub(crate) const ALL: [Fault; 8] = [
    Fault::Reset,
    Fault::Lost,
    Fault::SlowDown,
    Fault::Page,
    Fault::Truncated,
    Fault::FlippedUp,
    Fault::FlippedDown,
    Fault::Late,
];

/// What happens to requests.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// One request of so many is struck; 0: none.
    pub(crate) one_in: u64,
    pub(crate) faults: Vec<Fault>,
    /// Strikes the first request whose first line has both, and no other.
    pub(crate) once: Option<(Fault, [&'static str; 2])>,
    /// What is answered in the server's place to requests whose first line has this.
    pub(crate) instead: Vec<(&'static str, &'static str)>,
}

impl Script {
    /// Nothing happens.
    pub(crate) fn quiet() -> Self {
        Self {
            seed: 1,
            one_in: 0,
            faults: Vec::new(),
            once: None,
            instead: Vec::new(),
        }
    }
}

struct Inner {
    server: SocketAddr,
    script: Mutex<Script>,
    drawn: Mutex<u64>,
    counts: Mutex<BTreeMap<Fault, u64>>,
    requests: Mutex<u64>,
    stopped: AtomicBool,
}

/// A running proxy.
pub(crate) struct Proxy {
    pub(crate) at: SocketAddr,
    inner: Arc<Inner>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.inner.stopped.store(true, Ordering::Release);
        // Wakes the one who accepts.
        let _ = TcpStream::connect(self.at);
    }
}

impl Proxy {
    pub(crate) fn before(server: SocketAddr, script: Script) -> Self {
        Self::at((Ipv4Addr::LOCALHOST, 0).into(), server, script)
    }

    /// The same, at this address.
    pub(crate) fn at(at: SocketAddr, server: SocketAddr, script: Script) -> Self {
        let listener = TcpListener::bind(at).expect("a port");
        let at = listener.local_addr().expect("its address");
        let inner = Arc::new(Inner {
            server,
            drawn: Mutex::new(script.seed | 1),
            script: Mutex::new(script),
            counts: Mutex::default(),
            requests: Mutex::new(0),
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

    pub(crate) fn set(&self, script: Script) {
        *self.inner.script.lock() = script;
    }

    pub(crate) fn counts(&self) -> BTreeMap<Fault, u64> {
        self.inner.counts.lock().clone()
    }

    pub(crate) fn requests(&self) -> u64 {
        *self.inner.requests.lock()
    }
}

/// A request, as it came.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    /// Of an object's bytes, not of listings, marks and the like.
    fn is_about_bytes(&self) -> bool {
        let path = self.head.split(' ').nth(1).unwrap_or_default();
        path.contains("/aggregates/")
    }
}

impl Inner {
    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        if let Some(mut request) = read_request(&mut reader)? {
            *self.requests.lock() += 1;
            if let Some(answer) = self.instead(&request) {
                let mut stream = stream;
                stream.write_all(&answer)?;
                return stream.shutdown(Shutdown::Write);
            }
            let fault = self.draw(&request);
            if let Some(fault) = fault {
                *self.counts.lock().entry(fault).or_default() += 1;
            }
            let mut stream = stream;
            match fault {
                Some(Fault::Reset) => return reset(stream),
                Some(Fault::SlowDown) => {
                    stream.write_all(&slow_down())?;
                    return stream.shutdown(Shutdown::Write);
                }
                Some(Fault::Page) => {
                    stream.write_all(&page(request.method()))?;
                    return stream.shutdown(Shutdown::Write);
                }
                Some(Fault::Late) => std::thread::sleep(Duration::from_millis(100)),
                Some(Fault::FlippedUp) => {
                    let at = self.dice() as usize % request.body.len();
                    request.body[at] ^= 0x10;
                }
                _ => {}
            }
            let mut answer = self.forward(&request)?;
            let body = answer
                .windows(4)
                .position(|w| w == b"\r\n\r\n")
                .map_or(answer.len(), |at| at + 4);
            match fault {
                Some(Fault::Lost) => return reset(stream),
                Some(Fault::Truncated) => {
                    let half = (answer.len() - body) / 2;
                    answer.truncate(body + half);
                }
                Some(Fault::FlippedDown) if answer.len() > body => {
                    let at = body + self.dice() as usize % (answer.len() - body);
                    answer[at] ^= 0x10;
                }
                _ => {}
            }
            stream.write_all(&answer)?;
            // The server closed its end, as it was asked to, and said so.
            return stream.shutdown(Shutdown::Write);
        }
        Ok(())
    }

    fn instead(&self, request: &Request) -> Option<Vec<u8>> {
        let first = request.head.lines().next()?;
        let script = self.script.lock();
        let (_, body) = script
            .instead
            .iter()
            .find(|(part, _)| first.contains(part))?;
        Some(answer("200 OK", body))
    }

    fn dice(&self) -> u64 {
        let mut state = self.drawn.lock();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state >> 11
    }

    fn draw(&self, request: &Request) -> Option<Fault> {
        let first = request.head.lines().next().unwrap_or_default();
        let mut script = self.script.lock();
        if let Some((fault, words)) = script.once
            && words.iter().all(|word| first.contains(word))
        {
            script.once = None;
            return Some(fault);
        }
        let script = script.clone();
        if script.one_in == 0
            || script.faults.is_empty()
            || !self.dice().is_multiple_of(script.one_in)
        {
            return None;
        }
        let fault = script.faults[self.dice() as usize % script.faults.len()];
        let fits = match fault {
            Fault::FlippedUp => {
                request.method() == "PUT" && request.is_about_bytes() && !request.body.is_empty()
            }
            Fault::FlippedDown => request.method() == "GET" && request.is_about_bytes(),
            // An answer without a body cannot be cut.
            Fault::Truncated => request.method() == "GET",
            _ => true,
        };
        fits.then_some(fault)
    }

    fn forward(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut server = TcpStream::connect(self.server)?;
        let (first, rest) = request
            .head
            .split_once("\r\n")
            .unwrap_or((&request.head, ""));
        let rest: String = rest
            .split_inclusive("\r\n")
            .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"))
            .collect();
        server.write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes())?;
        server.write_all(&request.body)?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head)? == 0 {
            return Ok(None);
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    assert!(
        header("transfer-encoding").is_none(),
        "lengths are known: {head}"
    );
    let len = header("content-length").map_or(0, |n| n.parse().expect("a length"));
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    Ok(Some(Request { head, body }))
}

fn reset(stream: &TcpStream) -> io::Result<()> {
    rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
    Ok(())
}

fn slow_down() -> Vec<u8> {
    answer(
        "503 Slow Down",
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code>\
         <Message>Please reduce your request rate.</Message></Error>",
    )
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    let len = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

fn page(method: &str) -> Vec<u8> {
    let body = "<html><body>Your session has expired. Please log in.</body></html>";
    let len = body.len();
    let shown = if method == "HEAD" { "" } else { body };
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nETag: \"page\"\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{shown}"
    )
    .into_bytes()
}
