//! How each stream proves itself, both ends to each other, before a byte flows.
//!
//! ```text
//! dialler -> listener  HELLO      "CAMV" version=1 kind=1 stream(2) transfer(16) nonce(32)   56 bytes
//! listener -> dialler  CHALLENGE  "CAMV" version=1 kind=2 zero(2)   nonce(32)    proof(32)   72 bytes
//! dialler -> listener  PROOF      "CAMV" version=1 kind=3 zero(2)                proof(32)   40 bytes
//! ```
//!
//! A proof is HMAC-SHA256 under the transfer's secret over a label that names the role, and all that
//! the two must agree on ([`Terms`], stream, both nonces). Two keys are derived the same way, one for each
//! direction of this stream.
//!
//! Invariants kept here:
//! - the listener proves itself first, and its proof is of no use as the dialler's (labels differ);
//! - nothing secret is sent; both nonces are fresh, so that a recorded handshake proves nothing;
//! - a state is consumed by its answer: there is no second try on a connection;
//! - nothing is accepted behind the deadline; time is an argument.
//!
//! That a stream's number is used once is kept by whoever counts them (the listener's register).

use crate::iod::{Direction, Iod, Protect};
use crate::seal::StreamKey;
use crate::secret::{SECRET_LEN, Secret, StreamIndex, TransferId};
use std::time::Duration;

/// Bytes of a HELLO.
pub const HELLO_LEN: usize = 56;
/// Bytes of a CHALLENGE.
pub const CHALLENGE_LEN: usize = 72;
/// Bytes of a PROOF.
pub const PROOF_LEN: usize = 40;

/// The first bytes of every message, and so of every connection of a mover.
pub const MAGIC: [u8; 4] = *b"CAMV";
const VERSION: u8 = 1;
const LISTENER: &[u8] = b"cairn mover 1 proof of the listener";
const DIALLER: &[u8] = b"cairn mover 1 proof of the dialler";
const TO_LISTENER: &[u8] = b"cairn mover 1 key to the listener";
const TO_DIALLER: &[u8] = b"cairn mover 1 key to the dialler";

/// A value that nobody can guess, drawn anew for every connection.
pub type Nonce = [u8; SECRET_LEN];

/// What both ends know from the I/O descriptor, and are made to agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Whose stream it is.
    pub transfer: TransferId,
    /// Which way the bytes flow.
    pub direction: Direction,
    /// What is protected.
    pub protect: Protect,
}

impl Terms {
    /// Those of a descriptor.
    #[must_use]
    pub fn of(iod: &Iod) -> Self {
        Self {
            transfer: iod.transfer,
            direction: iod.direction,
            protect: iod.protect,
        }
    }

    /// For a transfer that nobody knows: what a stranger is led on with.
    pub(crate) fn of_nobody(transfer: TransferId) -> Self {
        Self {
            transfer,
            direction: Direction::ToListener,
            protect: Protect::Sealed,
        }
    }
}

/// Why a stream is not let in. What the other end sees of it is always the same: a closed connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeFault {
    /// Not the message that was due.
    #[error("it does not speak the mover's protocol, version 1")]
    Shape,
    /// The proof is none: another secret, other terms, or a recording.
    #[error("it did not prove that it knows the transfer's secret")]
    Proof,
    /// Our own nonce came back.
    #[error("it sent our own words back")]
    Reflected,
    /// Too late.
    #[error("it took longer than a handshake may")]
    Late,
}

/// The keys of a stream after its handshake.
#[derive(Debug)]
pub struct StreamKeys {
    /// What this end sends.
    pub outgoing: StreamKey,
    /// What this end receives.
    pub incoming: StreamKey,
}

/// The first message, as the listener reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Which transfer it claims to belong to.
    pub transfer: TransferId,
    /// Which stream of it.
    pub stream: StreamIndex,
    nonce: Nonce,
}

impl Hello {
    /// Reads a HELLO. It proves nothing yet.
    ///
    /// # Errors
    /// [`HandshakeFault::Shape`] if it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, HandshakeFault> {
        let rest = message::<HELLO_LEN>(bytes, 1)?;
        let stream = u16::from_le_bytes([bytes[6], bytes[7]]);
        Ok(Self {
            transfer: TransferId(array(&rest[..16])),
            stream: StreamIndex(stream),
            nonce: array(&rest[16..]),
        })
    }

    fn encode(&self) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        head(&mut out, 1);
        out[6..8].copy_from_slice(&self.stream.0.to_le_bytes());
        out[8..24].copy_from_slice(&self.transfer.0);
        out[24..].copy_from_slice(&self.nonce);
        out
    }
}

/// What every proof and key is made of, behind its label.
#[derive(Debug)]
struct Transcript([u8; 84]);

impl Transcript {
    fn new(terms: &Terms, stream: StreamIndex, dialler: &Nonce, listener: &Nonce) -> Self {
        let mut all = [0; 84];
        all[..16].copy_from_slice(&terms.transfer.0);
        all[16..18].copy_from_slice(&stream.0.to_le_bytes());
        all[18] = match terms.direction {
            Direction::ToListener => 1,
            Direction::FromListener => 2,
        };
        all[19] = match terms.protect {
            Protect::None => 1,
            Protect::Sealed => 2,
        };
        all[20..52].copy_from_slice(dialler);
        all[52..].copy_from_slice(listener);
        Self(all)
    }

    fn key(&self, secret: &Secret, label: &[u8], protect: Protect) -> StreamKey {
        StreamKey::new(&secret.mac(&[label, &self.0]), protect)
    }
}

/// The dialler, after its HELLO.
#[derive(Debug)]
pub struct Dialling {
    secret: Secret,
    terms: Terms,
    hello: Hello,
    deadline: Duration,
}

impl Dialling {
    /// Begins: the state, and the HELLO to send. `nonce` is fresh; `deadline` is on the clock of [`Self::answer`].
    #[must_use]
    pub fn begin(
        secret: Secret,
        terms: Terms,
        stream: StreamIndex,
        nonce: Nonce,
        deadline: Duration,
    ) -> (Self, [u8; HELLO_LEN]) {
        let hello = Hello {
            transfer: terms.transfer,
            stream,
            nonce,
        };
        let sent = hello.encode();
        let state = Self {
            secret,
            terms,
            hello,
            deadline,
        };
        (state, sent)
    }

    /// Judges the CHALLENGE: the PROOF to send, and the keys.
    ///
    /// # Errors
    /// [`HandshakeFault`]: close the connection, and send nothing.
    pub fn answer(
        self,
        challenge: &[u8],
        now: Duration,
    ) -> Result<([u8; PROOF_LEN], StreamKeys), HandshakeFault> {
        if now > self.deadline {
            return Err(HandshakeFault::Late);
        }
        let rest = message::<CHALLENGE_LEN>(challenge, 2)?;
        let nonce: Nonce = array(&rest[..SECRET_LEN]);
        if nonce == self.hello.nonce {
            return Err(HandshakeFault::Reflected);
        }
        let script = Transcript::new(&self.terms, self.hello.stream, &self.hello.nonce, &nonce);
        let proof = &rest[SECRET_LEN..];
        if !self.secret.proves(&[LISTENER, &script.0], proof) {
            return Err(HandshakeFault::Proof);
        }
        let mut out = [0; PROOF_LEN];
        head(&mut out, 3);
        out[8..].copy_from_slice(&self.secret.mac(&[DIALLER, &script.0]));
        let keys = StreamKeys {
            outgoing: script.key(&self.secret, TO_LISTENER, self.terms.protect),
            incoming: script.key(&self.secret, TO_DIALLER, self.terms.protect),
        };
        Ok((out, keys))
    }
}

/// The listener, after its CHALLENGE.
#[derive(Debug)]
pub struct Challenging {
    secret: Secret,
    terms: Terms,
    script: Transcript,
    deadline: Duration,
}

impl Challenging {
    /// Answers `hello`: the state, and the CHALLENGE to send. For a transfer that nobody knows, pass a
    /// secret that was just drawn: the stranger sees no difference.
    ///
    /// # Errors
    /// [`HandshakeFault::Reflected`] if the dialler's nonce is `nonce`.
    pub fn begin(
        secret: Secret,
        terms: Terms,
        hello: &Hello,
        nonce: Nonce,
        deadline: Duration,
    ) -> Result<(Self, [u8; CHALLENGE_LEN]), HandshakeFault> {
        if nonce == hello.nonce {
            return Err(HandshakeFault::Reflected);
        }
        let script = Transcript::new(&terms, hello.stream, &hello.nonce, &nonce);
        let mut out = [0; CHALLENGE_LEN];
        head(&mut out, 2);
        out[8..40].copy_from_slice(&nonce);
        out[40..].copy_from_slice(&secret.mac(&[LISTENER, &script.0]));
        let state = Self {
            secret,
            terms,
            script,
            deadline,
        };
        Ok((state, out))
    }

    /// Judges the PROOF: the keys.
    ///
    /// # Errors
    /// [`HandshakeFault`]: close the connection.
    pub fn verify(self, proof: &[u8], now: Duration) -> Result<StreamKeys, HandshakeFault> {
        if now > self.deadline {
            return Err(HandshakeFault::Late);
        }
        let rest = message::<PROOF_LEN>(proof, 3)?;
        if !self.secret.proves(&[DIALLER, &self.script.0], rest) {
            return Err(HandshakeFault::Proof);
        }
        let script = &self.script;
        Ok(StreamKeys {
            outgoing: script.key(&self.secret, TO_DIALLER, self.terms.protect),
            incoming: script.key(&self.secret, TO_LISTENER, self.terms.protect),
        })
    }
}

fn head(out: &mut [u8], kind: u8) {
    out[..4].copy_from_slice(&MAGIC);
    out[4] = VERSION;
    out[5] = kind;
}

/// What follows the eight bytes of the head, if the message has its length, magic, version and kind.
fn message<const LEN: usize>(bytes: &[u8], kind: u8) -> Result<&[u8], HandshakeFault> {
    let head_is_good = bytes.len() == LEN && bytes[..4] == MAGIC && bytes[4] == VERSION;
    // Only HELLO has something in the last two bytes of its head.
    if !head_is_good || bytes[5] != kind || (kind != 1 && bytes[6..8] != [0, 0]) {
        return Err(HandshakeFault::Shape);
    }
    Ok(&bytes[8..])
}

/// The first `N` of bytes whose length was judged.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[..N]);
    out
}

#[cfg(test)]
mod tests;
