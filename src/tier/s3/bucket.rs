//! The tier itself, on the AWS SDK.

mod able;
mod ahead;
mod clear;
mod failure;
mod keys;
mod mark;
mod nearness;
mod object;
mod parts;
mod place;
mod probe;
mod put;
mod restore;
mod service;
mod sweep;
mod upload;

use super::{Access, S3Place};
use crate::id::{AggregateId, InstanceId};
use crate::tier::{
    Description, ErrorKind, Expect, Kind, Mark, OpenHow, Put, Restoring, Space, Tier, TierError,
    TierUrl,
};
use ahead::{Ahead, Served};
use bytes::Bytes;
use failure::{Failure, Verb};
use nearness::Nearness;
use object::Range;
use place::Place;
use service::{ASK, PROBING, Service, carrying, within};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// So long a new mark is let stand before it is looked at again, where the service lets two write it: longer than one
/// that looked first takes to write.
const SETTLED: Duration = Duration::from_secs(2);

/// A bucket's prefix as a tier.
pub struct S3Tier {
    place: Arc<Place>,
    near: Nearness,
    ahead: Ahead,
    /// Keys among the objects that are none's, as last seen.
    strangers: AtomicU64,
}

fn service(place: &S3Place, access: Option<Access>) -> Result<Arc<Service>, TierError> {
    let label = TierUrl::S3(Box::new(place.clone())).to_string();
    Service::new(place, &label, access)
}

/// Does a place carry a tier's mark?
pub(in crate::tier) fn is_marked(place: &S3Place) -> std::io::Result<bool> {
    let service = service(place, None)?;
    let here = Arc::clone(&service);
    let looked = service.ask(
        "looking for a tier",
        ASK,
        async move { mark::read(&here).await },
    );
    match looked {
        Ok(found) => Ok(found.is_some()),
        // Something is there that is a mark of another version, or damaged.
        Err(TierError::Refused { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The mark at a place, whoever's it is.
pub(in crate::tier) fn mark_at(place: &S3Place) -> Result<Mark, TierError> {
    let service = service(place, None)?;
    let here = Arc::clone(&service);
    service.ask("reading the mark", ASK, async move {
        mark::found(&here).await.map(|(mark, _)| mark)
    })
}

/// Gives the tier at a place from one instance to another.
pub(in crate::tier) fn take(
    place: &S3Place,
    from: InstanceId,
    to: InstanceId,
) -> Result<Mark, TierError> {
    let service = service(place, None)?;
    let here = Arc::clone(&service);
    service.ask("changing the owner", ASK, async move {
        mark::take(&here, from, to).await
    })
}

/// Removes all below the prefix of a trial, uploads that were not finished, too.
pub(in crate::tier) fn clear(place: &S3Place) -> Result<(), TierError> {
    let service = service(place, None)?;
    let here = Arc::clone(&service);
    service.wait(
        "clearing what was tried",
        async move { clear::all(&here).await },
    )
}

impl S3Tier {
    /// Opens the tier at a place in a bucket, which must exist; see [`Expect`] for what may be there.
    ///
    /// # Errors
    /// As [`super::super::open`].
    pub fn open(place: &S3Place, how: OpenHow) -> Result<Self, TierError> {
        Self::opened(service(place, None)?, how)
    }

    /// The same with these credentials, and not the ones of the environment.
    ///
    /// # Errors
    /// As [`super::super::open`].
    pub fn open_as(place: &S3Place, how: OpenHow, access: Access) -> Result<Self, TierError> {
        Self::opened(service(place, Some(access))?, how)
    }

    fn opened(service: Arc<Service>, how: OpenHow) -> Result<Self, TierError> {
        const STEP: &str = "opening";
        let here = Arc::clone(&service);
        let OpenHow { owner, expect } = how;
        let (expected, made) = match expect {
            Expect::New(tier) => service.ask(STEP, ASK, async move {
                mark::establish(&here, Mark { tier, owner }).await
            })?,
            Expect::Known(tier) => (Mark { tier, owner }, false),
        };
        let place = Arc::new(Place::new(service, expected));
        let here = Arc::clone(&place);
        if matches!(expect, Expect::New(_)) {
            place.service.ask(STEP, PROBING, async move {
                here.look().await?;
                let able = here.able().await?;
                if made && !able.conditional_put {
                    // Another may have made a tier here at the same moment: one mark is left of two.
                    tokio::time::sleep(SETTLED).await;
                    here.look().await?;
                }
                Ok(())
            })?;
        } else {
            // Whoever only reads tries nothing out; who writes does it with the first put.
            let look = async move {
                here.look().await?;
                here.recall().await.map(drop)
            };
            match place.service.greet(STEP, look) {
                Ok(Some(())) => {}
                Ok(None) => {
                    tracing::warn!(
                        tier = place.label(),
                        "it does not answer at once; it is used when it does"
                    );
                }
                Err(error @ (TierError::Unavailable { .. } | TierError::Transient { .. })) => {
                    tracing::warn!(%error, "tier is away; it is used when it is back");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            near: Nearness::of(&place.service.place),
            ahead: Ahead::default(),
            place,
            strangers: AtomicU64::new(0),
        })
    }

    /// Finds out anew what the service can do, and remembers it in the bucket.
    ///
    /// # Errors
    /// [`TierError`].
    pub fn probe(&self) -> Result<Vec<String>, TierError> {
        let here = Arc::clone(&self.place);
        self.place
            .service
            .ask("finding out what the service can do", PROBING, async move {
                here.look().await?;
                here.probe().await
            })?;
        Ok(self.describe().notes)
    }

    /// Keys among the objects that are none's, as the last listing met them.
    #[must_use]
    pub fn strangers(&self) -> u64 {
        self.strangers.load(Ordering::Relaxed)
    }

    /// What keeps a range of an object from being read keeps its neighbours from it as well, if it is one of these.
    fn same_for_all(&self, kind: ErrorKind, object: AggregateId, why: String) -> Option<TierError> {
        let tier = self.place.label().to_owned();
        match kind {
            ErrorKind::NotRestored => Some(TierError::NotRestored { tier, object, why }),
            ErrorKind::Unavailable => Some(TierError::Unavailable {
                tier,
                step: "reading",
                why,
            }),
            ErrorKind::Transient => Some(TierError::Transient {
                tier,
                object: object.to_string(),
                step: "reading",
                source: std::io::Error::other(why),
            }),
            _ => None,
        }
    }

    /// `len` bytes at `offset`. `may_end`: or what there is of them.
    fn range(
        &self,
        name: AggregateId,
        (offset, len): (u64, u64),
        may_end: bool,
    ) -> Result<Range, TierError> {
        let read = self.ask("reading", (name, len), move |here, key| async move {
            let service = &here.service;
            let len_of = async || object::head(service, &key).await.map(|seen| seen.len);
            if len == 0 {
                let size = len_of().await?;
                let nothing = Range::Bytes(Bytes::new());
                return Ok(if offset <= size {
                    nothing
                } else {
                    Range::Short(Some(size))
                });
            }
            let read = if may_end {
                object::up_to(service, &key, offset, len).await?
            } else {
                object::range(service, &key, offset, len).await?
            };
            match read {
                Range::Short(None) => Ok(Range::Short(Some(len_of().await?))),
                other => Ok(other),
            }
        });
        match &read {
            Ok(_) if len > 0 => self.near.is_ready(name, Instant::now()),
            Err(TierError::NotRestored { .. }) => self.near.is_archived(name, Instant::now()),
            Ok(_) | Err(_) => {}
        }
        read
    }

    /// One request about one object.
    fn ask<T, F>(
        &self,
        step: &'static str,
        (name, bytes): (AggregateId, u64),
        run: impl FnOnce(Arc<Place>, String) -> F + Send + 'static,
    ) -> Result<T, TierError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        let here = Arc::clone(&self.place);
        self.place
            .service
            .ask(step, ASK + carrying(bytes), async move {
                here.enter().await?;
                let key = here.service.keys.object(name);
                match run(Arc::clone(&here), key).await {
                    Ok(answer) => Ok(answer),
                    Err(failure) => Err(here.judge(failure, step, name).await),
                }
            })
    }
}

impl Tier for S3Tier {
    fn mark(&self) -> Mark {
        self.place.expected
    }

    fn describe(&self) -> Description {
        let able = self.place.known();
        Description {
            kind: Kind::S3,
            url: self.place.label().to_owned(),
            root: None,
            notes: able.map(|able| able.words()).unwrap_or_default(),
        }
    }

    fn longest(&self) -> Result<Option<u64>, TierError> {
        let here = Arc::clone(&self.place);
        let able =
            self.place.service.ask(
                "asking for a bound",
                PROBING,
                async move { here.able().await },
            )?;
        let place = &self.place.service.place;
        Ok(Some(put::longest(&able, place)))
    }

    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        Ok(Box::new(put::S3Put::start(&self.place, name, size_hint)?))
    }

    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        let wanted = offset..offset.saturating_add(len);
        let window = self.ahead.window(name, wanted.clone(), Instant::now());
        if let Some(window) = window {
            let served = window.serve(wanted, |offset, len| {
                match self.range(name, (offset, len), true)? {
                    Range::Bytes(bytes) => Ok(bytes),
                    Range::Short(_) => Ok(Bytes::new()),
                }
            });
            match served {
                Served::Bytes(bytes) => return Ok(bytes),
                Served::Itself => {}
                Served::Failed(kind, why) => {
                    self.ahead.drop_failed(&window);
                    if let Some(error) = self.same_for_all(kind, name, why) {
                        return Err(error);
                    }
                }
            }
        }
        match self.range(name, (offset, len), false)? {
            Range::Bytes(bytes) => Ok(bytes),
            Range::Short(size) => Err(TierError::Short {
                tier: self.place.label().to_owned(),
                object: name,
                len: size.unwrap_or(0),
                wanted: offset.saturating_add(len),
            }),
        }
    }

    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.ask("looking up", (name, 0), |here, key| async move {
            Ok(object::head(&here.service, &key).await?.len)
        })
    }

    fn restore(&self, name: AggregateId) -> Result<Restoring, TierError> {
        let said = self.ask("restoring", (name, 0), |here, key| async move {
            restore::ask(&here.service, &key).await
        })?;
        match said {
            Restoring::Ready => self.near.is_ready(name, Instant::now()),
            Restoring::Coming { takes } => {
                let takes = takes.unwrap_or_default();
                self.near.comes(name, takes, Instant::now());
            }
        }
        Ok(said)
    }

    fn wait(&self, name: AggregateId) -> Duration {
        self.near.wait(name, Instant::now())
    }

    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.ahead.forget(Some(name), Instant::now());
        self.ask("deleting", (name, 0), |here, key| async move {
            object::delete(&here.service, &key).await
        })
    }

    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        const STEP: &str = "listing";
        let here = Arc::clone(&self.place);
        let (found, strangers) = self.place.service.wait(STEP, async move {
            here.look().await?;
            let listed = list(&here.service, after, limit).await;
            listed.map_err(|f| here.fail(f, STEP, None))
        })?;
        self.strangers.store(strangers, Ordering::Relaxed);
        Ok(found)
    }

    /// A bucket has no bounds that it would tell. Asking is a sign of life all the same.
    fn space(&self) -> Result<Space, TierError> {
        self.ahead.forget(None, Instant::now());
        let here = Arc::clone(&self.place);
        self.place
            .service
            .ask("asking for space", ASK, async move {
                here.look().await?;
                // It was away when the tier was opened: what it lacks is said from now on.
                if here.known().is_none() {
                    here.recall().await?;
                }
                Ok(())
            })?;
        Ok(Space::default())
    }
}

/// Names after `after`, ascending, and how many keys were none's.
async fn list(
    service: &Service,
    after: Option<AggregateId>,
    limit: usize,
) -> Result<(Vec<AggregateId>, u64), Failure> {
    let (mut found, mut strangers) = (Vec::new(), 0);
    let prefix = service.keys.objects();
    let mut from = after.map(|name| service.keys.object(name));
    while found.len() < limit {
        let most = i32::try_from((limit - found.len()).min(1000)).unwrap_or(1000);
        let request = async {
            let request = service.client.list_objects_v2();
            let request = request.bucket(&service.place.bucket).prefix(&prefix);
            let request = request.max_keys(most).set_start_after(from.clone());
            request.send().await.map_err(|e| Failure::of(Verb::List, e))
        };
        let answer = within(ASK, service.once(Verb::List, 0, request)).await?;
        let mut last = None;
        for key in answer.contents().iter().filter_map(|object| object.key()) {
            if from.as_deref().is_some_and(|from| key <= from)
                || last.as_deref().is_some_and(|l| key <= l)
            {
                let why = "keys are not in the order of their bytes";
                return Err(Failure::broken(Verb::List, why));
            }
            match service.keys.parse(key) {
                Some(name) => found.push(name),
                None => strangers += 1,
            }
            last = Some(key.to_owned());
        }
        let more = answer.is_truncated().unwrap_or(false);
        match last {
            Some(last) if more => from = Some(last),
            None if more => {
                let why = "it says that there are more keys, and gives none";
                return Err(Failure::broken(Verb::List, why));
            }
            _ => break,
        }
    }
    Ok((found, strangers))
}
