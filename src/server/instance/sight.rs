//! Which names a user may know: those that they could find by looking.
//!
//! A file may have been moved since they named it; where to is not theirs to learn from Cairn.

use super::nodes::may;
use crate::hsm::engine::Engine;
use crate::hsm::engine::ask::Asker;
use rustix::fs::Access;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// What one user may see, for the length of one answer.
pub(super) struct Sight<'a> {
    engine: &'a Engine,
    asker: Asker,
    /// Directories that were looked at, by path: open where the user may pass, with whether they
    /// may list it.
    dirs: HashMap<Vec<u8>, Option<(Rc<OwnedFd>, bool)>>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(engine: &'a Engine, asker: Asker) -> Self {
        Self {
            engine,
            asker,
            dirs: HashMap::new(),
        }
    }

    /// May the user know what lies at this path (below the backing's root, without a slash before
    /// it)? They must be able to pass every directory on the way, and to list the last.
    pub(super) fn reaches(&mut self, path: &[u8]) -> bool {
        let parent = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
        self.asker.uid == 0 || self.dir(&path[..parent]).is_some_and(|(_, lists)| lists)
    }

    fn dir(&mut self, path: &[u8]) -> Option<(Rc<OwnedFd>, bool)> {
        if let Some(known) = self.dirs.get(path) {
            return known.clone();
        }
        // From the root down, so that no path is walked twice, however deep.
        let mut at: Option<(Rc<OwnedFd>, bool)> = None;
        let ends = path
            .iter()
            .enumerate()
            .filter_map(|(n, b)| (*b == b'/').then_some(n));
        let ends: Vec<usize> = std::iter::once(0)
            .chain(ends)
            .chain((!path.is_empty()).then_some(path.len()))
            .collect();
        let mut begin = 0;
        for end in ends {
            let upto = &path[..end];
            let next = match self.dirs.get(upto) {
                Some(known) => known.clone(),
                None => {
                    let found = self.look(at.as_ref(), &path[begin..end]);
                    self.dirs.insert(upto.to_vec(), found.clone());
                    found
                }
            };
            at = Some(next?);
            begin = if end == 0 { 0 } else { end + 1 };
        }
        at
    }

    fn look(
        &self,
        above: Option<&(Rc<OwnedFd>, bool)>,
        name: &[u8],
    ) -> Option<(Rc<OwnedFd>, bool)> {
        let fd = match above {
            None => self.engine.backing().root().try_clone_to_owned().ok()?,
            Some((dir, _)) => self.engine.entry(dir.as_fd(), name).ok()??,
        };
        if !may(&self.asker, &fd, Access::EXEC_OK) {
            return None;
        }
        let lists = may(&self.asker, &fd, Access::READ_OK);
        Some((Rc::new(fd), lists))
    }
}
