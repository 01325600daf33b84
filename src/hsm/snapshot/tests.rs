//! Snapshots of a real directory; what is restored from them: `hsm/restore/tests.rs`.

use super::*;
use crate::catalog::Met;
use crate::hsm::rig::{MemoryTier, Rig};
use crate::hsm::version::coarse_now;
use crate::tier::Tier as _;
use std::cell::Cell;
use std::fs;

/// Nothing is known beside the records.
pub(in crate::hsm) struct Nothing;

impl Knows for Nothing {
    fn meet(&self, nodes: &[&NodeHandle]) -> Result<Vec<Option<Met>>, SnapshotError> {
        Ok(nodes.iter().map(|_| None).collect())
    }
}

/// Takes snapshots of a rig's backing on its tier, each on the one before.
pub(in crate::hsm) struct Series<'a> {
    pub(in crate::hsm) rig: &'a Rig,
    pub(in crate::hsm) last: Option<(AggregateId, Timestamp, u32)>,
}

impl<'a> Series<'a> {
    pub(in crate::hsm) fn of(rig: &'a Rig) -> Self {
        Self { rig, last: None }
    }

    /// `during`: asked at every step of the walk.
    pub(in crate::hsm) fn take_while(
        &mut self,
        during: &dyn Fn() -> bool,
    ) -> Result<Taken, SnapshotError> {
        let name = self.rig.next_aggregate();
        let base = self.last.map(|(snapshot, begun, depth)| {
            let base = Base {
                snapshot,
                depth: depth + 1,
            };
            // Without the margin, in which everything is that a test does.
            (base, crate::hsm::engine::shifted(begun, MARGIN, true))
        });
        let taken = take(&Order {
            backing: &self.rig.backing,
            tiers: &[&self.rig.tier],
            snapshot: name.snapshot(),
            base,
            horizon: name,
            knows: &Nothing,
            hint: &|_| None,
            stop: during,
            gentle: false,
            now: &coarse_now,
        })?;
        let depth = self.last.map_or(0, |(_, _, depth)| depth + 1);
        self.last = Some((name.snapshot(), taken.begun, depth));
        Ok(taken)
    }

    pub(in crate::hsm) fn take(&mut self) -> Taken {
        self.take_while(&|| false).unwrap()
    }
}

/// What happens from now on has a later ctime than what happened before.
pub(in crate::hsm) fn next_tick() {
    // By the fine clock, of which a ctime may be: a tick that is late brings the coarse one to its last
    // step alone, which may lie before such a ctime.
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let before = Timestamp {
        sec: now.tv_sec,
        nsec: u32::try_from(now.tv_nsec).unwrap(),
    };
    while coarse_now() <= before {
        std::thread::yield_now();
    }
}

#[test]
fn an_incremental_snapshot_lists_what_changed_and_nothing_else() {
    let rig = Rig::new();
    for name in ["a/one", "b/two", "b/deep/three", "c/four"] {
        rig.write(name, b"data");
    }
    let mut series = Series::of(&rig);
    next_tick();
    let full = series.take();
    assert_eq!((full.directories, full.entries), (5, 8));
    assert!(matches!(
        series.take_while(&|| false),
        Err(SnapshotError::Unchanged)
    ));
    next_tick();
    // Only the file's own ctime moves.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(rig.path("b/deep/three"), mode).unwrap();
    next_tick();
    assert_eq!(series.take().directories, 1);
    next_tick();
    fs::rename(rig.path("a/one"), rig.path("c/moved")).unwrap();
    next_tick();
    assert_eq!(series.take().directories, 2);
}

#[test]
fn what_moves_from_a_place_not_yet_seen_to_one_seen_before_is_listed() {
    let rig = Rig::new();
    rig.write("a/stays", b"1");
    rig.write("z/moves", b"2");
    rig.write("z/dir/inner", b"3");
    let mut series = Series::of(&rig);
    let asked = Cell::new(0);
    let moved = || {
        asked.set(asked.get() + 1);
        // The walk has been in the root and in `a`, and not yet in `z`.
        if asked.get() == 5 {
            fs::rename(rig.path("z/moves"), rig.path("a/moved")).unwrap();
            fs::rename(rig.path("z/dir"), rig.path("a/dir")).unwrap();
        }
        false
    };
    series.take_while(&moved).unwrap();
    assert!(asked.get() > 5);
    let names = crate::hsm::restore::tests::listed(&rig.tier, series.last.unwrap().0);
    for name in ["moved", "dir", "inner", "stays"] {
        assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
    }
}

#[test]
fn a_snapshot_that_was_stopped_is_on_no_tier() {
    let rig = Rig::new();
    rig.write("a", b"1");
    let mut series = Series::of(&rig);
    assert!(matches!(
        series.take_while(&|| true),
        Err(SnapshotError::Stopped)
    ));
    assert_eq!(rig.tier.list(None, 9).unwrap(), []);
}

#[test]
fn a_tier_that_fails_does_not_keep_the_others_from_theirs() {
    let rig = Rig::new();
    rig.write("a", b"1");
    let name = rig.next_aggregate();
    let other = MemoryTier::default();
    other.on_finish(|| Err(std::io::Error::other("the disk broke")));
    let taken = take(&Order {
        backing: &rig.backing,
        tiers: &[&other, &rig.tier],
        snapshot: name.snapshot(),
        base: None,
        horizon: name,
        knows: &Nothing,
        hint: &|_| None,
        stop: &|| false,
        gentle: false,
        now: &coarse_now,
    })
    .unwrap();
    assert!(taken.receipts[0].is_err());
    assert!(taken.receipts[1].is_ok());
    assert_eq!(other.list(None, 9).unwrap(), []);
}

#[test]
fn where_another_filesystem_begins_there_is_a_gap() {
    let Some(image) = crate::hsm::rig::Image::ext4("where_another_filesystem_begins") else {
        return;
    };
    // The image itself, and what is mounted beside it.
    let rig = Rig::on(image.path().parent().unwrap());
    // Else the directory is listed twice.
    next_tick();
    let taken = Series::of(&rig).take();
    assert_eq!((taken.entries, taken.gaps), (1, 1));
}
