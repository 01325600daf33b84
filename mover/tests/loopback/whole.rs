//! Transfers on which nothing goes wrong: both modes, both directions, both protections.

use crate::rig::{Held, Store, doors, iod, listener, options, run, until};
use cairn_mover::{
    ByteRange, Crc32c, Direction, Iod, Limit, Mode, Options, Progress, Protect, Streams,
};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const SIZE: usize = 3_000_017;

async fn moves_all(iod: &mut Iod, options: &Options) {
    let listener = listener(3).await;
    let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
    let both = doors(&listener, iod, None).await;
    let ends = (options, options);
    let (sent, received) = run(both, iod, source.clone(), sink.clone(), None, ends).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert!(*sink.bytes.lock().unwrap() == source.bytes);
    let crc = Crc32c::of(&source.bytes);
    assert_eq!((sent.bytes, sent.crc), (SIZE as u64, crc));
    assert_eq!((received.bytes, received.crc), (SIZE as u64, Some(crc)));
    assert_eq!(sink.kept().unwrap(), received.progress);
    assert_eq!(sink.written.load(Ordering::SeqCst), SIZE as u64);
    assert_eq!(listener.strangers(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_modes_in_both_directions_are_complete_and_equal() {
    for mode in [Mode::Parallel, Mode::Firewall] {
        for direction in [Direction::ToListener, Direction::FromListener] {
            for protect in [Protect::None, Protect::Sealed] {
                let mut iod = Iod {
                    mode,
                    ..iod(SIZE, direction, protect)
                };
                moves_all(&mut iod, &options()).await;
            }
        }
    }
}

#[tokio::test]
async fn one_thread_and_a_changing_number_of_streams_are_enough() {
    let options = Options {
        streams: Streams::Adaptive(1),
        ..options()
    };
    let mut iod = iod(SIZE, Direction::FromListener, Protect::None);
    moves_all(&mut iod, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_lets_all_through() {
    let limit = Limit::new(NonZeroU64::new(8 << 20).unwrap());
    let options = Options {
        limits: vec![limit],
        ..options()
    };
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    moves_all(&mut iod, &options).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_do_not_pay_are_ended() {
    for direction in [Direction::ToListener, Direction::FromListener] {
        // A limit makes two streams as fast as any number of them.
        let size = 40_000_000;
        let options = Options {
            streams: Streams::Adaptive(2),
            limits: vec![Limit::new(NonZeroU64::new(2 << 20).unwrap())],
            ..options()
        };
        let listener = listener(1).await;
        let (source, sink) = (Held::new(size), Arc::new(Store::new(size)));
        let mut iod = iod(size, direction, Protect::None);
        iod.streams = 16;
        let both = doors(&listener, &mut iod, None).await;
        // Only the end that dials counts here.
        let other = Options {
            limits: Vec::new(),
            meter: Arc::default(),
            ..options.clone()
        };
        let ends = match direction {
            Direction::ToListener => (&options, &other),
            Direction::FromListener => (&other, &options),
        };
        let live = || options.meter.live();
        let falls = async {
            until("more streams are tried", || live() > 2).await;
            let most = std::cell::Cell::new(0);
            let fell = || {
                most.set(most.get().max(live()));
                (2..most.get()).contains(&live())
            };
            until("there are fewer again", fell).await;
        };
        tokio::select! {
            ends = run(both, &iod, source, sink, None, ends) => panic!("it ended: {ends:?}"),
            () = falls => {}
        }
        assert_eq!(options.meter.lost() + other.meter.lost(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn some_ranges_are_moved_and_nothing_else() {
    let listener = listener(2).await;
    let (source, sink) = (Held::new(SIZE), Arc::new(Store::new(SIZE)));
    let ranges = [(5, 40_000), (100_000, 1), (2_000_000, 1_000_017)];
    let mut iod = iod(SIZE, Direction::ToListener, Protect::None);
    iod.ranges = ranges.map(|(s, l)| ByteRange::new(s, l).unwrap()).to_vec();
    let both = doors(&listener, &mut iod, None).await;
    let options = options();
    let (sent, received) = run(
        both,
        &iod,
        source.clone(),
        sink.clone(),
        None,
        (&options, &options),
    )
    .await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!(sent.bytes, iod.bytes());
    assert_eq!(received.crc, None);
    let mut expected = vec![0; SIZE];
    for (start, len) in ranges.map(|(s, l)| (s as usize, l as usize)) {
        expected[start..start + len].copy_from_slice(&source.bytes[start..start + len]);
    }
    assert!(*sink.bytes.lock().unwrap() == expected);
    assert_eq!(received.progress.missing().pieces(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_moved_too() {
    for (size, direction) in [(0, Direction::ToListener), (0, Direction::FromListener)] {
        let listener = listener(1).await;
        let (source, sink) = (Held::new(size), Arc::new(Store::new(size)));
        let mut iod = iod(size, direction, Protect::None);
        let both = doors(&listener, &mut iod, None).await;
        let options = options();
        let ends = (&options, &options);
        let (sent, received) = run(both, &iod, source, sink, None, ends).await;
        assert_eq!(sent.unwrap().bytes, 0);
        assert_eq!(received.unwrap().crc, Some(Crc32c::EMPTY));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_the_other_way_and_what_is_there_are_refused() {
    let listener = listener(1).await;
    let mut iod = iod(100, Direction::ToListener, Protect::None);
    let (listening, dialling) = doors(&listener, &mut iod, None).await;
    let (options, sink) = (options(), Arc::new(Store::new(100)));
    let sent = cairn_mover::send(listening, &iod, Held::new(100), &options).await;
    assert!(sent.unwrap_err().to_string().contains("goes the other way"));
    let progress = Progress::new(b"v1", 100);
    let received = cairn_mover::receive(dialling, &iod, sink.clone(), progress, &options).await;
    assert!(
        received
            .unwrap_err()
            .to_string()
            .contains("goes the other way")
    );
    let (listening, _) = doors(&listener, &mut iod, None).await;
    let mut there = Progress::new(b"v1", 100);
    there.add(ByteRange::new(10, 10).unwrap(), Crc32c(1));
    let received = cairn_mover::receive(listening, &iod, sink, there, &options).await;
    assert!(received.unwrap_err().to_string().contains("there already"));
}
