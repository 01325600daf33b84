//! A tier on another host: what `cairn mover --join` there keeps objects in, reached through the mover's streams.
//!
//! The mover calls the server's door and is asked there; data go through streams that it dials. It gets names of objects
//! and ranges of them, never a path (docs/tiers.md, "Tiers on other hosts").
//!
//! Invariants kept here (and in `mover/`):
//! - what the mover says is what its tier says: a receipt is given after that tier proved the object, and stands for the
//!   bytes that this end summed;
//! - an answer that got lost is never taken for one: of a put whose end was not heard the mover is asked when it is back,
//!   and only its word that its tier proved the object counts;
//! - a place that holds objects is never taken for a new one: names that were used there must not be used again (P9);
//! - a mover that is away makes the tier unavailable, and nothing else: nobody waits for one but who asked;
//! - what is read has gone through the streams' checksums, and is checked by its reader once more, as of any tier.

mod far;
mod hall;
mod options;
mod pieces;
mod put;
mod wire;

pub use far::{Far, FarError};
pub use hall::{Doorway, Gate, Hall, hall};
pub use options::{MoverOptions, OPTIONS, check_name};
pub use wire::{Caller, SCHEMA};

use super::{
    Description, Expect, Kind, Mark, OpenHow, Put, Restoring, Space, Tier, TierError, TierUrl,
};
use crate::id::{AggregateId, InstanceId, TierId};
use bytes::Bytes;
use hall::{Gone, Session, threads};
use pieces::PIECE;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use wire::{Answer, Ask, Fault, NAMES_MAX, clipped};

/// Lengths in one question, at most.
const LENGTHS_MAX: usize = 16 << 10;

/// What its parts share.
struct Place {
    name: String,
    label: String,
    options: MoverOptions,
    mark: Mark,
    /// The catalog did not know it when this process began: it must hold nothing, as long as nothing was put there.
    is_new: AtomicBool,
}

/// A tier that a mover keeps.
pub struct MoverTier {
    place: Arc<Place>,
}

/// Runs `work` on the movers' threads, and waits for it here; `None` if there are none.
fn wait_for<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Option<T> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    threads()?.spawn(async move {
        // Whoever waited may be gone with its thread.
        let _ = tell.send(work.await);
    });
    told.recv().ok()
}

impl Place {
    fn away(&self, step: &'static str, why: &str) -> TierError {
        TierError::Unavailable {
            tier: self.label.clone(),
            step,
            why: why.to_owned(),
        }
    }

    fn gone(&self, step: &'static str) -> TierError {
        self.away(step, "its mover went away meanwhile")
    }

    fn odd(&self, step: &'static str) -> TierError {
        self.away(
            step,
            "its mover answers what this version does not understand",
        )
    }

    /// The mover, with its place open as this very tier.
    async fn session(&self, step: &'static str) -> Result<Arc<Session>, TierError> {
        let session = hall().find(&self.name).ok_or_else(|| {
            let why = format!(
                "mover {} is not here; `cairn mover --join` on its host brings it",
                self.name
            );
            self.away(step, &why)
        })?;
        let mut opened = session.opened.lock().await;
        if let Some((mark, _)) = &*opened {
            if *mark == self.mark {
                drop(opened);
                return Ok(session);
            }
            return Err(self.foreign(*mark));
        }
        let ask = Ask::Open {
            owner: self.mark.owner.to_string(),
            tier: self.mark.tier.0,
        };
        match session.ask(ask).await {
            Err(Gone) => Err(self.gone(step)),
            Ok(Err(fault)) => Err(self.closed(step, fault)),
            Ok(Ok(Answer::Opened {
                owner,
                tier,
                notes,
                empty,
            })) => {
                let owner: InstanceId = owner.parse().map_err(|_| self.odd(step))?;
                let mark = Mark {
                    tier: TierId(tier),
                    owner,
                };
                if mark != self.mark {
                    return Err(self.foreign(mark));
                }
                if self.is_new.load(Ordering::SeqCst) && !empty {
                    let why = "it holds objects of which this instance's catalog knows nothing: cairn rebuild, \
                               with the place itself as the tier's URL";
                    return Err(self.away(step, why));
                }
                self.is_new.store(false, Ordering::SeqCst);
                *opened = Some((mark, notes.iter().map(|n| clipped(n)).collect()));
                drop(opened);
                Ok(session)
            }
            Ok(Ok(_)) => Err(self.odd(step)),
        }
    }

    /// A place that is not what it should be is one that is away: what waits for it waits, until somebody mends it.
    fn foreign(&self, found: Mark) -> TierError {
        let why = format!(
            "its mover keeps tier {} of instance {}, and not tier {} of instance {}",
            found.tier, found.owner, self.mark.tier, self.mark.owner
        );
        self.away("opening", &why)
    }

    /// See [`Self::foreign`].
    fn closed(&self, step: &'static str, fault: Fault) -> TierError {
        match fault.into_error(&self.label, None) {
            TierError::Refused { why, .. } => self.away(step, &why),
            other => other,
        }
    }

    /// One question, and its answer.
    async fn ask(
        &self,
        step: &'static str,
        object: Option<AggregateId>,
        ask: Ask,
    ) -> Result<Answer, TierError> {
        let session = self.session(step).await?;
        match session.ask(ask).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => Err(fault.into_error(&self.label, object)),
            Err(Gone) => Err(self.gone(step)),
        }
    }

    async fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        const STEP: &str = "reading";
        let wanted = offset.saturating_add(len);
        if len == 0 || len > PIECE || wanted == u64::MAX {
            // Room is made for what is there alone.
            let end = self.stat(name).await?;
            if wanted > end {
                return Err(TierError::Short {
                    tier: self.label.clone(),
                    object: name,
                    len: end,
                    wanted,
                });
            }
        }
        let session = self.session(STEP).await?;
        let mut whole = Vec::new();
        let mut at = offset;
        while at < wanted {
            let piece = (wanted - at).min(PIECE);
            let ask = |iod| Ask::Read {
                object: name.to_string(),
                offset: at,
                len: piece,
                iod,
            };
            match session.fetch(piece, self.options.carrying(), ask).await {
                Ok(Ok(bytes)) if whole.is_empty() => whole = bytes,
                Ok(Ok(bytes)) => whole.extend_from_slice(&bytes),
                Ok(Err(fault)) => return Err(self.short_of(fault, name, wanted)),
                Err(Gone) => return Err(self.gone(STEP)),
            }
            at += piece;
        }
        Ok(whole.into())
    }

    /// A piece that was not there is told as what was asked for.
    fn short_of(&self, fault: Fault, name: AggregateId, asked: u64) -> TierError {
        match fault.into_error(&self.label, Some(name)) {
            TierError::Short {
                tier, object, len, ..
            } => TierError::Short {
                tier,
                object,
                len,
                wanted: asked,
            },
            other => other,
        }
    }

    async fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        const STEP: &str = "looking up";
        let ask = Ask::Stat {
            object: name.to_string(),
        };
        match self.ask(STEP, Some(name), ask).await? {
            Answer::Number { value: Some(len) } => Ok(len),
            _ => Err(self.odd(STEP)),
        }
    }
}

impl MoverTier {
    /// The tier that the mover of that name keeps. It may come later: nothing is asked now, and whose its place is, is
    /// asked before anything else is. A place is made a tier by the mover alone, when it was told to (`--new`).
    #[must_use]
    pub fn open(name: &str, options: MoverOptions, how: OpenHow) -> Self {
        let (Expect::New(tier) | Expect::Known(tier)) = how.expect;
        let url = TierUrl::Mover {
            name: name.to_owned(),
            options,
        };
        Self {
            place: Arc::new(Place {
                name: name.to_owned(),
                label: url.to_string(),
                options,
                mark: Mark {
                    tier,
                    owner: how.owner,
                },
                is_new: AtomicBool::new(matches!(how.expect, Expect::New(_))),
            }),
        }
    }

    /// Does `work` with the place, on the movers' threads.
    fn with<T, F>(
        &self,
        step: &'static str,
        work: impl FnOnce(Arc<Place>) -> F,
    ) -> Result<T, TierError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TierError>> + Send + 'static,
    {
        let no_threads = || self.place.away(step, "there are no threads for it");
        wait_for(work(Arc::clone(&self.place))).ok_or_else(no_threads)?
    }

    fn ask(
        &self,
        step: &'static str,
        object: Option<AggregateId>,
        ask: Ask,
    ) -> Result<Answer, TierError> {
        self.with(step, move |place| async move {
            place.ask(step, object, ask).await
        })
    }

    fn notes(&self) -> Vec<String> {
        let name = &self.place.name;
        let Some(session) = hall().find(name) else {
            return vec![format!("mover {name} is not here")];
        };
        let keeps = format!("mover {name} keeps it in {}", session.place);
        let said = session.opened.try_lock().ok().and_then(|o| o.clone());
        let said = said.map(|(_, notes)| notes).unwrap_or_default();
        [keeps].into_iter().chain(said).collect()
    }
}

impl Tier for MoverTier {
    fn mark(&self) -> Mark {
        self.place.mark
    }

    fn describe(&self) -> Description {
        Description {
            kind: Kind::Mover,
            url: self.place.label.clone(),
            root: None,
            notes: self.notes(),
        }
    }

    fn longest(&self) -> Result<Option<u64>, TierError> {
        const STEP: &str = "asking for the longest object";
        match self.ask(STEP, None, Ask::Longest)? {
            Answer::Number { value } => Ok(value),
            _ => Err(self.place.odd(STEP)),
        }
    }

    fn lengths(&self, file: u64) -> Result<Vec<u64>, TierError> {
        const STEP: &str = "asking for lengths";
        match self.ask(STEP, None, Ask::Lengths { file })? {
            Answer::Numbers { values } => Ok(values),
            _ => Err(self.place.odd(STEP)),
        }
    }

    fn admit(&self, lengths: &[u64]) -> Result<(), TierError> {
        const STEP: &str = "asking for room";
        for some in lengths.chunks(LENGTHS_MAX) {
            let lengths = some.to_vec();
            self.ask(STEP, None, Ask::Admit { lengths })?;
        }
        Ok(())
    }

    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        let put = self.with("starting", move |place| put::begin(place, name, size_hint))?;
        Ok(Box::new(put))
    }

    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        self.with("reading", move |place| async move {
            place.read(name, offset, len).await
        })
    }

    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.with(
            "looking up",
            move |place| async move { place.stat(name).await },
        )
    }

    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        const STEP: &str = "restoring";
        let ask = Ask::Restore {
            object: name.to_string(),
        };
        let answer = self.ask(STEP, Some(name), ask)?;
        wire::restoring(&answer).ok_or_else(|| self.place.odd(STEP))
    }

    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        let ask = Ask::Delete {
            object: name.to_string(),
        };
        self.ask("deleting", Some(name), ask).map(drop)
    }

    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        const STEP: &str = "listing";
        let (mut found, mut after) = (Vec::new(), after);
        while found.len() < limit {
            let want = (limit - found.len()).min(NAMES_MAX);
            let ask = Ask::List {
                after: after.map(|a| a.to_string()),
                limit: want as u64,
            };
            let Answer::Names { names } = self.ask(STEP, None, ask)? else {
                return Err(self.place.odd(STEP));
            };
            let count = names.len();
            for name in names {
                let name: AggregateId = name.parse().map_err(|_| self.place.odd(STEP))?;
                // In order, so that it ends.
                if after.is_some_and(|after| name <= after) {
                    return Err(self.place.odd(STEP));
                }
                after = Some(name);
                found.push(name);
            }
            if count < want {
                break;
            }
        }
        Ok(found)
    }

    fn confirm(&self) -> Result<(), TierError> {
        let step = "looking whether it is the right place";
        self.ask(step, None, Ask::Confirm).map(drop)
    }

    fn space(&self) -> Result<Space, TierError> {
        const STEP: &str = "asking for space";
        let answer = self.ask(STEP, None, Ask::Space)?;
        wire::space(&answer).ok_or_else(|| self.place.odd(STEP))
    }
}
