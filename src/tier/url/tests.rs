//! Tests of tier URLs.

use super::*;
use proptest::prelude::*;
use std::num::NonZeroU64;
use std::time::Duration;

fn parse(text: &str) -> Result<TierUrl, UrlError> {
    text.parse()
}

#[test]
fn options_set_the_pace() {
    let url = parse("dir:/srv//archive/?rate=100MB/s&delay=5ms").expect("good");
    let expected = TierUrl::Dir {
        path: "/srv/archive".into(),
        pace: Pace {
            bytes_per_second: NonZeroU64::new(100_000_000),
            delay: Duration::from_millis(5),
        },
    };
    assert_eq!(url, expected);
    assert_eq!(url.to_string(), "dir:/srv/archive?rate=100MB/s&delay=5ms");
}

#[test]
fn options_equip_a_library() {
    let text = "tape:/srv/tape?generation=LTO-9&capacity=1GB&cartridges=4&drives=3&speed=100&block=1MiB&batch-files=4&batch-bytes=2GiB&batch-age=30s&part-reserve=5&pool=near";
    let url = parse(text).expect("good");
    assert_eq!(url.to_string(), text);
    let plain = parse("tape:/srv/tape?generation=lto8&drives=2&speed=max").expect("good");
    let expected = TierUrl::Tape {
        path: "/srv/tape".into(),
        options: TapeOptions::default(),
    };
    assert_eq!(plain, expected);
    assert_eq!(plain.to_string(), "tape:/srv/tape");
    assert_eq!(plain.place(), "/srv/tape");
    assert_eq!(url.place(), "/srv/tape/pools/near");
}

#[test]
fn a_changer_makes_a_library_real() {
    let text = "tape:/srv/tape?changer=/dev/tape/by-id/scsi-3500e09e000000001-changer&drives=/dev/nst0,/dev/nst1&block=1MiB";
    let url = parse(text).expect("good");
    assert_eq!(url.to_string(), text);
    let TierUrl::Tape { options, .. } = url else {
        panic!("a library");
    };
    let real = options.real.as_ref().expect("real");
    assert_eq!(real.drives, ["/dev/nst0", "/dev/nst1"].map(PathBuf::from));
    assert_eq!(options.count_drives(), 2);
}

#[test]
fn errors_name_the_part_and_the_way_out() {
    for (text, part, says) in [
        ("/srv/archive", "kind", "dir:/srv/archive"),
        ("dri:/srv", "kind", "did you mean \"dir\""),
        ("tpe:/srv", "kind", "did you mean \"tape\""),
        ("tape:", "path", "missing"),
        (
            "tape:/srv?generation=LTO-6",
            "option generation",
            "LTO-7, LTO-8 or LTO-9",
        ),
        ("tape:/srv?rate=1MB/s", "option rate", "unknown"),
        ("tape:/srv?drives=0", "option drives", "from 1 to 64"),
        ("tape:/srv?block=64KiB", "option block", "256KiB"),
        (
            "tape:/srv?batch-files=0",
            "option batch-files",
            "from 1 to 64",
        ),
        ("tape:/srv?batch-bytes=0", "option batch-bytes", "64GiB"),
        ("tape:/srv?batch-bytes=65GiB", "option batch-bytes", "64GiB"),
        ("tape:/srv?batch-age=2h", "option batch-age", "1h"),
        ("tape:/srv?batch-age=2", "option batch-age", "unit"),
        ("tape:/srv?part-reserve=1", "option part-reserve", "from 2"),
        ("tape:/srv?speed=0", "option speed", "max"),
        ("tape:/srv?capacity=1", "option capacity", "1MiB"),
        ("tape:/srv?pool=../x", "option pool", "a-z"),
        ("tape:/srv?pool=", "option pool", "a-z"),
        ("tape:/srv?drives=two", "option drives", "/dev/nst0"),
        ("tape:/srv?changer=sg3", "option changer", "/dev/sg3"),
        (
            "tape:/srv?changer=/dev/../etc",
            "option changer",
            "/dev/sg3",
        ),
        ("tape:/srv?changer=/dev/sg3", "option changer", "drives="),
        ("tape:/srv?drives=/dev/nst0", "option drives", "changer="),
        (
            "tape:/srv?drives=/dev/nst0,/dev/nst0",
            "option drives",
            "twice",
        ),
        (
            "tape:/srv?changer=/dev/sg3&drives=/dev/nst0&speed=max",
            "option speed",
            "real",
        ),
        (
            "tape:/srv?cartridges=20&changer=/dev/sg3&drives=/dev/nst0",
            "option cartridges",
            "real",
        ),
        (
            "tape:/srv?changer=/dev/sg3&drives=/dev/nst0&pool=near",
            "option pool",
            "no pools",
        ),
        ("exe:/bin/x", "kind", "did you mean \"exec\""),
        ("exec:x", "path", "absolute"),
        ("exec:/bin/x?rate=1MB/s", "option rate", "unknown"),
        ("dir:", "path", "missing"),
        ("dir:srv", "path", "absolute"),
        ("dir:/srv/../etc", "path", "\"..\""),
        ("dir:/100%", "path", "%25"),
        ("dir:/a%00b", "path", "zero byte"),
        ("dir:/srv?rte=1MB", "option rte", "did you mean \"rate\""),
        ("dir:/srv?rate=fast", "option rate", "100MB/s"),
        ("dir:/srv?rate=0", "option rate", "never finish"),
        ("dir:/srv?delay=5", "option delay", "unit"),
        ("dir:/srv?delay=5ms&delay=6ms", "option delay", "twice"),
        ("dir:/srv?", "option ", "unknown"),
    ] {
        let error = parse(text).expect_err(text);
        assert_eq!(error.part, part, "{text}");
        assert!(error.to_string().contains(says), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn any_path_prints_and_parses_back(
        path in prop::collection::vec(prop::collection::vec(1_u8..=255, 1..20), 1..5),
        rate: Option<NonZeroU64>,
        delay in 0_u64..100_000_000,
    ) {
        let mut bytes = Vec::new();
        for part in path {
            bytes.push(b'/');
            bytes.extend(part.into_iter().filter(|b| *b != b'/').chain(*b"x"));
        }
        let url = TierUrl::Dir {
            path: PathBuf::from(OsString::from_vec(bytes)),
            pace: Pace { bytes_per_second: rate, delay: Duration::from_nanos(delay) },
        };
        prop_assert_eq!(parse(&url.to_string()), Ok(url));
    }

    #[test]
    fn no_text_panics(text: String) {
        let _ = parse(&text);
        let _ = parse(&format!("dir:/{text}"));
    }
}
