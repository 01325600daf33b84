//! A place tried out: fresh tiers in an area of their own, for the suite of [`super::conformance`].
//!
//! Invariants kept here: nothing that is at the place is touched; a place with a mark is refused, whoever's it is;
//! what is removed in the end lies below a name that this trial made and nobody had.

use super::open::open;
use super::{Mark, OpenHow, Tier, TierError, TierUrl, conformance, exec, s3};
use crate::id::{InstanceId, TierId};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub use super::conformance::Outcome;

/// A place that is tried out.
#[derive(Debug)]
pub struct Trial {
    url: TierUrl,
    /// What everything of this trial begins with, or lies below.
    area: Area,
    owner: InstanceId,
    count: AtomicU32,
}

#[derive(Debug)]
enum Area {
    /// A directory that was made for it.
    Below(PathBuf),
    /// Names at the place that begin with this.
    Behind(String),
}

impl Trial {
    /// Makes an area at `url`.
    ///
    /// # Errors
    /// [`TierError::Refused`]: it is a tier already, or a kind of place that a trial would change for good;
    /// [`TierError::Unavailable`]: it is not there.
    pub fn at(url: &TierUrl) -> Result<Self, TierError> {
        let nonce = format!(
            "{:08x}",
            RandomState::new().hash_one(std::process::id()) >> 32
        );
        let refused = |why: String| TierError::Refused {
            place: url.to_string(),
            why,
        };
        let area = match url {
            TierUrl::Dir { path, .. } => below(url, path, &nonce)?,
            TierUrl::Tape { options, .. } if options.real.is_some() => {
                let why = "a trial would label its cartridges; try a virtual library, or the drives by `cairn tape`";
                return Err(refused(why.to_owned()));
            }
            TierUrl::Tape { path, .. } => below(url, path, &nonce)?,
            TierUrl::Exec { program, options } => {
                match exec::mark_of(program, options) {
                    Ok(None) => {}
                    Ok(Some(mark)) => return Err(refused(in_use(mark))),
                    Err(_) if exec::is_unmarked(program, options)? => {}
                    Err(error) => return Err(error),
                }
                Area::Behind(format!("{}test-{nonce}-", options.prefix))
            }
            TierUrl::Mover { .. } => {
                let why = "it lies behind a mover: on the mover's host, try the place itself";
                return Err(refused(why.to_owned()));
            }
            TierUrl::S3(place) => {
                unused(url)?;
                let name = format!("cairn-test-{nonce}");
                Area::Behind(s3::below(&place.prefix, &name))
            }
        };
        Ok(Self {
            url: url.clone(),
            area,
            owner: InstanceId::random(),
            count: AtomicU32::new(0),
        })
    }

    /// Where everything of it lies, for people.
    #[must_use]
    pub fn area(&self) -> String {
        match &self.area {
            Area::Below(path) => path.display().to_string(),
            Area::Behind(prefix) => match &self.url {
                TierUrl::S3(place) => format!("keys {prefix}/* of {}", place.bucket),
                _ => format!("names {prefix}*"),
            },
        }
    }

    /// The URL of the next part of the area, which nobody used.
    #[must_use]
    pub fn next(&self) -> TierUrl {
        let n = self.count.fetch_add(1, Ordering::Relaxed);
        match (&self.area, self.url.clone()) {
            (Area::Below(path), url) => url.at(path.join(n.to_string())),
            (Area::Behind(prefix), TierUrl::Exec { program, options }) => {
                let mut options = options;
                options.prefix = format!("{prefix}{n}-");
                TierUrl::Exec { program, options }
            }
            (Area::Behind(prefix), TierUrl::S3(place)) => {
                let mut place = place;
                place.prefix = s3::below(prefix, &n.to_string());
                TierUrl::S3(place)
            }
            (Area::Behind(_), url) => url,
        }
    }

    /// A fresh tier in the area.
    ///
    /// # Errors
    /// As [`super::open`].
    pub fn fresh(&self) -> Result<Arc<dyn Tier>, TierError> {
        open(&self.next(), OpenHow::new(self.owner, TierId(1)))
    }

    /// Runs the cases of the place's own kind, where it has such, and those of all tiers; `each` hears of each.
    pub fn run(&self, each: &mut dyn FnMut(Outcome)) {
        self.run_own(each);
        conformance::run_each(&|| self.fresh().map_err(|e| format!("opening: {e}")), each);
        self.run_opening(each);
    }

    /// Runs the cases of opening a place again: whose it is, and that it keeps what was put.
    pub fn run_opening(&self, each: &mut dyn FnMut(Outcome)) {
        let url = self.next();
        conformance::run_opening(&|how| open(&url, how))
            .into_iter()
            .for_each(each);
    }

    /// Runs the cases for those who write a program, which say what is wrong with it in its own words.
    pub fn run_own(&self, each: &mut dyn FnMut(Outcome)) {
        if let TierUrl::Exec { program, .. } = &self.url {
            let fresh = || match self.next() {
                TierUrl::Exec { options, .. } => *options,
                // It is one of the same kind.
                _ => exec::ExecOptions::default(),
            };
            exec::run_cases(program, &fresh, each);
        }
    }

    /// Removes the area and all in it.
    ///
    /// # Errors
    /// [`TierError::Unavailable`], and what remains lies below [`Trial::area`].
    pub fn clear(&self) -> Result<(), TierError> {
        match (&self.area, &self.url) {
            (Area::Below(path), url) => std::fs::remove_dir_all(path)
                .map_err(|error| away(url, "removing the area", &error)),
            (Area::Behind(prefix), TierUrl::Exec { program, options }) => {
                let mut options = (**options).clone();
                options.prefix.clone_from(prefix);
                exec::clear(program, &options).map(drop)
            }
            (Area::Behind(prefix), TierUrl::S3(place)) => {
                let mut place = (**place).clone();
                place.prefix.clone_from(prefix);
                s3::clear(&place)
            }
            (Area::Behind(_), _) => Ok(()),
        }
    }
}

fn in_use(mark: Mark) -> String {
    format!(
        "it is tier {} of instance {}: name a place beside it that no tier uses",
        mark.tier, mark.owner
    )
}

fn away(url: &TierUrl, step: &'static str, error: &io::Error) -> TierError {
    TierError::Unavailable {
        tier: url.to_string(),
        step,
        why: error.to_string(),
    }
}

const MAKING: &str = "making an area for the trial";

/// No tier is there.
fn unused(url: &TierUrl) -> Result<(), TierError> {
    // A kind of place that this program cannot use says so in its own words.
    let fail = |error: io::Error| match error.downcast::<TierError>() {
        Ok(own) => own,
        Err(error) => away(url, MAKING, &error),
    };
    if super::is_there(url).map_err(fail)? {
        let mark = super::mark_at(url)?;
        return Err(TierError::Refused {
            place: url.to_string(),
            why: in_use(mark),
        });
    }
    Ok(())
}

/// A directory of its own below `path`, which is there and no tier's.
fn below(url: &TierUrl, path: &Path, nonce: &str) -> Result<Area, TierError> {
    unused(url)?;
    let area = path.join(format!("cairn-test-{nonce}"));
    std::fs::create_dir(&area).map_err(|error| away(url, MAKING, &error))?;
    Ok(Area::Below(area))
}
