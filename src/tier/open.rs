//! Opening a tier by its URL, and what the one who opens it expects to find.

use super::dir::DirTier;
use super::exec::ExecTier;
use super::limit::Limit;
use super::mover::MoverTier;
use super::s3::S3Tier;
use super::tape::TapeTier;
use super::throttle::{Pace, Throttle};
use super::{Mark, Tier, TierError, TierUrl};
use crate::id::{InstanceId, TierId};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// What the place should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Perhaps never used: an empty place is made a tier with this number (and the last directory
    /// of its path is made); a tier of the same owner is taken as it is, with its own number.
    New(TierId),
    /// This very tier, as the catalog knows it. Nothing is ever created: a place without the mark
    /// is a filesystem that is not mounted. Opening succeeds all the same, and every operation
    /// answers [`TierError::Unavailable`] until the mark is there. A place that cannot be asked
    /// without waiting for it is not asked whose it is before it is used.
    Known(TierId),
}

/// Who opens a tier, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenHow {
    /// The instance that wants to write there.
    pub owner: InstanceId,
    /// What it expects.
    pub expect: Expect,
}

impl OpenHow {
    /// For a tier that may be used for the first time; see [`Expect::New`].
    #[must_use]
    pub fn new(owner: InstanceId, tier: TierId) -> Self {
        let expect = Expect::New(tier);
        Self { owner, expect }
    }

    /// For a tier that holds copies already; see [`Expect::Known`].
    #[must_use]
    pub fn known(owner: InstanceId, tier: TierId) -> Self {
        let expect = Expect::Known(tier);
        Self { owner, expect }
    }
}

/// Does a tier lie at `url`, whose ever it is? An empty place, or a mount point without what belongs
/// on it, is none. For those who must not make one.
///
/// # Errors
/// It cannot be told.
pub fn is_there(url: &TierUrl) -> std::io::Result<bool> {
    match url {
        TierUrl::Dir { path, .. } => super::dir::is_marked(path),
        TierUrl::Tape { path, options } => super::tape::is_marked(&options.mark_dir(path)),
        TierUrl::S3(place) => super::s3::is_marked(place),
        TierUrl::Exec { program, options } => super::exec::mark_of(program, options)
            .map(|mark| mark.is_some())
            .map_err(std::io::Error::from),
        TierUrl::Mover { .. } => Err(std::io::Error::other(
            "it lies behind a mover, which comes when the instance serves",
        )),
    }
}

/// The mark at `url`, whoever's it is: for reading another instance's tier, or taking it over.
///
/// # Errors
/// [`TierError::Unavailable`] if there is none; [`TierError::Refused`] if it cannot be read.
pub fn mark_at(url: &TierUrl) -> Result<Mark, TierError> {
    let label = url.to_string();
    match url {
        TierUrl::Dir { path, .. } => super::dir::mark_at(path, &label),
        TierUrl::Tape { path, options } => super::dir::mark_at(&options.mark_dir(path), &label),
        TierUrl::S3(place) => super::s3::mark_at(place),
        TierUrl::Exec { program, options } => {
            super::exec::mark_of(program, options)?.ok_or(TierError::Unavailable {
                tier: label,
                step: "reading the mark",
                why: "there is none".to_owned(),
            })
        }
        TierUrl::Mover { .. } => Err(behind_a_mover(label)),
    }
}

/// Opens the tier at `url`, slowed down as its options say. It does not retry: wrap it in
/// [`super::retry::Retry`] where that is wanted.
///
/// # Errors
/// [`TierError::Refused`] for a foreign owner, another tier's mark or a directory with other
/// things in it; [`TierError::Unavailable`] if a new place cannot be reached.
pub fn open(url: &TierUrl, how: OpenHow) -> Result<Arc<dyn Tier>, TierError> {
    match url {
        TierUrl::Dir { path, pace } => {
            let tier: Arc<dyn Tier> = Arc::new(DirTier::open(path, how)?);
            if *pace == Pace::default() {
                Ok(tier)
            } else {
                Ok(Arc::new(Throttle::new(tier, *pace)))
            }
        }
        TierUrl::Tape { path, options } => Ok(Arc::new(TapeTier::open(path, options, how)?)),
        TierUrl::S3(place) => Ok(Arc::new(S3Tier::open(place, how)?)),
        TierUrl::Exec { program, options } => {
            let tier = Arc::new(ExecTier::open(program, options, how)?);
            let at_once = NonZeroUsize::new(options.concurrency).unwrap_or(NonZeroUsize::MIN);
            Ok(Arc::new(Limit::new(tier, at_once)))
        }
        TierUrl::Mover { name, options } => Ok(Arc::new(MoverTier::open(name, *options, how))),
    }
}

/// A mover comes to the instance, and to nobody else.
pub(super) fn behind_a_mover(tier: String) -> TierError {
    TierError::Unavailable {
        tier,
        step: "reading the mark",
        why: "it lies behind a mover, which comes to its instance alone: on the mover's host, name the place itself"
            .to_owned(),
    }
}

/// Finds out anew what the service of the tier at `url` can do, and remembers it there. The tier keeps its
/// owner; for him to ask.
///
/// # Errors
/// [`TierError::Refused`] for a kind of which nothing is found out; else as [`open`].
pub fn probe(url: &TierUrl) -> Result<Vec<String>, TierError> {
    let TierUrl::S3(place) = url else {
        return Err(TierError::Refused {
            place: url.to_string(),
            why: "only of a bucket's service there is something to find out".to_owned(),
        });
    };
    let mark = super::s3::mark_at(place)?;
    S3Tier::open(place, OpenHow::known(mark.owner, mark.tier))?.probe()
}
