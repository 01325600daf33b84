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
fn errors_name_the_part_and_the_way_out() {
    for (text, part, says) in [
        ("/srv/archive", "kind", "dir:/srv/archive"),
        ("dri:/srv", "kind", "did you mean \"dir\""),
        ("tape:/srv", "kind", "not built into this version"),
        ("s3://bucket", "kind", "not built into this version"),
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
