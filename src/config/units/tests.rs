//! Tests of sizes and durations.

use super::*;
use proptest::prelude::*;

#[test]
fn sizes_as_people_write_them() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("64KiB", 65_536),
        ("64 kib", 65_536),
        ("64K", 65_536),
        ("100MB", 100_000_000),
        ("1.5GiB", 1_610_612_736),
        (" 2 TB ", 2_000_000_000_000),
        ("15.5EiB", 17_870_283_321_406_128_128),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in [
        "",
        "KiB",
        "-1",
        "1.2.3K",
        "1.",
        ".5K",
        "0.3KiB",
        "16EiB",
        "12 parsecs",
        "1e3",
    ] {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn durations_as_people_write_them() {
    for (text, millis) in [
        ("0", 0),
        ("5ms", 5),
        ("10m", 600_000),
        ("10 min", 600_000),
        ("1h30m", 5_400_000),
        ("1.5 h", 5_400_000),
        ("2 days 3 hours", 183_600_000),
        ("1w", 604_800_000),
    ] {
        assert_eq!(
            parse_duration(text),
            Ok(Duration::from_millis(millis)),
            "{text}"
        );
    }
    for text in [
        "",
        "10",
        "m",
        "10M",
        "5 fortnights",
        "1h 30",
        "-1s",
        "99999999999999999999w",
    ] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

#[test]
fn printed_as_people_read_them() {
    assert_eq!(format_size(0), "0B");
    assert_eq!(format_size(65_536), "64KiB");
    assert_eq!(format_size(100_000_000), "100MB");
    assert_eq!(format_size(1_234), "1234B");
    assert_eq!(format_duration(Duration::ZERO), "0s");
    assert_eq!(format_duration(Duration::from_secs(5400)), "1h30m");
    assert_eq!(format_duration(Duration::from_millis(90_250)), "1m30s250ms");
}

#[test]
fn for_eyes_they_are_short_and_round_down() {
    use super::shown::{Bytes, files, grouped, seconds};
    let shown = |n| Bytes(n).to_string();
    assert_eq!(shown(0), "0 B");
    assert_eq!(shown(1023), "1023 B");
    assert_eq!(shown(1536), "1.5 KiB");
    assert_eq!(shown((2 << 20) - 1), "1.9 MiB");
    assert_eq!(shown(10 << 20), "10 MiB");
    assert_eq!(shown(u64::MAX), "15 EiB");
    assert_eq!(format!("{:>8}|", Bytes(1024)), " 1.0 KiB|");
    assert_eq!(grouped(0), "0");
    assert_eq!(grouped(1_234_567), "1,234,567");
    assert_eq!(files(1), "1 file");
    assert_eq!(seconds(0), "0s");
    assert_eq!(seconds(3725), "1h 2m");
    assert_eq!(seconds(90_061), "1d 1h");
}

proptest! {
    #[test]
    fn what_is_printed_parses_back(bytes: u64, secs: u64, nanos in 0_u32..1_000_000_000) {
        prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        let duration = Duration::new(secs, nanos);
        prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
    }

    #[test]
    fn no_text_panics(text: String) {
        let _ = parse_size(&text);
        let _ = parse_duration(&text);
        let _ = parse_size(&format!("9.{text}"));
    }
}
