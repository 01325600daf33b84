//! Which file and which version the bytes just seen are.

use super::{Given, ItemError, Prior};
use crate::format::record::{CopyHint, Record};
use crate::hsm::version::{Seen, Trust};
use crate::id::{DataVersion, FileId};
use cairn_mover::Crc32c;

/// What a copy is filed under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) file: FileId,
    pub(super) version: DataVersion,
    /// The sum that the data must have, where the version is an old one.
    pub(super) expected: Option<Crc32c>,
    /// Copies of this version that exist already.
    pub(super) copies: Vec<CopyHint>,
}

/// Decides. `record` is the file's own resident record (the truth; the catalog is a cache), `crc`
/// the sum of the data where it is known before they are written.
///
/// Equal bytes of equal size are the same version; so is a file that nobody changed since, and
/// whose sum is not known yet. Everything else is a new version, with a number above all that were ever
/// `given`: record and row may both be older than what lies on a tier.
pub(super) fn identify(
    prior: Option<&Prior>,
    record: Option<&Record>,
    seen: &Seen,
    crc: Option<Crc32c>,
    given: Given<'_>,
) -> Result<Identity, ItemError> {
    let file = record.map(|r| r.file).or_else(|| prior.map(|p| p.file));
    let Some(file) = file else {
        let (file, version) = (FileId::random(), DataVersion(1));
        return Ok(Identity {
            file,
            version,
            expected: None,
            copies: Vec::new(),
        });
    };
    let prior = prior.filter(|p| p.file == file);
    let last = record
        .map(|r| r.version)
        .max(prior.map(|p| p.version))
        .unwrap_or(DataVersion(0));
    let known = [
        record.map(|r| (r.version, r.size, r.crc, &r.copies)),
        prior.map(|p| (p.version, p.size, p.crc, &p.copies)),
    ];
    let known = known
        .into_iter()
        .flatten()
        .find(|(version, ..)| *version == last);
    let unchanged = prior.is_some_and(|p| {
        p.version == last && matches!(&p.seen, Some((s, Trust::Sound)) if s == seen)
    });
    if let Some((version, size, expected, copies)) = known
        && size == seen.size
    {
        let same = crc.map_or(unchanged, |crc| crc == expected);
        if let (true, Some(found)) = (unchanged && !same, crc) {
            return Err(ItemError::Rotted { expected, found });
        }
        if same {
            // Which of them are good still, the catalog knows better than the record.
            let known = prior.filter(|p| p.version == version);
            let copies = known.map_or(copies, |p| &p.copies).clone();
            return Ok(Identity {
                file,
                version,
                expected: Some(expected),
                copies,
            });
        }
    }
    let last = last.max(given(file).map_err(ItemError::Unnumbered)?);
    let version = DataVersion(last.0.saturating_add(1));
    Ok(Identity {
        file,
        version,
        expected: None,
        copies: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{NodeHandle, Timestamp};

    const NONE: Given<'_> = &|_| Ok(DataVersion(0));

    #[test]
    fn a_number_that_a_copy_or_a_tombstone_has_is_not_given_again() {
        let old = prior(4, 9, None);
        let given: Given<'_> = &|_| Ok(DataVersion(7));
        let new = identify(Some(&old), None, &seen(10, 2), Some(Crc32c(8)), given).unwrap();
        assert_eq!((new.version, new.expected), (DataVersion(8), None));
        let same = identify(Some(&old), None, &seen(10, 2), Some(Crc32c(9)), given).unwrap();
        assert_eq!(same.version, DataVersion(4));
        let unknown: Given<'_> = &|_| Err("no catalog".to_owned());
        let refused = identify(Some(&old), None, &seen(11, 2), None, unknown);
        assert!(matches!(refused, Err(ItemError::Unnumbered(_))));
    }

    fn seen(size: u64, sec: i64) -> Seen {
        let node = NodeHandle {
            kind: 1,
            bytes: vec![1],
        };
        Seen {
            node,
            size,
            ctime: Timestamp { sec, nsec: 0 },
        }
    }

    fn prior(version: u64, crc: u32, at: Option<(Seen, Trust)>) -> Prior {
        Prior {
            file: FileId([7; 16]),
            version: DataVersion(version),
            size: 10,
            crc: Crc32c(crc),
            seen: at,
            copies: Vec::new(),
            released: false,
            remembered: None,
        }
    }

    #[test]
    fn a_new_file_gets_version_one() {
        let new = identify(None, None, &seen(10, 1), None, NONE).unwrap();
        assert_eq!((new.version, new.expected), (DataVersion(1), None));
    }

    #[test]
    fn equal_bytes_are_the_same_version_whatever_the_ctime() {
        let old = prior(4, 9, None);
        let found = identify(Some(&old), None, &seen(10, 2), Some(Crc32c(9)), NONE).unwrap();
        assert_eq!(found.version, DataVersion(4));
        let other = identify(Some(&old), None, &seen(10, 2), Some(Crc32c(8)), NONE).unwrap();
        assert_eq!(other.version, DataVersion(5));
        let longer = identify(Some(&old), None, &seen(11, 2), Some(Crc32c(9)), NONE).unwrap();
        assert_eq!(longer.version, DataVersion(5));
    }

    #[test]
    fn equal_v_with_other_bytes_is_rot_unless_power_was_lost() {
        let sound = prior(4, 9, Some((seen(10, 1), Trust::Sound)));
        let rotted = identify(Some(&sound), None, &seen(10, 1), Some(Crc32c(8)), NONE);
        assert!(matches!(rotted, Err(ItemError::Rotted { .. })));
        let suspect = prior(4, 9, Some((seen(10, 1), Trust::Suspect)));
        let new = identify(Some(&suspect), None, &seen(10, 1), Some(Crc32c(8)), NONE).unwrap();
        assert_eq!(new.version, DataVersion(5));
    }

    #[test]
    fn an_unread_file_is_the_old_version_only_with_equal_trusted_v() {
        let sound = prior(4, 9, Some((seen(10, 1), Trust::Sound)));
        let same = identify(Some(&sound), None, &seen(10, 1), None, NONE).unwrap();
        assert_eq!(
            (same.version, same.expected),
            (DataVersion(4), Some(Crc32c(9)))
        );
        let touched = identify(Some(&sound), None, &seen(10, 2), None, NONE).unwrap();
        assert_eq!((touched.version, touched.expected), (DataVersion(5), None));
    }
}
