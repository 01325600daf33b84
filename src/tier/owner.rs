//! Whose a tier is, for somebody who does not want to write there; and how it changes hands.

use super::open::behind_a_mover;
use super::{Mark, TierError, TierUrl, dir, exec, s3, tape};
use crate::id::InstanceId;

/// The mark of the tier at `url`.
///
/// # Errors
/// [`TierError::Unavailable`] if nothing is there; [`TierError::Refused`] if it is no tier.
pub fn of(url: &TierUrl) -> Result<Mark, TierError> {
    match url {
        TierUrl::Dir { path, .. } => dir::owner_of(path),
        TierUrl::Tape { path, options } => dir::owner_of(&options.mark_dir(path)),
        TierUrl::S3(place) => s3::mark_at(place),
        TierUrl::Exec { program, options } => exec::owner_of(program, options),
        TierUrl::Mover { .. } => Err(behind_a_mover(url.to_string())),
    }
}

/// Gives the tier of `from` to `to`; its number stays. Refused while somebody seems to write there.
///
/// # Errors
/// [`TierError::Refused`] if it is another's by now, was written to within the last 90 seconds
/// (a directory), or is in use (a tape library).
pub fn take(url: &TierUrl, from: InstanceId, to: InstanceId) -> Result<Mark, TierError> {
    match url {
        TierUrl::Dir { path, .. } => dir::take(path, from, to, dir::mark::NOTE),
        TierUrl::Tape { path, options } => tape::take(path, &options.mark_dir(path), from, to),
        TierUrl::S3(place) => s3::take(place, from, to),
        TierUrl::Exec { program, options } => exec::take(program, options, from, to),
        TierUrl::Mover { .. } => Err(behind_a_mover(url.to_string())),
    }
}
