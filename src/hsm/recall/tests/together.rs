//! Everything at once: readers, stages, cancels, truncations, tiers that come and go. Whatever
//! happens, a reader gets right bytes or an error, and every file ends whole or empty.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::format::member::Extent;
use crate::hsm::backing::How;
use crate::hsm::recall::{Settings, StageAsk};
use crate::id::TierId;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const FILES: usize = 6;

fn user(rig: &Rig, first: &Watched, stubs: &[Stub], cut: &[AtomicBool], seed: u64) {
    let mut dice = noise(4096, seed).into_iter().map(u64::from);
    let mut roll = |n: u64| (dice.next().unwrap_or(0) * 256 + dice.next().unwrap_or(0)) % n;
    for _ in 0..60 {
        let at = roll(FILES as u64) as usize;
        let stub = &stubs[at];
        let (offset, len) = (roll(stub.content.len() as u64), roll(200_000) as u32);
        let offset = offset * roll(97) % stub.content.len() as u64;
        match roll(12) {
            0 if roll(4) == 0 => {
                let fd = rig
                    .backing
                    .open_node(&stub.node, None, How::Path)
                    .expect("open");
                cut[at].store(true, Ordering::SeqCst);
                let file = std::fs::OpenOptions::new().write(true).open(&stub.path);
                file.expect("open").set_len(0).expect("truncated");
                rig.recaller
                    .truncated(&stub.node, fd.as_fd())
                    .expect("dropped");
            }
            1 | 2 => {
                let token = rig.recaller.stage(StageAsk {
                    node: stub.node.clone(),
                    user: 0,
                    hint: None,
                    place: None,
                    done: Box::new(|_| {}),
                });
                if roll(2) == 0 {
                    rig.recaller.give_up(token);
                }
            }
            3 => {
                let done = Box::new(|_| {});
                let token = rig.recaller.read(&stub.node, None, 7, (offset, len), done);
                rig.recaller.give_up(token);
            }
            4 => first.control().set_unavailable(roll(2) == 0),
            5 => {
                let fd = rig.backing.open_node(&stub.node, None, How::Path);
                let fd = fd.expect("open");
                let now = rig.now();
                let set = rig.recaller.set_times(&stub.node, fd.as_fd(), &now);
                assert!(matches!(set, None | Some(Ok(()))), "{set:?}");
                let other = cairn_fuse::Changed::Other;
                rig.recaller.changed(&stub.node, fd.as_fd(), other);
            }
            _ => {
                let got = rig.read(stub, offset, len).wait();
                let from = offset as usize;
                let to = (from + len as usize).min(stub.content.len());
                match got {
                    Ok(got) if got == stub.content[from..to] => {}
                    Ok(got) => {
                        assert!(
                            cut[at].load(Ordering::SeqCst),
                            "wrong bytes of {:?}",
                            stub.path
                        );
                        // Read while being cut: a part of it, or nothing.
                        assert!(stub.content[from..].starts_with(&got), "wrong bytes, cut");
                    }
                    Err(why) => assert!(
                        [libc::EHOSTDOWN, libc::EIO].contains(&why.0),
                        "unexpected {why:?}"
                    ),
                }
            }
        }
    }
}

#[test]
fn whatever_happens_bytes_are_right_or_refused() {
    let rig = Rig::with(Settings {
        implicit_per_user: 2,
        files: 2,
        tier_workers: 3,
        ..Settings::default()
    });
    whatever_happens(&rig, TierId(1));
}

/// Everything at once on files whose first copies lie on the tier `first`.
pub(super) fn whatever_happens(rig: &Rig, first: TierId) {
    rig.add_tier(TierId(2));
    let on = Arc::clone(&rig.above.tiers.lock()[&first]);
    let stubs: Vec<_> = (0..FILES as u64)
        .map(|n| {
            let runs = [
                Extent {
                    offset: 4096 * n,
                    len: 2 * BLOCK + 4096,
                },
                Extent {
                    offset: 3 * BLOCK,
                    len: BLOCK,
                },
            ];
            let tiers = if n % 2 == 0 {
                vec![first]
            } else {
                vec![first, TierId(2)]
            };
            rig.released(&format!("f{n}"), 4 * BLOCK + 11 * n, &runs, &tiers)
        })
        .collect();
    let bad = stubs[1].record.copies[0].aggregate;
    on.control().flip(bad, (stubs[1].entry_data + 5) * 8);
    let cut: Vec<_> = (0..FILES).map(|_| AtomicBool::new(false)).collect();
    let seeds = Arc::new(AtomicU64::new(1));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let (on, stubs, cut, seeds) = (&on, &stubs, &cut, Arc::clone(&seeds));
            scope.spawn(move || user(rig, on, stubs, cut, seeds.fetch_add(1, Ordering::Relaxed)));
        }
    });
    on.control().set_unavailable(false);
    for (stub, cut) in stubs.iter().zip(&cut) {
        rig.until("every file can be brought back", |rig| {
            rig.stage(stub).is_ok()
        });
        let now = std::fs::read(&stub.path).expect("readable");
        let empty = cut.load(Ordering::SeqCst) && now.is_empty();
        assert!(empty || now == stub.content, "{:?}", stub.path);
    }
    rig.until("nothing is left running", |rig| rig.recaller.running() == 0);
}

/// Invariant 9: who waits for the catalog's word on files without a record holds up nobody else.
#[test]
fn p11_files_that_are_asked_about_hold_up_no_recall() {
    let rig = Rig::with(Settings {
        disk_workers: 1,
        ..Settings::default()
    });
    let bare = rig.dense("bare", 3 * BLOCK);
    let fd = rig.backing.open_node(&bare.node, None, How::Path);
    rig.backing
        .remove_record(fd.expect("open").as_fd())
        .expect("removed");
    rig.above.doubted.lock().insert(bare.node.clone(), false);
    let released = rig.dense("released", 3 * BLOCK);
    let silence = rig.above.silence.lock();
    let waiting = rig.read(&bare, 0, 10);
    rig.until("somebody asks", |rig| {
        rig.above.asked.load(Ordering::SeqCst) > 0
    });
    let got = rig.read(&released, 5, 10).wait().expect("read");
    assert!(got == released.content[5..15]);
    drop(silence);
    assert_eq!(waiting.wait(), Ok(vec![0; 10]));
}

/// A release that begins on a file whose record is gone holds its lease for a moment.
#[test]
fn an_open_waits_for_a_lease_that_is_in_the_way_of_the_question() {
    let rig = Rig::new();
    let bare = rig.dense("bare", BLOCK);
    let fd = rig.backing.open_node(&bare.node, None, How::Path);
    rig.backing
        .remove_record(fd.expect("open").as_fd())
        .expect("removed");
    rig.above.leased.store(2, Ordering::SeqCst);
    rig.above.doubted.lock().insert(bare.node.clone(), false);
    assert_eq!(rig.read(&bare, 0, 10).wait(), Ok(vec![0; 10]));
    assert_eq!(rig.above.asked.load(Ordering::SeqCst), 3);
}
