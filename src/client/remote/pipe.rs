//! Files without an end that is known, and files read in order: standard input and output.
//!
//! Invariants kept here:
//! - what was read from a pipe is kept here until the server has it durably, so a transfer that breaks goes on;
//! - the name is given when the pipe has ended and all of it is there, never before;
//! - what is written out is one state of one file, in order, and each byte was checked before.

use super::link::Link;
use super::parcel::{End, TRANSFERS, Unreached, changed, pairs, tag, why};
use super::plan::{Item, parcel};
use super::session::{Attempt, PAUSES, Session, may_help};
use crate::client::ClientError;
use crate::error::Failure;
use crate::id::{bytes_of_hex, hex_of};
use crate::parcel::{Outgoing, Tree, Trouble};
use crate::server::wire::{
    ContinueTransfer, Dialling, EntryView, FinishTransfer, FinishedTransfer, OpenTransfer,
    OpenedTransfer, Problem, Way as WireWay,
};
use cairn_mover::ByteRange;
use hyper::Method;
use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// What such a file may have at most.
const BOUND: u64 = 1 << 62;
/// So much of a pipe is sent at a time; the next is read meanwhile.
const SEGMENT: usize = 32 << 20;
/// So much is got at a time,
const WINDOW: u64 = 16 << 20;
/// and so many of these at one time.
const WINDOWS: usize = 3;

/// Some bytes of a pipe.
struct Segment {
    at: u64,
    bytes: Vec<u8>,
    version: Vec<u8>,
}

impl cairn_mover::Source for Segment {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let at = offset
            .checked_sub(self.at)
            .and_then(|at| usize::try_from(at).ok());
        let here = at.and_then(|at| self.bytes.get(at..at.checked_add(buffer.len())?));
        buffer.copy_from_slice(here.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn unchanged(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Outgoing for Segment {
    fn size(&self) -> u64 {
        BOUND
    }

    fn version(&self) -> Vec<u8> {
        self.version.clone()
    }

    fn troubles(&self) -> BTreeMap<usize, Trouble> {
        BTreeMap::new()
    }

    fn changed(&self) -> Option<Vec<u8>> {
        None
    }
}

/// A put whose end is not known.
struct Pipe<'a> {
    session: &'a Session,
    view: EntryView,
    /// Of this pipe alone.
    version: Vec<u8>,
    key: String,
    /// The transfer, while its connection lives.
    open: Option<(Link, u64)>,
}

impl Pipe<'_> {
    fn dialling(&self) -> Dialling {
        match self.session.shared.falls_back() {
            true => Dialling::Firewall,
            false => self.session.dialling(),
        }
    }

    /// Opens the transfer, or goes on with it, for what is behind `at`; all before is there.
    async fn opened(&mut self, at: u64, len: u64) -> Result<(Link, OpenedTransfer), ClientError> {
        let dialling = self.dialling();
        let (streams, protect) = (self.session.streams(), self.session.protect_word());
        let ranges = |from, upto| {
            pairs(
                &ByteRange::between(from, upto)
                    .into_iter()
                    .collect::<Vec<_>>(),
            )
        };
        let (link, opened) = match self.open.take() {
            Some((mut link, number)) => {
                let ask = ContinueTransfer {
                    ranges: ranges(at, at + len),
                    dialling,
                    streams,
                    protect: protect.to_owned(),
                };
                let route = format!("{TRANSFERS}/{number}/next");
                let opened: OpenedTransfer = link.ask(Method::POST, &route, Some(&ask)).await?;
                (link, opened)
            }
            None => {
                let mut link = Link::connect(&self.session.server).await?;
                let ask = OpenTransfer {
                    way: WireWay::Put,
                    dialling,
                    entries: vec![self.view.clone()],
                    version: Some(hex_of(&self.version)),
                    if_missing: self.session.placing.if_missing,
                    resume: at > 0,
                    finish_directories: false,
                    key: self.key.clone(),
                    ranges: Some(ranges(0, at + len)),
                    streams,
                    protect: protect.to_owned(),
                };
                let opened: OpenedTransfer = link.ask(Method::POST, TRANSFERS, Some(&ask)).await?;
                (link, opened)
            }
        };
        if opened.ranges.iter().any(|[start, _]| *start < at) {
            return Err(ClientError::Refused {
                failure: Failure::Changed,
                message: "the server lost what it had of the pipe".to_owned(),
                hint: None,
            });
        }
        Ok((link, opened))
    }

    async fn try_send(
        &mut self,
        segment: &Arc<Segment>,
        attempt: &Attempt,
    ) -> Result<(), Unreached> {
        let len = segment.bytes.len() as u64;
        let (mut link, opened) = self.opened(segment.at, len).await?;
        if !opened.ranges.is_empty() {
            let end = End::Sends(Arc::<Segment>::clone(segment));
            let ended = link.ended();
            let carried = tokio::select! {
                carried = self.session.transfer(&mut link, &opened, &end, attempt) => carried,
                () = ended => Err(ClientError::broken("the server went away").into()),
            };
            match carried {
                Ok(_) => {}
                Err(Unreached::Other(error)) if error.failure() == Failure::Interrupted => {
                    return Err(why(&mut link, &opened, error).await.into());
                }
                Err(other) => return Err(other),
            }
        }
        self.open = Some((link, opened.number));
        Ok(())
    }

    async fn try_finish(&mut self, size: u64) -> Result<FinishedTransfer, Unreached> {
        let (mut link, number) = match self.open.take() {
            Some(open) => open,
            None => {
                let (link, opened) = self.opened(size, 0).await?;
                if let Some(finished) = opened.finished {
                    return Ok(finished);
                }
                (link, opened.number)
            }
        };
        let ask = FinishTransfer {
            size: Some(size),
            ..FinishTransfer::default()
        };
        let route = format!("{TRANSFERS}/{number}/finish");
        Ok(link.ask(Method::POST, &route, Some(&ask)).await?)
    }

    /// What is to be done about an attempt that did not succeed.
    async fn after(&mut self, unreached: Unreached, tries: &mut Tries) -> Result<(), ClientError> {
        self.open = None;
        let error = match unreached {
            Unreached::Dial(why) => {
                self.session.shared.fall_back(&why);
                return Ok(());
            }
            Unreached::Resume => changed(),
            Unreached::Other(error) => error,
        };
        if !may_help(&error) || tries.since.elapsed() > self.session.patience {
            return Err(error);
        }
        tracing::info!(%error, "tried again");
        tokio::time::sleep(PAUSES[tries.count.min(PAUSES.len() - 1)]).await;
        tries.count += 1;
        Ok(())
    }

    async fn send(&mut self, segment: Arc<Segment>) -> Result<(), ClientError> {
        let mut tries = Tries::new();
        let attempt = Attempt {
            key: self.key.clone(),
            resume: true,
            moved: AtomicU64::new(0),
        };
        loop {
            match self.try_send(&segment, &attempt).await {
                Ok(()) => return Ok(()),
                Err(unreached) => {
                    // What was moved is kept there: it came further.
                    if attempt.moved.swap(0, Ordering::Relaxed) > 0 {
                        tries = Tries::new();
                    }
                    self.after(unreached, &mut tries).await?;
                }
            }
        }
    }

    async fn finish(&mut self, size: u64) -> Result<FinishedTransfer, ClientError> {
        let mut tries = Tries::new();
        loop {
            match self.try_finish(size).await {
                Ok(finished) => return Ok(finished),
                Err(unreached) => self.after(unreached, &mut tries).await?,
            }
        }
    }
}

struct Tries {
    since: Instant,
    count: usize,
}

impl Tries {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            count: 0,
        }
    }
}

/// As much as there is, up to a segment; less only at the end.
fn segment<R: Read>(mut input: R) -> io::Result<(R, Vec<u8>)> {
    let mut bytes = Vec::new();
    input
        .by_ref()
        .take(SEGMENT as u64)
        .read_to_end(&mut bytes)?;
    Ok((input, bytes))
}

impl Session {
    /// Puts what `input` gives up to its end as one file; its size in `view` does not matter. Bytes of it, and why it did not get its name,
    /// if so.
    ///
    /// # Errors
    /// `input` fails, or the server cannot be reached, or refuses.
    pub async fn put_pipe<R: Read + Send + 'static>(
        &self,
        view: EntryView,
        input: R,
    ) -> Result<(u64, Vec<Problem>), ClientError> {
        let read = |input: R| tokio::task::spawn_blocking(move || segment(input));
        let failed = |source| ClientError::Local {
            step: "read standard input",
            source,
        };
        let mut pipe = Pipe {
            session: self,
            view: EntryView {
                size: BOUND,
                ..view.clone()
            },
            version: bytes_of_hex(&tag()?).unwrap_or_default(),
            key: tag()?,
            open: None,
        };
        let (mut reading, mut total) = (read(input), 0);
        loop {
            let read_on = reading.await.map_err(ClientError::not_understood)?;
            let (input, bytes) = read_on.map_err(failed)?;
            let is_last = bytes.len() < SEGMENT;
            reading = match is_last {
                true => tokio::task::spawn_blocking(|| Err(io::ErrorKind::UnexpectedEof.into())),
                false => read(input),
            };
            let len = bytes.len() as u64;
            if len > 0 {
                let (at, version) = (total, pipe.version.clone());
                pipe.send(Arc::new(Segment { at, bytes, version })).await?;
                total += len;
            }
            if is_last {
                break;
            }
        }
        if total == 0 {
            return self.put_nothing(view).await;
        }
        let finished = pipe.finish(total).await?;
        Ok((total, finished.problems))
    }

    /// A file without bytes.
    async fn put_nothing(&self, view: EntryView) -> Result<(u64, Vec<Problem>), ClientError> {
        let tree = Tree::open(std::path::Path::new("/")).map_err(|source| ClientError::Local {
            step: "open /",
            source,
        })?;
        let item = Item {
            local: view.path.bytes(),
            remote: EntryView { size: 0, ..view },
            found: None,
            name_of: None,
        };
        let nothing = parcel(&Arc::new(tree), vec![item]);
        let moved = self.persist(&mut None, &nothing).await?;
        Ok((0, moved.problems))
    }

    /// Gives all of a file to `write`, in order. `tree` is not written to.
    ///
    /// # Errors
    /// It changes meanwhile, `write` fails, or the server cannot be reached, or refuses.
    pub async fn get_pipe<W>(
        self: &Arc<Self>,
        view: &EntryView,
        tree: &Arc<Tree>,
        write: W,
    ) -> Result<u64, ClientError>
    where
        W: Fn(&[u8]) -> io::Result<()> + Send + Sync + 'static,
    {
        let write = Arc::new(write);
        let (mut under_way, mut next, mut state) = (VecDeque::new(), 0, None);
        loop {
            while under_way.len() < WINDOWS && next < view.size {
                let range = next..view.size.min(next + WINDOW);
                next = range.end;
                let (session, view, tree) = (Arc::clone(self), view.clone(), Arc::clone(tree));
                let got = async move { session.read(&view, &tree, range).await };
                under_way.push_back(Ended(tokio::spawn(got)));
            }
            let Some(mut window) = under_way.pop_front() else {
                return Ok(view.size);
            };
            let got = (&mut window.0).await.map_err(ClientError::not_understood)?;
            let (bytes, version) = got?;
            if *state.get_or_insert_with(|| version.clone()) != version {
                return Err(changed());
            }
            let write = Arc::clone(&write);
            let written = tokio::task::spawn_blocking(move || write(&bytes)).await;
            written
                .map_err(ClientError::not_understood)?
                .map_err(|source| ClientError::Local {
                    step: "write standard output",
                    source,
                })?;
        }
    }
}

/// A task that ends with whoever waits for it.
struct Ended<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Ended<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
