//! A process killed in the middle of its puts to tape: on reopening there are whole objects only, each
//! one that had a receipt is among them, and the tapes go on behind the last of them.

use crate::MARK;
use cairn::id::AggregateId;
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::{OpenHow, Tier};
use cairn_mover::Crc32c;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Names the library's directory to the child.
const PLACE: &str = "CAIRN_TEST_TAPE_CRASH_PLACE";
/// The round, which is the epoch of the child's objects.
const ROUND: &str = "CAIRN_TEST_TAPE_CRASH_ROUND";
/// Says how many kills strike; [`ROUNDS`] if it is not set.
const KILLS: &str = "CAIRN_TEST_TAPE_KILLS";
const ROUNDS: u32 = 24;
/// Who put at the same time.
const WRITERS: usize = 4;

fn open(place: &Path) -> TapeTier {
    let options = TapeOptions {
        capacity: Some(64 << 20),
        cartridges: 8,
        // So that those who put at the same time are written together.
        drives: 1,
        ..TapeOptions::default()
    };
    TapeTier::open(place, &options, OpenHow::new(MARK.owner, MARK.tier)).expect("opens")
}

/// What the object of that name holds: about 1 MiB, told by its name alone.
fn content(name: AggregateId) -> Vec<u8> {
    let len = 900_000 + (name.seq * 7919 % 200_000) as usize;
    let tag = format!("{name} ");
    tag.bytes().cycle().take(len).collect()
}

/// Not a test of its own: the child of the one below, which starts it with a place.
#[test]
fn child_that_puts_to_tape_until_it_is_killed() {
    let Some(place) = std::env::var_os(PLACE) else {
        return;
    };
    let epoch = std::env::var(ROUND)
        .expect("round")
        .parse()
        .expect("number");
    let tier = open(&PathBuf::from(place));
    let say = |word: String| {
        let mut out = std::io::stdout().lock();
        writeln!(out, "step {word}").expect("the parent reads");
        out.flush().expect("the parent reads");
    };
    let put = |first: u64| {
        for seq in (first..).step_by(WRITERS) {
            let name = AggregateId { epoch, seq };
            let data = content(name);
            let mut put = tier.put(name, data.len() as u64).expect("put");
            put.write_all(&data).expect("write");
            say(format!("started {name}"));
            put.finish(Crc32c::of(&data)).expect("finish");
            say(format!("receipt {name}"));
        }
    };
    std::thread::scope(|scope| {
        for first in 1..=WRITERS as u64 {
            scope.spawn(move || put(first));
        }
    });
}

/// Kills and reaps the child also when an assertion fails.
struct Victim(Child);

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a child up to its `steps`-th step and a little on, kills it, and gives back the names with a
/// receipt.
fn kill_after(place: &Path, round: u32, steps: usize) -> Vec<AggregateId> {
    let child = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "tape_crash::child_that_puts_to_tape_until_it_is_killed",
            "--nocapture",
        ])
        .env(PLACE, place)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("child starts");
    let mut victim = Victim(child);
    let mut lines = BufReader::new(victim.0.stdout.take().expect("piped")).lines();
    let mut receipts = Vec::new();
    let mut seen = 0;
    // The test harness prints before a step's first word, on the same line.
    let mut step = |line: String| {
        let mut words = line.split("step ").nth(1)?.split(' ');
        if words.next() == Some("receipt") {
            receipts.extend(words.next().and_then(|n| n.parse::<AggregateId>().ok()));
        }
        Some(())
    };
    while seen < steps {
        let line = lines.next().expect("the child goes on").expect("readable");
        seen += usize::from(step(line).is_some());
    }
    // Where in the next step it strikes varies by round, and by itself.
    std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 700));
    victim.0.kill().expect("kill");
    victim.0.wait().expect("is gone");
    // It ran on until the kill struck; what it said counts.
    for line in lines.map_while(Result::ok) {
        step(line);
    }
    receipts
}

/// Cartridges that end with something incomplete: their images go on behind the tape mark of the last
/// closing labels (a record of 80 bytes with its two lengths, and a length of 0).
fn torn(place: &Path) -> usize {
    let images = std::fs::read_dir(place.join("cartridges")).expect("cartridges");
    let images = images.map(|i| std::fs::read(i.expect("entry").path()).expect("image"));
    let is_torn = |image: &Vec<u8>| {
        let last = image.windows(4).rposition(|w| w == b"UTL1");
        // Behind the volume's label if there is none; without its mark, if need be.
        let end = last.map_or(88, |at| at + 80 + 4);
        image.get(end..).is_some_and(|rest| rest.len() > 4)
    };
    images.filter(is_torn).count()
}

/// Files that count with a later one alone.
fn together(place: &Path) -> usize {
    let images = std::fs::read_dir(place.join("cartridges")).expect("cartridges");
    let images = images.map(|i| std::fs::read(i.expect("entry").path()).expect("image"));
    images
        .map(|image| image.windows(4).filter(|w| w == b"UTLP").count())
        .sum()
}

#[test]
fn killed_at_random_only_whole_objects_are_on_the_tapes() {
    let place = TempDir::new().expect("temporary directory");
    drop(open(place.path()));
    let told = std::env::var(KILLS).ok().and_then(|n| n.parse().ok());
    let rounds: u32 = told.unwrap_or(ROUNDS);
    let mut promised = BTreeSet::new();
    let (mut unpromised, mut tails) = (0, 0);
    // Where a kill strikes is chance: more of them, if none struck in the middle of a write.
    for round in 1..=10 * rounds {
        if round > rounds && tails > 0 {
            break;
        }
        let steps = 1 + (round * 7 % 13) as usize;
        promised.extend(kill_after(place.path(), round, steps));
        tails += torn(place.path());
        let tier = open(place.path());
        let found: BTreeSet<_> = tier
            .list(None, usize::MAX)
            .expect("list")
            .into_iter()
            .collect();
        assert!(
            promised.is_subset(&found),
            "round {round}: a receipt was broken"
        );
        unpromised = found.len() - promised.len();
        for name in found.iter().filter(|n| n.epoch + 2 > round) {
            let data = content(*name);
            let bytes = tier.read(*name, 0, data.len() as u64).expect("whole");
            assert_eq!(tier.stat(*name).expect("stat"), data.len() as u64);
            assert_eq!(Crc32c::of(&bytes), Crc32c::of(&data), "{name}");
        }
        let status = tier.library().expect("there").cartridges();
        assert!(status.iter().all(|c| c.trouble.is_none()), "{status:?}");
    }
    // Or the kills struck where nothing was being written, and nothing was tested.
    assert!(tails > 0, "no kill left a torn tail");
    let tier = open(place.path());
    let status = tier.library().expect("there").cartridges();
    assert!(together(place.path()) > 0, "none were written together");
    let begun = status.iter().filter(|c| c.files > 0).count();
    assert!(begun > 1, "the puts went to one cartridge alone");
    eprintln!(
        "{rounds} kills, {tails} torn tails, {} receipts kept, {unpromised} whole objects without a receipt",
        promised.len()
    );
}
