//! What must be true of files, tombstones and the tier in every state.

use super::State;
use super::state::{Age, HEIR, Undelete, bytes_of};

pub(super) fn broken(state: &State) -> Option<&'static str> {
    for inode in state.inodes.iter().filter(|i| i.exists() && i.stub) {
        let Some(key) = inode.record else {
            return Some("a stub names nothing");
        };
        if !state.readable(bytes_of(key)) {
            return Some("a released file has no copy on any tier");
        }
    }
    for key in 0..HEIR {
        if state.ages[key] == Age::Young && !state.readable(key) {
            return Some("bytes of a deleted file went within the window");
        }
    }
    if let Undelete::Revived(key, _) | Undelete::Named(key, _) = state.undelete
        && !state.readable(key)
    {
        return Some("an undelete that was promised has no bytes");
    }
    None
}
