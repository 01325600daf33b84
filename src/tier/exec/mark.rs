//! The mark of a place that a program keeps: an object like others, under its own name, written once.
//!
//! Invariants kept here: a mark is made only where nothing else is; it changes hands only by the word of somebody
//! who saw whose it was, and a change that was broken off is finished by asking for it again.

use super::place::{Place, says};
use super::protocol::{MARK, TEMPORARY, Verdict, parse_temporary};
use super::run::Failure;
use crate::id::InstanceId;
use crate::tier::dir::mark::{LONGEST, MarkError, parse, text};
use crate::tier::{Mark, TierError};
use cairn_mover::Crc32c;

const NOTE: &str = "A tier of Cairn. Every object whose name ends in .tar is a plain tar archive; extract them in \
                    the order of their names. Do not change this place by hand.";
/// What a temporary of a mark is to be.
const WHAT: &str = "mark";
/// A temporary that was begun within so many seconds is a sign of life.
const SIGN_OF_LIFE: u64 = 90;

fn at(place: &Place) -> String {
    format!("{}{MARK}", place.prefix)
}

fn refused(place: &Place, why: String) -> TierError {
    TierError::Refused {
        place: place.label.clone(),
        why,
    }
}

/// Whose the place is; `None`: nobody's.
pub(super) fn read(place: &Place, step: &'static str) -> Result<Option<Mark>, TierError> {
    read_at(place, &at(place), step)
}

fn read_at(place: &Place, name: &str, step: &'static str) -> Result<Option<Mark>, TierError> {
    let known = place.known(step)?;
    let mut bytes = Vec::new();
    let got = place
        .verbs
        .get_ready((name, &known), LONGEST, &mut |b| bytes.extend_from_slice(b));
    match got {
        Ok(_) => {}
        Err(failure) if says(&failure) == Some(Verdict::Missing) => return Ok(None),
        Err(failure) => return Err(place.fail(step, None, failure)),
    }
    parse(&bytes).map(Some).map_err(|error| match error {
        error @ MarkError::Newer(_) => refused(place, error.to_string()),
        // Half of it came: a program that fails in a pipe and says that all is well.
        error => match place.verbs.stat(name) {
            Ok(len) if len == bytes.len() as u64 => refused(place, error.to_string()),
            _ => TierError::Unavailable {
                tier: place.label.clone(),
                step,
                why: format!("reading the mark: {error}"),
            },
        },
    })
}

/// Refuses another instance's tier and says the way out.
pub(super) fn check_owner(place: &Place, mark: Mark, ours: InstanceId) -> Result<(), TierError> {
    if mark.owner == ours {
        return Ok(());
    }
    let why = format!(
        "it belongs to instance {}, this is {ours}. Choose another place; or, if that instance will never write \
         here again: cairn tier owner '{}' --state DIR --take {}",
        mark.owner, place.label, mark.owner
    );
    Err(refused(place, why))
}

/// Finds `wanted.owner`'s tier, or makes an empty place one. The mark that is there in the end counts.
pub(super) fn establish(place: &Place, wanted: Mark) -> Result<Mark, TierError> {
    const STEP: &str = "opening";
    if wanted.tier.0 == 0 {
        return Err(refused(place, "0 is no number of a tier".to_owned()));
    }
    if let Some(mark) = read(place, STEP)? {
        check_owner(place, mark, wanted.owner)?;
        return Ok(mark);
    }
    if let Some(stranger) = stranger(place)? {
        // A tier gets its mark before anything else: an opener that was quicker wrote both.
        if let Some(mark) = read(place, STEP)? {
            check_owner(place, mark, wanted.owner)?;
            return Ok(mark);
        }
        let why = format!(
            "it is not empty (it holds {stranger:?}) and has no {}. Choose an empty place; or, if this was a \
             tier, restore its mark",
            at(place)
        );
        return Err(refused(place, why));
    }
    match write(place, wanted) {
        Ok(()) | Err(TierError::Unavailable { .. } | TierError::Transient { .. }) => {}
        Err(error) => return Err(error),
    }
    let mark = read(place, STEP)?.ok_or_else(|| TierError::Unavailable {
        tier: place.label.clone(),
        step: STEP,
        why: "the mark that was written is not there".to_owned(),
    })?;
    check_owner(place, mark, wanted.owner)?;
    Ok(mark)
}

/// Something at the place that is neither a mark nor one half written.
fn stranger(place: &Place) -> Result<Option<String>, TierError> {
    let mut found = None;
    let own = at(place);
    let listed = place.verbs.list(&place.prefix, &mut |name| {
        let half = parse_temporary(&place.prefix, name).is_some() && name.ends_with(WHAT);
        if !half && name != own && found.is_none() {
            found = Some(name.chars().take(200).collect());
        }
    });
    listed.map_err(|failure| place.fail("looking whether it is empty", None, failure))?;
    Ok(found)
}

/// Writes the mark where none is.
fn write(place: &Place, mark: Mark) -> Result<(), TierError> {
    const STEP: &str = "writing the mark";
    let bytes = text(mark, NOTE).map_err(|error| refused(place, error.to_string()))?;
    let temporary = place.temporary(WHAT);
    let written = (|| {
        put(place, &temporary, &bytes)?;
        let sum = Crc32c::of(&bytes);
        place
            .verbs
            .commit(&temporary, &at(place), bytes.len() as u64, sum)
    })();
    place.release(&temporary);
    match written {
        Ok(()) => Ok(()),
        Err(failure) => {
            discard(place, &temporary);
            match says(&failure) {
                // Somebody was quicker: theirs counts.
                Some(Verdict::Exists) => Ok(()),
                _ => Err(place.fail(STEP, None, failure)),
            }
        }
    }
}

/// A temporary with these bytes, read back and compared.
fn put(place: &Place, temporary: &str, bytes: &[u8]) -> Result<(), Failure> {
    let len = bytes.len() as u64;
    let mut putting = place.verbs.put(temporary, len)?;
    putting.feed(bytes)?;
    putting.end()?;
    if place.verbs.read_back(temporary, len)? == Crc32c::of(bytes) {
        return Ok(());
    }
    Err(Failure::Breach {
        why: "what was read back is not what was written".to_owned(),
        words: String::new(),
    })
}

/// Takes a temporary away, and says whether it is gone; if not, the next sweep does it.
pub(super) fn discard(place: &Place, temporary: &str) -> bool {
    match place.verbs.delete(temporary) {
        Err(failure) if says(&failure) != Some(Verdict::Missing) => {
            tracing::warn!(tier = place.label, temporary, %failure, "a temporary remains until it is swept");
            false
        }
        Ok(()) | Err(_) => true,
    }
}

/// Gives the place of `from` to `to`; its number stays.
pub(super) fn take(place: &Place, from: InstanceId, to: InstanceId) -> Result<Mark, TierError> {
    const STEP: &str = "taking over";
    if let Some(age) = youngest(place)?.filter(|age| *age < SIGN_OF_LIFE) {
        let why = format!(
            "it was written to {age} s ago: its owner seems to be alive. Stop it, or wait {} s",
            SIGN_OF_LIFE - age
        );
        return Err(refused(place, why));
    }
    let found = match read(place, STEP)? {
        Some(found) if found.owner == from => found,
        Some(found) => {
            let why = format!("it belongs to instance {} by now", found.owner);
            return Err(refused(place, why));
        }
        None => return finish_taking(place, to),
    };
    let wanted = Mark { owner: to, ..found };
    let bytes = text(wanted, NOTE).map_err(|error| refused(place, error.to_string()))?;
    // The new one is there and proven before the old one goes: whatever breaks off in between is finished later.
    let temporary = place.temporary(WHAT);
    let done = put(place, &temporary, &bytes)
        .and_then(|()| place.verbs.delete(&at(place)))
        .and_then(|()| {
            let sum = Crc32c::of(&bytes);
            let len = bytes.len() as u64;
            place.verbs.commit(&temporary, &at(place), len, sum)
        });
    place.release(&temporary);
    done.map_err(|failure| place.fail(STEP, None, failure))?;
    settled(place, to)
}

/// The mark is gone: does one lie ready that says `to`?
fn finish_taking(place: &Place, to: InstanceId) -> Result<Mark, TierError> {
    const STEP: &str = "taking over";
    let mut ready = Vec::new();
    let which = format!("{}{TEMPORARY}", place.prefix);
    place
        .verbs
        .list(&which, &mut |name| {
            if parse_temporary(&place.prefix, name).is_some() && name.ends_with(WHAT) {
                ready.push(name.to_owned());
            }
        })
        .map_err(|failure| place.fail(STEP, None, failure))?;
    for name in ready {
        let len = place.verbs.stat(&name);
        let (Ok(Some(mark)), Ok(len)) = (read_at(place, &name, STEP), len) else {
            continue;
        };
        if mark.owner == to {
            let sum = place.verbs.read_back(&name, len);
            sum.and_then(|sum| place.verbs.commit(&name, &at(place), len, sum))
                .map_err(|failure| place.fail(STEP, None, failure))?;
            return settled(place, to);
        }
    }
    Err(refused(place, format!("it has no {}", at(place))))
}

fn settled(place: &Place, to: InstanceId) -> Result<Mark, TierError> {
    match read(place, "taking over")? {
        Some(mark) if mark.owner == to => Ok(mark),
        Some(mark) => Err(refused(
            place,
            format!("it belongs to instance {} by now", mark.owner),
        )),
        None => Err(refused(
            place,
            format!(
                "it has no {} any more; give the same command again",
                at(place)
            ),
        )),
    }
}

/// Seconds since the youngest temporary of an object was begun.
fn youngest(place: &Place) -> Result<Option<u64>, TierError> {
    let now = super::place::now();
    let mut youngest = None;
    let which = format!("{}{TEMPORARY}", place.prefix);
    let listed = place.verbs.list(&which, &mut |name| {
        if !name.ends_with(WHAT) {
            // One from a clock that runs ahead is no sign of life, and does not hide another one's.
            let begun = parse_temporary(&place.prefix, name).filter(|begun| *begun <= now);
            youngest = youngest.max(begun);
        }
    });
    listed.map_err(|failure| place.fail("looking who writes there", None, failure))?;
    Ok(youngest.map(|begun| now.saturating_sub(begun)))
}
