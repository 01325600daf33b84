//! Files in parts live and die as one (P14, P8).

use super::*;
use crate::catalog::CopyState;
use crate::format::aggregate::{AggregateWriter, PartsWriter};
use crate::format::member::{DataIdentity, Kind, Member, MemberPath};
use crate::hsm::reclaim::{Left, evacuate};
use crate::id::{DataVersion, FileId, Timestamp};
use cairn_mover::Crc32c;
use std::io::Write;

const MIB: usize = 1 << 20;
const LARGE: usize = 9 * MIB + 4096;
/// Three blocks and what is around them.
const LONGEST: u64 = 3 * (1 << 20) + (160 << 10);
/// Objects of the large file.
const PARTS: usize = 3;

fn bound(bench: &Bench) {
    *bench.longest[0].lock() = Some(LONGEST);
}

fn names(bench: &Bench) -> Vec<AggregateId> {
    bench.engine().tiers()[0].tier.list(None, 99).unwrap()
}

fn head(bench: &Bench) -> AggregateId {
    head_of(bench, "d/large")
}

fn head_of(bench: &Bench, path: &str) -> AggregateId {
    let version = bench.node(path).version.unwrap();
    let catalog = bench.engine().catalog();
    catalog.copies(version.file, version.version).unwrap()[0].aggregate
}

/// An instance with a file in parts.
fn in_parts() -> (Bench, Clock) {
    let (bench, clock) = bench();
    bound(&bench);
    bench.write("d/large", &noise(LARGE, 1));
    bench.archive(&["d/large"]);
    assert_eq!(names(&bench).len(), PARTS);
    (bench, clock)
}

fn release(bench: &Bench) {
    bench.done(bench.submit(Verb::Release, &["d/large"]));
    assert_eq!(state_of(bench, "d/large"), FileState::Released);
}

fn reads_large(bench: &Bench) {
    let read = through_mount_up_to(bench, "d/large", LARGE);
    assert!(read == noise(LARGE, 1), "it reads wrong");
}

#[test]
fn p14_a_file_in_parts_is_released_read_and_its_bytes_are_counted_whole() {
    let (bench, clock) = in_parts();
    let catalog = bench.engine().catalog();
    let slot = &bench.engine().tiers()[0];
    let row = catalog.aggregate(slot.id, head(&bench)).unwrap().unwrap();
    let lens = names(&bench)
        .into_iter()
        .map(|id| slot.tier.stat(id).unwrap());
    assert_eq!(row.len, lens.sum::<u64>());
    release(&bench);
    // Nothing of it is anybody's but its own, however long it lies there.
    collect_all(&bench, &clock);
    assert_eq!(names(&bench).len(), PARTS);
    reads_large(&bench);
}

#[test]
fn p3_nothing_is_released_on_a_copy_that_lacks_a_part() {
    let (bench, _clock) = in_parts();
    let tier = bench.engine().tiers()[0].tier.clone();
    tier.delete(head(&bench).part(2)).unwrap();
    bench.ended(bench.submit(Verb::Release, &["d/large"]));
    assert_eq!(state_of(&bench, "d/large"), FileState::Archived);
    assert!(std::fs::read(bench.root.join("d/large")).unwrap() == noise(LARGE, 1));
    bench.ended(bench.submit(Verb::Verify, &["d/large"]));
    let version = bench.node("d/large").version.unwrap();
    let copies = bench
        .engine()
        .catalog()
        .copies(version.file, version.version);
    assert_eq!(copies.unwrap()[0].state, CopyState::Bad);
}

/// The row as it is where the index was not read: with the length of the object alone, or with none.
fn forget_parts(bench: Bench, clock: &Clock, len: u64) -> Bench {
    let id = head(&bench);
    let forget = |state: &std::path::Path| {
        let catalog = rusqlite::Connection::open(state.join("catalog.sqlite")).unwrap();
        let set =
            "UPDATE aggregates SET len = ?, proof = 4, in_parts = NULL WHERE epoch = ? AND seq = ?";
        let changed = catalog.execute(set, rusqlite::params![len as i64, id.epoch, id.seq as i64]);
        assert_eq!(changed.unwrap(), 1);
    };
    let bench = bench.again(PLACES, settings(clock), NOTHING, forget);
    settled(&bench);
    bench
}

#[test]
fn p3_a_copy_whose_index_was_never_read_is_no_proof_without_a_part() {
    for with_own in [true, false] {
        let (bench, clock) = in_parts();
        let (id, tier) = (head(&bench), bench.engine().tiers()[0].tier.clone());
        let own = if with_own { tier.stat(id).unwrap() } else { 0 };
        let part = id.part(2);
        let bytes = tier.read(part, 0, tier.stat(part).unwrap()).unwrap();
        let bench = forget_parts(bench, &clock, own);
        let (tier, of) = {
            let slot = &bench.engine().tiers()[0];
            (slot.tier.clone(), slot.id)
        };
        tier.delete(part).unwrap();
        bench.ended(bench.submit(Verb::Release, &["d/large"]));
        assert_eq!(state_of(&bench, "d/large"), FileState::Archived);
        assert!(std::fs::read(bench.root.join("d/large")).unwrap() == noise(LARGE, 1));
        let mut put = tier.put(part, 0).unwrap();
        put.write_all(&bytes).unwrap();
        put.finish(Crc32c::of(&bytes)).unwrap();
        release(&bench);
        let row = bench.engine().catalog().aggregate(of, id).unwrap().unwrap();
        let lens = names(&bench).into_iter().map(|id| tier.stat(id).unwrap());
        assert_eq!((row.len, row.in_parts), (lens.sum(), Some(true)));
    }
}

/// What takes a tier is read before: the users of a file wait while it is proven.
#[test]
fn p3_no_index_is_read_while_a_copy_is_proven() {
    let (bench, _clock) = in_parts();
    bench.write("d/small", &noise(BIG, 2));
    bench.archive(&["d/small"]);
    let shared = &bench.engine().shared;
    let proven = |path: &str, looked: bool| {
        let of = bench.node(path).version.unwrap();
        let copies = shared.catalog.copies(of.file, of.version).unwrap();
        let copies = || copies.iter();
        let looked = copies().take(if looked { 9 } else { 0 });
        let ahead = shared.look_ahead(looked).unwrap();
        (
            shared.proven_of(copies(), &ahead).unwrap().len(),
            ahead.missed(),
        )
    };
    assert_eq!(proven("d/large", true), (1, false));
    assert_eq!(proven("d/large", false), (0, true));
    // Of an ordinary one nothing must be known.
    assert_eq!(proven("d/small", false), (1, false));
}

#[test]
fn p8_a_deleted_file_in_parts_goes_whole() {
    let (bench, clock) = in_parts();
    release(&bench);
    remove(&bench, &["d/large"]);
    collect_all(&bench, &clock);
    assert_eq!(names(&bench), []);
}

/// Its object went, and the process with it, before its parts did.
#[test]
fn p8_what_a_deletion_left_of_parts_goes_too() {
    for gone in 1..PARTS as u16 {
        let (bench, clock) = in_parts();
        release(&bench);
        let head = head(&bench);
        remove(&bench, &["d/large"]);
        scan(&bench);
        clock.advance(WINDOW + DAY);
        scan(&bench);
        assert_eq!(acts(&collect(&bench)), [Act::Condemn]);
        clock.advance(DELAY * 2);
        let doomed = run(&bench, false, &|step| step == Some(Step::Doomed));
        assert!(matches!(doomed, Err(ReclaimError::Stopped)));
        let tier = bench.engine().tiers()[0].tier.clone();
        tier.delete(head).unwrap();
        for number in 1..gone {
            tier.delete(head.part(number)).unwrap();
        }
        let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
        settled(&bench);
        collect(&bench);
        assert_eq!(
            names(&bench).len(),
            PARTS - usize::from(gone),
            "not at sight"
        );
        collect_all(&bench, &clock);
        assert_eq!(names(&bench), [], "{gone}");
    }
}

/// Puts an aggregate of an earlier epoch on the tier, or its parts alone, as a kill leaves them.
fn left_by_a_kill(bench: &Bench, id: AggregateId, parts: u16, whole: bool) {
    let of = (FileId([8; 16]), DataVersion(1));
    left(bench, (id, of), parts, whole);
}

fn left(
    bench: &Bench,
    (id, (file, version)): (AggregateId, (FileId, DataVersion)),
    parts: u16,
    whole: bool,
) {
    let at = Timestamp { sec: 9, nsec: 0 };
    let member = Member {
        path: MemberPath::new("lost").unwrap(),
        kind: Kind::dense(LARGE as u64),
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: at,
        atime: at,
        ctime: at,
        xattrs: Vec::new(),
        identity: Some(DataIdentity {
            file,
            version,
            crc: None,
        }),
    };
    let slices = crate::format::parts::cut(&member.kind, LONGEST, 100_000).unwrap();
    let (fs, tier) = (
        bench.engine().backing().fs(),
        &bench.engine().tiers()[0].tier,
    );
    let put = |id, bytes: &[u8]| {
        let mut put = tier.put(id, 0).unwrap();
        put.write_all(bytes).unwrap();
        put.finish(Crc32c::of(bytes)).unwrap();
    };
    let bytes = noise(LARGE, 4);
    let mut data = &bytes[..];
    let mut file = PartsWriter::new(&member, &slices);
    while let Some(slice) = file.next() {
        let mut writer = AggregateWriter::new(Vec::new(), id.part(slice.number), fs, at);
        writer.add_part(&mut file, &mut data).unwrap();
        let (object, _, trailer) = writer.finish().unwrap();
        file.sealed(trailer.total_len);
        if slice.number <= parts {
            put(id.part(slice.number), &object);
        }
    }
    let mut writer = AggregateWriter::new(Vec::new(), id, fs, at);
    writer.add_last_part(file, &mut data).unwrap();
    if whole {
        put(id, &writer.finish().unwrap().0);
    }
}

#[test]
fn p8_parts_that_a_kill_left_wait_and_go_and_those_of_a_file_stay() {
    for left in 1..PARTS as u16 {
        let (bench, clock) = in_parts();
        let lost = AggregateId {
            epoch: head(&bench).epoch,
            seq: 0x999,
        };
        left_by_a_kill(&bench, lost, left, false);
        // Of this epoch: somebody's who has not come to his end yet.
        assert_eq!(acts(&collect(&bench)), []);
        let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
        settled(&bench);
        let first = acts(&collect(&bench));
        assert_eq!(first, vec![Act::Quarantine; left.into()]);
        clock.advance(DAY);
        scan(&bench);
        assert_eq!(acts(&collect(&bench)), []);
        assert_eq!(names(&bench).len(), PARTS + usize::from(left));
        let all = collect_all(&bench, &clock);
        let deleted = all.iter().filter(|act| **act == Act::Delete).count();
        assert_eq!(deleted, usize::from(left), "{all:?}");
        assert_eq!(names(&bench).len(), PARTS);
        bound(&bench);
        release(&bench);
        reads_large(&bench);
    }
}

/// Parts whose aggregate comes back while they wait, or is condemned already, are no orphans.
#[test]
fn p8_parts_are_kept_when_their_aggregate_comes_back() {
    for waits_for in [0, 1, 2] {
        let (bench, clock) = bench();
        let lost = AggregateId {
            epoch: bench.engine().catalog().next_aggregate().unwrap().epoch,
            seq: 0x999,
        };
        left_by_a_kill(&bench, lost, 9, false);
        let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
        settled(&bench);
        let mut seen = acts(&collect(&bench));
        assert_eq!(seen, vec![Act::Quarantine; PARTS - 1]);
        if waits_for > 0 {
            clock.advance(WINDOW + DAY);
            scan(&bench);
            seen = acts(&collect(&bench));
            assert_eq!(seen, vec![Act::Release; PARTS - 1]);
        }
        if waits_for > 1 {
            seen = acts(&collect(&bench));
            assert_eq!(seen, vec![Act::Condemn; PARTS - 1]);
        }
        bench.engine().tiers()[0].tier.delete(lost.part(1)).unwrap();
        bench.engine().tiers()[0].tier.delete(lost.part(2)).unwrap();
        left_by_a_kill(&bench, lost, 9, true);
        clock.advance(DELAY * 2);
        for _ in 0..3 {
            let now = acts(&collect(&bench));
            assert!(!now.contains(&Act::Delete), "{waits_for}: {now:?}");
        }
        assert_eq!(names(&bench).len(), PARTS);
        let catalog = bench.engine().catalog();
        let tier = bench.engine().tiers()[0].id;
        let rows = catalog.aggregates(tier, None, 99).unwrap();
        let rows: Vec<_> = rows.into_iter().map(|row| row.id).collect();
        assert_eq!(rows, [lost], "the parts have no rows any more");
        // Nobody has the file, and whose it was is not known: it stays, and whole.
        collect_all(&bench, &clock);
        assert_eq!(names(&bench).len(), PARTS);
    }
}

#[test]
fn p8_a_file_in_parts_leaves_a_cartridge_as_a_whole() {
    let (bench, clock) = in_parts();
    release(&bench);
    let old = head(&bench);
    let leave = |part: u16| {
        let shared = &bench.engine().shared;
        let mut report = Report::default();
        with_ground(shared, &shared.tiers[0], &|_| false, |ground| {
            evacuate(ground, old.part(part), &mut report)
        })
        .unwrap()
        .unwrap()
    };
    let copied = LARGE as u64;
    assert_eq!(leave(2), Left::Waits { copied });
    assert_eq!(leave(1), Left::Waits { copied: 0 });
    let new = head(&bench);
    assert_ne!(new, old);
    assert_eq!(names(&bench).len(), 2 * PARTS);
    clock.advance(DELAY * 2);
    collect(&bench);
    let left = names(&bench);
    assert_eq!(left.len(), PARTS);
    assert!(left.iter().all(|id| id.head() == new));
    reads_large(&bench);
    wait_for("it to be resident", || {
        (state_of(&bench, "d/large") == FileState::Archived).then_some(())
    });
}

/// Repacked for a tier that takes longer objects by now, it is in one piece; and the other way.
#[test]
fn p14_a_repack_cuts_for_what_the_tier_takes_now() {
    let (bench, clock) = in_parts();
    release(&bench);
    let again = || {
        let shared = &bench.engine().shared;
        let old = head(&bench);
        let mut report = Report::default();
        with_ground(shared, &shared.tiers[0], &|_| false, |ground| {
            evacuate(ground, old, &mut report)
        })
        .unwrap()
        .unwrap();
        clock.advance(DELAY * 2);
        collect(&bench);
        names(&bench).len()
    };
    *bench.longest[0].lock() = None;
    assert_eq!(again(), 1);
    bound(&bench);
    assert_eq!(again(), PARTS);
    reads_large(&bench);
}

/// A new version of it: the old one's parts go, the new one's stay.
#[test]
fn p8_of_two_versions_in_parts_the_old_one_goes() {
    let (bench, clock) = in_parts();
    let old = head(&bench);
    bench.write("d/large", &noise(LARGE, 2));
    scan(&bench);
    bench.archive(&["d/large"]);
    let new = head(&bench);
    assert_ne!(new, old);
    assert_eq!(names(&bench).len(), 2 * PARTS);
    collect_all(&bench, &clock);
    let left = names(&bench);
    assert_eq!(left.len(), PARTS);
    assert!(left.iter().all(|id| id.head() == new));
    release(&bench);
    assert!(through_mount_up_to(&bench, "d/large", LARGE) == noise(LARGE, 2));
}

/// Its aggregate's cartridge is away, say, and the catalog was lost: nothing but the part's own index says whose
/// it is.
#[test]
fn p8_a_part_of_what_a_file_needs_stays_until_a_proven_copy_is_there() {
    let (bench, clock) = bench();
    bound(&bench);
    bench.write("d/small", &noise(BIG, 2));
    bench.archive(&["d/small"]);
    let of = bench.node("d/small").version.unwrap();
    let lost = AggregateId {
        epoch: bench.engine().catalog().next_aggregate().unwrap().epoch,
        seq: 0x999,
    };
    left(&bench, (lost, (of.file, of.version)), 1, false);
    let proof = |proof: i64| {
        move |state: &std::path::Path| {
            let catalog = rusqlite::Connection::open(state.join("catalog.sqlite")).unwrap();
            let set = "UPDATE aggregates SET proof = ? WHERE seq < 1 << 48";
            assert_eq!(catalog.execute(set, [proof]).unwrap(), 1);
        }
    };
    // As from a rebuild.
    let bench = bench.again(PLACES, settings(&clock), NOTHING, proof(4));
    settled(&bench);
    let all = collect_all(&bench, &clock);
    assert!(!all.contains(&Act::Condemn), "{all:?}");
    assert!(names(&bench).contains(&lost.part(1)));
    let bench = bench.again(PLACES, settings(&clock), NOTHING, proof(1));
    settled(&bench);
    collect_all(&bench, &clock);
    assert_eq!(names(&bench), [head_of(&bench, "d/small")]);
}

#[test]
fn p8_a_part_whose_aggregate_cannot_be_looked_at_is_left_alone_and_stops_nobody() {
    let (bench, clock) = in_parts();
    release(&bench);
    let lost = AggregateId {
        epoch: head(&bench).epoch,
        seq: 0x999,
    };
    left_by_a_kill(&bench, lost, 1, false);
    remove(&bench, &["d/large"]);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    *bench.unseen[0].lock() = Some(lost);
    let all = collect_all(&bench, &clock);
    assert_eq!(all.first(), Some(&Act::Condemn));
    assert_eq!(names(&bench), [lost.part(1)]);
}

fn copy_state(bench: &Bench, path: &str) -> CopyState {
    let of = bench.node(path).version.unwrap();
    let copies = bench.engine().catalog().copies(of.file, of.version);
    copies.unwrap()[0].state
}

#[test]
fn p8_a_part_that_is_gone_is_noticed_and_one_that_cannot_be_looked_at_is_not_gone() {
    let (bench, clock) = in_parts();
    release(&bench);
    let id = head(&bench);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    *bench.unseen[0].lock() = Some(id.part(2));
    collect(&bench);
    assert_eq!(copy_state(&bench, "d/large"), CopyState::Good);
    *bench.unseen[0].lock() = None;
    bench.engine().tiers()[0].tier.delete(id.part(2)).unwrap();
    let report = collect(&bench);
    assert_eq!(report.missing, 1);
    assert_eq!(copy_state(&bench, "d/large"), CopyState::Suspect);
}

#[test]
fn p8_an_aggregate_without_one_of_its_parts_is_not_learned_of_and_not_believed() {
    let (bench, clock) = bench();
    let epoch = bench.engine().catalog().next_aggregate().unwrap().epoch;
    let [short, whole] = [0x998, 0x999].map(|seq| AggregateId { epoch, seq });
    left_by_a_kill(&bench, short, 1, true);
    left_by_a_kill(&bench, whole, 9, true);
    let bench = bench.again(PLACES, settings(&clock), NOTHING, |_| ());
    settled(&bench);
    assert_eq!(acts(&collect(&bench)), [Act::Quarantine]);
    let slot = &bench.engine().tiers()[0];
    let row = |id| bench.engine().catalog().aggregate(slot.id, id).unwrap();
    assert_eq!(row(short), None);
    slot.tier.delete(whole.part(1)).unwrap();
    collect_all(&bench, &clock);
    assert_eq!(row(whole).unwrap().life, Life::Quarantined);
}

/// Packed where the tier took longer objects: neither order of the two can be one aggregate now.
#[test]
fn p14_what_lies_beside_a_file_that_is_too_long_by_now_stays_with_it() {
    // The last of its parts is short.
    let (long, short) = (7 * MIB, 100_000);
    for (first, second) in [(long, short), (short, long)] {
        let (bench, _clock) = bench();
        bench.write("d/one", &noise(first, 1));
        bench.write("d/two", &noise(second, 2));
        bench.archive(&["d/one", "d/two"]);
        let both = head_of(&bench, "d/one");
        assert_eq!(head_of(&bench, "d/two"), both, "in one aggregate");
        bound(&bench);
        let shared = &bench.engine().shared;
        let mut report = Report::default();
        let left = with_ground(shared, &shared.tiers[0], &|_| false, |ground| {
            evacuate(ground, both, &mut report)
        });
        let left = left.unwrap().unwrap();
        assert!(
            matches!(&left, Left::Stays(why) if why.contains("too long to be beside others")),
            "{left:?}"
        );
        assert_eq!(names(&bench), [both], "nothing of it is left");
    }
}
