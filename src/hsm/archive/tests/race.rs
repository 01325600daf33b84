//! Archive and release against a writer that never rests: no copy may be torn, no byte lost.
//!
//! The writer fills the file with one byte value at a time, in two halves, through a descriptor or
//! through a mapping that outlives its descriptor. So every state of the file between two of its
//! turns is uniform, and a copy that is not was read while somebody wrote.

use super::*;
use crate::hsm::rig::Mapping;
use crate::hsm::verify::read_index;
use std::os::fd::AsFd;
use std::sync::atomic::AtomicU32;

const LEN: usize = 128 << 10;
const TURNS: u32 = 150;

/// Fills the file in two halves, resting in between: with the file still held, so that no copy may
/// be made. In every third turn all pages are dirty by then, and no timestamp tells of the rest.
fn one_turn(path: &std::path::Path, turn: u32, rest: &dyn Fn()) {
    // A lease makes an open for writing wait until it is given back.
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let byte = (turn % 251) as u8;
    let half = vec![byte; LEN / 2];
    if turn.is_multiple_of(3) {
        let mapping = Mapping::writable(file.as_fd(), LEN);
        drop(file);
        for page in (0..LEN).step_by(4096) {
            mapping.store(page, byte);
        }
        rest();
        for at in 0..LEN {
            mapping.store(at, byte);
        }
    } else {
        file.write_at(&half, 0).unwrap();
        rest();
        file.write_at(&half, (LEN / 2) as u64).unwrap();
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn p1_p2_p3_no_copy_is_torn_and_no_byte_lost() {
    let rig = Rig::new();
    rig.write("f", &vec![0; LEN]);
    let path = rig.path("f");
    let done = Arc::new(AtomicBool::new(false));
    let tries = AtomicU32::new(0);
    let (mut copies, tried) = (0, &tries);
    let over = AtomicBool::new(false);
    std::thread::scope(|threads| {
        // A failing assertion must not leave the writer resting for ever.
        let _over = Over(&over);
        let over = &over;
        let finished = Arc::clone(&done);
        threads.spawn(move || {
            for turn in 1..=TURNS {
                // Some tries of the archiver long.
                let rest = || {
                    let until = tried.load(Ordering::SeqCst) + 3;
                    while tried.load(Ordering::SeqCst) < until && !over.load(Ordering::SeqCst) {
                        std::thread::yield_now();
                    }
                };
                one_turn(&path, turn, &rest);
                if turn.is_multiple_of(2) {
                    rest();
                }
            }
            finished.store(true, Ordering::SeqCst);
        });
        while !done.load(Ordering::SeqCst) || copies == 0 {
            tries.fetch_add(1, Ordering::SeqCst);
            let report = rig.archive(&["f"]);
            let [Outcome::Archived(archived)] = &report.outcomes[..] else {
                assert!(matches!(
                    report.outcomes[..],
                    [Outcome::Skipped(Skip::Busy | Skip::Changed)]
                ));
                continue;
            };
            copies += 1;
            let copied = &archived.copied;
            let (_, index) = read_index(&rig.tier, copied.copy.aggregate).unwrap();
            let entry = index.by_identity(copied.file, copied.version).unwrap();
            let bytes = rig
                .tier
                .read(copied.copy.aggregate, entry.data, LEN as u64)
                .unwrap();
            assert!(
                bytes.iter().all(|b| *b == bytes[0]),
                "copy {copies} is torn"
            );
        }
    });
    // The last state is archived anew if it has to be, and only then goes.
    let seen = rig.archived("f");
    let record = rig.record("f").unwrap();
    assert_eq!(record.crc, Crc32c::of(&vec![(TURNS % 251) as u8; LEN]));
    rig.release("f", Some((&seen, Trust::Sound))).unwrap();
    let tries = tries.into_inner();
    eprintln!("{copies} copies in {tries} tries beside {TURNS} turns of the writer");
}
