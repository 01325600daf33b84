//! Hands files over as O_PATH descriptors and gets the tokens that name them (P15).

use super::error::ClientError;
use super::gone::nearest;
use super::problem;
use crate::error::Failure;
use crate::server::socket::{self, MAX_BATCH, Reachable, message, token_text};
use crate::server::wire::{GivenPath, GonePlace, Problem, SubjectRef};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The caller's end. Tokens are good while it lives.
#[derive(Debug)]
pub(super) struct Hatch {
    socket: OwnedFd,
    nonce: u64,
}

impl Hatch {
    /// Connects to the socket beside the control socket.
    pub(super) fn connect(control: &Path) -> Result<Self, ClientError> {
        let path = control.with_file_name(socket::HANDLES);
        let connect = || -> io::Result<OwnedFd> {
            let flags = SocketFlags::CLOEXEC;
            let made =
                rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            let way = Reachable::new(&path)?;
            rustix::net::connect(&made, &SocketAddrUnix::new(way.path())?)?;
            Ok(made)
        };
        match connect() {
            Ok(socket) => Ok(Self { socket, nonce: 0 }),
            Err(source) => Err(ClientError::Dead {
                socket: path,
                source,
            }),
        }
    }

    /// Opens the paths and hands them over; those that cannot be opened come back as problems.
    pub(super) fn hand_over(
        &mut self,
        paths: Vec<Vec<u8>>,
    ) -> Result<(Vec<SubjectRef>, Vec<Problem>), ClientError> {
        let mut subjects = Vec::with_capacity(paths.len());
        let mut problems = Vec::new();
        for batch in paths.chunks(MAX_BATCH) {
            let mut names = Vec::with_capacity(batch.len());
            let mut fds = Vec::with_capacity(batch.len());
            for path in batch {
                match open(path) {
                    Ok(fd) => {
                        names.push(path);
                        fds.push(fd);
                    }
                    Err(failed) => problems.push(failed),
                }
            }
            if fds.is_empty() {
                continue;
            }
            let tokens = self.exchange(&fds)?;
            subjects.extend(
                names
                    .into_iter()
                    .zip(tokens)
                    .map(|(path, token)| SubjectRef {
                        token: token_text(&token),
                        path: GivenPath::new(path),
                    }),
            );
        }
        Ok((subjects, problems))
    }

    /// Hands a place over that may be gone.
    pub(super) fn hand_over_gone(
        &mut self,
        path: &[u8],
    ) -> Result<Result<GonePlace, Problem>, ClientError> {
        let nearest = match nearest(path) {
            Ok(nearest) => nearest,
            Err(failed) => return Ok(Err(failed)),
        };
        let tokens = self.exchange(&[nearest.fd])?;
        let token = tokens.first();
        let token = token.ok_or_else(|| ClientError::not_understood("no token came back"))?;
        Ok(Ok(GonePlace {
            subject: SubjectRef {
                token: token_text(token),
                path: GivenPath::new(&nearest.path),
            },
            below: GivenPath::new(&nearest.below),
        }))
    }

    fn exchange(&mut self, fds: &[OwnedFd]) -> Result<Vec<[u8; 16]>, ClientError> {
        self.nonce += 1;
        self.send(fds).map_err(ClientError::broken)?;
        let mut bytes = [0; message::MAX_LEN];
        let (length, _) = rustix::io::retry_on_intr(|| {
            rustix::net::recv(&self.socket, &mut bytes, RecvFlags::empty())
        })
        .map_err(ClientError::broken)?;
        match bytes.get(..length).and_then(message::parse_answer) {
            Some((nonce, Ok(tokens))) if nonce == self.nonce && tokens.len() == fds.len() => {
                Ok(tokens)
            }
            Some((nonce, Err(why))) if nonce == self.nonce => Err(ClientError::Refused {
                failure: Failure::OverBudget,
                message: why,
                hint: None,
            }),
            None if length == 0 => Err(ClientError::broken("it closed the handles socket")),
            _ => Err(ClientError::not_understood("tokens for other descriptors")),
        }
    }

    fn send(&self, fds: &[OwnedFd]) -> rustix::io::Result<()> {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_BATCH))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
            return Err(rustix::io::Errno::INVAL);
        }
        let question = message::question(self.nonce);
        let parts = [io::IoSlice::new(&question)];
        rustix::net::sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

fn open(path: &[u8]) -> Result<OwnedFd, Problem> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let os = OsStr::from_bytes(path);
    rustix::fs::openat(CWD, os, flags, Mode::empty()).map_err(|errno| {
        let failure = match errno {
            rustix::io::Errno::ACCESS | rustix::io::Errno::PERM => Failure::NotPermitted,
            rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR => Failure::NotFound,
            rustix::io::Errno::NOTCONN => Failure::NoInstance,
            _ => Failure::Internal,
        };
        let text = io::Error::from(errno).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        problem(path, failure, text.to_owned())
    })
}
