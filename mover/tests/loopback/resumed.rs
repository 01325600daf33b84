//! Both ends go away in the middle, and come back with what was kept.

use crate::rig::{BLOCK, Held, Store, doors, iod, listener, options, run, until};
use cairn_mover::{Crc32c, Direction, Error, Meter, Options, Progress, Protect, RANGES_MAX};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const SIZE: usize = 2_000_003;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_is_not_moved_again() {
    for direction in [Direction::ToListener, Direction::FromListener] {
        let gate_after = SIZE as u64 / 2;
        let source = Held::new(SIZE);
        let sink = Arc::new(Store {
            gate_after,
            ..Store::new(SIZE)
        });
        let first = Options {
            keep_every: u64::from(BLOCK),
            ..options()
        };
        let listener = listener(2).await;
        let mut one = iod(SIZE, direction, Protect::None);
        let both = doors(&listener, &mut one, None).await;
        {
            // The second half waits, and then both ends are gone.
            let (source, store) = (source.clone(), sink.clone());
            let run = run(both, &one, source, store, None, (&first, &first));
            let kept = || {
                sink.kept()
                    .is_some_and(|kept| kept.bytes() > SIZE as u64 / 4)
            };
            tokio::select! {
                ends = run => panic!("it ended: {ends:?}"),
                () = until("a quarter is kept", kept) => {}
            }
            sink.open.store(true, Ordering::SeqCst);
        }
        let kept = sink.kept().unwrap();
        let mut two = iod(SIZE, direction, Protect::Sealed);
        two.ranges = kept.ranges(RANGES_MAX);
        assert!(two.bytes() <= SIZE as u64 * 3 / 4);
        let both = doors(&listener, &mut two, None).await;
        let second = options();
        let ends = (&second, &second);
        let (sent, received) =
            run(both, &two, source.clone(), sink.clone(), Some(kept), ends).await;
        assert_eq!(sent.unwrap().bytes, two.bytes());
        let received = received.unwrap();
        assert_eq!(received.crc, Some(Crc32c::of(&source.bytes)));
        assert!(*sink.bytes.lock().unwrap() == source.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_is_dropped_is_gone_for_the_other() {
    for direction in [Direction::ToListener, Direction::FromListener] {
        for drop_sender in [true, false] {
            let sink = Arc::new(Store {
                gate_after: SIZE as u64 / 2,
                ..Store::new(SIZE)
            });
            let (listener, source) = (listener(1).await, Held::new(SIZE));
            let mut iod = iod(SIZE, direction, Protect::None);
            let (listening, dialling) = doors(&listener, &mut iod, None).await;
            let (from, to) = match direction {
                Direction::FromListener => (listening, dialling),
                Direction::ToListener => (dialling, listening),
            };
            let options = Options {
                patience: Duration::from_millis(500),
                meter: Arc::new(Meter::default()),
                ..options()
            };
            let (a, b) = (iod.clone(), options.clone());
            let sender = tokio::spawn(async move { cairn_mover::send(from, &a, source, &b).await });
            let (a, b, store) = (iod.clone(), options.clone(), sink.clone());
            let progress = Progress::new(&iod.version, iod.size);
            let receiver =
                tokio::spawn(
                    async move { cairn_mover::receive(to, &a, store, progress, &b).await },
                );
            let half = || sink.written.load(Ordering::SeqCst) > SIZE as u64 / 2;
            until("half is written", half).await;
            let error = if drop_sender {
                sender.abort();
                sink.open.store(true, Ordering::SeqCst);
                receiver.await.unwrap().unwrap_err().error
            } else {
                receiver.abort();
                sink.open.store(true, Ordering::SeqCst);
                sender.await.unwrap().unwrap_err()
            };
            assert!(matches!(error, Error::NoStream { .. }), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_another_version_is_refused() {
    let (listener, sink) = (listener(1).await, Arc::new(Store::new(SIZE)));
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    let (listening, _) = doors(&listener, &mut iod, None).await;
    let progress = Progress::new(b"v0", SIZE as u64);
    let received = cairn_mover::receive(listening, &iod, sink, progress, &options()).await;
    let said = received.unwrap_err().to_string();
    assert!(
        said.contains("another version of the data; start over"),
        "{said}"
    );
}
