//! Signals as `/proc` tells them, and whom they interrupt.

use super::*;

const INT: u64 = 1 << (libc::SIGINT - 1);
const TERM: u64 = 1 << (libc::SIGTERM - 1);

fn status(own: u64, shared: u64, blocked: u64, caught: u64) -> Signals {
    let text = format!(
        "Name:\tcat\nState:\tD (disk sleep)\nTgid:\t7\nPid:\t8\nSigPnd:\t{own:016x}\n\
         ShdPnd:\t{shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{:016x}\n\
         SigCgt:\t{caught:016x}\n",
        0
    );
    match judge(&text) {
        Caller::Lives(signals) => signals,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pending_signals_interrupt_unless_blocked_or_merely_stopping() {
    let interrupts = |pending, blocked, caught| {
        let (one, any) = (
            status(pending, 0, blocked, caught),
            status(0, pending, blocked, caught),
        );
        assert_eq!((one.own, any.shared), (pending, pending));
        assert_eq!((one.shared, any.own), (0, 0));
        one.interrupts(one.own)
    };
    let stop = 1 << (libc::SIGTSTP - 1);
    assert!(!interrupts(0, 0, 0));
    assert!(interrupts(INT, 0, 0));
    assert!(!interrupts(INT, INT, 0));
    assert!(!interrupts(stop, 0, 0));
    assert!(interrupts(stop, 0, stop));
    assert_eq!(judge("State:\tZ (zombie)\n"), Caller::Gone);
    assert_eq!(Look::default().at(u32::MAX), Caller::Gone);
}

/// For which of these threads of process 7, with these signals blocked, is SIGINT?
fn rounds(threads: &[(u32, u64)], first: Caller) -> [Vec<u32>; 3] {
    let mut shared = Shared::default();
    [(); 3].map(|()| {
        shared.next_round();
        let those = threads.iter().filter(|(thread, blocked)| {
            shared.is_for(*thread, &status(0, INT, *blocked, 0), |asked| {
                assert_eq!(asked, 7);
                first
            })
        });
        those.map(|(thread, _)| *thread).collect()
    })
}

#[test]
fn a_processs_signal_is_one_threads() {
    let first = |blocked| Caller::Lives(status(0, INT, blocked, 0));
    let none = || Vec::<u32>::new();
    // The first thread's, at once, and nobody's beside it.
    let [a, b, _] = rounds(&[(7, 0), (8, 0), (9, 0)], first(0));
    assert_eq!((a, b), (vec![7], vec![7]), "until it is seen to have gone");
    // The first thread's, which does something else.
    assert_eq!(
        rounds(&[(8, 0), (9, 0)], first(0)),
        [none(), none(), none()]
    );
    // Not the first's: one of the others, unless it does not stay pending.
    for blind in [first(INT | TERM), Caller::Gone] {
        assert_eq!(
            rounds(&[(8, INT), (9, 0), (10, 0)], blind),
            [none(), vec![9], vec![9]]
        );
    }
    assert_eq!(rounds(&[(7, INT), (8, 0)], first(INT))[1], [8]);
    assert_eq!(rounds(&[(8, INT)], first(INT)), [none(), none(), none()]);
}

#[test]
fn a_signal_that_was_another_before_is_looked_at_again() {
    let mut shared = Shared::default();
    let first = |_| Caller::Lives(status(0, 0, INT | TERM, 0));
    for (pending, is_for) in [(INT, false), (TERM, false), (INT | TERM, true)] {
        shared.next_round();
        let signals = status(0, pending, 0, 0);
        assert_eq!(shared.is_for(8, &signals, first), is_for, "{pending:x}");
    }
}

#[test]
fn looking_takes_a_twentieth_of_the_time_or_keeps_the_round() {
    assert_eq!(period(Duration::ZERO), Duration::from_millis(100));
    assert_eq!(
        period(Duration::from_millis(10)),
        Duration::from_millis(200)
    );
    for scan in [20, 100, 250, 300].map(Duration::from_millis) {
        assert_eq!(scan + period(scan), ROUND, "{scan:?}");
    }
    assert_eq!(period(Duration::from_secs(9)), Duration::from_millis(100));
}
