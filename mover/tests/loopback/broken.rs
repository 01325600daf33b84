//! Transfers on which something goes wrong: complete and equal all the same, or an error that says why.

use crate::proxy::{Fault, Proxy, Way};
use crate::rig::{BLOCK, Both, Held, Store, doors, iod, listener, options, run};
use cairn_mover::{AbortCode, Direction, Error, Iod, Options, Protect};
use std::sync::Arc;
use std::time::Duration;

const SIZE: usize = 2_000_003;
/// Handshake and one header are behind us, and the first block is not through.
const IN_A_BLOCK: usize = 1_000;

fn way(direction: Direction) -> Way {
    match direction {
        Direction::ToListener => Way::ToListener,
        Direction::FromListener => Way::FromListener,
    }
}

/// All arrives, though the first `bad` connections have `fault` in the direction that the data go.
async fn survives(
    fault: Fault,
    bad: usize,
    ends: &Options,
    direction: Direction,
    protect: Protect,
) {
    let listener = listener(1).await;
    let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
    let target = listener.addresses()[0].port();
    let proxy = Proxy::start(target, bad, way(direction), fault).await;
    let mut iod = iod(SIZE, direction, protect);
    let both = doors(&listener, &mut iod, Some(proxy.port)).await;
    let result = run(both, &iod, source.clone(), sink.clone(), None, (ends, ends)).await;
    result.0.unwrap();
    result.1.unwrap();
    assert!(*sink.bytes.lock().unwrap() == source.bytes);
    // Both ends count on one meter here.
    assert!(
        ends.meter.lost() >= bad as u64,
        "{} lost",
        ends.meter.lost()
    );
    assert!(proxy.connections() > bad, "{}", proxy.connections());
}

const BOTH_WAYS: [Direction; 2] = [Direction::ToListener, Direction::FromListener];

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_cut_cost_their_own_blocks() {
    for direction in BOTH_WAYS {
        let cut = Fault::Cut(3 * BLOCK as usize);
        survives(cut, 3, &options(), direction, Protect::None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_death_that_the_listener_does_not_know_of_does_not_keep_the_next_stream_out() {
    for direction in BOTH_WAYS {
        let listener = listener(1).await;
        let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
        let target = listener.addresses()[0].port();
        let forget = Fault::Forget(3 * BLOCK as usize);
        let proxy = Proxy::start(target, 1, way(direction), forget).await;
        let mut iod = iod(SIZE, direction, Protect::None);
        iod.streams = 1;
        let both = doors(&listener, &mut iod, Some(proxy.port)).await;
        let options = options();
        let ends = (&options, &options);
        let (sent, received) = run(both, &iod, source.clone(), sink.clone(), None, ends).await;
        sent.unwrap();
        received.unwrap();
        assert!(*sink.bytes.lock().unwrap() == source.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_arrives_though_every_stream_is_cut() {
    for direction in BOTH_WAYS {
        for protect in [Protect::None, Protect::Sealed] {
            let listener = listener(1).await;
            let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
            let target = listener.addresses()[0].port();
            // What any of them brings before is not lost, so there is an end.
            let cut = Fault::Cut(12 * BLOCK as usize);
            let proxy = Proxy::start(target, usize::MAX, way(direction), cut).await;
            let mut iod = iod(SIZE, direction, protect);
            let both = doors(&listener, &mut iod, Some(proxy.port)).await;
            let options = options();
            let ends = (&options, &options);
            let (sent, received) = run(both, &iod, source.clone(), sink.clone(), None, ends).await;
            sent.unwrap();
            received.unwrap();
            assert!(*sink.bytes.lock().unwrap() == source.bytes);
            assert!(proxy.connections() > SIZE / (12 * BLOCK as usize));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_frames_are_never_written() {
    for direction in BOTH_WAYS {
        for protect in [Protect::None, Protect::Sealed] {
            // In a payload, and in the header behind it.
            for at in [IN_A_BLOCK, 2 * BLOCK as usize + IN_A_BLOCK] {
                survives(Fault::Corrupt(at), 2, &options(), direction, protect).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_streams_lose_their_blocks_to_the_others() {
    for direction in BOTH_WAYS {
        let options = Options {
            freeze: Duration::from_millis(400),
            ..options()
        };
        let freeze = Fault::Freeze(2 * BLOCK as usize);
        survives(freeze, 2, &options, direction, Protect::None).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_corrupts_everything_is_an_error() {
    for direction in BOTH_WAYS {
        let listener = listener(1).await;
        let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
        let target = listener.addresses()[0].port();
        let fault = Fault::Corrupt(IN_A_BLOCK);
        let proxy = Proxy::start(target, usize::MAX, way(direction), fault).await;
        let mut iod = iod(SIZE, direction, Protect::None);
        let both = doors(&listener, &mut iod, Some(proxy.port)).await;
        let options = Options {
            patience: Duration::from_secs(1),
            ..options()
        };
        let (sent, received) = run(both, &iod, source, sink, None, (&options, &options)).await;
        let (sent, failed) = (sent.unwrap_err(), received.unwrap_err());
        // Whichever end counts to the end first tells the other, if a stream is left for that.
        let counted = |e: &Error| matches!(e, Error::NoStream { .. });
        let told = |e: &Error| {
            matches!(
                e,
                Error::Peer {
                    code: AbortCode::Other,
                    ..
                }
            )
        };
        assert!(counted(&sent) || counted(&failed.error));
        assert!(counted(&sent) || told(&sent), "{sent}");
        assert!(counted(&failed.error) || told(&failed.error), "{failed}");
        assert_eq!(failed.progress.bytes(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_a_disk_is_not_called_dead() {
    let listener = listener(1).await;
    let slow = Duration::from_secs(5);
    let source = Arc::new(Held {
        slow,
        ..Held::with(SIZE)
    });
    let sink = Arc::new(Store {
        slow,
        ..Store::new(SIZE)
    });
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    let both = doors(&listener, &mut iod, None).await;
    let options = Options {
        freeze: Duration::from_secs(2),
        ..options()
    };
    let ends = (&options, &options);
    let (sent, received) = run(both, &iod, source.clone(), sink.clone(), None, ends).await;
    sent.unwrap();
    received.unwrap();
    assert!(*sink.bytes.lock().unwrap() == source.bytes);
    assert_eq!(options.meter.lost(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_dies_while_its_block_is_written_loses_nothing() {
    let listener = listener(1).await;
    let source = Held::new(SIZE);
    // The first write outlasts its stream: that is cut behind the second block, and the next word of the
    // receiver finds it dead.
    let sink = Arc::new(Store {
        slow: Duration::from_secs(4),
        ..Store::new(SIZE)
    });
    let target = listener.addresses()[0].port();
    let cut = Fault::Cut(2 * BLOCK as usize);
    let proxy = Proxy::start(target, 1, Way::ToListener, cut).await;
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    iod.streams = 1;
    let both = doors(&listener, &mut iod, Some(proxy.port)).await;
    let options = Options {
        freeze: Duration::from_secs(2),
        ..options()
    };
    let ends = (&options, &options);
    let (sent, received) = run(both, &iod, source.clone(), sink.clone(), None, ends).await;
    sent.unwrap();
    received.unwrap();
    assert!(*sink.bytes.lock().unwrap() == source.bytes);
    assert!(options.meter.repeated() > 0);
}

async fn fails(iod: &mut Iod, source: Arc<Held>, sink: Arc<Store>) -> Both {
    let listener = listener(2).await;
    let both = doors(&listener, iod, None).await;
    let options = options();
    run(both, iod, source, sink, None, (&options, &options)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_sink_is_said_on_both_ends_and_can_be_resumed() {
    for direction in BOTH_WAYS {
        // One stream, too: it is the only one that can say it.
        for streams in [1, 4] {
            let room = 10 * u64::from(BLOCK);
            let sink = Arc::new(Store {
                room,
                ..Store::new(SIZE)
            });
            let mut iod = iod(SIZE, direction, Protect::None);
            iod.streams = streams;
            let (sent, received) = fails(&mut iod, Held::new(SIZE), sink.clone()).await;
            let sent = sent.unwrap_err();
            let told = matches!(
                &sent,
                Error::Peer {
                    code: AbortCode::NoSpace,
                    ..
                }
            );
            assert!(told, "{sent}");
            let failed = received.unwrap_err();
            assert!(
                failed
                    .to_string()
                    .contains("cannot write the sink at offset"),
                "{failed}"
            );
            assert_eq!(sink.kept().unwrap(), failed.progress);
            assert!(
                (1..=room).contains(&failed.progress.bytes()),
                "{:?}",
                failed.progress
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_changed_is_an_error_on_both_ends_and_nothing_is_kept() {
    for direction in BOTH_WAYS {
        for streams in [1, 4] {
            let source = Arc::new(Held {
                changes_after: SIZE as u64 / 2,
                ..Held::with(SIZE)
            });
            let sink = Arc::new(Store::new(SIZE));
            let mut iod = iod(SIZE, direction, Protect::None);
            iod.streams = streams;
            let (sent, received) = fails(&mut iod, source, sink.clone()).await;
            assert!(matches!(sent, Err(Error::SourceChanged)), "{sent:?}");
            let failed = received.unwrap_err();
            assert!(matches!(failed.error, Error::SourceChanged), "{failed}");
            assert_eq!(failed.progress.bytes(), 0);
            assert_eq!(sink.kept().unwrap().bytes(), 0);
        }
    }
}
