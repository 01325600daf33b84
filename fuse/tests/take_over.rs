//! A mount that does not die: servers are killed, and others take over (P12). This program runs
//! itself as the server (it must fork before it has threads), so it has no test harness.

#[path = "take_over/locks.rs"]
mod locks;
#[path = "mounted/mapping.rs"]
#[allow(
    dead_code,
    reason = "all of it is used by the tests that it lies beside"
)]
mod mapping;
#[path = "take_over/place.rs"]
mod place;
#[path = "take_over/server.rs"]
mod server;
#[path = "take_over/work.rs"]
mod work;

use place::{Place, bounded, eventually};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

type Test = fn(&Place) -> anyhow::Result<()>;

const TESTS: &[(&str, Test)] = &[
    (
        "descriptors_and_mappings_go_on",
        descriptors_and_mappings_go_on,
    ),
    (
        "a_mapping_that_a_dead_server_saw_closed_moves_the_times",
        a_mapping_that_a_dead_server_saw_closed_moves_the_times,
    ),
    ("cached_opens_go_on", cached_opens_go_on),
    (
        "what_waits_is_served_by_the_successor",
        what_waits_is_served_by_the_successor,
    ),
    (
        "a_change_that_was_done_is_done_once",
        a_change_that_was_done_is_done_once,
    ),
    (
        "a_change_without_an_outcome_is_looked_at",
        a_change_without_an_outcome_is_looked_at,
    ),
    ("files_without_a_name_go_on", files_without_a_name_go_on),
    (
        "closed_files_without_a_name_are_let_go",
        closed_files_without_a_name_are_let_go,
    ),
    ("record_locks_go_on", locks::record_locks_go_on),
    (
        "many_locks_and_nameless_files_go_on",
        locks::many_locks_and_nameless_files_go_on,
    ),
    (
        "locks_that_do_not_fit_are_refused_as_a_whole",
        locks::locks_that_do_not_fit_are_refused_as_a_whole,
    ),
    (
        "who_waits_for_a_record_lock_goes_on_waiting",
        locks::who_waits_for_a_record_lock_goes_on_waiting,
    ),
    (
        "a_record_lock_of_a_closed_open_is_not_taken_over",
        locks::a_record_lock_of_a_closed_open_is_not_taken_over,
    ),
    (
        "record_locks_of_the_dead_end_with_the_next_server",
        locks::record_locks_of_the_dead_end_with_the_next_server,
    ),
    (
        "work_goes_on_through_many_deaths",
        work_goes_on_through_many_deaths,
    ),
    (
        "a_stopped_predecessor_is_replaced",
        a_stopped_predecessor_is_replaced,
    ),
    ("another_backing_is_refused", another_backing_is_refused),
    ("other_terms_are_refused", other_terms_are_refused),
    (
        "a_failed_successor_leaves_the_mount_held",
        a_failed_successor_leaves_the_mount_held,
    ),
    (
        "nobody_comes_and_the_mount_goes",
        nobody_comes_and_the_mount_goes,
    ),
    ("sigterm_ends_the_wait", sigterm_ends_the_wait),
    (
        "a_dead_connection_is_not_held",
        a_dead_connection_is_not_held,
    ),
    ("an_orderly_end_is_not_held", an_orderly_end_is_not_held),
];

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|role| role == "serve") {
        return server::serve(&args[2..]);
    }
    if args.get(1).is_some_and(|role| role == "locker") {
        return locks::obey(&args[2..]);
    }
    if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
        for (name, _) in TESTS {
            eprintln!("SKIPPED {name}: needs root and /dev/fuse");
        }
        return Ok(());
    }
    let only = args.iter().skip(1).find(|arg| !arg.starts_with('-'));
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in TESTS {
        if only.is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        let place = Place::new()?;
        // A panic is a failure of this test alone; the place cleans up either way.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&place)));
        match &result {
            Ok(Ok(())) => println!("test {name} ... ok"),
            // The line itself is the one that test programs print: the gate reads it.
            Ok(Err(error)) => println!("test {name} ... FAILED\n{error:#}"),
            Err(_) => println!("test {name} ... FAILED"),
        }
        let good = matches!(result, Ok(Ok(())));
        passed += usize::from(good);
        failed += usize::from(!good);
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed");
    anyhow::ensure!(failed == 0, "{failed} failed");
    Ok(())
}

fn descriptors_and_mappings_go_on(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"0123456789")?;
    let mut server = place.server(&[])?;
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(place.m("file"))?;
    fs::create_dir(place.m("dir"))?;
    let inode = fs::metadata(place.m("dir"))?.ino();
    server.kill()?;
    // Without any server. (Its attributes would wait for one: it is open for writing.)
    let mut text = [0; 10];
    file.read_exact(&mut text)?;
    assert_eq!(&text, b"0123456789");
    for round in 1..=3u8 {
        let mut server = place.server(&[])?;
        assert_eq!(server.predecessors, u64::from(round));
        file.write_all(&[b'a' + round])?;
        assert_eq!(
            bounded(|| fs::read(place.m("file")))?.len(),
            10 + usize::from(round)
        );
        assert_eq!(fs::metadata(place.m("dir"))?.ino(), inode);
        // The kernel takes no other backing id while this file is open.
        let again = File::options().write(true).open(place.m("file"))?;
        again.write_at(b"X", 0)?;
        fs::write(place.m(&format!("dir/{round}")), [round])?;
        server.kill()?;
    }
    let server = place.server(&[])?;
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    assert_eq!(text, "X123456789bcd");
    assert_eq!(fs::read_dir(place.m("dir"))?.count(), 3);
    drop((file, server));
    Ok(())
}

/// Its descriptor was closed before: nothing in the holder's memory tells of it.
fn a_mapping_that_a_dead_server_saw_closed_moves_the_times(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), [b'a'; 8192])?;
    let mut server = place.server(&[])?;
    let path = place.m("file");
    let file = File::options().read(true).write(true).open(&path)?;
    let mapping = mapping::Mapping::new(&file, 8192, mapping::Stores::Shared)?;
    drop(file);
    server.kill()?;
    let server = place.server(&[])?;
    let old = std::time::UNIX_EPOCH;
    File::open(&path)?.set_modified(old)?;
    assert_eq!(fs::metadata(&path)?.modified()?, old);
    assert_eq!(mapping.store(5000, b"MMAP")?, 4);
    mapping.sync()?;
    let below = fs::metadata(place.b("file"))?.modified()?;
    assert!(below > old);
    assert_eq!(fs::metadata(&path)?.modified()?, below);
    drop((mapping, server));
    Ok(())
}

fn cached_opens_go_on(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"0123456789")?;
    let mut server = place.server(&["no-passthrough"])?;
    let file = File::options()
        .read(true)
        .write(true)
        .open(place.m("file"))?;
    file.write_at(b"a", 1)?;
    server.kill()?;
    let mut server = place.server(&["no-passthrough"])?;
    let mut read = [0; 4];
    file.read_exact_at(&mut read, 0)?;
    assert_eq!(&read, b"0a23");
    file.write_at(b"b", 2)?;
    server.kill()?;
    let _server = place.server(&["no-passthrough"])?;
    assert_eq!(bounded(|| fs::read(place.m("file")))?, b"0ab3456789");
    Ok(())
}

/// The first server never answers reads of a released file; its successor finds it resident.
fn what_waits_is_served_by_the_successor(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("away"), vec![7; 100_000])?;
    let mut server = place.server(&["away"])?;
    let path = place.m("away");
    let reader = std::thread::spawn(move || fs::read(path));
    let path = place.m("away");
    let writer = std::thread::spawn(move || File::options().write(true).open(path).map(drop));
    server.hears(&["read", "fetch"])?;
    server.kill()?;
    let _server = place.server(&[])?;
    assert_eq!(place::join(reader)?, vec![7; 100_000]);
    place::join(writer)?;
    Ok(())
}

fn a_change_that_was_done_is_done_once(place: &Place) -> anyhow::Result<()> {
    for change in work::CHANGES {
        change.prepare(place)?;
        let mut server = place.server(&["die-at", change.event])?;
        let done = change.start(place);
        server.dies()?;
        let mut server = place.server(&[])?;
        place::join(done).map_err(|e| anyhow::anyhow!("{}: {e}", change.name))?;
        change.check(place)?;
        server.tell("unmount")?;
        server.ends()?;
        eventually("the mount goes", || !place.is_mounted());
    }
    Ok(())
}

/// The same, but the server died before it wrote down how it went.
fn a_change_without_an_outcome_is_looked_at(place: &Place) -> anyhow::Result<()> {
    for change in work::CHANGES {
        change.prepare(place)?;
        let mut server = place.server(&["die-at", change.event])?;
        let holder = server.holder()?;
        let done = change.start(place);
        server.dies()?;
        place::forget_outcomes(holder)?;
        let mut server = place.server(&[])?;
        place::join(done).map_err(|e| anyhow::anyhow!("{}: {e}", change.name))?;
        change.check(place)?;
        server.tell("unmount")?;
        server.ends()?;
        eventually("the mount goes", || !place.is_mounted());
    }
    Ok(())
}

fn files_without_a_name_go_on(place: &Place) -> anyhow::Result<()> {
    for how in [&[][..], &["no-passthrough"]] {
        fs::write(place.b("gone"), b"0123456789")?;
        fs::write(place.b("replaced"), b"abc")?;
        fs::write(place.b("new"), b"new")?;
        let mut server = place.server(how)?;
        let gone = File::options()
            .read(true)
            .write(true)
            .open(place.m("gone"))?;
        let replaced = File::open(place.m("replaced"))?;
        fs::remove_file(place.m("gone"))?;
        fs::rename(place.m("new"), place.m("replaced"))?;
        for _ in 0..2 {
            server.kill()?;
            server = place.server(how)?;
            assert_eq!(bounded(|| gone.metadata())?.nlink(), 0);
            gone.write_at(b"x", 1)?;
            gone.set_len(9)?;
            let mut text = [0; 9];
            gone.read_exact_at(&mut text, 0)?;
            assert_eq!(&text, b"0x2345678");
            let mut text = [0; 3];
            replaced.read_exact_at(&mut text, 0)?;
            assert_eq!(&text, b"abc");
            assert_eq!(fs::read(place.m("replaced"))?, b"new");
            // Opened once more, by way of its descriptor.
            let again = File::open(place::way_of(&gone))?;
            let mut text = [0; 9];
            again.read_exact_at(&mut text, 0)?;
        }
        server.tell("wait")?;
        drop((gone, replaced));
        place.unmount()?;
        server.ends()?;
        fs::remove_file(place.b("replaced"))?;
    }
    Ok(())
}

fn closed_files_without_a_name_are_let_go(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("gone"), b"0123456789")?;
    let server = place.server(&[])?;
    let holder = server.holder()?;
    let before = place::descriptors(holder);
    let gone = File::open(place.m("gone"))?;
    fs::remove_file(place.m("gone"))?;
    eventually("the holder has it", || {
        place::descriptors(holder) == before + 1
    });
    drop(gone);
    eventually("the holder lets it go", || {
        place::descriptors(holder) == before
    });
    Ok(())
}

fn work_goes_on_through_many_deaths(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server(&[])?;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..4)
            .map(|seed| {
                let (stop, place) = (&stop, &place);
                scope.spawn(move || work::work(place, seed, stop))
            })
            .collect();
        let mut random = work::Random(0x5eed);
        for round in 0..25 {
            std::thread::sleep(std::time::Duration::from_millis(random.below(60)));
            let killed = server.kill().and_then(|()| place.server(&[]));
            if killed.is_err() {
                stop.store(true, Ordering::Relaxed);
            }
            server = killed.map_err(|e| e.context(format!("round {round}")))?;
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            match worker.join() {
                Ok(steps) => anyhow::ensure!(steps? > 0, "a worker did nothing"),
                Err(_) => anyhow::bail!("a worker panicked"),
            }
        }
        Ok(())
    })?;
    Ok(())
}

fn a_stopped_predecessor_is_replaced(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&[])?;
    server.stop()?;
    let next = place.server(&[])?;
    assert_eq!(bounded(|| fs::read(place.m("file")))?, b"data");
    assert!(server.is_dead()?, "two servers must never read requests");
    drop(next);
    Ok(())
}

fn another_backing_is_refused(place: &Place) -> anyhow::Result<()> {
    fs::create_dir(place.b("inner"))?;
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&[])?;
    let said = place.refused(&["backing", "inner"])?;
    assert!(said.contains("another backing"), "{said}");
    assert!(!server.is_dead()?, "the old one serves on");
    assert_eq!(bounded(|| fs::read(place.m("file")))?, b"data");
    Ok(())
}

fn other_terms_are_refused(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&[])?;
    let said = place.refused(&["no-passthrough"])?;
    assert!(said.contains("agree with the kernel"), "{said}");
    assert!(!server.is_dead()?, "the old one serves on");
    assert_eq!(bounded(|| fs::read(place.m("file")))?, b"data");
    Ok(())
}

fn a_failed_successor_leaves_the_mount_held(place: &Place) -> anyhow::Result<()> {
    fs::write(place.b("file"), b"data")?;
    let mut server = place.server(&[])?;
    let file = File::open(place.m("file"))?;
    let said = place.refused(&["fail-after-taking"])?;
    assert!(said.contains("as asked for"), "{said}");
    assert!(server.is_dead()?);
    assert!(place.is_mounted());
    let next = place.server(&[])?;
    let mut text = [0; 4];
    file.read_exact_at(&mut text, 0)?;
    assert_eq!(bounded(|| fs::read(place.m("file")))?, b"data");
    drop(next);
    Ok(())
}

fn nobody_comes_and_the_mount_goes(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server(&["hold-ms", "200"])?;
    fs::write(place.m("file"), b"data")?;
    server.kill()?;
    eventually("the mount goes", || !place.is_mounted());
    assert_eq!(
        fs::read_dir(place.m(""))?.count(),
        0,
        "the bare mount point"
    );
    eventually("the holder ends", || server.holder_is_gone());
    assert!(!place.socket().exists());
    // And from the beginning.
    let _server = place.server(&[])?;
    assert_eq!(fs::read(place.m("file"))?, b"data");
    Ok(())
}

fn sigterm_ends_the_wait(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server(&[])?;
    let holder = server.holder()?;
    server.kill()?;
    assert!(place.is_mounted());
    let pid = Pid::from_raw(holder).ok_or(anyhow::anyhow!("no holder"))?;
    kill_process(pid, Signal::TERM)?;
    eventually("the mount goes", || !place.is_mounted());
    eventually("the holder ends", || server.holder_is_gone());
    Ok(())
}

fn a_dead_connection_is_not_held(place: &Place) -> anyhow::Result<()> {
    let mut server = place.server(&[])?;
    let number = fs::metadata(place.m(""))?.dev();
    server.kill()?;
    assert!(place.is_mounted());
    if !place::abort(place, rustix::fs::minor(number))? {
        eprintln!("SKIPPED a_dead_connection_is_not_held: no fusectl filesystem");
        return Ok(());
    }
    eventually("the mount goes", || !place.is_mounted());
    eventually("the holder ends", || server.holder_is_gone());
    Ok(())
}

fn an_orderly_end_is_not_held(place: &Place) -> anyhow::Result<()> {
    for word in ["unmount", "leave"] {
        let mut server = place.server(&[])?;
        server.tell(word)?;
        server.ends()?;
        assert!(!place.is_mounted(), "after {word}");
        eventually("the holder ends", || server.holder_is_gone());
    }
    // A successor's orderly end is the mount's end, too.
    let mut server = place.server(&[])?;
    server.kill()?;
    let mut server = place.server(&[])?;
    server.tell("unmount")?;
    server.ends()?;
    assert!(!place.is_mounted());
    eventually("the holder ends", || server.holder_is_gone());
    Ok(())
}
