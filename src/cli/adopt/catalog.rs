//! The instance that served a tree: whether its mount is still held, where its catalog is, and what
//! there is to say if that is not there.

use super::UndoHow;
use crate::cli::{CliError, up};
use crate::error::Failure;
use crate::hsm::backing::{Backing, Mark};
use crate::hsm::witness::{Witness, WitnessError};
use cairn_fuse::mount::Successor;
use std::path::{Path, PathBuf};

/// Where the state of the instance that served a tree may be: where the caller says, else where the
/// mark on the tree and the default of `cairn up` say.
fn places(tree: &Path, mark: Option<&Mark>, how: UndoHow<'_>) -> Vec<PathBuf> {
    if let Some(state) = how.state {
        return vec![state.to_owned()];
    }
    let mut places: Vec<_> = mark
        .and_then(|mark| mark.state.clone())
        .into_iter()
        .collect();
    // Without a home directory there is no default.
    places.extend(up::default_state(tree).ok());
    places.dedup();
    places
}

/// Refuses a tree whose mount is held for a successor: the instance is dead, the mount is not.
pub(super) fn check_held(tree: &Path, how: UndoHow<'_>) -> Result<(), CliError> {
    let mark = match Backing::mark_of(tree) {
        Ok(mark) => mark,
        Err(_) if how.force => None,
        Err(why) => return Err(CliError::new(Failure::Internal, why).with_hint(FORCE)),
    };
    for place in places(tree, mark.as_ref(), how) {
        let socket = up::holder_socket(&place);
        match Successor::meet(&socket) {
            Ok(None) => {}
            Ok(Some(held)) => {
                let mount = held.mountpoint().display();
                let message = format!(
                    "the mount {mount} of the instance in {} still serves this tree",
                    place.display()
                );
                return Err(CliError::new(Failure::Busy, message)
                    .with_hint(format!("stop it first: cairn down {mount}")));
            }
            // Where there is no socket, nobody answers.
            Err(_) if how.force || socket.symlink_metadata().is_err() => {}
            Err(why) => {
                return Err(CliError::new(Failure::Busy, why)
                    .with_hint(format!("stop the instance of {} first", place.display())));
            }
        }
    }
    Ok(())
}

/// What a tree tells of those who served it.
pub(super) struct Served {
    mark: Option<Mark>,
    /// The catalog, or why there is none to ask.
    pub(super) witness: Result<Witness, Vec<WitnessError>>,
}

impl Served {
    /// Looks for it.
    pub(super) fn find(tree: &Path, how: UndoHow<'_>) -> Result<Self, CliError> {
        let mark = Backing::mark_of(tree)
            .map_err(|why| CliError::new(Failure::Internal, why).with_hint(FORCE))?;
        let witness = ask(&places(tree, mark.as_ref(), how), mark.as_ref());
        Ok(Self { mark, witness })
    }

    /// Does the tree say who served it? If not, a catalog that is found may be another tree's, or one
    /// that does not know these inodes.
    pub(super) fn is_marked(&self) -> bool {
        self.mark.is_some()
    }

    /// Refuses if no catalog could be asked and somebody served the tree, as far as it says itself.
    /// `signs`: something else than its mark says so.
    pub(super) fn check(&self, signs: bool) -> Result<(), CliError> {
        let Err(why) = &self.witness else {
            return Ok(());
        };
        if !signs && self.mark.is_none() {
            return Ok(());
        }
        let mut why: Vec<_> = why.iter().map(ToString::to_string).collect();
        if why.is_empty() {
            why.push("where it is, is not known".to_owned());
        }
        let who = match &self.mark {
            Some(mark) => format!("instance {} on host {}", mark.instance, mark.host),
            None => "the instance that served the tree".to_owned(),
        };
        let message = format!(
            "which files have lost their stubs only the catalog of {who} can tell, and it cannot be \
             asked: {}",
            why.join("; ")
        );
        Err(CliError::new(Failure::Busy, message).with_hint(
            "name its state directory (--state DIR); if that is gone for good, look for files of holes \
             (docs/operations.md, \"Putting a directory behind a mount\") and go by the records alone \
             (--without-catalog)",
        ))
    }
}

/// What overrules the catalog.
pub(super) const WITHOUT: &str = "--without-catalog goes by the records alone";
/// What overrules everything.
pub(super) const FORCE: &str = "--force goes on, knowing what is left reads as zeros";

fn ask(places: &[PathBuf], mark: Option<&Mark>) -> Result<Witness, Vec<WitnessError>> {
    let mut why_not = Vec::new();
    for place in places {
        match Witness::of(place, mark) {
            Ok(witness) => return Ok(witness),
            Err(why) => why_not.push(why),
        }
    }
    Err(why_not)
}
