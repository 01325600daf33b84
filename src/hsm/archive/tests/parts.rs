//! Files that are longer than the tier takes (P14).

use super::*;
use crate::format::aggregate::Span;
use crate::format::scan::Scanner;
use crate::hsm::verify::verify_copies;
use crate::tier::Tier;
use std::sync::atomic::AtomicUsize;

const MIB: usize = 1 << 20;
/// Room for three blocks and what is around them.
const LONGEST: u64 = 3 * (1 << 20) + (160 << 10);

fn rig() -> Rig {
    let rig = Rig::new();
    rig.tier.set_longest(LONGEST);
    rig
}

/// What plain tar and `cat` make of a tier's objects.
fn joined(rig: &Rig, name: &str) -> Vec<u8> {
    let mut parts = std::collections::BTreeMap::new();
    for object in rig.tier.names() {
        let len = rig.tier.stat(object).unwrap();
        let bytes = rig.tier.read(object, 0, len).unwrap();
        let mut scanner = Scanner::new(&bytes[..]);
        while let Some(found) = scanner.next_member().unwrap() {
            let member = found.member.clone();
            let Kind::Regular { size, extents } = member.kind.clone() else {
                continue;
            };
            let mut whole = vec![0; size as usize];
            let mut stored = Vec::new();
            while stored.len() < member.kind.stored_len() as usize {
                stored.extend(scanner.read_data().unwrap());
            }
            let mut rest = &stored[..];
            for run in extents {
                let (now, later) = rest.split_at(run.len as usize);
                whole[run.offset as usize..][..now.len()].copy_from_slice(now);
                rest = later;
            }
            let path = String::from_utf8(member.path.as_bytes().to_vec()).unwrap();
            assert!(path.starts_with(&format!("{name}.cairn-part-")), "{path}");
            assert_eq!(member.mode, 0o640);
            parts.insert(path, whole);
        }
    }
    parts.into_values().flatten().collect()
}

fn catalog_copy(copied: &Copied, stored_len: u64) -> crate::catalog::Copy {
    crate::catalog::Copy {
        file: copied.file,
        version: copied.version,
        tier: copied.copy.tier,
        aggregate: copied.copy.aggregate,
        header: copied.copy.header,
        stored_len,
        crc: copied.crc,
        state: crate::catalog::CopyState::Good,
        proven_at: Timestamp::default(),
        last_verified: None,
    }
}

fn chmod(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640)).unwrap();
}

/// Archives a file, which must be in parts; how many.
fn goes_in_parts(rig: &Rig, name: &str) -> usize {
    chmod(&rig.path(name));
    let report = rig.archive(&[name]);
    let (_, index) = report.aggregate.as_ref().expect("an aggregate");
    let copied = copied(&report.outcomes[0]);
    let (head, parts) = (copied.copy.aggregate, index.parts().len());
    let mut names: Vec<_> = (1..=parts as u16).map(|n| head.part(n)).collect();
    names.insert(0, head);
    assert_eq!(rig.tier.names(), names);
    let content = std::fs::read(rig.path(name)).unwrap();
    assert!(
        joined(rig, name) == content,
        "cat of its parts is another file"
    );
    let entry = index.by_identity(copied.file, copied.version).unwrap();
    assert!(matches!(entry.span, Span::Parts(_)));
    assert_eq!(entry.member.path.as_bytes(), name.as_bytes());
    assert_eq!(
        (copied.crc, copied.blocks_crc),
        (Crc32c::of(&content), entry.blocks_crc())
    );
    let copy = catalog_copy(copied, entry.stored_len());
    let told = verify_copies(&rig.tier, head, &[copy], &|| false).unwrap();
    assert_eq!(told, [None], "every byte of every part reads well");
    let record = rig.record(name).unwrap();
    assert_eq!(
        (&record.copies[..], record.state),
        (&[copied.copy][..], State::Resident)
    );
    parts + 1
}

#[test]
fn p14_a_file_longer_than_the_tier_takes_goes_there_in_parts() {
    for (len, parts) in [
        (10 * MIB, 4),
        (9 * MIB, 3),
        (9 * MIB + 1, 4),
        (12 * MIB - 7, 4),
    ] {
        let rig = rig();
        rig.write("d/large", &noise(len, len as u64));
        let found = goes_in_parts(&rig, "d/large");
        assert!(found == parts || found + 1 == parts, "{len}: {found}");
    }
}

#[test]
fn p14_holes_stay_holes_in_parts_and_names_of_the_file_are_kept() {
    let rig = rig();
    let sparse = std::fs::File::create(rig.path("sparse")).unwrap();
    for (at, len) in [(1, 2), (6, 1), (9, 3), (20, 4)] {
        sparse
            .write_at(&noise(len * MIB, at), at * MIB as u64)
            .unwrap();
    }
    sparse.set_len(40 * MIB as u64 + 5).unwrap();
    drop(sparse);
    std::fs::hard_link(rig.path("sparse"), rig.path("other")).unwrap();
    assert!(goes_in_parts(&rig, "sparse") >= 4);
    let rig = self::rig();
    rig.write("large", &noise(10 * MIB, 3));
    std::fs::hard_link(rig.path("large"), rig.path("other")).unwrap();
    let mut item = rig.item("large");
    item.names.push(b"other".to_vec());
    let report = rig.archive_items(&[item]);
    let (_, index) = report.aggregate.unwrap();
    assert_eq!(paths(&index), ["", "large", "other"]);
    assert_eq!(copied(&report.outcomes[0]).names.len(), 2);
    // A file of holes alone stores nothing, and stands in one piece.
    let holes = std::fs::File::create(rig.path("holes")).unwrap();
    holes.set_len(100 * MIB as u64).unwrap();
    drop(holes);
    let before = rig.tier.names().len();
    assert!(matches!(
        rig.archive(&["holes"]).outcomes[0],
        Outcome::Archived(_)
    ));
    assert_eq!(rig.tier.names().len(), before + 1);
}

#[test]
fn p14_nothing_is_left_of_a_file_that_changes_while_its_parts_are_written() {
    for finished in [0, 1, 2] {
        let rig = rig();
        rig.write("large", &noise(10 * MIB, 1));
        let (path, count) = (rig.path("large"), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&count);
        rig.tier.on_finish(move || {
            seen.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let changed = AtomicBool::new(false);
        rig.tier.on_write(move |len| {
            let now = count.load(Ordering::SeqCst) == finished && len > MIB;
            if now && !changed.swap(true, Ordering::SeqCst) {
                overwrite(&path);
            }
        });
        let report = rig.archive(&["large"]);
        let outcome = &report.outcomes[0];
        assert!(
            matches!(outcome, Outcome::Skipped(Skip::Changed)),
            "{finished}: {outcome:?}"
        );
        assert!(report.aggregate.is_none());
        assert_eq!(rig.tier.names(), [], "{finished}");
        assert!(rig.record("large").is_none());
    }
}

#[test]
fn p14_nothing_is_left_when_the_tier_fails_between_two_parts() {
    for fails_at in 0..3 {
        let rig = rig();
        rig.write("large", &noise(10 * MIB, 1));
        let count = AtomicUsize::new(0);
        rig.tier
            .on_finish(move || match count.fetch_add(1, Ordering::SeqCst) {
                n if n == fails_at => Err(std::io::ErrorKind::BrokenPipe.into()),
                _ => Ok(()),
            });
        let items = [rig.item("large")];
        let failed = archive(batch(&rig, &items), &|| false, &mut |_| Ok(()));
        assert!(matches!(failed, Err(ArchiveError::Tier(_))), "{failed:?}");
        assert_eq!(rig.tier.names(), [], "{fails_at}");
        assert!(rig.record("large").is_none());
    }
}

/// The last one may be there, for all that is known: then its parts must be, too.
#[test]
fn p14_parts_stay_where_their_aggregate_may_be() {
    let rig = rig();
    rig.write("large", &noise(10 * MIB, 1));
    let count = AtomicUsize::new(0);
    rig.tier
        .on_finish(move || match count.fetch_add(1, Ordering::SeqCst) {
            3 => Err(std::io::ErrorKind::BrokenPipe.into()),
            _ => Ok(()),
        });
    let items = [rig.item("large")];
    let failed = archive(batch(&rig, &items), &|| false, &mut |_| Ok(()));
    assert!(matches!(failed, Err(ArchiveError::Tier(_))), "{failed:?}");
    assert_eq!(rig.tier.names().len(), 3);
    let rig = self::rig();
    rig.write("large", &noise(10 * MIB, 1));
    let items = [rig.item("large")];
    let failed = archive(batch(&rig, &items), &|| false, &mut |_| {
        Err("no disk".into())
    });
    assert!(
        matches!(failed, Err(ArchiveError::Commit { .. })),
        "{failed:?}"
    );
    assert_eq!(rig.tier.names().len(), 4, "all of it is for P8 to find");
}

#[test]
fn p14_what_finds_no_room_as_a_whole_is_not_begun() {
    let rig = rig();
    rig.write("large", &noise(10 * MIB, 1));
    rig.tier.set_room(10 * MIB as u64);
    rig.tier.on_finish(|| panic!("nothing is made durable"));
    let items = [rig.item("large")];
    let full = archive(batch(&rig, &items), &|| false, &mut |_| Ok(()));
    assert!(
        matches!(
            full,
            Err(ArchiveError::NoRoom(crate::tier::TierError::Full { .. }))
        ),
        "{full:?}"
    );
    rig.tier.set_longest(MIB as u64);
    let items = [rig.item("large")];
    let short = archive(batch(&rig, &items), &|| false, &mut |_| Ok(()));
    assert!(matches!(short, Err(ArchiveError::Uncut(_))), "{short:?}");
}

#[test]
fn p14_a_bad_or_missing_part_makes_the_copy_bad() {
    let rig = rig();
    rig.write("large", &noise(10 * MIB, 1));
    let report = rig.archive(&["large"]);
    let (_, index) = report.aggregate.unwrap();
    let made = copied(&report.outcomes[0]);
    let head = made.copy.aggregate;
    let copy = catalog_copy(made, 10 * MIB as u64);
    let verdict = || {
        let told = verify_copies(&rig.tier, head, &[copy], &|| false).unwrap();
        told[0].as_ref().map(ToString::to_string)
    };
    let part = index.parts()[1];
    let flip = |at: usize| rig.tier.damage(head.part(2), |bytes| bytes[at] ^= 1);
    flip(part.data as usize + 2 * MIB);
    let said = verdict().expect("bad");
    assert!(
        said.contains("1 of its blocks") && said.contains("first is 5"),
        "{said}"
    );
    flip(part.data as usize + 2 * MIB);
    flip(part.header as usize + 600);
    assert!(verdict().expect("bad").contains("tar headers"));
    flip(part.header as usize + 600);
    assert_eq!(verdict(), None);
    rig.tier.delete(head.part(2)).unwrap();
    let said = verdict().expect("bad");
    assert!(said.contains(&head.part(2).to_string()), "{said}");
}
