//! Comparisons that end behind other news of the same file.

use super::*;

/// Looked at amid an archive's last steps: what was compared with is replaced before that is noted.
#[test]
fn p1_a_write_behind_the_point_that_was_proven_meanwhile_is_noted() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    let with = rig.row(node).proven;
    let ctime = with.unwrap().ctime;
    let later = |by: i64| Timestamp {
        sec: ctime.sec + by,
        ..ctime
    };
    let point = Rebound {
        node,
        version: (file_id(node), DataVersion(1)),
        proven: Proven {
            ctime: later(1),
            ..with.unwrap()
        },
    };
    rig.rebound(vec![point], Durability::Full).unwrap();
    let differs = |seen| {
        let why = (TombstoneWhy::Overwrite, at(80));
        rig.differs_of(node, (with, seen), 0, why, Durability::Full)
            .unwrap();
        rig.row(node).state
    };
    // The record that the archive itself set.
    assert_eq!(differs(later(1)), FileState::Archived);
    assert_eq!(differs(later(2)), FileState::Dirty);
}
