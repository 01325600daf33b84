//! Requests as they come, and answers as they go.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

/// A request, by its name in the service's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Put,
    Get,
    Head,
    Delete,
    List,
    Create,
    Part,
    Complete,
    Abort,
    Copy,
    Restore,
    Uploads,
    Versioning,
    Lock,
}

/// A request.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) verb: Verb,
    /// Without the bucket.
    pub(crate) key: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Ask {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Is it about an aggregate, and not about marks and trials?
    pub(crate) fn is_of_an_object(&self) -> bool {
        self.key.contains("/aggregates/")
    }
}

fn decode(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => {
                let digit = |b: &u8| char::from(*b).to_digit(16).expect("a hex digit") as u8;
                out.push(digit(high) * 16 + digit(low));
                rest = behind;
            }
            (b'+', _) => out.push(b' '),
            _ => out.push(*byte),
        }
    }
    String::from_utf8(out).expect("UTF-8")
}

fn verb(method: &str, key: &str, query: &BTreeMap<String, String>, is_copy: bool) -> Verb {
    let has = |name: &str| query.contains_key(name);
    match method {
        "PUT" if has("partNumber") => Verb::Part,
        "PUT" if is_copy => Verb::Copy,
        "PUT" => Verb::Put,
        "HEAD" => Verb::Head,
        "DELETE" if has("uploadId") => Verb::Abort,
        "DELETE" => Verb::Delete,
        "POST" if has("restore") => Verb::Restore,
        "POST" if has("uploadId") => Verb::Complete,
        "POST" => Verb::Create,
        _ if has("uploads") => Verb::Uploads,
        _ if has("versioning") => Verb::Versioning,
        _ if has("object-lock") => Verb::Lock,
        _ if key.is_empty() => Verb::List,
        _ => Verb::Get,
    }
}

/// The next request on a connection; `None`: it was closed.
pub(super) fn read(reader: &mut impl BufRead) -> io::Result<Option<Ask>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    if headers.get("expect").is_some_and(|e| e == "100-continue") {
        // Nobody here asks for it.
        return Ok(None);
    }
    let len = headers
        .get("content-length")
        .map_or(0, |n| n.parse().expect("a length"));
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let (path, rest) = target.split_once('?').unwrap_or((target, ""));
    let key = path
        .trim_start_matches('/')
        .split_once('/')
        .map_or("", |(_, key)| key);
    let (key, mut query) = (decode(key), BTreeMap::new());
    for pair in rest.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        query.insert(decode(name), decode(value));
    }
    let verb = verb(
        method,
        &key,
        &query,
        headers.contains_key("x-amz-copy-source"),
    );
    Ok(Some(Ask {
        verb,
        key,
        query,
        headers,
        body,
    }))
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn of(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn xml(status: u16, body: impl Into<String>) -> Self {
        let text = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{}",
            body.into()
        );
        let mut answer = Self::of(status).with("content-type", "application/xml");
        answer.body = text.into_bytes();
        answer
    }

    /// An error in the service's words.
    pub(crate) fn error(status: u16, code: &str) -> Self {
        Self::xml(
            status,
            format!("<Error><Code>{code}</Code><Message>as it says</Message></Error>"),
        )
    }

    pub(super) fn bytes(&self, verb: Verb) -> Vec<u8> {
        let mut head = format!(
            "HTTP/1.1 {} As It Says\r\nConnection: close\r\n",
            self.status
        );
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self
            .headers
            .iter()
            .any(|(name, _)| name == "content-length")
        {
            head.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if verb != Verb::Head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}
