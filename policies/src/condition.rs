//! Conditions: what they are, whether a file satisfies one, and when that can change.
//!
//! Time enters only as an argument. A condition's truth for an unchanged file is constant between
//! the moments that [`Condition::turning_points`] names: the explanation rests on that.

use crate::facts::{FileFacts, StateSet};
use crate::pattern::{Pattern, name_of};
use crate::quantity::{ByteCount, Moment, Span};
use std::cmp::Ordering;
use std::sync::Arc;

/// Which of a file's times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeOf {
    /// atime.
    Access,
    /// mtime: users can set it to anything.
    Modification,
    /// ctime: set by the filesystem.
    Change,
}

impl TimeOf {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::Access, Self::Modification, Self::Change];

    /// The language's word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Access => "accessed",
            Self::Modification => "modified",
            Self::Change => "changed",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|time| time.word() == word)
    }

    pub(crate) const fn of(self, file: &FileFacts) -> Moment {
        match self {
            Self::Access => file.atime,
            Self::Modification => file.mtime,
            Self::Change => file.ctime,
        }
    }
}

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `=`
    Equal,
    /// `>=`
    AtLeast,
    /// `>`
    More,
}

impl Compare {
    /// The language's sign.
    pub(crate) const fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Equal => "=",
            Self::AtLeast => ">=",
            Self::More => ">",
        }
    }

    pub(crate) fn holds<T: Ord>(self, left: T, right: T) -> bool {
        let order = left.cmp(&right);
        match self {
            Self::Less => order == Ordering::Less,
            Self::AtMost => order != Ordering::Greater,
            Self::Equal => order == Ordering::Equal,
            Self::AtLeast => order != Ordering::Less,
            Self::More => order == Ordering::Greater,
        }
    }
}

/// What a file's owner may have forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// Flag `noarchive`.
    NoArchive,
    /// Flag `norelease`.
    NoRelease,
}

/// A condition over one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All of them; every file if there are none.
    All(Vec<Condition>),
    /// At least one of them.
    Any(Vec<Condition>),
    /// Not this.
    Not(Box<Condition>),
    /// The path matches.
    Path(Pattern),
    /// The path's last component matches.
    Name(Pattern),
    /// Size.
    Size(Compare, ByteCount),
    /// Owner's number.
    Owner(u32),
    /// Group's number.
    Group(u32),
    /// Hard links.
    Links(Compare, u64),
    /// Complete copies.
    Copies(Compare, u64),
    /// One of these states; never empty.
    State(StateSet),
    /// The flag is set.
    Flagged(Flag),
    /// That time lies at least this far back.
    NotFor(TimeOf, Span),
    /// That time lies less than this far back, or in the future.
    Within(TimeOf, Span),
    /// Change and modification times lie at least this far back. A modification time in the
    /// future was set by hand and is passed over: the change time tells when that was.
    Unchanged(Span),
    /// A class, by name, with its body.
    Class(String, Arc<Condition>),
}

impl Condition {
    /// What every file satisfies.
    pub const ANY_FILE: Self = Self::All(Vec::new());

    /// Does the file satisfy it at `now`?
    #[must_use]
    pub fn holds(&self, file: &FileFacts, now: Moment) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(file, now)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(file, now)),
            Self::Not(inner) => !inner.holds(file, now),
            Self::Path(pattern) => pattern.matches(&file.path),
            Self::Name(pattern) => pattern.matches(name_of(&file.path)),
            Self::Size(compare, size) => compare.holds(file.size, *size),
            Self::Owner(uid) => file.uid == *uid,
            Self::Group(gid) => file.gid == *gid,
            Self::Links(compare, links) => compare.holds(file.nlink, *links),
            Self::Copies(compare, copies) => compare.holds(u64::from(file.copies), *copies),
            Self::State(states) => states.contains(file.state),
            Self::Flagged(Flag::NoArchive) => file.flags.noarchive,
            Self::Flagged(Flag::NoRelease) => file.flags.norelease,
            Self::NotFor(time, span) => time.of(file).after(*span) <= now,
            Self::Within(time, span) => time.of(file).after(*span) > now,
            Self::Unchanged(span) => {
                file.ctime.after(*span) <= now
                    && (file.mtime > now || file.mtime.after(*span) <= now)
            }
            Self::Class(_, body) => body.holds(file, now),
        }
    }

    /// Adds the moments at which the truth of this condition can change while the file stays as
    /// it is: from each of them on, it may differ from just before.
    pub(crate) fn turning_points(&self, file: &FileFacts, points: &mut Vec<Moment>) {
        match self {
            Self::All(parts) | Self::Any(parts) => {
                for part in parts {
                    part.turning_points(file, points);
                }
            }
            Self::Not(inner) => inner.turning_points(file, points),
            Self::Class(_, body) => body.turning_points(file, points),
            Self::NotFor(time, span) | Self::Within(time, span) => {
                points.push(time.of(file).after(*span));
            }
            Self::Unchanged(span) => {
                points.push(file.ctime.after(*span));
                points.push(file.mtime.after(*span));
                points.push(file.mtime);
            }
            Self::Path(_)
            | Self::Name(_)
            | Self::Size(..)
            | Self::Owner(_)
            | Self::Group(_)
            | Self::Links(..)
            | Self::Copies(..)
            | Self::State(_)
            | Self::Flagged(_) => {}
        }
    }

    /// The conditions directly inside.
    pub(crate) fn parts(&self) -> &[Self] {
        match self {
            Self::All(parts) | Self::Any(parts) => parts,
            Self::Not(inner) => std::slice::from_ref(inner),
            Self::Class(_, body) => std::slice::from_ref(body),
            _ => &[],
        }
    }

    /// Leaves and branches with all classes written out, and the deepest nesting: what judging a
    /// file costs. Saturating.
    pub(crate) fn weight(&self) -> (usize, usize) {
        let (mut nodes, mut depth) = (1_usize, 0);
        for part in self.parts() {
            let (n, d) = part.weight();
            nodes = nodes.saturating_add(n);
            depth = depth.max(d);
        }
        (nodes, depth.saturating_add(1))
    }
}

#[cfg(test)]
mod tests;
