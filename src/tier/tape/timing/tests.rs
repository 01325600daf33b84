//! Tests of the timing model.

use super::*;
use proptest::prelude::*;

fn whole() -> Geometry {
    Geometry::whole(Generation::Lto8)
}

fn near(found: f64, wanted: f64, within: f64) {
    assert!(
        (found - wanted).abs() <= within,
        "{found}, wanted {wanted} within {within}"
    );
}

/// The mean over many evenly spread places.
fn mean(of: impl Fn(u64) -> f64) -> f64 {
    const PLACES: u64 = 20_000;
    (0..PLACES).map(of).sum::<f64>() / PLACES as f64
}

#[test]
fn wraps_go_there_and_back() {
    let tape = whole();
    let wrap = tape.capacity / 208;
    assert_eq!(tape.spot(0), LOAD_POINT);
    let turn = tape.spot(wrap - 1);
    assert_eq!(turn.wrap, 0);
    near(turn.metres, 960.0, 0.01);
    let back = tape.spot(wrap + wrap / 2);
    assert_eq!(back.wrap, 1);
    near(back.metres, 480.0, 0.01);
    let last = tape.spot(tape.capacity);
    assert_eq!(last, tape.spot(u64::MAX));
    assert_eq!(last.wrap, 207);
    near(last.metres, 0.0, 0.01);
}

#[test]
fn locates_are_the_sum_of_their_terms() {
    let tape = whole();
    let at = |wrap, metres| Spot { wrap, metres };
    let metre = 0.000_619_2 * 168_401.0 / 960.0;
    near(
        tape.locate(at(0, 100.0), at(0, 300.0)),
        4.29 + 200.0 * metre,
        1e-9,
    );
    near(
        tape.locate(at(0, 300.0), at(0, 100.0)),
        4.29 + 11.32 + 200.0 * metre,
        1e-9,
    );
    // The same way on an odd wrap is the other way along the tape.
    near(
        tape.locate(at(1, 300.0), at(1, 100.0)),
        4.29 + 200.0 * metre,
        1e-9,
    );
    near(
        tape.locate(at(1, 100.0), at(1, 300.0)),
        4.29 + 11.32 + 200.0 * metre,
        1e-9,
    );
    near(tape.locate(at(0, 100.0), at(2, 100.0)), 4.29 + 6.69, 1e-9);
    near(
        tape.locate(at(0, 100.0), at(1, 100.0)),
        4.29 + 6.69 + 5.22,
        1e-9,
    );
    near(
        tape.locate(at(0, 100.0), at(52, 100.0)),
        4.29 + 6.69 + 3.20,
        1e-9,
    );
    near(
        tape.locate(at(0, 400.0), at(2, 500.0)),
        4.29 + 6.69 - 6.04 + 100.0 * metre,
        1e-9,
    );
    // The formula alone would be negative here.
    near(
        tape.locate(at(0, 479.9), at(0, 480.0)),
        2.0 + 0.1 * metre,
        1e-9,
    );
    near(tape.locate(at(3, 7.0), at(3, 7.0)), 0.0, 0.0);
}

#[test]
fn averages_agree_with_published_ones() {
    for (generation, locate, rewind) in [
        (Generation::Lto7, 56.0, 60.0),
        (Generation::Lto8, 59.0, 59.0),
        (Generation::Lto9, 65.0, 62.0),
    ] {
        let tape = Geometry::whole(generation);
        let spot = |n| tape.spot(n * (tape.capacity / 20_000));
        near(
            mean(|n| tape.locate(LOAD_POINT, spot(n))),
            locate,
            locate * 0.2,
        );
        near(mean(|n| tape.rewind(spot(n))), rewind, rewind * 0.1);
    }
}

#[test]
fn full_passes_take_as_long_as_they_must() {
    // Capacity over rate, per wrap: 179, 160, 161 seconds.
    for (generation, wrap) in [
        (Generation::Lto7, 179.0),
        (Generation::Lto8, 160.0),
        (Generation::Lto9, 161.0),
    ] {
        let tape = Geometry::whole(generation);
        let wraps = u64::from(generation.parameters().wraps);
        near(tape.transfer(tape.capacity / wraps), wrap, 1.0);
    }
}

#[test]
fn a_slow_host_is_matched_or_makes_the_drive_stop() {
    let tape = whole();
    let fast = tape.stream(36_000_000_000, 1e9);
    assert_eq!((fast.step, fast.backhitches), (360e6, 0));
    near(fast.seconds, 100.0, 1e-6);
    let matched = tape.stream(20_000_000_000, 200e6);
    assert_eq!((matched.step, matched.backhitches), (203e6, 0));
    near(matched.seconds, 100.0, 1e-6);
    let slow = tape.stream(56_000_000_000, 56e6);
    assert_eq!(slow.step, 112e6);
    near(slow.seconds, 1000.0, 1e-6);
    // A buffer of 1 GiB lasts for twice its bytes at half the rate.
    assert_eq!(slow.backhitches, 56_000_000_000 / (2 << 30));
}

#[test]
fn tables_are_in_order() {
    for generation in Generation::ALL {
        let table = generation.parameters();
        assert_eq!(table.generation, generation);
        assert!(table.steps.is_sorted_by(|a, b| a > b), "{generation}");
        assert_eq!(table.wraps % table.bands, 0);
        assert_eq!(generation.to_string().parse(), Ok(generation));
        assert_eq!(
            format!("lto{}", &generation.medium()[1..]).parse(),
            Ok(generation)
        );
    }
    assert!("LTO-6".parse::<Generation>().is_err());
}

proptest! {
    #[test]
    fn every_time_is_finite_and_bounded(a: u64, b: u64, capacity: u64, host in 0.0..1e12_f64) {
        for generation in Generation::ALL {
            let tape = Geometry { generation, capacity };
            let (from, to) = (tape.spot(a), tape.spot(b));
            prop_assert!((0.0..=1035.0).contains(&to.metres) && to.wrap < 280);
            let seconds = tape.locate(from, to);
            prop_assert!((0.0..150.0).contains(&seconds), "{}", seconds);
            prop_assert!(from == to || seconds >= 2.0);
            prop_assert!((0.0..130.0).contains(&tape.rewind(from)));
            prop_assert!(tape.stream(a, host).seconds.is_finite());
        }
    }
}
