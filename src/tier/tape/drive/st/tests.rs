//! Tests of a real drive, over recordings.

use super::device::{Access, State};
use super::loading::{BUSY, CALIBRATED, READY, SEEN, TOLD};
use super::*;
use crate::tier::clock::VirtualClock;
use crate::tier::tape::drive::Blame;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;

const RECORDINGS: &str = include_str!("recordings.txt");
/// What every load asks for and gets.
const LOAD: [&str; 9] = [
    "open look -> ok",
    "state -> online",
    "open write -> ok",
    "rewind -> ok",
    "set 0x0840 -> ok",
    "clear 0xf437 -> ok",
    "variable -> ok",
    "position -> 0",
    "state -> online",
];

/// Answers as a recording says, and only to the calls that are in it, in their order.
#[derive(Clone)]
struct Recording {
    name: String,
    left: Arc<Mutex<VecDeque<(String, String)>>>,
}

impl Recording {
    fn of(name: &str) -> Self {
        let found = RECORDINGS
            .split("\n== ")
            .find(|r| r.lines().next() == Some(name));
        let lines = found
            .unwrap_or_else(|| panic!("no recording {name:?}"))
            .lines()
            .skip(1);
        let calls = lines.filter(|l| !l.is_empty()).flat_map(|line| match line {
            "load" => LOAD.to_vec(),
            line => vec![line],
        });
        let call = |line: &str| {
            let (call, answer) = line.split_once(" -> ").unwrap_or((line, "ok"));
            (call.to_owned(), answer.to_owned())
        };
        Self {
            name: name.to_owned(),
            left: Arc::new(Mutex::new(calls.map(call).collect())),
        }
    }

    fn answer(&self, call: &str) -> io::Result<String> {
        let mut left = self.left.lock();
        let (wanted, answer) = left.front().cloned().unwrap_or_default();
        assert_eq!(call, wanted, "{}", self.name);
        let answer = match answer.strip_suffix(" *") {
            // As often as it is asked.
            Some(always) => always.to_owned(),
            None => {
                left.pop_front();
                answer
            }
        };
        let number = match answer.as_str() {
            "EIO" => libc::EIO,
            "EBUSY" => libc::EBUSY,
            "EINVAL" => libc::EINVAL,
            "ENOENT" => libc::ENOENT,
            "ENOMEDIUM" => libc::ENOMEDIUM,
            "ENOMEM" => libc::ENOMEM,
            "ENOSPC" => libc::ENOSPC,
            "ENXIO" => libc::ENXIO,
            "EOVERFLOW" => libc::EOVERFLOW,
            "EPERM" => libc::EPERM,
            "EROFS" => libc::EROFS,
            _ => return Ok(answer),
        };
        Err(io::Error::from_raw_os_error(number))
    }

    fn count(&self, call: &str) -> io::Result<usize> {
        Ok(self.answer(call)?.parse().expect("a number"))
    }

    fn is_over(&self) {
        let left = self.left.lock();
        let left = left.iter().filter(|(_, answer)| !answer.ends_with('*'));
        assert_eq!(left.count(), 0, "{}", self.name);
    }
}

impl Device for Recording {
    fn open(&mut self, access: Access) -> io::Result<()> {
        let how = match access {
            Access::Write => "write",
            Access::Read => "read",
            Access::Look => "look",
        };
        self.answer(&format!("open {how}")).map(drop)
    }
    fn close(&mut self) {
        self.answer("close").expect("closes");
    }
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let answer = self.answer(&format!("read {}", buffer.len()))?;
        if let Ok(count) = answer.parse() {
            return Ok(count);
        }
        // A label of that kind.
        buffer[..answer.len()].copy_from_slice(answer.as_bytes());
        Ok(80)
    }
    fn write(&mut self, block: &[u8]) -> io::Result<usize> {
        self.count(&format!("write {}", block.len()))
    }
    fn operate(&mut self, operation: Operation) -> io::Result<()> {
        self.answer(&operation.to_string()).map(drop)
    }
    fn position(&mut self) -> io::Result<i64> {
        Ok(self.answer("position")?.parse().expect("a number"))
    }
    fn state(&mut self) -> io::Result<State> {
        let bits = self.answer("state")?;
        let has = |bit| bits.split(' ').any(|b| b == bit);
        Ok(State {
            online: has("online"),
            empty: has("empty"),
            protected: has("protected"),
            end_of_data: has("end-of-data"),
            end_of_tape: has("end-of-tape"),
        })
    }
    fn options(&mut self) -> io::Result<i32> {
        let bits = self.answer("options")?;
        let digits = bits.strip_prefix("0x").expect("hexadecimal");
        Ok(i32::from_str_radix(digits, 16).expect("bits"))
    }
}

/// A drive over a recording, and its clock.
fn drive(name: &str) -> (StDrive<Recording>, Recording, Arc<VirtualClock>) {
    let (recording, clock) = (Recording::of(name), Arc::new(VirtualClock::default()));
    let drive = StDrive::new(DriveNumber(1), recording.clone(), clock.clone());
    (drive, recording, clock)
}

/// A loaded one; `run` must use up the recording.
fn loaded(name: &str, run: impl FnOnce(&mut StDrive<Recording>)) {
    let (mut drive, recording, _) = drive(name);
    drive.load().expect("loads");
    run(&mut drive);
    drop(drive);
    recording.is_over();
}

#[test]
fn a_cartridge_is_loaded_written_proven_and_given_back() {
    loaded(
        "load, write a block and a mark, synchronise, unload",
        |drive| {
            drive.write_block(&[1; 80]).expect("is written");
            drive.write_mark().expect("is written");
            assert_eq!(drive.sync().expect("is proven"), Proof::Drive);
            assert_eq!(drive.position().expect("is known"), 2);
            drive.unload().expect("is given back");
            assert!(matches!(drive.position(), Err(DriveError::Empty { .. })));
            assert_eq!((drive.tally().mounts, drive.tally().written), (1, 80));
        },
    );
}

#[test]
fn a_tab_is_seen_and_nothing_is_written_then() {
    let name = "a tape whose tab is set is opened for reading, and options need root";
    loaded(name, |drive| {
        let protected = |result| matches!(result, Err(DriveError::Protected));
        assert!(protected(drive.write_block(&[1; 80]).map(drop)));
        assert!(protected(drive.write_mark().map(drop)));
        assert!(protected(drive.erase()));
        drive.sync().expect("nothing was written");
    });
}

#[test]
fn a_drive_is_waited_for_but_not_for_ever() {
    let (mut slow, recording, clock) =
        drive("not ready yet, then no medium seen, then told to load");
    slow.load().expect("loads");
    recording.is_over();
    assert_eq!(clock.now(), TOLD, "told only then");
    for (name, blamed, least, said) in [
        (
            "the changer put it into another drive",
            Blame::Drive,
            SEEN,
            "in the order",
        ),
        (
            "somebody else has it open",
            Blame::Nobody,
            BUSY,
            "another program",
        ),
        ("never ready", Blame::Cartridge, READY, "not ready"),
    ] {
        let (mut drive, recording, clock) = drive(name);
        let error = drive.load().expect_err(name);
        assert_eq!(error.blames(), blamed, "{error}");
        assert!(error.to_string().contains(said), "{error}");
        let waited = clock.now();
        assert!(
            waited >= least && waited < least + Duration::from_secs(10),
            "{waited:?}"
        );
        recording.is_over();
    }
    let (mut new, _, clock) = drive("never ready");
    new.expect(Generation::Lto9);
    new.load().expect_err("was waited for");
    assert!(clock.now() >= CALIBRATED);
    let (mut fixed, recording, _) = drive("no variable blocks");
    let error = fixed.load().expect_err("cannot be used");
    assert!(error.to_string().contains("MTSETBLK"), "{error}");
    recording.is_over();
}

#[test]
fn marks_and_the_end_of_the_data_are_told_apart() {
    let mut room = [0; 80];
    loaded("a mark and the end of the data read as nothing", |drive| {
        assert_eq!(drive.read_block(&mut room).expect("reads"), Read::Block(80));
        assert_eq!(drive.read_block(&mut room).expect("reads"), Read::Mark);
        assert_eq!(drive.read_block(&mut room).expect("reads"), Read::End);
        assert_eq!(drive.position().expect("known"), 2);
    });
    let name = "the end of the data is an error where nothing was read before it";
    loaded(name, |drive| {
        drive.locate(5).expect("goes there");
        assert_eq!(drive.read_block(&mut room).expect("reads"), Read::End);
    });
    let name = "a blank tape that cannot be told from a broken one";
    loaded(name, |drive| {
        let error = drive.read_block(&mut room).expect_err("nobody knows");
        assert_eq!(error.blames(), Blame::Cartridge, "{error}");
    });
}

#[test]
fn a_bad_block_is_passed_over_and_a_long_one_never_cut() {
    let mut room = [0; 80];
    for name in [
        "a bad block, and the head before it",
        "a bad block, and the head behind it",
    ] {
        loaded(name, |drive| {
            let error = drive.read_block(&mut room).expect_err("is bad");
            assert!(
                matches!(error, DriveError::BadBlock { object: 0 }),
                "{error}"
            );
            assert_eq!(drive.position().expect("known"), 1);
            assert_eq!(drive.read_block(&mut room).expect("reads"), Read::Block(80));
        });
    }
    loaded("a bad block that cannot be passed", |drive| {
        let error = drive.read_block(&mut room).expect_err("is bad");
        assert!(
            matches!(error, DriveError::BadBlock { object: 0 }),
            "{error}"
        );
        // Not where it should be, but known: no reason to begin at the label.
        drive.locate(5).expect("goes elsewhere");
    });
    loaded("a block longer than what is asked for", |drive| {
        let error = drive.read_block(&mut room).expect_err("is long");
        assert!(matches!(error, DriveError::Longer { room: 80 }), "{error}");
        assert_eq!(drive.position().expect("known"), 1);
    });
    let mut room = vec![0; 16 << 20];
    loaded("a kernel that has no room for what is asked for", |drive| {
        for _ in 0..2 {
            assert_eq!(
                drive.read_block(&mut room).expect("reads"),
                Read::Block(1000)
            );
        }
    });
    loaded("a block too long for kernel or drive", |drive| {
        let error = drive.write_block(&room).expect_err("is too long");
        assert_eq!(error.blames(), Blame::Nobody);
        assert!(error.to_string().contains("block="), "{error}");
    });
}

#[test]
fn a_reset_of_the_bus_is_got_over_while_reading() {
    let mut room = [0; 80];
    loaded("a bus reset while reading", |drive| {
        assert_eq!(drive.read_block(&mut room).expect("reads"), Read::Block(80));
        for _ in 0..2 {
            // It may be another tape.
            is_lost(drive.read_block(&mut room).map(drop));
        }
        assert!(!drive.is_sure());
        drive.rewind().expect("is placed");
        assert!(drive.is_sure());
        assert_eq!(drive.read_block(&mut room).expect("reads"), Read::Block(80));
    });
}

fn is_lost(result: Result<(), DriveError>) {
    let error = result.expect_err("nobody knows where it is");
    assert!(matches!(error, DriveError::Lost { .. }), "{error}");
    assert_eq!(error.blames(), Blame::Nobody);
}

#[test]
fn nothing_is_written_where_the_head_was_not_left() {
    loaded("a silent reset before a write", |drive| {
        drive.locate(5).expect("goes there");
        is_lost(drive.write_block(&[1; 80]).map(drop));
        is_lost(drive.write_mark().map(drop));
        is_lost(drive.erase());
        is_lost(drive.locate(5));
        is_lost(drive.sync().map(drop));
        drive.rewind().expect("is placed");
        drive.write_block(&[1; 80]).expect("is written");
    });
    loaded("a reset that is told of while the tape is idle", |drive| {
        drive.locate(5).expect("goes there");
        is_lost(drive.locate(5));
        drive.rewind().expect("is told the second time");
    });
    loaded("a reset while it is written", |drive| {
        drive.write_block(&[1; 512]).expect("is taken");
        is_lost(drive.write_block(&[1; 512]).map(drop));
        is_lost(drive.locate(0));
    });
    let name = "the head is somewhere else after a read that failed";
    loaded(name, |drive| {
        is_lost(drive.read_block(&mut [0; 80]).map(drop));
    });
}

#[test]
fn behind_the_early_warning_are_labels_alone_and_those_are_read() {
    let is_end = |result: Result<Wrote, DriveError>| {
        let error = result.expect_err("goes to another tape");
        assert!(matches!(error, DriveError::EndOfMedium), "{error}");
    };
    loaded("no data are written behind the early warning", |drive| {
        drive.write_block(&[1; 512]).expect("fits");
        is_end(drive.write_block(&[1; 512]));
        // A last block, as short as it comes out.
        is_end(drive.write_block(&[1; 7]));
    });
    let name = "an error that may have passed for the early warning";
    loaded(name, |drive| {
        drive.write_block(&[1; 512]).expect("is said to be written");
        is_end(drive.write_mark());
    });
    loaded("labels behind the early warning are read back", |drive| {
        drive.write_block(&[1; 80]).expect("fits");
        drive.write_block(&[1; 80]).expect("fits");
        drive.write_mark().expect("fits");
        let error = drive.sync().expect_err("one is not there");
        assert_eq!(error.blames(), Blame::Cartridge, "{error}");
    });
    let name =
        "labels on both sides of the early warning are read back from the first that is not proven";
    loaded(name, |drive| {
        drive.write_block(&[1; 80]).expect("fits");
        assert_eq!(drive.position().expect("is asked"), 1);
        drive.write_block(&[1; 80]).expect("fits");
        // Where it stands: what was written is proven, not passed over.
        drive.locate(2).expect("stands there");
        drive.sync().expect("nothing is left to be proven");
    });
}

#[test]
fn options_that_would_make_a_receipt_false_are_not_loaded_with() {
    for name in [
        "options that need root, and would make a receipt false",
        "options that need root and cannot be seen",
        "no numbers of the standard, and only root could set that",
    ] {
        let (mut drive, recording, _) = drive(name);
        let error = drive.load().expect_err(name);
        assert_eq!(error.blames(), Blame::Drive, "{error}");
        assert!(error.to_string().contains("stinit.def"), "{error}");
        recording.is_over();
    }
}

#[test]
fn a_drive_that_should_be_empty_is_looked_into() {
    let (mut full, recording, _) = drive("a drive that should be empty has a cartridge");
    let error = full.vacant().expect_err("is not");
    assert!(error.to_string().contains("another order"), "{error}");
    recording.is_over();
    let (mut empty, recording, _) = drive("a drive that is empty");
    empty.vacant().expect("is");
    recording.is_over();
}

#[test]
fn closing_labels_behind_what_is_no_file_are_found() {
    loaded("closing labels lie behind something else", |drive| {
        assert!(drive.complete_behind().expect("reads on"));
    });
}

#[test]
fn two_refusals_in_a_row_are_the_end_of_the_tape() {
    loaded("near the end every second write is refused", |drive| {
        assert!(!drive.write_block(&[1; 80]).expect("fits").early_warning);
        assert!(drive.write_block(&[1; 80]).expect("fits").early_warning);
        let error = drive.write_block(&[1; 80]).expect_err("is the end");
        assert!(matches!(error, DriveError::EndOfMedium), "{error}");
        // Without the driver's own mark.
        drive.locate(0).expect("goes back");
    });
    loaded(
        "the end of the tape is met by a write of its own",
        |drive| {
            assert!(
                drive
                    .write_block(&[1; 80])
                    .expect("was written")
                    .early_warning
            );
        },
    );
}

#[test]
fn nothing_is_proven_after_a_failure_before_the_head_is_placed_anew() {
    let name = "a failed write is proven by nothing, and nothing is written behind it";
    loaded(name, |drive| {
        drive.write_block(&[1; 512]).expect("is taken");
        let error = drive.write_block(&[1; 512]).expect_err("fails");
        assert_eq!(error.blames(), Blame::Cartridge);
        drive.write_block(&[1; 512]).expect_err("not behind that");
        drive.write_mark().expect_err("nor a mark");
        drive.sync().expect_err("nor is it proven");
        drive.locate(0).expect("goes back");
        drive.write_block(&[1; 512]).expect("is written");
        drive.sync().expect("is proven");
    });
    let name = "what is lost before a move is told once, and nothing behind it is proven before the head is back";
    loaded(name, |drive| {
        drive.locate(5).expect("goes there");
        drive.write_block(&[1; 512]).expect("is taken");
        drive.write_block(&[1; 512]).expect("is taken");
        let error = drive.locate(7).expect_err("is lost");
        assert_eq!(error.blames(), Blame::Cartridge, "{error}");
        drive.sync().expect_err("they were not written");
        drive.locate(6).expect("may be looked at");
        drive.sync().expect_err("nor are they now");
        drive.write_block(&[1; 512]).expect_err("not behind that");
        drive.locate(5).expect("goes back");
        drive.write_block(&[1; 512]).expect("is written");
        drive.sync().expect("is proven");
    });
    loaded(
        "what is lost before a file is passed over is told",
        |drive| {
            drive.write_block(&[1; 512]).expect("is taken");
            drive.space_file().expect_err("is lost");
            drive.space_file().expect("is told once");
            drive.sync().expect_err("is lost all the same");
        },
    );
    loaded(
        "what was written is proven before the tape is moved",
        |drive| {
            drive.write_block(&[1; 512]).expect("is taken");
            drive.locate(0).expect("goes back");
            drive.locate(1).expect("and on");
            drive.sync().expect("is proven");
        },
    );
    let name = "the tape is another one after what was written could not be put on it";
    loaded(name, |drive| {
        drive.locate(5).expect("goes there");
        drive.write_block(&[1; 512]).expect("is taken");
        drive.locate(6).expect_err("is lost");
        // It is asked before it is sought on, also now.
        is_lost(drive.locate(5));
        drive.rewind().expect("is placed");
        drive.locate(5).expect("goes there");
    });
    loaded("what was written is not all there", |drive| {
        drive.write_block(&[1; 512]).expect("is taken");
        drive.write_block(&[1; 512]).expect("is taken");
        let error = drive.sync().expect_err("one is missing");
        assert!(error.to_string().contains("object 1"), "{error}");
        is_lost(drive.sync().map(drop));
    });
}

#[test]
fn erasing_is_proven_by_where_the_data_end() {
    for name in [
        "erasing is seen to be done",
        "a drive that does not erase has a mark put there",
    ] {
        loaded(name, |drive| {
            drive.write_block(&[1; 512]).expect("is taken");
            drive.write_block(&[1; 512]).expect("is taken");
            drive.locate(1).expect("goes back");
            drive.erase().expect("is erased");
            assert_eq!(drive.position().expect("known"), 1);
        });
    }
}

#[test]
fn spacing_and_locating_stop_where_the_data_end() {
    loaded("spacing over a file, and to the end of the data", |drive| {
        assert!(drive.space_file().expect("spaces"));
        assert_eq!(drive.position().expect("known"), 4);
        assert!(!drive.space_file().expect("spaces"), "the end");
        assert_eq!(drive.position().expect("known"), 7);
    });
    loaded("spacing over what cannot be read", |drive| {
        let error = drive.space_file().expect_err("is no end");
        assert!(matches!(error, DriveError::Medium { .. }), "{error}");
        assert!(!drive.is_sure(), "it may have been taken out");
    });
    loaded("locating behind the end", |drive| {
        for _ in 0..2 {
            let error = drive.locate(9).expect_err("is not there");
            let beyond = matches!(error, DriveError::Beyond { wanted: 9, end: 5 });
            assert!(beyond, "{error}");
        }
    });
}

#[test]
fn what_is_found_in_a_drive_is_given_back() {
    let (mut found, recording, _) = drive("what nobody loaded is given back");
    found.unload().expect("is given back");
    recording.is_over();
    let (mut empty, recording, _) = drive("an empty drive");
    assert!(matches!(empty.unload(), Err(DriveError::Empty { .. })));
    recording.is_over();
    loaded("a drive that is gone", |drive| {
        let error = drive.write_block(&[1; 512]).expect_err("is gone");
        assert_eq!(error.blames(), Blame::Drive, "{error}");
        drive.unload().expect_err("is gone");
    });
}

#[test]
fn every_recording_is_played() {
    let names = RECORDINGS
        .split("\n== ")
        .skip(1)
        .filter_map(|r| r.lines().next());
    let source = include_str!("tests.rs");
    for name in names {
        assert!(source.contains(&format!("{name:?}")), "{name}");
    }
}
