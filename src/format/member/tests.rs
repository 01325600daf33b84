//! Tests of one member of an aggregate.

use super::*;
use proptest::prelude::*;

#[test]
fn only_places_below_the_root_are_paths() {
    for good in [
        &b""[..],
        b"a",
        b"a/b",
        b"..a/b..",
        b"\xff\xfe",
        b"a\nb",
        b" ",
    ] {
        assert!(MemberPath::new(good).is_ok(), "{good:?}");
    }
    for bad in [
        &b"/"[..],
        b"/a",
        b"a/",
        b"a//b",
        b".",
        b"..",
        b"a/../b",
        b"a/.",
        b"a\0b",
    ] {
        assert!(MemberPath::new(bad).is_err(), "{bad:?}");
    }
    assert!(MemberPath::new([b'x'; 255]).is_ok());
    assert!(MemberPath::new([b'x'; 256]).is_err());
}

proptest! {
    #[test]
    fn widened_runs_are_always_good(
        size in 0_u64..20_000,
        runs in proptest::collection::vec((0_u64..3000, 1_u64..3000), 0..20),
    ) {
        let mut at = 0;
        let runs: Vec<_> = runs.into_iter().map(|(gap, len)| {
            let run = Extent { offset: at + gap, len };
            at = run.offset + len;
            run
        }).collect();
        let wide = whole_runs(size, runs.iter().copied());
        prop_assert_eq!(check_extents(size, &wide), Ok(()));
        for run in runs {
            for byte in run.offset..(run.offset + run.len).min(size) {
                prop_assert!(wide.iter().any(|w| (w.offset..w.offset + w.len).contains(&byte)));
            }
        }
    }
}
