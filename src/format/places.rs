//! Which places the members of an aggregate take, front to back.
//!
//! Invariant: no place is taken twice, and nothing lies below a member that is no directory (so no
//! member can be written through a symbolic link that came with it).

use super::member::MemberPath;
use std::collections::BTreeMap;
use std::ops::Bound;

/// Keys are paths with the slash as NUL: so all below a place follow it directly in order, and no
/// other name comes between.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: BTreeMap<Vec<u8>, Place>,
    /// Of those, the ones that are no directories.
    leaves: std::collections::BTreeSet<Vec<u8>>,
}

/// What a member is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Others may lie below it.
    Directory,
    /// Others may be hard links to it.
    Target,
    /// Neither.
    Other,
}

impl Places {
    /// Takes a place.
    pub(super) fn take(&mut self, path: &MemberPath, place: Place) -> Result<(), &'static str> {
        if path.as_bytes().is_empty() && place != Place::Directory {
            return Err("the root can only be a directory");
        }
        let key = key(path);
        if self.taken.contains_key(&key) {
            return Err("the path is there already");
        }
        let before = (Bound::Unbounded, Bound::Excluded(&key[..]));
        if let Some(leaf) = self.leaves.range::<[u8], _>(before).next_back()
            && is_below(&key, leaf)
        {
            return Err("it lies below a member that is no directory");
        }
        if place != Place::Directory {
            let behind = (Bound::Excluded(&key[..]), Bound::Unbounded);
            if let Some((next, _)) = self.taken.range::<[u8], _>(behind).next()
                && is_below(next, &key)
            {
                return Err("it is no directory, but members lie below it");
            }
            self.leaves.insert(key.clone());
        }
        self.taken.insert(key, place);
        Ok(())
    }

    /// Whether a hard link may point at `path`.
    pub(super) fn can_be_linked(&self, path: &MemberPath) -> bool {
        self.taken.get(&key(path)) == Some(&Place::Target)
    }
}

fn key(path: &MemberPath) -> Vec<u8> {
    let slash_as_nul = |b: &u8| if *b == b'/' { 0 } else { *b };
    path.as_bytes().iter().map(slash_as_nul).collect()
}

fn is_below(key: &[u8], above: &[u8]) -> bool {
    key.strip_prefix(above)
        .is_some_and(|rest| rest.first() == Some(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(places: &mut Places, path: &str, place: Place) -> bool {
        places.take(&MemberPath::new(path).unwrap(), place).is_ok()
    }

    #[test]
    fn nothing_lies_below_a_leaf_or_on_a_taken_place() {
        let mut places = Places::default();
        assert!(take(&mut places, "", Place::Directory));
        assert!(take(&mut places, "a", Place::Directory));
        assert!(take(&mut places, "a/link", Place::Other));
        assert!(take(&mut places, "a/link-b", Place::Target));
        assert!(take(&mut places, "a/link b/c", Place::Target));
        assert!(!take(&mut places, "a/link", Place::Directory));
        assert!(!take(&mut places, "a/link/x", Place::Target));
        assert!(!take(&mut places, "a/link/x/y", Place::Directory));
        assert!(!take(&mut places, "a/link b", Place::Other));
        assert!(take(&mut places, "a/link b", Place::Directory));
        assert!(places.can_be_linked(&MemberPath::new("a/link-b").unwrap()));
        assert!(!places.can_be_linked(&MemberPath::new("a").unwrap()));
    }
}
