//! A stub that is made whole, and a crash in the middle of it.

use super::*;
use rustix::io::Errno;

/// A stub into which somebody wrote, and made it this long.
fn written_into(rig: &Rig, size: u64) -> Record {
    let seen = archived(rig, "f");
    rig.release("f", sound(&seen)).unwrap();
    let file = std::fs::File::options().write(true).open(rig.path("f"));
    let file = file.unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(b"written into", 4096).unwrap();
    drop(file);
    assert_eq!(recovered(rig, "f"), Recovered::Conflict);
    rig.record("f").unwrap()
}

fn made_whole(rig: &Rig, judged: &Record) -> Result<Stamp, MendError> {
    let (node, fd) = (rig.node("f"), rig.open("f", How::Path));
    let patient = Patient {
        backing: &rig.backing,
        gate: &rig.gate,
        node: &node,
        hint: Some(b"f"),
        judged: rig.backing.stat(fd.as_fd()).unwrap().ctime,
    };
    drop(fd);
    let once = || make_stub_whole(patient, judged, &mut |_, _, _| Ok(()));
    patiently(once, |why| {
        matches!(why, MendError::Refused(Refusal::InUse))
    })
}

#[test]
fn p4_a_stub_that_is_made_whole_and_cut_short_is_mended_by_the_next_start() {
    for size in [SIZE as u64 + 100_000, SIZE as u64 - 100_000] {
        let rig = Rig::new();
        let judged = written_into(&rig, size);
        let crash = || Err(BackingError::of("crash", || "here".into(), Errno::IO));
        HALF_WAY.set(Some(Box::new(crash)));
        assert!(made_whole(&rig, &judged).is_err());
        let record = rig.record("f").unwrap();
        assert_eq!(record.state, State::Recalling, "{size}");
        assert!(matches!(recovered(&rig, "f"), Recovered::Released(_)));
        assert_released(&rig, "f");
    }
}

#[test]
fn p4_a_stub_of_another_size_is_made_whole() {
    let rig = Rig::new();
    let judged = written_into(&rig, SIZE as u64 + 100_000);
    made_whole(&rig, &judged).unwrap();
    assert_released(&rig, "f");
}
