//! What comes back is what was there.

use super::*;

/// A change of the tree. Numbers choose among what is there.
#[derive(Debug, Clone)]
enum Change {
    File(u8, u8),
    Directory(u8, u8),
    Rename(u8, u8, u8),
    Remove(u8),
    Mode(u8, u32),
    Owner(u8, u32),
    Note(u8, u8),
    Link(u8, u8, u8),
    Soft(u8, u8),
    Overwrite(u8),
    Times(u8, i64),
}

fn change() -> impl Strategy<Value = Change> {
    let n = any::<u8>;
    prop_oneof![
        3 => (n(), n()).prop_map(|(a, b)| Change::File(a, b)),
        2 => (n(), n()).prop_map(|(a, b)| Change::Directory(a, b)),
        3 => (n(), n(), n()).prop_map(|(a, b, c)| Change::Rename(a, b, c)),
        2 => n().prop_map(Change::Remove),
        1 => (n(), 0_u32..0o7777).prop_map(|(a, m)| Change::Mode(a, m)),
        1 => (n(), 0_u32..9).prop_map(|(a, u)| Change::Owner(a, u)),
        1 => (n(), n()).prop_map(|(a, b)| Change::Note(a, b)),
        1 => (n(), n(), n()).prop_map(|(a, b, c)| Change::Link(a, b, c)),
        1 => (n(), n()).prop_map(|(a, b)| Change::Soft(a, b)),
        1 => n().prop_map(Change::Overwrite),
        1 => (n(), 0_i64..1 << 33).prop_map(|(a, t)| Change::Times(a, t)),
    ]
}

/// Paths of the tree, directories or others.
fn paths(rig: &Rig, directories: bool) -> Vec<String> {
    let all = seen(&rig.root, &rig.backing);
    let of = |path: &String| {
        let meta = fs::symlink_metadata(rig.path(path)).unwrap();
        meta.is_dir() == directories
    };
    all.into_keys().filter(of).collect()
}

fn pick(of: &[String], n: u8) -> Option<String> {
    (!of.is_empty()).then(|| of[n as usize % of.len()].clone())
}

fn inside(directory: &str, n: u8) -> String {
    let name = format!("n{}", n % 12);
    if directory.is_empty() {
        name
    } else {
        format!("{directory}/{name}")
    }
}

/// Makes the change where that is possible; what it cannot do it leaves.
fn make(rig: &Rig, change: &Change) -> Option<()> {
    let (directories, others) = (paths(rig, true), paths(rig, false));
    let any = |n: u8| {
        let all: Vec<_> = directories.iter().chain(&others).cloned().collect();
        pick(&all, n)
    };
    match change {
        Change::File(at, name) => {
            let path = inside(&pick(&directories, *at)?, *name);
            if rig.path(&path).symlink_metadata().is_ok() {
                return None;
            }
            rig.write(&path, &noise(600 + usize::from(*name), u64::from(*at)));
            rig.archived(&path);
        }
        Change::Directory(at, name) => {
            fs::create_dir(rig.path(&inside(&pick(&directories, *at)?, *name))).ok()?;
        }
        Change::Rename(from, at, name) => {
            let to = inside(&pick(&directories, *at)?, *name);
            fs::rename(rig.path(&any(*from)?), rig.path(&to)).ok()?;
        }
        Change::Remove(at) => {
            let path = any(*at).filter(|p| !p.is_empty())?;
            let gone = fs::remove_file(rig.path(&path));
            gone.or_else(|_| fs::remove_dir_all(rig.path(&path))).ok()?;
        }
        Change::Mode(at, mode) => {
            let path = any(*at).filter(|p| !p.is_empty())?;
            if !rig.path(&path).is_symlink() {
                let mode = fs::Permissions::from_mode(*mode);
                fs::set_permissions(rig.path(&path), mode).ok()?;
            }
        }
        Change::Owner(at, uid) => {
            std::os::unix::fs::lchown(rig.path(&any(*at)?), Some(*uid), Some(*uid)).ok()?;
        }
        Change::Note(at, value) => {
            let path = rig.path(&any(*at)?);
            if !path.is_symlink() {
                let no = rustix::fs::XattrFlags::empty();
                rustix::fs::setxattr(path, "user.note", &[*value, 0], no).ok()?;
            }
        }
        Change::Link(from, at, name) => {
            let to = inside(&pick(&directories, *at)?, *name);
            fs::hard_link(rig.path(&pick(&others, *from)?), rig.path(&to)).ok()?;
        }
        Change::Soft(at, name) => {
            symlink(
                "n1/../x",
                rig.path(&inside(&pick(&directories, *at)?, *name)),
            )
            .ok()?;
        }
        Change::Overwrite(at) => {
            let path = pick(&others, *at)?;
            if rig.path(&path).symlink_metadata().ok()?.is_file() {
                fs::write(rig.path(&path), noise(700, 77)).ok()?;
                rig.archived(&path);
            }
        }
        Change::Times(at, sec) => {
            let path = any(*at)?;
            let spec = rustix::fs::Timespec {
                tv_sec: *sec,
                tv_nsec: 123_456_789,
            };
            let times = rustix::fs::Timestamps {
                last_access: spec,
                last_modification: spec,
            };
            let how = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            if fs::symlink_metadata(rig.path(&path)).ok()?.is_dir() {
                rustix::fs::utimensat(rustix::fs::CWD, rig.path(&path), &times, how).ok()?;
            }
        }
    }
    Some(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// A full snapshot and incremental ones on it, applied, give the tree as it is.
    #[test]
    fn a_chain_gives_the_tree(rounds in prop::collection::vec(prop::collection::vec(change(), 1..12), 1..5)) {
        if !is_root() {
            return Ok(());
        }
        let rig = Rig::new();
        let mut series = Series::of(&rig);
        for changes in &rounds {
            for change in changes {
                make(&rig, change);
            }
            next_tick();
            match series.take_while(&|| false) {
                Ok(_) | Err(crate::hsm::snapshot::SnapshotError::Unchanged) => {}
                Err(why) => panic!("{why}"),
            }
            next_tick();
        }
        let target = tempfile::tempdir().unwrap();
        let to = target.path().join("new");
        let (_, told) = restored(&rig.tier, &to);
        prop_assert!(told.0.is_empty(), "{:?}", told.0);
        same(&rig, &to);
    }
}

#[test]
fn everything_that_can_be_archived_comes_back() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    everything(&rig);
    Series::of(&rig).take();
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new");
    let (outcome, told) = restored(&rig.tier, &to);
    assert!(told.0.is_empty(), "{:?}", told.0);
    same(&rig, &to);
    assert_eq!((outcome.stubs, outcome.directories), (2, 5));
    // It is a stub with the inode's own record, and holds nothing.
    let backing = backing_of(&to);
    let fd = backing.open_beneath(b"a/file").unwrap();
    let record = backing.record(fd.as_fd()).unwrap().unwrap();
    let node = backing.handle_of(fd.as_fd()).unwrap();
    assert!(crate::hsm::backing::belongs_to(
        &record,
        backing.fs(),
        &node
    ));
    assert_eq!(record.state, crate::format::record::State::Released);
    assert_ne!(backing.fs(), rig.backing.fs());
    assert!(fs::read(to.join("a/file")).unwrap().iter().all(|b| *b == 0));
    assert_eq!(is_unfinished(&to).unwrap(), None);
}

#[test]
fn what_was_on_no_tier_is_said_and_not_made() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    everything(&rig);
    rig.write("new", b"never archived");
    next_tick();
    fs::write(rig.path("a/file"), b"changed since").unwrap();
    Series::of(&rig).take();
    let later = "later";
    rig.write(later, &noise(900, 3));
    rig.archived(later);
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new");
    let (_, told) = restored(&rig.tier, &to);
    let loss = |path: &str| told.0.get(path).map(|(loss, _)| *loss);
    assert_eq!(loss("new"), Some(Loss::NotArchived));
    assert_eq!(loss("a/file"), Some(Loss::Older));
    assert_eq!(loss(later), Some(Loss::Later));
    assert_eq!(told.0.len(), 3, "{:?}", told.0);
    assert!(!to.join("new").exists() && !to.join(later).exists());
    assert_eq!(fs::metadata(to.join("a/file")).unwrap().len(), 5000);
    // On demand, what came later is put where its aggregate has it.
    let again = target.path().join("with-later");
    let mut told = Told::default();
    let reached = |_| Ok(());
    let order = Order {
        with_later: true,
        ..order(&rig.tier, &again, &reached)
    };
    restore(&order, &mut told).unwrap();
    assert_eq!(told.0[later].0, Loss::LaterPlaced);
    assert_eq!(fs::metadata(again.join(later)).unwrap().len(), 900);
    let backing = backing_of(&again);
    let fd = backing.open_beneath(later.as_bytes()).unwrap();
    assert!(backing.record(fd.as_fd()).unwrap().is_some());
}

#[test]
fn a_time_chooses_the_snapshot_and_a_damaged_one_is_passed_over() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    rig.write("first", b"");
    let mut series = Series::of(&rig);
    next_tick();
    let first = series.take();
    next_tick();
    rig.write("second", b"");
    series.take();
    let second = series.last.unwrap().0;
    let target = tempfile::tempdir().unwrap();
    let at = |time: Option<Timestamp>, name: &str| {
        let to = target.path().join(name);
        let reached = |_| Ok(());
        let order = Order {
            at: time,
            ..order(&rig.tier, &to, &reached)
        };
        restore(&order, &mut Told::default()).map(|outcome| (outcome, to))
    };
    let (_, then) = at(Some(first.begun), "then").unwrap();
    assert!(then.join("first").exists() && !then.join("second").exists());
    let (_, now) = at(None, "now").unwrap();
    assert!(now.join("first").exists() && now.join("second").exists());
    let before = Timestamp {
        sec: first.begun.sec - 1,
        nsec: 0,
    };
    assert!(matches!(
        at(Some(before), "before"),
        Err(RestoreError::None { .. })
    ));
    // Its trailer is damaged: the one before it serves.
    rig.tier
        .damage(second, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let (outcome, passed) = at(None, "passed").unwrap();
    assert_eq!(outcome.skipped.len(), 1);
    assert!(passed.join("first").exists() && !passed.join("second").exists());
}

#[test]
fn an_older_one_that_is_damaged_is_named_when_none_but_later_ones_are_left() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    rig.write("first", b"");
    let target = tempfile::tempdir().unwrap();
    let take = || {
        next_tick();
        let mut series = Series::of(&rig);
        let begun = series.take().begun;
        (series.last.unwrap().0, begun)
    };
    let [(first, begun), (_, reach), (newest, _)] = [take(), take(), take()];
    let damage = |id| rig.tier.damage(id, |bytes| *bytes.last_mut().unwrap() ^= 1);
    let failed = |at: Timestamp| {
        let to = target.path().join("new");
        let reached = |_| Ok(());
        let order = Order {
            at: Some(at),
            ..order(&rig.tier, &to, &reached)
        };
        match restore(&order, &mut Told::default()) {
            Err(RestoreError::None { why, reach }) => (why.unwrap(), reach),
            other => panic!("{other:?}"),
        }
    };
    let before = Timestamp {
        sec: begun.sec - 1,
        nsec: 0,
    };
    // One that is newer than a later one says nothing of then.
    damage(newest);
    let plain = " of that time or before".to_owned();
    assert_eq!(failed(before), (plain.clone(), Some(begun)));
    damage(first);
    let (why, said) = failed(begun);
    assert_eq!(said, Some(reach));
    let named = format!("{plain} that can be used: {first}: ");
    assert!(why.starts_with(&named) && why.len() > named.len(), "{why}");
}

#[test]
fn a_restore_that_dies_at_any_step_goes_on() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    everything(&rig);
    rig.write("never", b"never archived");
    Series::of(&rig).take();
    let target = tempfile::tempdir().unwrap();
    let mut deaths = 0;
    for at in 1.. {
        let to = target.path().join(format!("new-{at}"));
        let mut tries = 0;
        let (mut report, mut all_placed) = (None, false);
        // Dies at this step in every try, as long as it comes so far.
        let done = loop {
            tries += 1;
            assert!(tries < 50, "it never gets further");
            let count = Cell::new(0);
            let die = |_| {
                count.set(count.get() + 1);
                if count.get() == at && tries < 3 {
                    return Err(io::Error::other("dead"));
                }
                Ok(())
            };
            let mut told = Told::default();
            let done = restore(&order(&rig.tier, &to, &die), &mut told);
            assert!(told.2 == 0 || report.is_some() || told.1 > 0);
            if told.1 > 0 {
                // It was told to be all: this is the report that stands.
                report = Some(told.0);
            }
            all_placed |= told.2 > 0;
            if let Ok(outcome) = &done {
                // What is said in the end is said of all tries.
                let report = report.as_ref().unwrap();
                let lost: Vec<_> = report.values().map(|(loss, _)| *loss).collect();
                assert_eq!(lost, [Loss::NotArchived]);
                assert_eq!(outcome.lost, BTreeMap::from([(Loss::NotArchived, 1)]));
                let counts = (outcome.names, outcome.stubs, outcome.directories);
                assert_eq!(counts, (6, 2, 5));
                assert!(outcome.ended > Timestamp::default() && all_placed);
                break count.get() < at || tries > 1;
            }
            deaths += 1;
            // Nothing is visible in its place before all is durable, and nobody starts there.
            assert!(is_unfinished(&to).unwrap().is_some());
        };
        assert!(done);
        let mut was = seen(&rig.root, &rig.backing);
        was.remove("never");
        assert_eq!(seen(&to, &backing_of(&to)), was);
        let left = fs::read_dir(&to).unwrap().map(|e| e.unwrap().file_name());
        assert!(
            left.into_iter()
                .all(|n| !n.as_bytes().starts_with(b".cairn"))
        );
        if tries == 1 {
            break;
        }
    }
    assert!(deaths >= 30, "{deaths}");
}

/// As repacking does: the file's data go into a new aggregate under this path, the old one goes.
fn repack(rig: &Rig, path: &[u8], old: AggregateId) -> AggregateId {
    let indexes = IndexCache::new(INDEXES);
    let loaded = indexes.load(&rig.tier, MemoryTier::ID, old).unwrap();
    let entries = &loaded.index().entries;
    let regular =
        |e: &&crate::format::aggregate::IndexEntry| matches!(e.member.kind, Kind::Regular { .. });
    let entry = entries.iter().find(regular).unwrap();
    let head = rig
        .tier
        .read(old, entry.header, entry.header_len())
        .unwrap();
    let mut member = entry.whole_member(&head).unwrap();
    member.path = MemberPath::new(path.to_vec()).unwrap();
    let data: Vec<_> = (0..entry.block_count())
        .flat_map(|n| find::block(&rig.tier, old, entry, n).unwrap())
        .collect();
    let new = rig.next_aggregate();
    let mut bytes = Vec::new();
    let mut writer = AggregateWriter::new(&mut bytes, new, rig.backing.fs(), coarse_now());
    writer.add(&member, &mut &*data).unwrap();
    writer.finish().unwrap();
    let mut put = rig.tier.put(new, 0).unwrap();
    std::io::Write::write_all(&mut put, &bytes).unwrap();
    put.finish(cairn_mover::Crc32c::of(&bytes)).unwrap();
    rig.tier.delete(old).unwrap();
    new
}

#[test]
fn what_was_repacked_between_the_snapshots_of_a_chain_is_found() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    rig.write("still/file", &noise(5000, 1));
    rig.archived("still/file");
    let first = rig.record("still/file").unwrap().copies[0].aggregate;
    rig.write("gone", &noise(900, 2));
    rig.archived("gone");
    let gone = rig.record("gone").unwrap().copies[0].aggregate;
    fs::remove_file(rig.path("gone")).unwrap();
    let mut series = Series::of(&rig);
    next_tick();
    series.take();
    next_tick();
    let moved = repack(&rig, b"still/file", first);
    repack(&rig, b"went", gone);
    rig.write("other/new", b"");
    next_tick();
    // Does not list `still` again.
    series.take();
    let aside = rig
        .tier
        .names()
        .into_iter()
        .rfind(|id| !id.is_snapshot())
        .unwrap();
    repack(&rig, b".cairn-deleted/it-1", aside);
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new");
    let (_, told) = restored(&rig.tier, &to);
    assert!(told.0.is_empty(), "what was gone is not told: {:?}", told.0);
    let backing = backing_of(&to);
    let fd = backing.open_beneath(b"still/file").unwrap();
    let record = backing.record(fd.as_fd()).unwrap().unwrap();
    assert_eq!(record.copies[0].aggregate, moved);
    assert!(rig.tier.stat(moved).is_ok());
}

#[test]
fn an_outage_is_no_damage_and_never_gives_an_older_snapshot() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    rig.write("first", b"");
    let mut series = Series::of(&rig);
    next_tick();
    let first = series.take();
    next_tick();
    rig.write("second", b"");
    series.take();
    let second = series.last.unwrap().0;
    let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let fail_at = |at: usize, why: fn() -> TierError| {
        let count = std::sync::Arc::clone(&count);
        count.store(0, std::sync::atomic::Ordering::SeqCst);
        rig.tier.on_read(move |id| {
            let n = count.fetch_add(
                usize::from(id == second),
                std::sync::atomic::Ordering::SeqCst,
            );
            (id == second && n == at).then(why)
        });
    };
    let unavailable = || TierError::Unavailable {
        tier: "memory".to_owned(),
        step: "read",
        why: "it is away".to_owned(),
    };
    let short = || TierError::Short {
        tier: "memory".to_owned(),
        object: AggregateId { epoch: 1, seq: 1 },
        len: 0,
        wanted: 1,
    };
    fail_at(usize::MAX, unavailable);
    find::look(&rig.tier, &IndexCache::new(INDEXES), second).unwrap();
    let reads = count.load(std::sync::atomic::Ordering::SeqCst);
    assert!(reads >= 2, "its index, and its first block");
    let target = tempfile::tempdir().unwrap();
    for at in 0..reads {
        let to = target.path().join(format!("away-{at}"));
        fail_at(at, unavailable);
        let done = restore(&order(&rig.tier, &to, &|_| Ok(())), &mut Told::default());
        let why = done.expect_err("an outage");
        assert!(!why.is_damage(), "{why}");
        assert!(!to.join("first").exists());
        for (time, name) in [(None, "newest"), (Some(first.begun), "then")] {
            let to = target.path().join(format!("short-{at}-{name}"));
            fail_at(at, short);
            let reached = |_| Ok(());
            let order = Order {
                at: time,
                ..order(&rig.tier, &to, &reached)
            };
            let outcome = restore(&order, &mut Told::default()).unwrap();
            assert_eq!(outcome.skipped.len(), 1);
            assert!(to.join("first").exists() && !to.join("second").exists());
        }
    }
}

#[test]
fn what_came_later_takes_no_name_of_another_file() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    rig.write("name", &noise(900, 1));
    rig.write("own", &noise(900, 3));
    rig.archived("name");
    rig.archived("own");
    let before = rig.record("name").unwrap().file;
    Series::of(&rig).take();
    // As one program saves: another file of the same name; and one that is changed in place.
    fs::rename(rig.path("name"), rig.path("away")).unwrap();
    rig.write("name", &noise(700, 2));
    rig.write("own", &noise(800, 4));
    rig.archived("name");
    rig.archived("own");
    let after = rig.record("name").unwrap().file;
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new");
    let reached = |_| Ok(());
    let order = Order {
        with_later: true,
        ..order(&rig.tier, &to, &reached)
    };
    let mut told = Told::default();
    restore(&order, &mut told).unwrap();
    let beside = format!("name.cairn-{after}");
    let backing = backing_of(&to);
    let file = |name: &str| {
        let fd = backing.open_beneath(name.as_bytes()).unwrap();
        backing.record(fd.as_fd()).unwrap().unwrap().file
    };
    assert_eq!((file("name"), file(&beside)), (before, after));
    assert_eq!(told.0[&beside].0, Loss::LaterPlaced);
    assert_eq!(fs::metadata(to.join("own")).unwrap().len(), 800);
    assert_eq!(told.0.len(), 2, "{:?}", told.0);
}

#[test]
fn what_was_in_lost_and_found_is_not_deleted() {
    if !is_root() {
        return;
    }
    let rig = Rig::new();
    for name in ["lost+found/file", "lost+found/both"] {
        rig.write(name, &noise(900, 1));
        rig.archived(name);
    }
    Series::of(&rig).take();
    let target = tempfile::tempdir().unwrap();
    let to = target.path().join("new");
    fs::create_dir_all(to.join("lost+found")).unwrap();
    fs::write(to.join("lost+found/both"), b"the filesystem's").unwrap();
    restored(&rig.tier, &to);
    for (name, len) in [("file", 900), ("both", 16), ("both.restored", 900)] {
        let meta = fs::metadata(to.join("lost+found").join(name)).unwrap();
        assert_eq!(meta.len(), len, "{name}");
    }
}
