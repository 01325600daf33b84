//! A program of the site as a tier: HPSS through its own clients, another host through ssh, whatever rclone
//! knows. docs/exec-protocol.md is the protocol, for those who write such programs.
//!
//! Invariants kept here (and in `exec/`):
//! - Nothing that the program says is believed where it can be checked. An object has its receipt after all of
//!   it was read back and compared (P2); it gets its name by a step of its own, `commit`, from a temporary, so
//!   that a transfer that was broken off is never taken for an object.
//! - What is not there is called missing only if it was not there before and after the tier's mark was read, twice
//!   (see `exec/place.rs`).
//! - The program gets nothing of this process but its arguments, its three pipes and a few variables; nobody but
//!   root and the server's user may be able to change it; it is ended with its call (see `exec/run.rs`), and with this
//!   process, also if that is killed (see `exec/watch.rs`).
//! - A program that hangs holds up those who want something of its tier, and nobody else: a tier that is known is opened
//!   without asking it anything.

mod cases;
mod mark;
mod options;
mod place;
mod protocol;
mod put;
mod run;
mod sys;
mod trust;
mod verbs;
mod watch;
mod words;

pub use options::{ExecOptions, OPTIONS};
pub use watch::begin as watch_programs;

pub(super) use cases::{clear, run as run_cases};

use super::{Description, Expect, Kind, Mark, OpenHow, Put, Space, Tier, TierError, TierUrl};
use crate::id::{AggregateId, InstanceId, TierId};
use bytes::Bytes;
use parking_lot::Mutex;
use place::Place;
use protocol::{Commit, Facts, LONGEST, Verdict};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

/// So many names of a listing are kept for the pages after the one that was asked for.
const KEPT: usize = 1 << 20;
/// Room made for a read before its bytes come, at most.
const AHEAD: u64 = 4 << 20;

/// A program as a tier.
pub struct ExecTier {
    place: Arc<Place>,
    rest: Mutex<Option<Rest>>,
}

/// What a listing found beyond the page that was asked for.
struct Rest {
    after: AggregateId,
    names: VecDeque<AggregateId>,
    /// There were more.
    cut: bool,
}

fn at(program: &Path, options: &ExecOptions, mark: Mark) -> Place {
    let url = TierUrl::Exec {
        program: program.to_owned(),
        options: Box::new(options.clone()),
    };
    Place::new(program, options, url.to_string(), mark)
}

/// For those who want to know whose a place is.
fn nobody() -> Mark {
    Mark {
        tier: TierId(0),
        owner: InstanceId([0; 16]),
    }
}

/// The mark at a place; `None`: there is none.
pub(super) fn mark_of(program: &Path, options: &ExecOptions) -> Result<Option<Mark>, TierError> {
    mark::read(&at(program, options, nobody()), "reading the mark")
}

/// Is there no mark, by what the program lists alone? For those who try a program that does not yet say well what
/// is missing.
pub(super) fn is_unmarked(program: &Path, options: &ExecOptions) -> Result<bool, TierError> {
    let place = at(program, options, nobody());
    let mark = format!("{}{}", place.prefix, protocol::MARK);
    let mut found = false;
    let listed = place.verbs.list(&mark, &mut |name| found |= name == mark);
    listed.map_err(|failure| place.fail("looking for a mark", None, failure))?;
    Ok(!found)
}

/// The same, where one should be.
pub(super) fn owner_of(program: &Path, options: &ExecOptions) -> Result<Mark, TierError> {
    let place = at(program, options, nobody());
    mark::read(&place, "reading the mark")?.ok_or_else(|| TierError::Refused {
        place: place.label.clone(),
        why: format!("it has no {}{}", place.prefix, protocol::MARK),
    })
}

/// Gives the place of one instance to another.
pub(super) fn take(
    program: &Path,
    options: &ExecOptions,
    from: InstanceId,
    to: InstanceId,
) -> Result<Mark, TierError> {
    mark::take(&at(program, options, nobody()), from, to)
}

impl ExecTier {
    /// Opens the tier that `program` keeps; see [`Expect`] for what may be there. Of a tier that is known already the
    /// program is asked nothing now: it may hang, and nobody is to wait for it who has no use for it yet. Whose the
    /// place is, is asked before anything is believed of it.
    ///
    /// # Errors
    /// As [`super::open`]; of a tier that is known none.
    pub fn open(program: &Path, options: &ExecOptions, how: OpenHow) -> Result<Self, TierError> {
        let (Expect::New(tier) | Expect::Known(tier)) = how.expect;
        let wanted = Mark {
            tier,
            owner: how.owner,
        };
        let mut place = at(program, options, wanted);
        let is_new = matches!(how.expect, Expect::New(_));
        if is_new {
            let mark = mark::establish(&place, wanted)?;
            place.expect(mark);
        }
        let tier = Self {
            place: Arc::new(place),
            rest: Mutex::new(None),
        };
        // Of one that is known the first put does it.
        if is_new {
            tier.place.sweep_once();
        }
        Ok(tier)
    }

    /// The object's length, or that it is missing.
    fn length(&self, step: &'static str, name: AggregateId) -> Result<u64, TierError> {
        let place = &self.place;
        if place.is_settling(name) {
            return Err(place.missing(step, name));
        }
        match place.length(step, name, &place.at(name))? {
            Some(len) => Ok(len),
            None => Err(place.missing(step, name)),
        }
    }

    /// An object that ends too early; of another place's object nothing is said.
    fn short(&self, object: AggregateId, len: u64, wanted: u64) -> TierError {
        if let Err(error) = self.place.enter("reading") {
            return error;
        }
        TierError::Short {
            tier: self.place.label.clone(),
            object,
            len,
            wanted,
        }
    }

    /// What is to be known of it: what its program cannot do, and what it does not do any more.
    fn notes(&self) -> Vec<String> {
        let stuck = self.place.verbs.stuck();
        let stuck = (stuck > 0).then(|| {
            format!("{stuck} runs of its program do not end although they were killed: stuck in the kernel?")
        });
        let can = self.place.known_facts().map_or_else(Vec::new, notes);
        stuck.into_iter().chain(can).collect()
    }

    fn changed(&self) {
        *self.rest.lock() = None;
    }
}

impl Tier for ExecTier {
    fn mark(&self) -> Mark {
        self.place.expected()
    }

    fn describe(&self) -> Description {
        Description {
            kind: Kind::Exec,
            url: self.place.label.clone(),
            root: None,
            notes: self.notes(),
        }
    }

    fn longest(&self) -> Result<Option<u64>, TierError> {
        Ok(self.place.facts("asking for the longest object")?.longest)
    }

    fn put(&self, name: AggregateId, size_hint: u64) -> Result<Box<dyn Put>, TierError> {
        self.changed();
        Ok(Box::new(put::ExecPut::start(&self.place, name, size_hint)?))
    }

    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<Bytes, TierError> {
        const STEP: &str = "reading";
        let place = &self.place;
        let wanted = offset.saturating_add(len);
        // Beyond what a program can be asked for there is nothing, and of nothing there is none.
        if len == 0 || wanted > LONGEST || place.is_settling(name) {
            let end = self.length(STEP, name)?;
            if wanted > end {
                return Err(self.short(name, end, wanted));
            }
            return Ok(Bytes::new());
        }
        let known = place.known(STEP)?;
        // What is asked for may be more than there is: the rest of the room is made as bytes come.
        let room = usize::try_from(len.min(AHEAD)).unwrap_or(0);
        let mut bytes = Vec::with_capacity(room);
        let at = place.at(name);
        let got = place.verbs.get((&at, &known), offset, len, &mut |b| {
            bytes.extend_from_slice(b)
        });
        let given = match got {
            Ok(given) => given,
            Err(failure) if place::says(&failure) == Some(Verdict::Missing) => {
                return Err(place.missing(STEP, name));
            }
            // Perhaps because it begins behind the object's end.
            Err(failure) if place::says(&failure) == Some(Verdict::Passing) => {
                return match place.length(STEP, name, &at) {
                    Ok(Some(end)) if wanted > end => Err(self.short(name, end, wanted)),
                    _ => Err(place.fail(STEP, Some(name), failure)),
                };
            }
            Err(failure) => {
                // Of another place's object nothing is said; and what was unreadable for a moment is not damaged.
                if place::says(&failure) == Some(Verdict::Damaged) {
                    place.enter(STEP)?;
                    bytes.clear();
                    let again = place.verbs.get((&at, &known), offset, len, &mut |b| {
                        bytes.extend_from_slice(b);
                    });
                    match again {
                        Ok(given) if given == len => return Ok(bytes.into()),
                        Err(again) if place::says(&again) == Some(Verdict::Damaged) => {
                            place.enter(STEP)?;
                        }
                        _ => return Err(place.passing(STEP, name, &failure)),
                    }
                }
                return Err(place.fail(STEP, Some(name), failure));
            }
        };
        if given == len {
            return Ok(bytes.into());
        }
        // The object's end, or a transfer that broke off and was called a success.
        let end = self.length(STEP, name)?;
        if wanted > end {
            return Err(self.short(name, end, wanted));
        }
        let failure = run::Failure::Less {
            given,
            wanted: len,
            words: String::new(),
        };
        Err(place.fail(STEP, Some(name), failure))
    }

    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.length("looking up", name)
    }

    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        const STEP: &str = "deleting";
        let place = &self.place;
        place.enter(STEP)?;
        self.changed();
        match place.verbs.delete(&place.at(name)) {
            Ok(()) => Ok(()),
            // It counts as gone at this place alone.
            Err(failure) if place::says(&failure) == Some(Verdict::Missing) => place.enter(STEP),
            Err(failure) => Err(place.fail(STEP, Some(name), failure)),
        }
    }

    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let kept = self.rest.lock().take();
        let kept = kept
            .filter(|rest| after == Some(rest.after) && (!rest.cut || rest.names.len() >= limit));
        let mut rest = match kept {
            Some(rest) => rest,
            None => self.listing(after, limit)?,
        };
        let count = limit.min(rest.names.len());
        let page: Vec<AggregateId> = rest.names.drain(..count).collect();
        if let Some(last) = page.last() {
            rest.after = *last;
            *self.rest.lock() = Some(rest);
        }
        Ok(page)
    }

    fn confirm(&self) -> Result<(), TierError> {
        self.place.enter("looking whether it is the right place")
    }

    fn space(&self) -> Result<Space, TierError> {
        const STEP: &str = "asking for space";
        // How much room there is where nothing is mounted is of no use to anybody.
        self.place.enter(STEP)?;
        let (free, total) = self
            .place
            .verbs
            .space()
            .map_err(|failure| self.place.fail(STEP, None, failure))?;
        Ok(Space { free, total })
    }
}

impl ExecTier {
    /// The names after `after`, ascending, as many as a page and what is kept behind it.
    fn listing(&self, after: Option<AggregateId>, limit: usize) -> Result<Rest, TierError> {
        const STEP: &str = "listing";
        let place = &self.place;
        place.enter(STEP)?;
        let most = limit.saturating_add(KEPT);
        let (mut names, mut cut) = (Vec::new(), false);
        let mark = format!("{}{}", place.prefix, protocol::MARK);
        let mut marked = false;
        let listed = place.verbs.list(&place.prefix, &mut |name| {
            marked |= name == mark;
            let object = protocol::parse_object(&place.prefix, name);
            names.extend(object.filter(|name| after.is_none_or(|after| *name > after)));
            if names.len() >= most.saturating_mul(2) {
                cut |= thin(&mut names, most);
            }
        });
        listed.map_err(|failure| place.fail(STEP, None, failure))?;
        // Read before, the mark may have been another place's than the names are.
        if !marked {
            return Err(TierError::Unavailable {
                tier: place.label.clone(),
                step: STEP,
                why: format!("its list does not show its mark {mark}: is it the right place?"),
            });
        }
        cut |= thin(&mut names, most);
        names.retain(|name| !place.is_settling(*name));
        Ok(Rest {
            after: after.unwrap_or(AggregateId { epoch: 0, seq: 0 }),
            names: names.into(),
            cut,
        })
    }
}

/// What a program cannot do, and what follows from that.
fn notes(facts: Facts) -> Vec<String> {
    let ranges = (!facts.ranges).then(|| {
        "its program gives no ranges: every read transfers the object from its start on".to_owned()
    });
    let copies = (facts.commit == Commit::Copies)
        .then(|| "its commits copy: every object is read back twice".to_owned());
    let first = facts
        .first_byte
        .filter(|seconds| *seconds > 0)
        .map(|seconds| format!("its program says that a read takes about {seconds} s to begin"));
    ranges.into_iter().chain(copies).chain(first).collect()
}

/// The `most` lowest, once each and in order; were there more?
fn thin(names: &mut Vec<AggregateId>, most: usize) -> bool {
    names.sort_unstable();
    names.dedup();
    let cut = names.len() > most;
    names.truncate(most);
    cut
}

#[cfg(test)]
mod tests;
