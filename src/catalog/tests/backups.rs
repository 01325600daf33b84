//! A copy of a catalog in use.

use super::*;
use crate::catalog::backup;

impl Rig {
    fn many(&self, numbers: std::ops::Range<u64>) {
        let seen = numbers.map(|number| Sighting {
            handle: handle(number),
            attributes: attributes(FileKind::Regular, 100),
            place: Some((NodeId::ROOT, format!("file{number}").into_bytes())),
        });
        self.note(seen.collect(), Durability::Relaxed).unwrap();
    }
}

fn opened(path: &std::path::Path) -> Catalog {
    Catalog::open(path, identity()).unwrap()
}

#[test]
fn a_copy_is_of_one_moment_whatever_is_written_meanwhile() {
    let rig = Rig::new();
    rig.many(10..3000);
    let to = rig.dir.path().join("copy");
    let mut tellings = Vec::new();
    let done = backup(&rig.path(), &to, &mut |copied, all| {
        // The instance goes on: what it writes is in the next copy.
        rig.file(100_000 + tellings.len() as u64, 100);
        tellings.push((copied, all));
        true
    });
    assert!(done.unwrap());
    let (copied, all) = *tellings.last().expect("a telling");
    assert!(copied == all && all > 100_000, "{tellings:?}");
    let copy = opened(&to);
    assert!(copy.node_by_handle(&handle(2999)).unwrap().is_some());
    assert!(copy.node_by_handle(&handle(100_000)).unwrap().is_none());
    assert!(copy.check().unwrap().is_empty());
    let mode = std::os::unix::fs::PermissionsExt::mode(&to.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_copy_that_is_put_in_place_counts_neither_as_left_cleanly_nor_as_scanned() {
    let rig = Rig::new();
    rig.begin_scan(at(2)).unwrap();
    rig.finish_scan(at(3), true).unwrap();
    rig.clean_stop(at(4)).unwrap();
    let to = rig.dir.path().join("copy");
    assert!(backup(&rig.path(), &to, &mut |_, _| true).unwrap());
    assert!(rig.begin_incarnation(start(2)).unwrap().after_clean_stop);
    let copy = opened(&to);
    assert_eq!(copy.scan_state().unwrap().finished_epoch, 0);
    assert!(!copy.begin_incarnation(start(2)).unwrap().after_clean_stop);
}

#[test]
fn a_copy_that_was_broken_off_leaves_the_one_before() {
    let rig = Rig::new();
    let to = rig.dir.path().join("copy");
    assert!(backup(&rig.path(), &to, &mut |_, _| true).unwrap());
    let before = std::fs::read(&to).unwrap();
    rig.many(10..3000);
    assert!(!backup(&rig.path(), &to, &mut |_, _| false).unwrap());
    assert_eq!(std::fs::read(&to).unwrap(), before);
    let missing = rig.dir.path().join("none");
    assert!(matches!(
        backup(&missing, &to, &mut |_, _| true),
        Err(CatalogError::NotACatalog { .. })
    ));
    assert_eq!(std::fs::read(&to).unwrap(), before);
    let left = std::fs::read_dir(rig.dir.path()).unwrap().flatten();
    let partial = left.filter(|e| e.file_name().to_string_lossy().contains("partial"));
    assert_eq!(partial.count(), 0);
}
