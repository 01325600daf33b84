//! One stream: a TCP connection that proved itself, as frames in both directions.

use super::error::{AbortCode, Broken, Error};
use crate::checksum::Crc32c;
use crate::frame::{CONTROL_MAX, HEADER_LEN, Header, Incoming, Kind, Outgoing};
use crate::handshake::{
    CHALLENGE_LEN, Challenging, Dialling, HELLO_LEN, HandshakeFault, Hello, PROOF_LEN, StreamKeys,
    Terms,
};
use crate::secret::{Secret, StreamIndex, TransferId, random};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, timeout};

/// A connection that proved itself.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) transfer: TransferId,
    pub(crate) index: StreamIndex,
    pub(crate) peer: SocketAddr,
    socket: TcpStream,
    keys: StreamKeys,
}

/// Dials and proves, within `limit`.
pub(crate) async fn dial(
    address: SocketAddr,
    secret: Secret,
    terms: Terms,
    index: StreamIndex,
    limit: Duration,
) -> Result<Stream, Error> {
    let begun = Instant::now();
    let failed = |source| Error::Connect { address, source };
    let late = |_| failed(io::ErrorKind::TimedOut.into());
    let connect = timeout(limit, TcpStream::connect(address));
    let mut socket = connect.await.map_err(late)?.map_err(failed)?;
    socket.set_nodelay(true).map_err(failed)?;
    let (state, hello) = Dialling::begin(secret, terms, index, random()?, limit);
    let talk = async {
        socket.write_all(&hello).await?;
        let mut challenge = [0; CHALLENGE_LEN];
        socket.read_exact(&mut challenge).await?;
        Ok(challenge)
    };
    // Whoever closes here did not let us in; it does not say why.
    let challenge = timeout(limit, talk).await.map_err(late)?.map_err(failed)?;
    let answer = state.answer(&challenge, begun.elapsed());
    let (proof, keys) = answer.map_err(|fault| Error::Handshake { address, fault })?;
    socket.write_all(&proof).await.map_err(failed)?;
    Ok(Stream {
        transfer: terms.transfer,
        index,
        peer: address,
        socket,
        keys,
    })
}

/// Lets a connection in: `look_up` answers the secret and the terms of a transfer. For one that
/// nobody knows it answers nothing, and the stranger is led on by a secret that nobody knows, either.
pub(crate) async fn accept(
    mut socket: TcpStream,
    peer: SocketAddr,
    look_up: impl FnOnce(&Hello) -> Option<(Secret, Terms)>,
    limit: Duration,
) -> Result<Stream, Error> {
    let begun = Instant::now();
    let fault = |fault| Error::Handshake {
        address: peer,
        fault,
    };
    let failed = |source| Error::Connect {
        address: peer,
        source,
    };
    let talk = async {
        socket.set_nodelay(true).map_err(failed)?;
        let mut hello = [0; HELLO_LEN];
        socket.read_exact(&mut hello).await.map_err(failed)?;
        let hello = Hello::decode(&hello).map_err(fault)?;
        let (secret, terms) = match look_up(&hello) {
            Some(known) => known,
            None => (Secret::generate()?, Terms::of_nobody(hello.transfer)),
        };
        let begin = Challenging::begin(secret, terms, &hello, random()?, limit);
        let (state, challenge) = begin.map_err(fault)?;
        socket.write_all(&challenge).await.map_err(failed)?;
        let mut proof = [0; PROOF_LEN];
        socket.read_exact(&mut proof).await.map_err(failed)?;
        let keys = state.verify(&proof, begun.elapsed()).map_err(fault)?;
        Ok::<_, Error>((hello, keys))
    };
    let late = |_| fault(HandshakeFault::Late);
    let (hello, keys) = timeout(limit, talk).await.map_err(late)??;
    Ok(Stream {
        transfer: hello.transfer,
        index: hello.stream,
        peer,
        socket,
        keys,
    })
}

impl Stream {
    /// Its two directions. `block` is the longest payload that may come, `freeze` the longest silence.
    pub(crate) fn split(self, block: u32, freeze: Duration) -> (Reader, Writer) {
        let (read, write) = self.socket.into_split();
        let reader = Reader {
            index: self.index,
            half: read,
            frames: Incoming::new(self.keys.incoming, block),
            freeze,
        };
        let writer = Writer {
            index: self.index,
            half: write,
            frames: Outgoing::new(self.keys.outgoing),
        };
        (reader, writer)
    }
}

/// The incoming direction.
pub(crate) struct Reader {
    index: StreamIndex,
    half: OwnedReadHalf,
    frames: Incoming,
    freeze: Duration,
}

impl Reader {
    /// The next header.
    pub(crate) async fn header(&mut self) -> Result<Header, Broken> {
        let mut bytes = [0; HEADER_LEN];
        self.fill(&mut bytes).await?;
        let header = self.frames.header(&bytes);
        header.map_err(|fault| Broken::frame(self.index, fault))
    }

    /// The payload of `header`, into `buffer`, compared with its sum.
    pub(crate) async fn payload(
        &mut self,
        header: &Header,
        buffer: &mut Vec<u8>,
    ) -> Result<Crc32c, Broken> {
        buffer.resize(self.frames.wire_len(header), 0);
        self.fill(buffer).await?;
        let opened = self.frames.open(header, buffer);
        opened.map_err(|fault| Broken::frame(self.index, fault))
    }

    /// What an abort says.
    pub(crate) async fn abort(&mut self, header: &Header) -> Broken {
        let mut payload = Vec::new();
        if let Err(broken) = self.payload(header, &mut payload).await {
            return broken;
        }
        let (code, text) = payload.split_first().unwrap_or((&0, &[]));
        let text = String::from_utf8_lossy(text).into_owned();
        let clean = text.replace(char::is_control, " ");
        Broken::Transfer(Error::from_abort(AbortCode::from_byte(*code), clean))
    }

    /// Reads until the other end closes, and looks at nothing: a socket that is closed with bytes unread
    /// takes back what was just written to it.
    pub(crate) async fn discard(&mut self, limit: Duration) {
        let mut bytes = vec![0; 64 << 10];
        let all = async { while self.half.read(&mut bytes).await.is_ok_and(|n| n > 0) {} };
        let _ = timeout(limit, all).await;
    }

    async fn fill(&mut self, bytes: &mut [u8]) -> Result<(), Broken> {
        let (stream, silent) = (self.index, self.freeze);
        let mut done = 0;
        while done < bytes.len() {
            let read = timeout(silent, self.half.read(&mut bytes[done..])).await;
            let read = read.map_err(|_| Broken::Stream(Error::Frozen { stream, silent }))?;
            match read.map_err(|e| Broken::io(stream, "read", e))? {
                0 => {
                    let closed = io::ErrorKind::UnexpectedEof.into();
                    return Err(Broken::io(stream, "read, and it was closed", closed));
                }
                n => done += n,
            }
        }
        Ok(())
    }
}

/// The outgoing direction.
pub(crate) struct Writer {
    index: StreamIndex,
    half: OwnedWriteHalf,
    frames: Outgoing,
}

impl Writer {
    /// A frame without payload.
    pub(crate) async fn bare(&mut self, kind: Kind, offset: u64) -> Result<(), Broken> {
        let header = self.frames.bare(kind, offset);
        self.put(&header, &[]).await
    }

    /// A frame with `payload`, whose sum is `crc`; `payload` is used up.
    pub(crate) async fn frame(
        &mut self,
        kind: Kind,
        offset: u64,
        payload: &mut Vec<u8>,
        crc: Crc32c,
        sent: impl FnOnce(u64) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let (header, sequence) = self.frames.seal(kind, offset, payload, crc);
        sent(sequence)?;
        self.put(&header, payload).await
    }

    /// Tells the other end why the transfer ends.
    pub(crate) async fn abort(&mut self, code: AbortCode, text: &str) -> Result<(), Broken> {
        let mut payload = vec![code.to_byte()];
        payload.extend_from_slice(text.as_bytes());
        payload.truncate(CONTROL_MAX as usize);
        let crc = Crc32c::of(&payload);
        self.frame(Kind::Abort, 0, &mut payload, crc, |_| Ok(()))
            .await?;
        self.close().await
    }

    /// No more frames; what was written still arrives.
    pub(crate) async fn close(&mut self) -> Result<(), Broken> {
        let closed = self.half.shutdown().await;
        closed.map_err(|e| Broken::io(self.index, "close", e))
    }

    async fn put(&mut self, header: &[u8], payload: &[u8]) -> Result<(), Broken> {
        let failed = |e| Broken::io(self.index, "write", e);
        let mut done = 0;
        let all = header.len() + payload.len();
        while done < all {
            let head = &header[done.min(header.len())..];
            let body = &payload[done.saturating_sub(header.len())..];
            let slices = [io::IoSlice::new(head), io::IoSlice::new(body)];
            match self.half.write_vectored(&slices).await.map_err(failed)? {
                0 => return Err(failed(io::ErrorKind::WriteZero.into())),
                n => done += n,
            }
        }
        Ok(())
    }
}
