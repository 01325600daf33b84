//! Which of several deleted versions is meant, and what a file is called whose name is taken. Pure.

use crate::catalog::Tombstone;
use crate::id::{DataVersion, Timestamp};
use std::time::{Duration, UNIX_EPOCH};

/// Which version of what had a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// What was deleted or overwritten last.
    Latest,
    /// What was there at that time: deleted or overwritten first after it.
    At(Timestamp),
    /// The one of this number; of several files' the latest.
    Version(DataVersion),
}

impl Which {
    /// Is `new`, of a higher number, preferred to `have`? Both fit.
    fn prefers(self, new: &Tombstone, have: &Tombstone) -> bool {
        match self {
            Self::Latest | Self::Version(_) => (new.at, new.id) > (have.at, have.id),
            Self::At(_) => (new.at, new.id) < (have.at, have.id),
        }
    }

    fn fits(self, stone: &Tombstone) -> bool {
        match self {
            Self::Latest => true,
            Self::At(time) => stone.at > time,
            Self::Version(version) => stone.version == version,
        }
    }
}

/// The one among tombstones of one path.
pub(super) fn of(stones: Vec<Tombstone>, which: Which) -> Option<Tombstone> {
    let mut latest = Latest::new(which);
    for stone in stones {
        latest.push(stone);
    }
    latest.end()
}

/// Chooses path by path, where tombstones come sorted by path.
pub(super) struct Latest {
    which: Which,
    path: Option<Vec<u8>>,
    chosen: Option<Tombstone>,
}

impl Latest {
    pub(super) fn new(which: Which) -> Self {
        Self {
            which,
            path: None,
            chosen: None,
        }
    }

    /// One more; gives what was chosen of the path before, if this is of another.
    pub(super) fn push(&mut self, stone: Tombstone) -> Option<Tombstone> {
        let mut done = None;
        if self.path.as_ref() != Some(&stone.path) {
            done = self.chosen.take();
            self.path = Some(stone.path.clone());
        }
        let better = |have: &Tombstone| self.which.prefers(&stone, have);
        if self.which.fits(&stone) && self.chosen.as_ref().is_none_or(better) {
            self.chosen = Some(stone);
        }
        done
    }

    /// What was chosen of the last path.
    pub(super) fn end(&mut self) -> Option<Tombstone> {
        self.chosen.take()
    }
}

/// A name beside one that is taken: with the time at which the version ended.
pub(super) fn name_beside(name: &[u8], at: Timestamp) -> Vec<u8> {
    let since = Duration::from_secs(u64::try_from(at.sec).unwrap_or(0));
    let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
    let time: String = time.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    [name, b".until-", time.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::TombstoneWhy;
    use crate::id::FileId;

    fn stone(id: u64, path: &str, version: u64, sec: i64) -> Tombstone {
        Tombstone {
            id,
            file: FileId([1; 16]),
            version: DataVersion(version),
            at: Timestamp { sec, nsec: 0 },
            why: TombstoneWhy::Unlink,
            epoch: 1,
            path: path.into(),
            uid: 0,
            size: None,
            heir: None,
            handle: None,
            generation: 0,
        }
    }

    #[test]
    fn one_of_each_path_is_chosen_as_asked() {
        let all = || {
            vec![
                stone(1, "a", 1, 10),
                stone(4, "a", 2, 20),
                stone(5, "a", 3, 30),
                stone(2, "b", 1, 40),
                stone(3, "c", 9, 5),
            ]
        };
        let chosen = |which| {
            let mut latest = Latest::new(which);
            let mut ids: Vec<u64> = all()
                .into_iter()
                .filter_map(|s| latest.push(s))
                .map(|s| s.id)
                .collect();
            ids.extend(latest.end().map(|s| s.id));
            ids
        };
        let at = |sec| Which::At(Timestamp { sec, nsec: 0 });
        assert_eq!(chosen(Which::Latest), [5, 2, 3]);
        assert_eq!(chosen(at(10)), [4, 2], "ended after it, and first");
        assert_eq!(chosen(at(0)), [1, 2, 3]);
        assert_eq!(chosen(Which::Version(DataVersion(1))), [1, 2]);
        assert_eq!(chosen(at(99)), [0_u64; 0]);
    }

    #[test]
    fn a_name_beside_says_until_when() {
        let at = Timestamp {
            sec: 1_700_000_000,
            nsec: 5,
        };
        assert_eq!(name_beside(b"x\xff", at), b"x\xff.until-20231114T221320Z");
    }
}
