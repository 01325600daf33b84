//! One parcel moved: opened, carried by the mover, finished.
//!
//! Invariants kept here:
//! - what the sender says of its files is asked or told after all of them have arrived, and before any gets its name;
//! - what a descriptor names is dialled only where the control connection went, or in networks that the user listed
//!   (P15).

use super::link::Link;
use super::plan::{Item, Parcel, Tar, join};
use super::session::{Attempt, Session, Way};
use super::tar::known;
use crate::client::ClientError;
use crate::error::Failure;
use crate::id::{bytes_of_hex, hex_of};
use crate::parcel::{
    Fate, Incoming, Layout, Outgoing, Placing, Receiving, Sending, Settle, Trouble,
};
use crate::server::wire::{
    BadEntry, DialTransfer, Dialled, Dialling, FinishTransfer, FinishedTransfer, OpenTransfer,
    OpenedTransfer, Problem, Way as WireWay,
};
use cairn_mover::{
    BLOCK_DEFAULT, ByteRange, DialRule, Dialler, Direction, Door, Host, Iod, Meter, Mode, Options,
    Place, Progress, Protect, Secret, Streams, TransferId,
};
use hyper::Method;
use rustix::fs::{Mode as FileMode, OFlags};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const TRANSFERS: &str = "/v1/remote/transfers";

/// What came of a parcel.
#[derive(Debug, Default)]
pub(super) struct Moved {
    pub(super) bytes: u64,
    pub(super) problems: Vec<Problem>,
}

pub(super) enum End {
    Sends(Arc<dyn Outgoing>),
    Receives(Arc<dyn Incoming>),
}

pub(super) fn failed(step: &'static str) -> impl FnOnce(io::Error) -> ClientError {
    move |source| ClientError::Local { step, source }
}

/// A transfer that broke: tried again unless it is clear that it cannot succeed.
fn broken(error: cairn_mover::Error) -> ClientError {
    use cairn_mover::Error;
    match error {
        Error::SourceChanged => ClientError::Refused {
            failure: Failure::Changed,
            message: "the file was changed while it was sent".to_owned(),
            hint: Some("send it again once nobody writes to it".to_owned()),
        },
        Error::Source { source, .. } => ClientError::Local {
            step: "read",
            source,
        },
        Error::Sink { source, .. } => ClientError::Local {
            step: "write",
            source,
        },
        Error::Refused { .. } | Error::Resolve { .. } => ClientError::Refused {
            failure: Failure::NotPermitted,
            message: error.to_string(),
            hint: None,
        },
        Error::Peer { code, text } => ClientError::Refused {
            failure: match code {
                cairn_mover::AbortCode::NoSpace => Failure::NoSpace,
                cairn_mover::AbortCode::SourceChanged => Failure::Changed,
                _ => Failure::Interrupted,
            },
            message: text,
            hint: None,
        },
        other => ClientError::broken(other),
    }
}

impl Session {
    /// Moves a parcel, on a connection of its own.
    pub(super) async fn carry(
        &self,
        link: &mut Link,
        parcel: &Parcel,
        attempt: &Attempt,
    ) -> Result<Moved, ClientError> {
        let mut resume = attempt.resume;
        loop {
            let dialling = if self.shared.falls_back() {
                Dialling::Firewall
            } else {
                self.dialling()
            };
            match self
                .attempt(link, parcel, (dialling, resume), attempt)
                .await
            {
                // Once for all parcels: the next ones do not try.
                Err(Unreached::Dial(why)) => self.shared.fall_back(&why),
                Err(Unreached::Resume) if resume => resume = false,
                Err(Unreached::Resume) => return Err(changed()),
                Err(Unreached::Other(error)) => return Err(error),
                Ok(moved) => return Ok(moved),
            }
        }
    }

    async fn attempt(
        &self,
        link: &mut Link,
        parcel: &Parcel,
        (dialling, resume): (Dialling, bool),
        attempt: &Attempt,
    ) -> Result<Moved, Unreached> {
        let mut asked = self.open(parcel, dialling, resume);
        asked.key.clone_from(&attempt.key);
        let (end, opened) = match (self.way, &parcel.tar) {
            (Way::Put, _) => {
                let sending = outgoing(parcel)?;
                asked.version = Some(hex_of(&sending.version()));
                let opened: OpenedTransfer =
                    link.ask(Method::POST, TRANSFERS, Some(&asked)).await?;
                if let Some(finished) = opened.finished {
                    let problems = finished.problems;
                    return Ok(Moved {
                        bytes: finished.bytes,
                        problems,
                    });
                }
                (End::Sends(sending), opened)
            }
            (Way::Get, None) => self.opened(link, parcel, asked, layout(parcel)?).await?,
            (Way::Get, Some(tar)) => {
                let incoming = self.of_archive(parcel, tar, resume).await?;
                match self.ranges(link, asked, tar, &*incoming).await? {
                    Some(opened) => (End::Receives(incoming), opened),
                    None => {
                        let (bytes, progress) = (0, incoming.progress(known(tar)));
                        let problems = self.place(parcel, &incoming, progress, BTreeMap::new());
                        let problems = problems.await?;
                        return Ok(Moved { bytes, problems });
                    }
                }
            }
        };
        let mut moved = Moved::default();
        let version = bytes_of_hex(&opened.version).unwrap_or_default();
        let mut progress = match &end {
            End::Sends(_) => None,
            End::Receives(receiving) => Some(receiving.progress(&version)),
        };
        if !opened.ranges.is_empty() {
            let ended = link.ended();
            let carried = tokio::select! {
                carried = self.transfer(link, &opened, &end, attempt) => carried,
                () = ended => Err(ClientError::broken("the server went away").into()),
            };
            let carried = match carried {
                Ok(carried) => carried,
                Err(Unreached::Other(error)) if error.failure() == Failure::Changed => {
                    return Err(named(&end, error).into());
                }
                // The other end gave up, and knows better why.
                Err(Unreached::Other(error)) if error.failure() == Failure::Interrupted => {
                    return Err(why(link, &opened, error).await.into());
                }
                Err(other) => return Err(other),
            };
            moved.bytes = carried.bytes;
            progress = carried.progress;
        } else if let End::Sends(source) = &end {
            // All of it is there from before; but is it still what is here?
            let asked = Arc::clone(source);
            let looked = tokio::task::spawn_blocking(move || asked.unchanged()).await;
            match looked {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Err(named(&end, changed()).into()),
                Ok(Err(error)) => return Err(ClientError::broken(error).into()),
                Err(error) => return Err(ClientError::broken(error).into()),
            }
        }
        self.finish(link, parcel, &opened, (&end, progress.as_ref()), &mut moved)
            .await?;
        Ok(moved)
    }

    /// Opens a get: this end is made when the other one has said of which data.
    async fn opened(
        &self,
        link: &mut Link,
        parcel: &Parcel,
        mut asked: OpenTransfer,
        layout: Layout,
    ) -> Result<(End, OpenedTransfer), Unreached> {
        // What was got and not placed here is got again.
        let key = TransferId::generate().map_err(ClientError::not_understood)?;
        asked.key = hex_of(&key.0);
        let size = layout.size();
        let opened: OpenedTransfer = link.ask(Method::POST, TRANSFERS, Some(&asked)).await?;
        let receiving = self
            .receiving(parcel, layout, &opened, asked.resume)
            .await?;
        let version = bytes_of_hex(&opened.version).unwrap_or_default();
        let lacking = pairs(&receiving.lacking(&version));
        let whole = pairs(&ByteRange::new(0, size).into_iter().collect::<Vec<_>>());
        let opened = if lacking == whole {
            opened
        } else {
            self.rest(link, &mut asked, &opened, lacking.clone())
                .await?
        };
        if opened.ranges != lacking {
            let why = "other ranges than those that were asked for";
            return Err(ClientError::not_understood(why).into());
        }
        Ok((End::Receives(Arc::new(receiving)), opened))
    }

    fn open(&self, parcel: &Parcel, dialling: Dialling, resume: bool) -> OpenTransfer {
        let items = || {
            parcel
                .items
                .iter()
                .map(|item| item.remote.clone())
                .collect()
        };
        OpenTransfer {
            way: match self.way {
                Way::Put => WireWay::Put,
                Way::Get => WireWay::Get,
            },
            dialling,
            entries: match &parcel.tar {
                Some(Tar::Unpacks(archive, _)) => vec![archive.view.clone()],
                Some(Tar::Reads(_, view)) => vec![view.clone()],
                Some(Tar::Packs(_) | Tar::Here) | None => items(),
            },
            version: None,
            if_missing: self.placing.if_missing,
            resume,
            finish_directories: parcel.finishes,
            key: String::new(),
            ranges: None,
            streams: self.streams(),
            protect: self.protect_word().to_owned(),
        }
    }

    async fn receiving(
        &self,
        parcel: &Parcel,
        layout: Layout,
        opened: &OpenedTransfer,
        resume: bool,
    ) -> Result<Receiving, ClientError> {
        let tree = Arc::clone(&parcel.tree);
        let placing = self.placing(parcel, resume);
        let version = bytes_of_hex(&opened.version).unwrap_or_default();
        let (tag, settle) = (tag()?, settle(parcel)?);
        let make = move || Receiving::new(tree, layout, placing, &version, tag, settle);
        let made = tokio::task::spawn_blocking(make)
            .await
            .map_err(ClientError::not_understood)?;
        made.map_err(failed("make the file"))
    }

    pub(super) fn placing(&self, parcel: &Parcel, resume: bool) -> Placing {
        Placing {
            resume,
            finish_directories: parcel.finishes,
            ..self.placing
        }
    }

    pub(super) async fn transfer(
        &self,
        link: &mut Link,
        opened: &OpenedTransfer,
        end: &End,
        attempt: &Attempt,
    ) -> Result<Carried, Unreached> {
        let meter = Arc::new(Meter::default());
        let _watched = self.shared.watch(&meter);
        let _came = Came(&attempt.moved, Arc::clone(&meter));
        let options = Options {
            streams: self
                .wanted
                .map_or(Options::default().streams, |_| Streams::All),
            limits: self.limit.iter().cloned().collect(),
            meter,
            ..Options::default()
        };
        if let Some(hex) = &opened.iod {
            let bytes =
                bytes_of_hex(hex).ok_or_else(|| ClientError::not_understood("a descriptor"))?;
            let mut iod = Iod::decode(&bytes).map_err(ClientError::not_understood)?;
            if opened.here {
                let to = link.peer();
                iod.places = vec![Place::new(Host::Address(to.ip()), &[to.port()])];
            }
            let rule = DialRule::new(link.peer().ip(), self.dial.clone());
            let dialler = Dialler::new(&iod, &rule).await.map_err(broken)?;
            return Ok(move_it(Door::Dialling(dialler), &iod, end, &options, opened).await?);
        }
        let Some(listening) = &self.listening else {
            return Err(ClientError::not_understood("a transfer without a descriptor").into());
        };
        let iod = self.descriptor(opened, end, &listening.listener.places(&listening.hosts))?;
        let door = listening
            .listener
            .expect(&iod)
            .map_err(ClientError::not_understood)?;
        let ask = DialTransfer {
            iod: hex_of(&iod.encode().map_err(ClientError::not_understood)?),
            all: self.wanted.is_some(),
        };
        let carried = move_it(door, &iod, end, &options, opened);
        let route = format!("{TRANSFERS}/{}/dial", opened.number);
        let dialled = async {
            match link.ask::<Dialled>(Method::POST, &route, Some(&ask)).await {
                Ok(_) => Ok(()),
                Err(ClientError::Refused {
                    failure: Failure::TimedOut | Failure::NotPermitted,
                    message,
                    ..
                }) => Err(Unreached::Dial(message)),
                Err(error) => Err(error.into()),
            }
        };
        // Without the other end the mover would wait until the offer is over.
        tokio::pin!(carried);
        tokio::select! {
            done = &mut carried => return Ok(done?),
            dialled = dialled => dialled?,
        }
        Ok(carried.await?)
    }

    fn descriptor(
        &self,
        opened: &OpenedTransfer,
        end: &End,
        places: &[Place],
    ) -> Result<Iod, ClientError> {
        let wrong = |why: &str| ClientError::not_understood(why);
        let ranges = opened
            .ranges
            .iter()
            .map(|[start, len]| ByteRange::new(*start, *len));
        let (direction, size) = match end {
            End::Sends(sending) => (Direction::FromListener, sending.size()),
            End::Receives(receiving) => (Direction::ToListener, receiving.size()),
        };
        Ok(Iod {
            transfer: TransferId::generate().map_err(ClientError::not_understood)?,
            secret: Secret::generate().map_err(ClientError::not_understood)?,
            direction,
            mode: Mode::Parallel,
            protect: self
                .protect_word()
                .parse::<Protect>()
                .map_err(|why| wrong(&why))?,
            block: BLOCK_DEFAULT,
            streams: self.streams(),
            offer: 30,
            size,
            version: bytes_of_hex(&opened.version).ok_or_else(|| wrong("a version"))?,
            places: places.to_vec(),
            ranges: ranges
                .collect::<Option<_>>()
                .ok_or_else(|| wrong("a range without bytes"))?,
        })
    }

    async fn finish(
        &self,
        link: &mut Link,
        parcel: &Parcel,
        opened: &OpenedTransfer,
        (end, progress): (&End, Option<&Progress>),
        moved: &mut Moved,
    ) -> Result<(), ClientError> {
        let mut ask = FinishTransfer::default();
        if let End::Sends(sending) = end {
            let bad = sending
                .troubles()
                .into_iter()
                .map(|(entry, trouble)| bad(entry, trouble));
            ask.bad = bad.collect();
        }
        let route = format!("{TRANSFERS}/{}/finish", opened.number);
        let finished: FinishedTransfer = link.ask(Method::POST, &route, Some(&ask)).await?;
        moved.problems.extend(finished.problems);
        if let (End::Receives(receiving), Some(progress)) = (end, progress.cloned()) {
            // What it says of an archive is said of all its members.
            if parcel.tar.is_some() && !finished.bad.is_empty() {
                return Err(changed());
            }
            let of = |bad: &BadEntry| match bad.changed {
                true => Trouble::Changed,
                false => Trouble::Unreadable(None, bad.why.clone().unwrap_or_default()),
            };
            let troubles: BTreeMap<usize, Trouble> = finished
                .bad
                .iter()
                .map(|bad| (bad.entry, of(bad)))
                .collect();
            let placed = self.place(parcel, receiving, progress, troubles).await?;
            moved.problems.extend(placed);
        }
        Ok(())
    }

    /// Gives what was received its names; what did not get its own.
    async fn place(
        &self,
        parcel: &Parcel,
        receiving: &Arc<dyn Incoming>,
        progress: Progress,
        troubles: BTreeMap<usize, Trouble>,
    ) -> Result<Vec<Problem>, ClientError> {
        let placing = Arc::clone(receiving);
        let placed = tokio::task::spawn_blocking(move || placing.place(&progress, &troubles)).await;
        let fates = placed
            .map_err(ClientError::not_understood)?
            .map_err(failed("make durable what was got"))?;
        let told = |(entry, fate): (usize, Fate)| {
            let item = parcel.items.get(entry);
            let path = item.map(|item| join(b"", &item.local)).unwrap_or_default();
            told(&path, fate)
        };
        Ok(fates.into_iter().map(told).collect())
    }
}

pub(super) fn layout(parcel: &Parcel) -> Result<Layout, ClientError> {
    let layout = Layout::new(parcel.items.iter().map(Item::entry).collect());
    layout.map_err(ClientError::not_understood)
}

/// This end of a put.
fn outgoing(parcel: &Parcel) -> Result<Arc<dyn Outgoing>, ClientError> {
    if let Some(Tar::Packs(packing)) = &parcel.tar {
        return Ok(Arc::clone(packing) as Arc<dyn Outgoing>);
    }
    let made = parcel.items.iter().filter_map(|item| item.found).collect();
    let tree = Arc::clone(&parcel.tree);
    Ok(Arc::new(Sending::new(tree, layout(parcel)?, made)))
}

/// In the names of what is being written.
pub(super) fn tag() -> Result<String, ClientError> {
    let id = TransferId::generate().map_err(ClientError::not_understood)?;
    Ok(hex_of(&id.0))
}

/// Opened before anything is written: what the disk loses from now on is told to this descriptor.
pub(super) fn settle(parcel: &Parcel) -> Result<Settle, ClientError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = rustix::fs::openat(parcel.tree.root(), ".", flags, FileMode::empty());
    let below = below.map_err(|e| failed("open the directory")(e.into()))?;
    Ok(Box::new(move || Ok(rustix::fs::syncfs(&below)?)))
}

/// The same error with the name of what changed, where this end knows it.
fn named(end: &End, error: ClientError) -> ClientError {
    let name = match end {
        End::Sends(sending) => sending.changed(),
        End::Receives(_) => None,
    };
    match (name, error) {
        (Some(name), ClientError::Refused { failure, hint, .. }) => ClientError::Refused {
            failure,
            message: format!(
                "{} was changed while it was sent",
                String::from_utf8_lossy(&name)
            ),
            hint,
        },
        (_, error) => error,
    }
}

/// Why an attempt did not carry the parcel.
pub(super) enum Unreached {
    /// The server could not dial us.
    Dial(String),
    /// What was here before is of other data by now.
    Resume,
    /// Anything else.
    Other(ClientError),
}

impl From<ClientError> for Unreached {
    fn from(error: ClientError) -> Self {
        Self::Other(error)
    }
}

pub(super) fn pairs(ranges: &[ByteRange]) -> Vec<[u64; 2]> {
    ranges.iter().map(|r| [r.start(), r.len()]).collect()
}

fn bad(entry: usize, trouble: Trouble) -> BadEntry {
    BadEntry {
        entry,
        changed: trouble == Trouble::Changed,
        why: match trouble {
            Trouble::Changed => None,
            Trouble::Unreadable(_, why) => Some(why),
        },
    }
}

fn told(path: &[u8], fate: Fate) -> Problem {
    let (code, message) = match fate {
        Fate::Exists => ("exists", "there is a file already".to_owned()),
        Fate::Sender(Trouble::Changed) => {
            ("changed", "it was changed while it was sent".to_owned())
        }
        Fate::Sender(Trouble::Unreadable(_, why)) => {
            ("internal", format!("the server could not read it: {why}"))
        }
        Fate::Failed(step, error) => {
            let mut told = super::plan::told(path, &error);
            told.message = format!("{step}: {}", told.message);
            return told;
        }
    };
    Problem {
        path: Some(crate::server::wire::GivenPath::new(path)),
        code: code.to_owned(),
        message,
    }
}

/// What was carried, and what is there now at a receiving end.
pub(super) struct Carried {
    bytes: u64,
    progress: Option<Progress>,
}

/// Counts, when it is dropped, what a try moved.
struct Came<'a>(&'a AtomicU64, Arc<Meter>);

impl Drop for Came<'_> {
    fn drop(&mut self) {
        self.0.fetch_max(self.1.moved(), Ordering::Relaxed);
    }
}

/// Why the other end gave up, in the words of its answer; nothing is placed.
pub(super) async fn why(
    link: &mut Link,
    opened: &OpenedTransfer,
    error: ClientError,
) -> ClientError {
    let route = format!("{TRANSFERS}/{}/finish", opened.number);
    let nothing = FinishTransfer::default();
    let asked = link.ask::<FinishedTransfer>(Method::POST, &route, Some(&nothing));
    match asked.await {
        Err(better @ ClientError::Refused { .. }) => better,
        Ok(_) | Err(_) => error,
    }
}

async fn move_it(
    door: Door,
    iod: &Iod,
    end: &End,
    options: &Options,
    opened: &OpenedTransfer,
) -> Result<Carried, ClientError> {
    match end {
        End::Sends(sending) => {
            let source: Arc<dyn cairn_mover::Source> = Arc::<dyn Outgoing>::clone(sending);
            let sent = cairn_mover::send(door, iod, source, options)
                .await
                .map_err(broken)?;
            Ok(Carried {
                bytes: sent.bytes,
                progress: None,
            })
        }
        End::Receives(receiving) => {
            let version = bytes_of_hex(&opened.version).unwrap_or_default();
            let progress = receiving.progress(&version);
            let sink: Arc<dyn cairn_mover::Sink> = Arc::<dyn Incoming>::clone(receiving);
            let received = cairn_mover::receive(door, iod, sink, progress, options).await;
            let received = received.map_err(|failed| broken(failed.error))?;
            Ok(Carried {
                bytes: received.bytes,
                progress: Some(received.progress),
            })
        }
    }
}

impl Session {
    /// Opens a transfer again for what is not here yet.
    async fn rest(
        &self,
        link: &mut Link,
        asked: &mut OpenTransfer,
        opened: &OpenedTransfer,
        lacking: Vec<[u64; 2]>,
    ) -> Result<OpenedTransfer, Unreached> {
        link.tell(&format!("{TRANSFERS}/{}/cancel", opened.number))
            .await?;
        asked.ranges = Some(lacking);
        let again: OpenedTransfer = link.ask(Method::POST, TRANSFERS, Some(asked)).await?;
        if again.version == opened.version {
            Ok(again)
        } else {
            Err(Unreached::Resume)
        }
    }
}

pub(super) fn changed() -> ClientError {
    ClientError::Refused {
        failure: Failure::Changed,
        message: "the file changes while it is copied".to_owned(),
        hint: None,
    }
}
