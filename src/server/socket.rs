//! Where the sockets are, for both ends; and how to reach one whose path is too long for the
//! kernel's 108 bytes.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Name of the HTTP socket.
pub const CONTROL: &str = "control.sock";
/// Name of the socket that takes descriptors, in the same directory.
pub const HANDLES: &str = "handles.sock";
/// Name of the socket by which doors hand in movers, in the same directory.
pub const MOVERS: &str = "movers.sock";
/// Extended attribute by which a mount tells the path of its control socket.
pub const ATTRIBUTE: &str = "user.cairn.socket";

/// Most descriptors in one message on [`HANDLES`].
pub const MAX_BATCH: usize = 64;
/// Length of a token on [`HANDLES`], bytes; in JSON it is written as twice as many hex digits.
pub const TOKEN_LEN: usize = 16;

/// Longest path that fits a socket address, bytes.
const MAX_ADDRESS: usize = 107;

/// A path to the same socket that is short enough, valid while this value lives.
#[derive(Debug)]
pub struct Reachable {
    path: PathBuf,
    _directory: Option<File>,
}

impl Reachable {
    /// By its own path, else through a descriptor of its directory.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn new(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().len() <= MAX_ADDRESS {
            return Ok(Self {
                path: socket.to_owned(),
                _directory: None,
            });
        }
        let (Some(parent), Some(name)) = (socket.parent(), socket.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = rustix::fs::open(
            parent,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?;
        let directory = File::from(directory);
        let path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
        Ok(Self {
            path,
            _directory: Some(directory),
        })
    }

    /// The path to bind or connect to.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Messages on the [`HANDLES`] socket (SOCK_SEQPACKET, one message a packet).
///
/// ```text
/// question  "CHQ1" nonce[8]                       with 1 to 64 O_PATH descriptors (SCM_RIGHTS)
/// answer    "CHA1" nonce[8] token[16]...          one for each descriptor, in their order
/// refusal   "CHE1" nonce[8] text                  UTF-8; none of the descriptors was kept
/// ```
pub mod message {
    use super::{MAX_BATCH, TOKEN_LEN};

    /// Length of the kind and the nonce.
    const HEAD: usize = 12;
    /// Longest message, bytes.
    pub const MAX_LEN: usize = HEAD + MAX_BATCH * TOKEN_LEN;

    /// The tokens of an answer, or the text of a refusal.
    pub type Answered = Result<Vec<[u8; TOKEN_LEN]>, String>;

    /// The question with that nonce.
    #[must_use]
    pub fn question(nonce: u64) -> Vec<u8> {
        with_head(*b"CHQ1", nonce, &[])
    }
    /// The answer.
    #[must_use]
    pub fn answer(nonce: u64, tokens: &[[u8; TOKEN_LEN]]) -> Vec<u8> {
        with_head(*b"CHA1", nonce, tokens.as_flattened())
    }
    /// The refusal.
    #[must_use]
    pub fn refusal(nonce: u64, why: &str) -> Vec<u8> {
        let mut message = with_head(*b"CHE1", nonce, why.as_bytes());
        message.truncate(MAX_LEN);
        message
    }
    fn with_head(kind: [u8; 4], nonce: u64, rest: &[u8]) -> Vec<u8> {
        [&kind[..], &nonce.to_le_bytes(), rest].concat()
    }

    /// The nonce of a question.
    #[must_use]
    pub fn parse_question(message: &[u8]) -> Option<u64> {
        match parse(message)? {
            (b"CHQ1", nonce, []) => Some(nonce),
            _ => None,
        }
    }
    /// The nonce and the tokens of an answer, or the text of a refusal.
    #[must_use]
    pub fn parse_answer(message: &[u8]) -> Option<(u64, Answered)> {
        match parse(message)? {
            (b"CHA1", nonce, tokens) => {
                let (tokens, []) = tokens.as_chunks::<TOKEN_LEN>() else {
                    return None;
                };
                Some((nonce, Ok(tokens.to_vec())))
            }
            (b"CHE1", nonce, why) => Some((nonce, Err(String::from_utf8_lossy(why).into_owned()))),
            _ => None,
        }
    }
    fn parse(message: &[u8]) -> Option<(&[u8; 4], u64, &[u8])> {
        let (kind, rest) = message.split_first_chunk::<4>()?;
        let (nonce, rest) = rest.split_first_chunk::<8>()?;
        Some((kind, u64::from_le_bytes(*nonce), rest))
    }
}

/// A token as JSON writes it.
#[must_use]
pub fn token_text(token: &[u8; TOKEN_LEN]) -> String {
    format!("{:032x}", u128::from_be_bytes(*token))
}

/// The token that was so written.
#[must_use]
pub fn parse_token(text: &str) -> Option<[u8; TOKEN_LEN]> {
    if text.len() != 2 * TOKEN_LEN || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_round_trip_and_nothing_else_parses() {
        assert_eq!(message::parse_question(&message::question(7)), Some(7));
        let tokens = vec![[1; TOKEN_LEN], [2; TOKEN_LEN]];
        assert_eq!(
            message::parse_answer(&message::answer(9, &tokens)),
            Some((9, Ok(tokens)))
        );
        assert_eq!(
            message::parse_answer(&message::refusal(9, "no")),
            Some((9, Err("no".to_owned())))
        );
        for bad in [
            &b""[..],
            b"CHA1",
            b"CHA1\0\0\0\0\0\0\0\0x",
            b"XXXX\0\0\0\0\0\0\0\0",
        ] {
            assert_eq!(message::parse_answer(bad), None);
            assert_eq!(message::parse_question(bad), None);
        }
    }

    #[test]
    fn tokens_round_trip_as_text() {
        let token = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255];
        assert_eq!(parse_token(&token_text(&token)), Some(token));
        for bad in ["", "+0000000000000000000000000000000", "0"] {
            assert_eq!(parse_token(bad), None);
        }
    }

    #[test]
    fn a_long_path_is_reached_through_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let socket = deep.join(CONTROL);
        let listener =
            std::os::unix::net::UnixListener::bind(Reachable::new(&socket).unwrap().path());
        assert!(listener.is_ok() && socket.exists());
        let way = Reachable::new(&socket).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(way.path()).is_ok());
    }
}
