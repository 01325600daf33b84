//! Files in objects that must be restored first: readers wait, and nobody asks twice.

use super::rig::*;
use crate::format::aggregate::BLOCK;
use crate::hsm::recall::Settings;
use crate::id::TierId;
use crate::tier::Tier;
use crate::tier::faults::{Fault, Operation};
use cairn_fuse::Errno;
use std::sync::Arc;
use std::time::Duration;

fn rig() -> Rig {
    Rig::with(Settings {
        restore_poll: Duration::from_millis(10),
        restore_poll_most: Duration::from_millis(20),
        ..Settings::default()
    })
}

/// The index of the object is in memory: a recall begins without the tier.
fn at_hand(rig: &Rig, stub: &Stub) {
    let (tier, copy) = (rig.tier(), stub.record.copies[0]);
    let indexes = rig.recaller.indexes();
    let loaded = indexes.load(&*tier, copy.tier, copy.aggregate);
    loaded.expect("loaded");
}

#[test]
fn a_reader_waits_until_it_was_restored_whether_its_index_is_at_hand_or_not() {
    for is_at_hand in [false, true] {
        let rig = rig();
        let stub = rig.dense("file", 3 * BLOCK);
        if is_at_hand {
            at_hand(&rig, &stub);
        }
        let (tier, object) = (rig.tier(), stub.record.copies[0].aggregate);
        tier.control().stow(object);
        let readers = [0, BLOCK, 2 * BLOCK].map(|offset| (offset, rig.read(&stub, offset, 100)));
        let asked = |rig: &Rig| rig.tier().control().calls(Operation::Restore);
        rig.until("it is asked for, and how it stands", |rig| asked(rig) >= 3);
        rig.until("it waits, and is told how long", |rig| {
            rig.recaller.restoring(&stub.node).flatten().is_some()
        });
        // Nothing of it was begun, and no room is held meanwhile.
        rig.assert_released(&stub);
        let reads = tier.control().calls(Operation::Read);
        let before = asked(&rig);
        rig.until("it is asked for again", |rig| asked(rig) >= before + 3);
        assert_eq!(
            tier.control().calls(Operation::Read),
            reads,
            "nobody reads in vain"
        );
        tier.control().restore(object);
        for (offset, reader) in readers {
            let got = reader.wait().expect("the bytes");
            let at = offset as usize;
            assert!(got == stub.content[at..at + 100]);
        }
        rig.until("it is whole", |rig| rig.recaller.running() == 0);
        rig.assert_whole(&stub);
        assert_eq!(
            rig.above.failed.lock().len(),
            0,
            "nothing is known against the copy"
        );
    }
}

#[test]
fn nobody_asks_on_for_those_who_went() {
    let rig = rig();
    let stub = rig.dense("file", BLOCK);
    let (tier, object) = (rig.tier(), stub.record.copies[0].aggregate);
    tier.control().stow(object);
    let (tell, _told) = crossbeam_channel::bounded(1);
    let done = Box::new(move |got: Result<Vec<u8>, Errno>| {
        let _ = tell.send(got.is_ok());
    });
    let token = rig.recaller.read(&stub.node, None, 0, (0, 100), done);
    rig.until("it is asked for", |rig| {
        rig.tier().control().calls(Operation::Restore) >= 2
    });
    rig.recaller.give_up(token);
    rig.until("nothing waits", |rig| {
        rig.recaller.running() == 0 && rig.recaller.shared.thaws.lock().is_empty()
    });
    rig.assert_released(&stub);
    // It came all the same, and the next one finds it.
    tier.control().restore(object);
    rig.stage(&stub).expect("staged");
}

#[test]
fn what_is_said_to_be_restored_and_is_not_is_not_waited_for_without_end() {
    let rig = rig();
    let stub = rig.dense("file", BLOCK);
    at_hand(&rig, &stub);
    let tier = rig.tier();
    tier.control()
        .fail_every(Operation::Read, 1, Fault::NotRestored);
    let error = rig.read(&stub, 0, 100).wait();
    assert_eq!(error, Err(Errno(libc::EHOSTDOWN)));
    assert_eq!(tier.control().calls(Operation::Restore), 1);
    rig.until("it is over", |rig| rig.recaller.running() == 0);
    rig.assert_released(&stub);
    assert_eq!(rig.above.failed.lock().len(), 0);
}

#[test]
fn a_restore_that_is_refused_is_told() {
    let rig = rig();
    let stub = rig.dense("file", BLOCK);
    let (tier, object) = (rig.tier(), stub.record.copies[0].aggregate);
    tier.control().stow(object);
    tier.control()
        .fail_every(Operation::Restore, 1, Fault::Unavailable);
    let error = rig.read(&stub, 0, 100).wait();
    assert_eq!(error, Err(Errno(libc::EHOSTDOWN)));
    // But while it is under way its service may be away.
    tier.control()
        .fail_every(Operation::Restore, 3, Fault::Unavailable);
    rig.recaller.shared.thaws.lock().forget();
    let reader = rig.read(&stub, 0, 100);
    let before = tier.control().calls(Operation::Restore);
    rig.until("it is asked for again and again", |rig| {
        rig.tier().control().calls(Operation::Restore) >= before + 6
    });
    tier.control().restore(object);
    reader.wait().expect("the bytes");
}

const TWO: TierId = TierId(2);

/// A copy on each of two tiers.
fn on_two(rig: &Rig, name: &str) -> (Stub, [Arc<Watched>; 2]) {
    let second = rig.add_tier(TWO);
    let stub = rig.released(name, 4 * BLOCK, &dense(4 * BLOCK), &[TierId(1), TWO]);
    (stub, [rig.tier(), second])
}

fn restores(tier: &Watched) -> u64 {
    tier.control().calls(Operation::Restore)
}

#[test]
fn where_the_near_copy_is_bad_the_reader_waits_for_the_far_one_and_tries_the_near_one_no_more() {
    let rig = rig();
    let (stub, [near, far]) = on_two(&rig, "file");
    let [first, second] = [stub.record.copies[0], stub.record.copies[1]];
    near.control()
        .flip(first.aggregate, (stub.entry_data + 2 * BLOCK) * 8);
    far.control().stow(second.aggregate);
    let reader = rig.read(&stub, 2 * BLOCK, 100);
    rig.until("it waits", |rig| {
        rig.recaller.restoring(&stub.node).flatten().is_some()
    });
    let (reads, asked) = (near.control().calls(Operation::Read), restores(&far));
    rig.until("it is asked for on and on", |_| restores(&far) >= asked + 5);
    assert_eq!(near.control().calls(Operation::Read), reads);
    rig.assert_released(&stub);
    far.control().restore(second.aggregate);
    let got = reader.wait().expect("the bytes");
    assert!(got == stub.content[2 * BLOCK as usize..][..100]);
    rig.until("it is whole", |rig| rig.recaller.running() == 0);
    rig.assert_whole(&stub);
}

#[test]
fn of_two_archived_copies_one_that_is_refused_does_not_hide_the_other() {
    let rig = rig();
    let (stub, [first, second]) = on_two(&rig, "file");
    first.control().stow(stub.record.copies[0].aggregate);
    second.control().stow(stub.record.copies[1].aggregate);
    first
        .control()
        .fail_every(Operation::Restore, 1, Fault::Unavailable);
    let reader = rig.read(&stub, 0, 100);
    rig.until("the other is asked for", |_| restores(&second) >= 2);
    assert_eq!(restores(&first), 1);
    second.control().restore(stub.record.copies[1].aggregate);
    assert!(reader.wait().expect("the bytes") == stub.content[..100]);
}

#[test]
fn nothing_is_paid_for_where_the_near_copy_is_back_in_a_moment() {
    let rig = Rig::with(Settings {
        restore_grace: Duration::from_millis(300),
        ..Settings::default()
    });
    let (stub, [near, far]) = on_two(&rig, "file");
    far.control().stow(stub.record.copies[1].aggregate);
    near.control().set_unavailable(true);
    let reader = rig.read(&stub, 0, 100);
    // The near one is asked first.
    rig.until("both were asked", |_| {
        far.control().calls(Operation::Read) > 0
    });
    near.control().set_unavailable(false);
    assert!(reader.wait().expect("the bytes") == stub.content[..100]);
    assert_eq!(restores(&far), 0);
}

#[test]
fn whoever_waits_for_a_restore_is_served_by_a_copy_that_came_back() {
    // With the far copy's index in memory a recall begins with that, as long as the near tier is thought to be away.
    for far_is_at_hand in [false, true] {
        let rig = Rig::with(Settings {
            restore_poll: Duration::from_millis(10),
            restore_poll_most: Duration::from_millis(20),
            restore_grace: Duration::ZERO,
            ..Settings::default()
        });
        let (stub, [near, far]) = on_two(&rig, "file");
        let copy = stub.record.copies[1];
        if far_is_at_hand {
            let loaded = rig
                .recaller
                .indexes()
                .load(&*far, copy.tier, copy.aggregate);
            loaded.expect("loaded");
        }
        far.control().stow(copy.aggregate);
        near.control().set_unavailable(true);
        let reader = rig.read(&stub, 0, 100);
        rig.until("it is asked for, and how it stands", |_| {
            restores(&far) >= 3
        });
        near.control().set_unavailable(false);
        assert!(reader.wait().expect("the bytes") == stub.content[..100]);
        rig.until("it is whole", |rig| rig.recaller.running() == 0);
        rig.assert_whole(&stub);
        rig.until("nobody asks on", |rig| {
            rig.recaller.shared.thaws.lock().is_empty()
        });
    }
}

#[test]
fn all_parts_of_a_file_are_asked_for_together() {
    let rig = rig();
    let mib = 1 << 20;
    let tier = rig.add_short_tier(TWO, 3 * mib + (160 << 10));
    let stub = rig.released("large", 10 * mib + 5, &dense(10 * mib + 5), &[TWO]);
    let head = stub.record.copies[0].aggregate;
    let objects = tier.list(None, 100).expect("names");
    assert!(objects.len() >= 4, "{objects:?}");
    for object in &objects {
        tier.control().stow(*object);
    }
    // Its index, which says that there are parts, is in the last one.
    tier.control().restore(head);
    let reader = rig.read(&stub, 0, 100);
    let parts = objects.len() as u64 - 1;
    rig.until("all are asked for", |rig| {
        let thaws = rig.recaller.shared.thaws.lock();
        thaws.asked_for(TWO) == parts
    });
    for object in &objects {
        tier.control().restore(*object);
    }
    assert!(reader.wait().expect("the bytes") == stub.content[..100]);
    rig.stage(&stub).expect("staged");
    rig.assert_whole(&stub);
}
