//! What was deleted, for `cairn undelete`: which of it a caller may know, and under which names.

use super::nodes::may;
use super::{Instance, asker, views};
use crate::catalog::{Origin, TombstoneWhy, Verb};
use crate::error::Failure;
use crate::hsm::engine::ask::{Ask, Asker, Consent, Named};
use crate::hsm::engine::undelete::{self, Back, Deleted, Looker, Place, Which};
use crate::hsm::engine::{Engine, EngineError, shifted};
use crate::id::{DataVersion, RequestId, Timestamp};
use crate::server::MAX_SUBJECTS;
use crate::server::control::{ControlError, DeletedSink, Gone, Peer, Undelete, UndeletedSink};
use crate::server::wire::{
    Accepted, CopyView, DeletedBy, DeletedView, GivenPath, Problem, UndeletedView, When,
};
use rustix::fs::Access;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, UNIX_EPOCH};

/// What stands in the way to a deleted file.
enum Standing {
    /// It is gone, and so is all below it.
    Gone,
    /// The caller may not pass.
    Closed,
    /// They may; and list it, or not.
    Open(OwnedFd, bool),
}

/// Which paths of deleted files a caller may know: those whose directories, as far as they are still
/// there, they may pass, and whose own directory they may list (unless they named the file
/// themselves). A file may have been moved before it was deleted; where to is not theirs to learn.
struct Sight<'a> {
    engine: &'a Engine,
    asker: Asker,
    /// The directories on the way to the path that was looked at last.
    way: Vec<(Vec<u8>, Standing)>,
}

impl<'a> Sight<'a> {
    fn new(engine: &'a Engine, asker: Asker) -> Self {
        Self {
            engine,
            asker,
            way: Vec::new(),
        }
    }

    fn knows(&mut self, path: &[u8], named: bool) -> bool {
        if self.asker.uid == 0 {
            return true;
        }
        let mut parts: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
        parts.pop();
        // The root stands first, under the name that nothing has.
        parts.insert(0, b"");
        let same = self.way.iter().zip(&parts);
        let same = same.take_while(|((name, _), part)| name == *part).count();
        self.way.truncate(same);
        for part in &parts[same..] {
            let next = match self.way.last() {
                Some((_, Standing::Gone)) => Standing::Gone,
                Some((_, Standing::Closed)) => Standing::Closed,
                above => self.look(above.map(|(_, standing)| standing), part),
            };
            self.way.push((part.to_vec(), next));
        }
        match self.way.last() {
            None | Some((_, Standing::Gone)) => true,
            Some((_, Standing::Closed)) => false,
            Some((_, Standing::Open(_, lists))) => named || *lists,
        }
    }

    fn look(&self, above: Option<&Standing>, name: &[u8]) -> Standing {
        let found = match above {
            Some(Standing::Open(dir, _)) => match self.engine.entry(dir.as_fd(), name) {
                Ok(found) => found,
                Err(_) => return Standing::Closed,
            },
            _ => self.engine.backing().root().try_clone_to_owned().ok(),
        };
        let Some(fd) = found else {
            return Standing::Gone;
        };
        match self.engine.backing().stat(fd.as_fd()) {
            Ok(stat) if stat.kind != crate::hsm::backing::NodeKind::Directory => Standing::Gone,
            Ok(_) if may(&self.asker, &fd, Access::EXEC_OK) => {
                let lists = may(&self.asker, &fd, Access::READ_OK);
                Standing::Open(fd, lists)
            }
            _ => Standing::Closed,
        }
    }
}

fn by(why: TombstoneWhy) -> DeletedBy {
    match why {
        TombstoneWhy::Unlink => DeletedBy::Unlink,
        TombstoneWhy::Overwrite => DeletedBy::Overwrite,
        TombstoneWhy::Truncate => DeletedBy::Truncate,
        TombstoneWhy::Remove => DeletedBy::Remove,
        TombstoneWhy::Unknown => DeletedBy::Unknown,
    }
}

fn moment(when: When) -> Timestamp {
    let since = when.0.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Timestamp {
        sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nsec: since.subsec_nanos(),
    }
}

/// Files that are back and are to be staged: one request, in parts of [`MAX_SUBJECTS`].
#[derive(Default)]
struct Stages {
    part: Vec<Named>,
    into: Option<RequestId>,
    failed: Option<EngineError>,
}

impl Stages {
    fn push(
        &mut self,
        back: &Back,
        submit: impl FnOnce(Vec<Named>, Option<RequestId>, bool) -> Result<RequestId, EngineError>,
    ) {
        if self.failed.is_some() {
            return;
        }
        // Only when another follows: the last part is never empty.
        if self.part.len() == MAX_SUBJECTS {
            match submit(std::mem::take(&mut self.part), self.into, false) {
                Ok(id) => self.into = Some(id),
                Err(why) => {
                    self.failed = Some(why);
                    return;
                }
            }
        }
        self.part.push(Named {
            node: back.node.clone(),
            given: back.path.clone(),
        });
    }

    fn end(
        self,
        submit: impl FnOnce(Vec<Named>, Option<RequestId>, bool) -> Result<RequestId, EngineError>,
    ) -> Result<Option<RequestId>, EngineError> {
        if let Some(why) = self.failed {
            return Err(why);
        }
        if self.part.is_empty() {
            return Ok(None);
        }
        submit(self.part, self.into, true).map(Some)
    }
}

impl Instance {
    fn place(&self, gone: &Gone, peer: &Peer) -> Result<Place, ControlError> {
        let parts = gone.below.split(|b| *b == b'/').filter(|p| !p.is_empty());
        let below: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
        if below.iter().any(|p| p == b"." || p == b"..") {
            let why = "the part of the path that is gone has `..` in it";
            return Err(ControlError::new(Failure::Usage, why));
        }
        Ok(Place {
            directory: self.node(&gone.subject, peer)?,
            below,
        })
    }

    fn looker(&self, peer: &Peer) -> Looker {
        Looker {
            asker: asker(peer),
            sees_all: self.rules(peer),
        }
    }

    /// Lists what was deleted.
    pub(super) fn list_deleted(
        &self,
        gone: &Gone,
        peer: &Peer,
        sink: DeletedSink<'_>,
    ) -> Result<(), ControlError> {
        let (place, looker) = (self.place(gone, peer)?, self.looker(peer));
        let mut sight = Sight::new(&self.engine, looker.asker.clone());
        let given = given(gone);
        let mut each = |one: Deleted| sink(self.deleted_view(one, &given));
        self.engine
            .deleted(
                &place,
                &looker,
                &mut |p, named| sight.knows(p, named),
                &mut each,
            )
            .map_err(self.tells(peer))
    }

    fn deleted_view(&self, one: Deleted, given: &GivenPath) -> DeletedView {
        let stone = &one.stone;
        let keep = self.engine.settings().keep_deleted;
        let copy = |c: &crate::catalog::Copy| CopyView {
            tier: self.tier_name(c.tier),
            aggregate: c.aggregate.to_string(),
            version: c.version.0,
        };
        DeletedView {
            path: given.join(&one.below),
            size: one.size,
            uid: stone.uid,
            version: stone.version.0,
            deleted: views::when(stone.at),
            by: by(stone.why),
            until: views::when(shifted(stone.at, keep, true)),
            copies: one.copies.iter().map(copy).collect(),
        }
    }

    fn tier_name(&self, id: crate::id::TierId) -> String {
        let slots = self.engine.tiers().iter();
        slots
            .clone()
            .find(|t| t.id == id)
            .map_or_else(|| id.to_string(), |t| t.name.clone())
    }

    /// Brings deleted files back.
    pub(super) fn bring_back(
        &self,
        ask: &Undelete,
        peer: &Peer,
        sink: UndeletedSink<'_>,
    ) -> Result<Option<Accepted>, ControlError> {
        let looker = self.looker(peer);
        let which = match (ask.version, ask.at) {
            (Some(version), _) => Which::Version(DataVersion(version)),
            (None, Some(at)) => Which::At(moment(at)),
            (None, None) => Which::Latest,
        };
        let to = ask.to.as_ref().map(|to| self.place(to, peer)).transpose()?;
        let wanted = undelete::Undelete {
            from: self.place(&ask.from, peer)?,
            to,
            which,
            recursive: ask.recursive,
        };
        let mut sight = Sight::new(&self.engine, looker.asker.clone());
        let (tells, from) = (self.tells(peer), given(&ask.from));
        let mut stages = Stages::default();
        let mut each = |one: undelete::Outcome| match one {
            Ok(back) => {
                if ask.stage {
                    stages.push(&back, |part, into, last| self.stage(part, into, last, peer));
                }
                sink(Ok(undeleted_view(&back, ask, &from)))
            }
            Err((below, why)) => sink(Err(problem(from.join(&below), tells(why)))),
        };
        let done = self.engine.undelete(
            &wanted,
            &looker,
            &mut |p, named| sight.knows(p, named),
            &mut each,
        );
        // Also if it was cut short: what is back is to be staged.
        let staged = stages.end(|part, into, last| self.stage(part, into, last, peer));
        done.map_err(self.tells(peer))?;
        let staged = staged.map_err(self.tells(peer))?;
        Ok(staged.map(|id| Accepted {
            request: id.0,
            known: false,
        }))
    }

    fn stage(
        &self,
        subjects: Vec<Named>,
        into: Option<RequestId>,
        last: bool,
        peer: &Peer,
    ) -> Result<RequestId, EngineError> {
        let ask = Ask {
            verb: Verb::Stage,
            asker: asker(peer),
            origin: Origin::User,
            subjects,
            key: None,
            tier: None,
            pin_for: None,
            job: None,
            job_generation: None,
            flags: Vec::new(),
            select: None,
            consent: Consent::default(),
            into,
            last,
        };
        Ok(self.engine.submit(ask)?.id)
    }
}

fn given(gone: &Gone) -> GivenPath {
    let top = GivenPath::new(&gone.subject.given);
    top.reach(&gone.below)
}

fn problem(path: GivenPath, error: ControlError) -> Problem {
    let message = match error.hint {
        Some(hint) => format!("{}; {hint}", error.message),
        None => error.message,
    };
    Problem {
        path: Some(path),
        code: error.code.as_str().to_owned(),
        message,
    }
}

fn undeleted_view(back: &Back, ask: &Undelete, from: &GivenPath) -> UndeletedView {
    let path = from.join(&back.below);
    let name = back.path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    let now = match (&ask.to, ask.recursive) {
        (Some(to), true) => given(to).join(&back.below),
        // It may have got another name than was asked for, or lie in a directory that was named.
        (to, _) => {
            let asked = to.as_ref().map_or_else(|| path.clone(), given);
            let into = to.as_ref().is_some_and(|to| to.below.is_empty());
            if into {
                asked.join(name)
            } else {
                beside(&asked, name)
            }
        }
    };
    UndeletedView {
        path,
        now,
        size: back.size,
        modified: views::when(back.modified),
        version: back.stone.version.0,
        deleted: views::when(back.stone.at),
        by: by(back.stone.why),
    }
}

/// The path with another last name.
fn beside(path: &GivenPath, name: &[u8]) -> GivenPath {
    let bytes = path.bytes();
    match bytes.iter().rposition(|b| *b == b'/') {
        Some(at) => GivenPath::new(&bytes[..=at]).join(name),
        None => GivenPath::new(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(n: usize) -> Back {
        Back {
            below: Vec::new(),
            path: n.to_string().into_bytes(),
            node: crate::id::NodeHandle {
                kind: 1,
                bytes: n.to_le_bytes().to_vec(),
            },
            size: 1,
            modified: Timestamp { sec: 0, nsec: 0 },
            stone: crate::catalog::Tombstone {
                id: 1,
                file: crate::id::FileId([1; 16]),
                version: DataVersion(1),
                at: Timestamp { sec: 0, nsec: 0 },
                why: TombstoneWhy::Unlink,
                epoch: 1,
                path: Vec::new(),
                uid: 0,
                size: None,
                heir: None,
                handle: None,
                generation: 0,
            },
        }
    }

    #[test]
    fn what_is_staged_is_one_request_in_bounded_parts() {
        for count in [0, 1, MAX_SUBJECTS, 2 * MAX_SUBJECTS + 1] {
            let told = std::cell::RefCell::new(Vec::new());
            let submit = |part: Vec<Named>, into: Option<RequestId>, last: bool| {
                told.borrow_mut().push((part.len(), into, last));
                Ok(RequestId(7))
            };
            let mut stages = Stages::default();
            for n in 0..count {
                stages.push(&back(n), submit);
            }
            let id = stages.end(submit).unwrap();
            assert_eq!(id.is_some(), count > 0);
            let told = told.into_inner();
            assert_eq!(told.iter().map(|(len, ..)| len).sum::<usize>(), count);
            for (n, (len, into, last)) in told.iter().enumerate() {
                assert!((1..=MAX_SUBJECTS).contains(len));
                assert_eq!((into.is_some(), *last), (n > 0, n + 1 == told.len()));
            }
        }
    }
}
