//! Both halves of a transfer against each other, over streams that die, freeze, deliver late, and over
//! restarts of both ends: the receiver has it all and equal, or there is an error.

use super::*;
use crate::arrival::{Arrival, ArrivalFault, Claim};
use crate::progress::Progress;
use proptest::prelude::*;

const BLOCK: u32 = 8;

fn pattern() -> Pattern {
    Pattern {
        block: BLOCK,
        window: 3,
        steal_after: Duration::from_secs(1),
    }
}

fn range(start: u64, len: u64) -> ByteRange {
    ByteRange::new(start, len).unwrap()
}

/// A block and its bytes, or the total.
type Message = Result<(ByteRange, Vec<u8>), Total>;

/// What is on its way on one stream.
#[derive(Default)]
struct Wire {
    sequence: u64,
    frozen: bool,
    /// With their sequence numbers.
    data: VecDeque<(u64, Message)>,
    acks: VecDeque<Result<u64, ()>>,
}

/// Two ends and what is between them.
struct World {
    source: Vec<u8>,
    version: u8,
    begun: u8,
    schedule: Schedule,
    arrival: Arrival,
    sink: Vec<Option<u8>>,
    kept: Vec<u8>,
    wires: BTreeMap<StreamIndex, Wire>,
    /// Blocks that are being written, and the frames that they came with.
    writing: Vec<(StreamIndex, u64, ByteRange, Vec<u8>)>,
    next: u16,
    now: Duration,
    failed: bool,
}

#[derive(Debug, Clone)]
enum Event {
    Join,
    Lose(u8),
    Freeze(u8),
    Retire(u8),
    Send(u8),
    Deliver(u8),
    Write(u8),
    Acknowledge(u8),
    Later(u16),
    Keep,
    KillBoth,
    Change(u16),
}

impl World {
    fn new(source: Vec<u8>) -> Self {
        let progress = Progress::new(&[0], source.len() as u64);
        let mut world = Self {
            sink: vec![None; source.len()],
            kept: progress.encode(),
            version: 0,
            begun: 0,
            schedule: Schedule::new(&[], pattern()),
            arrival: Arrival::new(&[], BLOCK, progress),
            wires: BTreeMap::new(),
            writing: Vec::new(),
            next: 0,
            now: Duration::ZERO,
            failed: false,
            source,
        };
        world.begin();
        world
    }

    /// Both ends start, from what was kept.
    fn begin(&mut self) {
        let size = self.source.len() as u64;
        let kept = Progress::decode(&self.kept).unwrap();
        let progress = kept
            .resume(&[self.version], size)
            .unwrap_or_else(|_| Progress::new(&[self.version], size));
        let ranges = progress.ranges(100);
        self.begun = self.version;
        self.schedule = Schedule::new(&ranges, pattern());
        self.arrival = Arrival::new(&ranges, BLOCK, progress);
        self.wires.clear();
        self.writing.clear();
    }

    fn pick(&self, n: u8) -> Option<StreamIndex> {
        let count = self.wires.len().max(1);
        self.wires.keys().nth(usize::from(n) % count).copied()
    }

    fn lose(&mut self, stream: StreamIndex) {
        self.wires.remove(&stream);
        self.schedule.lost(stream);
    }

    fn send(&mut self, stream: StreamIndex) {
        let Some(wire) = self.wires.get_mut(&stream) else {
            return;
        };
        match self.schedule.next(stream, self.now) {
            Next::Send(block) => {
                let bytes = self.source[block.start() as usize..block.end() as usize].to_vec();
                let sum = Crc32c::of(&bytes);
                let sent = self.schedule.sent(stream, wire.sequence, sum, self.now);
                if sent.is_err() {
                    self.failed = true;
                    return;
                }
                wire.data.push_back((wire.sequence, Ok((block, bytes))));
                wire.sequence += 1;
            }
            Next::Finish(total) => {
                wire.data.push_back((wire.sequence, Err(total)));
                wire.sequence += 1;
            }
            Next::Wait => {}
            Next::Close => self.lose(stream),
        }
        if self.schedule.all_acked() {
            // The source is looked at before the total goes out.
            match self.version == self.begun {
                true => self.schedule.unchanged(),
                false => self.failed = true,
            }
        }
    }

    fn deliver(&mut self, stream: StreamIndex) {
        // A stream takes one frame after the other.
        if self.writing.iter().any(|(writer, ..)| *writer == stream) {
            return;
        }
        let Some(wire) = self.wires.get_mut(&stream).filter(|w| !w.frozen) else {
            return;
        };
        match wire.data.pop_front() {
            Some((sequence, Ok((block, bytes)))) => {
                assert_eq!(self.arrival.expects(Some(block)), Ok(block));
                match self.arrival.claim(block) {
                    Claim::Write => self.writing.push((stream, sequence, block, bytes)),
                    Claim::Busy => wire.data.push_front((sequence, Ok((block, bytes)))),
                    Claim::Written => wire.acks.push_back(Ok(sequence)),
                }
            }
            Some((_, Err(total))) => {
                self.arrival.finish(total).unwrap();
                wire.acks.push_back(Err(()));
            }
            None => {}
        }
    }

    /// A write ends, also if its stream is dead.
    fn write(&mut self, n: u8) {
        if self.writing.is_empty() {
            return;
        }
        let n = usize::from(n) % self.writing.len();
        let (stream, sequence, block, bytes) = self.writing.remove(n);
        for (at, byte) in (block.start()..).zip(&bytes) {
            self.sink[at as usize] = Some(*byte);
        }
        self.arrival.written(block, Crc32c::of(&bytes));
        if let Some(wire) = self.wires.get_mut(&stream) {
            wire.acks.push_back(Ok(sequence));
        }
    }

    fn acknowledge(&mut self, stream: StreamIndex) {
        let Some(wire) = self.wires.get_mut(&stream).filter(|w| !w.frozen) else {
            return;
        };
        match wire.acks.pop_front() {
            Some(Ok(sequence)) => {
                self.schedule.acked(stream, sequence, self.now).unwrap();
            }
            Some(Err(())) => self.schedule.confirmed(stream),
            None => {}
        }
    }

    fn apply(&mut self, event: Event) {
        let picked = match event {
            Event::Lose(n) | Event::Freeze(n) | Event::Retire(n) => self.pick(n),
            Event::Send(n) | Event::Deliver(n) | Event::Acknowledge(n) => self.pick(n),
            _ => None,
        };
        match (event, picked) {
            (Event::Join, _) if self.wires.len() < 6 => {
                let stream = StreamIndex(self.next);
                self.next += 1;
                self.wires.insert(stream, Wire::default());
                self.schedule.join(stream);
            }
            (Event::Lose(_), Some(stream)) => self.lose(stream),
            (Event::Freeze(_), Some(stream)) => {
                self.wires.get_mut(&stream).unwrap().frozen = true;
            }
            (Event::Retire(_), Some(stream)) => self.schedule.retire(stream),
            (Event::Send(_), Some(stream)) => self.send(stream),
            (Event::Deliver(_), Some(stream)) => self.deliver(stream),
            (Event::Acknowledge(_), Some(stream)) => self.acknowledge(stream),
            (Event::Write(n), _) => self.write(n),
            (Event::Later(millis), _) => self.now += Duration::from_millis(millis.into()),
            (Event::Keep, _) => self.kept = self.arrival.progress().encode(),
            (Event::KillBoth, _) => self.begin(),
            (Event::Change(at), _) => {
                let at = usize::from(at) % self.source.len();
                self.source[at] ^= 0xff;
                self.version += 1;
            }
            _ => {}
        }
    }

    /// Nothing goes wrong any more: does it come to an end?
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.schedule.is_done() || self.failed {
                return;
            }
            self.apply(Event::Join);
            let frozen = |(stream, wire): (&StreamIndex, &Wire)| wire.frozen.then_some(*stream);
            if let Some(stream) = self.wires.iter().find_map(frozen) {
                self.lose(stream);
            }
            let streams: Vec<_> = self.wires.keys().copied().collect();
            for stream in streams {
                self.send(stream);
                self.deliver(stream);
                self.write(0);
                self.acknowledge(stream);
            }
            self.now += Duration::from_secs(2);
        }
        panic!("it does not end: {:?}", self.schedule);
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Join),
        1 => any::<u8>().prop_map(Event::Lose),
        1 => any::<u8>().prop_map(Event::Freeze),
        1 => any::<u8>().prop_map(Event::Retire),
        12 => any::<u8>().prop_map(Event::Send),
        10 => any::<u8>().prop_map(Event::Deliver),
        8 => any::<u8>().prop_map(Event::Write),
        8 => any::<u8>().prop_map(Event::Acknowledge),
        2 => (0_u16..3_000).prop_map(Event::Later),
        1 => Just(Event::Keep),
        1 => Just(Event::KillBoth),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    proptest::collection::vec(event(), 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn it_is_complete_and_equal(
        source in proptest::collection::vec(any::<u8>(), 1..300),
        events in events(),
    ) {
        let mut world = World::new(source);
        for event in events {
            world.apply(event);
            world.schedule.check();
        }
        world.settle();
        prop_assert!(!world.failed && world.arrival.is_complete());
        let sink: Vec<u8> = world.sink.iter().map(|b| b.unwrap()).collect();
        prop_assert_eq!(&sink, &world.source);
        prop_assert_eq!(world.arrival.progress().crc(), Some(Crc32c::of(&world.source)));
    }

    #[test]
    fn a_source_that_changes_gives_an_error_and_never_a_mixture(
        source in proptest::collection::vec(any::<u8>(), 1..300),
        mut events in events(),
        changes in proptest::collection::vec((any::<u16>(), any::<u16>()), 1..4),
    ) {
        for (when, at) in changes {
            let when = usize::from(when) % (events.len() + 1);
            events.insert(when, Event::Change(at));
        }
        let mut world = World::new(source);
        let mut done_with = None;
        for event in events {
            let changes = matches!(event, Event::Change(_));
            if changes && world.arrival.is_complete() {
                // It was whole before it changed.
                done_with = Some(world.source.clone());
                break;
            }
            world.apply(event);
            if world.failed {
                return Ok(());
            }
        }
        world.settle();
        if !world.failed {
            let sink: Vec<u8> = world.sink.iter().map(|b| b.unwrap()).collect();
            prop_assert_eq!(sink, done_with.unwrap_or(world.source));
        }
    }
}

#[test]
fn a_dead_stream_costs_what_it_had_outstanding() {
    let mut schedule = Schedule::new(&[range(0, 80)], pattern());
    let (a, b) = (StreamIndex(0), StreamIndex(1));
    schedule.join(a);
    schedule.join(b);
    for n in 0..3 {
        assert_eq!(
            schedule.next(a, Duration::ZERO),
            Next::Send(range(n * 8, 8))
        );
        schedule.sent(a, n, Crc32c(1), Duration::ZERO).unwrap();
    }
    // The window is full.
    assert_eq!(schedule.next(a, Duration::ZERO), Next::Wait);
    assert_eq!(schedule.acked(a, 0, Duration::ZERO).unwrap(), 8);
    assert_eq!(schedule.next(b, Duration::ZERO), Next::Send(range(24, 8)));
    assert_eq!(schedule.lost(a), 16);
    schedule.sent(b, 0, Crc32c(1), Duration::ZERO).unwrap();
    assert_eq!(schedule.next(b, Duration::ZERO), Next::Send(range(8, 8)));
}

#[test]
fn an_idle_stream_takes_over_from_the_end_of_a_slow_one_and_a_block_counts_once() {
    let mut schedule = Schedule::new(&[range(0, 16)], pattern());
    let (slow, fast) = (StreamIndex(0), StreamIndex(1));
    schedule.join(slow);
    schedule.join(fast);
    for n in 0..2 {
        schedule.next(slow, Duration::ZERO);
        schedule.sent(slow, n, Crc32c(1), Duration::ZERO).unwrap();
    }
    let early = Duration::from_millis(999);
    assert_eq!(schedule.next(fast, early), Next::Wait);
    let late = Duration::from_secs(1);
    assert_eq!(schedule.next(fast, late), Next::Send(range(8, 8)));
    schedule.sent(fast, 0, Crc32c(1), late).unwrap();
    assert_eq!(schedule.next(fast, late), Next::Send(range(0, 8)));
    // The block is outstanding twice, which is enough.
    schedule.sent(fast, 1, Crc32c(1), late).unwrap();
    assert_eq!(schedule.next(fast, late), Next::Wait);
    assert_eq!(schedule.acked(fast, 1, late).unwrap(), 16);
    assert!(schedule.all_acked());
    assert_eq!(schedule.acked(slow, 1, late).unwrap(), 0);
    assert_eq!(schedule.moved(), 16);
}

#[test]
fn a_block_that_is_read_with_two_contents_is_an_error() {
    let mut schedule = Schedule::new(&[range(0, 8)], pattern());
    let (slow, fast) = (StreamIndex(0), StreamIndex(1));
    schedule.join(slow);
    schedule.join(fast);
    schedule.next(slow, Duration::ZERO);
    schedule.sent(slow, 0, Crc32c(1), Duration::ZERO).unwrap();
    let late = Duration::from_secs(1);
    schedule.next(fast, late);
    let two = schedule.sent(fast, 0, Crc32c(2), late);
    assert_eq!(two, Err(ScheduleFault::TwoContents(0)));
}

#[test]
fn the_total_is_carried_by_one_stream_and_again_if_that_is_dead_or_late() {
    let mut schedule = Schedule::new(&[], pattern());
    let (a, b) = (StreamIndex(0), StreamIndex(1));
    schedule.join(a);
    schedule.join(b);
    assert_eq!(schedule.next(a, Duration::ZERO), Next::Wait);
    schedule.unchanged();
    let total = Total {
        bytes: 0,
        crc: Crc32c::EMPTY,
    };
    assert_eq!(schedule.next(a, Duration::ZERO), Next::Finish(total));
    assert_eq!(schedule.next(b, Duration::ZERO), Next::Wait);
    schedule.lost(a);
    assert_eq!(schedule.next(b, Duration::ZERO), Next::Finish(total));
    schedule.confirmed(a);
    assert!(!schedule.is_done());
    // It may be dead without anybody knowing it.
    let (c, late) = (StreamIndex(2), Duration::from_secs(1));
    schedule.join(c);
    assert_eq!(schedule.next(c, Duration::from_millis(999)), Next::Wait);
    assert_eq!(schedule.next(c, late), Next::Finish(total));
    assert_eq!(schedule.next(c, late), Next::Wait);
    schedule.confirmed(b);
    assert_eq!(schedule.next(b, Duration::ZERO), Next::Close);
    assert_eq!(
        schedule.acked(b, 9, Duration::ZERO),
        Err(ScheduleFault::NotSent(9))
    );
}

#[test]
fn frames_that_are_no_blocks_of_the_plan_are_refused() {
    let ranges = [range(4, 16), range(40, 3)];
    let mut arrival = Arrival::new(&ranges, BLOCK, Progress::new(b"v", 100));
    for good in [range(4, 4), range(8, 8), range(16, 4), range(40, 3)] {
        assert!(arrival.expects(Some(good)).is_ok(), "{good}");
    }
    for bad in [
        range(0, 8),
        range(4, 5),
        range(4, 3),
        range(8, 16),
        range(9, 7),
        range(40, 8),
        range(96, 8),
    ] {
        assert!(arrival.expects(Some(bad)).is_err(), "{bad}");
    }
    assert!(arrival.expects(None).is_err());
    // The end before the end, and another total.
    let total = Total {
        bytes: 19,
        crc: Crc32c::of(&[0; 19]),
    };
    assert_eq!(arrival.finish(total), Err(ArrivalFault::TooEarly(19)));
    for block in [range(4, 4), range(8, 8), range(16, 4), range(40, 3)] {
        assert_eq!(arrival.claim(block), Claim::Write);
        assert_eq!(arrival.claim(block), Claim::Busy);
        arrival.written(block, Crc32c::of_zeros(block.len()));
        assert_eq!(arrival.claim(block), Claim::Written);
    }
    assert!(
        arrival
            .finish(Total {
                crc: Crc32c(1),
                ..total
            })
            .is_err()
    );
    assert!(!arrival.is_complete());
    assert!(arrival.finish(total).is_ok() && arrival.is_complete());
}
