//! Files in parts on a library of tapes that are short, full, or end early (P14).

use super::*;
use crate::id::InstanceId;
use crate::tier::tape::faults::TapeFaults;
use crate::tier::tape::{TapeOptions, TapeTier};
use crate::tier::{OpenHow, Promise, Put, Receipt, Tier, TierError};
use std::io::Write;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Nobody waits longer in a test that goes well.
const PATIENCE: Duration = Duration::from_secs(120);

struct Library {
    tier: TapeTier,
    faults: TapeFaults,
    _place: tempfile::TempDir,
}

/// Cartridges of 12 MiB.
fn library(cartridges: u32, option: (&str, &str)) -> Library {
    let place = tempfile::tempdir().unwrap();
    let mut options = TapeOptions {
        capacity: Some(12 << 20),
        cartridges,
        drives: 1,
        ..TapeOptions::default()
    };
    options.set(option.0, option.1).unwrap();
    let faults = TapeFaults::default();
    let how = OpenHow::new(InstanceId([1; 16]), MemoryTier::ID);
    let root = place.path().join("tape");
    let tier = TapeTier::with_faults(&root, &options, how, faults.clone()).unwrap();
    Library {
        tier,
        faults,
        _place: place,
    }
}

fn plain(cartridges: u32) -> Library {
    library(cartridges, ("drives", "1"))
}

impl Library {
    fn names(&self) -> Vec<AggregateId> {
        self.tier.list(None, 1000).unwrap()
    }

    /// Bytes on its cartridges, dead ones too.
    fn used(&self) -> u64 {
        let all = self.tier.library().unwrap().cartridges();
        all.iter().map(|c| c.used).sum()
    }

    fn store(&self, seq: u64, len: usize) -> Result<Receipt, TierError> {
        let id = AggregateId { epoch: 9, seq };
        let bytes = noise(len, seq);
        let mut put = self.tier.put(id, len as u64)?;
        put.write_all(&bytes).unwrap();
        put.finish(Crc32c::of(&bytes))
    }
}

fn archived(rig: &Rig, tier: &dyn Tier, name: &str) -> Result<Report, ArchiveError> {
    let items = [rig.item(name)];
    let batch = Batch {
        tier,
        ..batch(rig, &items)
    };
    archive(batch, &|| false, &mut |_| Ok(()))
}

fn in_parts(report: Report) -> usize {
    assert!(matches!(report.outcomes[0], Outcome::Archived(_)));
    let (_, index) = report.aggregate.expect("an aggregate");
    index.parts().len() + 1
}

fn no_room(done: Result<Report, ArchiveError>) -> String {
    match done {
        Err(ArchiveError::NoRoom(why)) => why.to_string(),
        other => panic!("not without room: {other:?}"),
    }
}

#[test]
fn p14_a_tape_that_ends_within_the_reserve_takes_its_part() {
    // Without a reserve twelve blocks would go to each.
    let (rig, library) = (Rig::new(), library(4, ("capacity", "12416KiB")));
    for cartridge in library.tier.library().unwrap().cartridges() {
        let end = cartridge.entry.capacity / 1000 * 985;
        library.faults.end_of_tape(cartridge.entry.barcode, end);
    }
    rig.write("large", &noise(36 * MIB, 1));
    let report = archived(&rig, &library.tier, "large").expect("is archived");
    assert_eq!(in_parts(report), 4);
}

#[test]
fn p14_where_every_tape_ends_early_a_file_is_cut_for_what_they_are() {
    let (rig, library) = (Rig::new(), plain(5));
    let cartridges = library.tier.library().unwrap().cartridges();
    for cartridge in &cartridges {
        library.faults.end_of_tape(cartridge.entry.barcode, 9 << 20);
    }
    rig.write("large", &noise(21 * MIB, 1));
    let why = no_room(archived(&rig, &library.tier, "large"));
    assert!(why.contains("no cartridge has room"), "{why}");
    assert_eq!(library.names(), [], "nothing of it is left");
    // Nobody else is kept off any of them.
    for cartridge in library.tier.library().unwrap().cartridges() {
        let entry = cartridge.entry;
        assert!(!entry.full && cartridge.files == 0, "{entry:?}");
        let ends = entry.ends.expect("where it ends is known");
        assert!((7 << 20..=9 << 20).contains(&ends), "{ends}");
    }
    library.store(1, MIB).expect("has room");
    let report = archived(&rig, &library.tier, "large").expect("is cut for what they are");
    assert!(in_parts(report) >= 3);
}

#[test]
fn p14_a_long_file_without_empty_cartridges_says_how_many_are_wanted_and_pauses_nobody() {
    let (rig, library) = (Rig::new(), plain(2));
    library.store(1, 7 * MIB).expect("fits");
    library.store(2, 7 * MIB).expect("fits");
    let used = library.used();
    rig.write("large", &noise(30 * MIB, 1));
    let why = no_room(archived(&rig, &library.tier, "large"));
    assert!(
        why.contains("goes to tape in 3 parts, and 3 of them find no cartridge: add 3 or more"),
        "{why}"
    );
    // Shorter than a cartridge, and yet longer than what is left: others still find room.
    rig.write("middle", &noise(9 * MIB, 2));
    no_room(archived(&rig, &library.tier, "middle"));
    assert_eq!(library.used(), used);
    rig.write("small", &noise(MIB, 3));
    archived(&rig, &library.tier, "small").expect("has room");
    // Where nobody has any, the tier is full.
    for seq in 3..20 {
        let _ = library.store(seq, MIB);
    }
    let full = archived(&rig, &library.tier, "middle");
    assert!(
        matches!(full, Err(ArchiveError::Tier(TierError::Full { .. }))),
        "{full:?}"
    );
}

#[test]
fn p14_two_long_files_do_not_take_each_others_cartridges() {
    let (rig, library) = (Rig::new(), plain(5));
    rig.write("one", &noise(41 * MIB, 1));
    rig.write("two", &noise(41 * MIB, 2));
    let (count, said) = (AtomicUsize::new(0), parking_lot::Mutex::new(Vec::new()));
    // Each time that a part of the first is composed, and another time behind it, the second is tried.
    let other = || {
        let at = count.fetch_add(1, Ordering::SeqCst);
        let used = library.used();
        let why = no_room(archived(&rig, &library.tier, "two"));
        assert_eq!(library.used(), used, "{at}: nothing is written in vain");
        said.lock().push(why);
    };
    let items = [rig.item("one")];
    let batch = Batch {
        tier: &library.tier,
        sealed: &other,
        resumed: &other,
        ..batch(&rig, &items)
    };
    let report = archive(batch, &|| false, &mut |_| Ok(())).expect("is archived");
    assert_eq!((in_parts(report), count.load(Ordering::SeqCst)), (4, 7));
    let said = said.into_inner();
    for why in &said {
        assert!(why.contains("4 parts, and 3 of them"), "{why}");
    }
    assert!(
        said[0].contains("room is kept for 4 objects"),
        "{}",
        said[0]
    );
    assert!(said[6].contains("room is kept for 1 object"), "{}", said[6]);
    // What is left over is everybody's again.
    let kept = library
        .tier
        .promise(&[(AggregateId { epoch: 9, seq: 9 }, 11 << 20)]);
    assert!(kept.expect("room").is_kept());
}

#[test]
fn p14_parts_wait_for_no_company_and_hold_no_worker_while_they_are_written() {
    let library = library(5, ("batch-age", "1h"));
    let (send, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let (rig, told) = (Rig::new(), parking_lot::Mutex::new(String::new()));
        rig.write("large", &noise(30 * MIB, 1));
        let items = [rig.item("large")];
        let batch = Batch {
            tier: &library.tier,
            sealed: &|| told.lock().push('s'),
            resumed: &|| told.lock().push('r'),
            ..batch(&rig, &items)
        };
        let report = archive(batch, &|| false, &mut |_| Ok(())).expect("is archived");
        let _ = send.send((in_parts(report), told.into_inner()));
    });
    let done = done.recv_timeout(PATIENCE).expect("nothing waits an hour");
    assert_eq!(done, (3, "srsrs".to_owned()));
}

/// A tier whose third object finds it full.
struct Filling {
    tier: MemoryTier,
    puts: AtomicUsize,
}

impl Tier for Filling {
    fn mark(&self) -> crate::tier::Mark {
        self.tier.mark()
    }
    fn confirm(&self) -> Result<(), TierError> {
        self.tier.confirm()
    }
    fn longest(&self) -> Result<Option<u64>, TierError> {
        self.tier.longest()
    }
    fn promise(&self, objects: &[(AggregateId, u64)]) -> Result<Promise, TierError> {
        self.tier.promise(objects)
    }
    fn put(&self, name: AggregateId, hint: u64) -> Result<Box<dyn Put>, TierError> {
        if self.puts.fetch_add(1, Ordering::SeqCst) == 2 {
            return Err(TierError::Full {
                tier: "filling".into(),
                step: "starting",
                why: "somebody was faster".into(),
            });
        }
        self.tier.put(name, hint)
    }
    fn read(&self, name: AggregateId, offset: u64, len: u64) -> Result<bytes::Bytes, TierError> {
        self.tier.read(name, offset, len)
    }
    fn stat(&self, name: AggregateId) -> Result<u64, TierError> {
        self.tier.stat(name)
    }
    fn delete(&self, name: AggregateId) -> Result<(), TierError> {
        self.tier.delete(name)
    }
    fn list(
        &self,
        after: Option<AggregateId>,
        limit: usize,
    ) -> Result<Vec<AggregateId>, TierError> {
        self.tier.list(after, limit)
    }
    fn space(&self) -> Result<crate::tier::Space, TierError> {
        self.tier.space()
    }
}

#[test]
fn p14_a_tier_that_is_full_in_the_middle_is_so_for_this_file_alone() {
    let rig = Rig::new();
    rig.tier.set_longest(3 * MIB as u64 + (160 << 10));
    rig.write("large", &noise(10 * MIB, 1));
    let filling = Filling {
        tier: rig.tier.clone(),
        puts: AtomicUsize::new(0),
    };
    let why = no_room(archived(&rig, &filling, "large"));
    assert!(why.contains("somebody was faster"), "{why}");
    assert_eq!(rig.tier.names(), [], "nothing is left");
}
