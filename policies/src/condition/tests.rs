//! Tests of judging files.

use crate::testing::*;
use crate::*;
use proptest::prelude::*;

fn holds(condition: &str, file: &FileFacts) -> bool {
    let read = policy(&format!("rule archive x manual when {condition}"));
    read.rules[0].condition.holds(file, NOW)
}

#[test]
fn ages_count_to_the_second_and_include_their_end() {
    assert!(holds("not accessed for 1 h", &file(1, 3600)));
    assert!(!holds("not accessed for 1 h", &file(1, 3599)));
    assert!(!holds("accessed within 1 h", &file(1, 3600)));
    assert!(holds(
        "changed within 1 h and modified within 1 h",
        &file(1, 3599)
    ));
    assert!(holds("unchanged for 0 s", &file(1, 0)));
}

#[test]
fn unchanged_asks_both_times_and_passes_over_a_modification_time_in_the_future() {
    let mut odd = file(1, 7200);
    odd.mtime = NOW.before(secs(60));
    assert!(!holds("unchanged for 1 h", &odd));
    odd.mtime = NOW.after(secs(60));
    assert!(holds("unchanged for 1 h", &odd));
    assert!(!holds("not modified for 1 h", &odd));
    odd.ctime = NOW.after(secs(60));
    assert!(!holds("unchanged for 1 h", &odd));
}

#[test]
fn a_modification_time_in_the_future_counts_again_once_it_is_past() {
    let mut odd = file(1, 7200);
    odd.mtime = NOW.after(secs(60));
    let condition = Condition::Unchanged(secs(3600));
    let mut points = Vec::new();
    condition.turning_points(&odd, &mut points);
    assert!(condition.holds(&odd, NOW.after(secs(59))));
    assert!(!condition.holds(&odd, NOW.after(secs(60))));
    assert!(points.contains(&odd.mtime), "its truth turns there");
}

#[test]
fn paths_are_bytes() {
    let mut odd = file(1, 0);
    odd.path = b"tmp/\xff\xfe/x.o".to_vec();
    assert!(holds("path \"tmp/**\"", &odd));
    assert!(holds("name \"*.o\" and not name \"*.c\"", &odd));
    assert!(!holds("path \"tmp/*\"", &odd));
}

#[test]
fn the_rest_of_the_facts() {
    let file = file(1, 10);
    for (condition, expected) in [
        ("size = 1 MiB", true),
        ("size < 1 MiB or size > 1 MiB", false),
        ("size <= 1 MiB and size >= 1 MiB", true),
        ("owner 1000 and group 100", true),
        ("owner 100", false),
        ("links = 1 and copies >= 1", true),
        ("flag noarchive or flag norelease", false),
        ("archived", true),
        ("state is new or dirty", false),
        ("any file", true),
        ("not any file", false),
    ] {
        assert_eq!(holds(condition, &file), expected, "{condition}");
    }
}

proptest! {
    /// Between turning points nothing changes: the explanation's promise of "when" rests on it.
    #[test]
    fn truth_is_constant_between_turning_points(
        condition in condition(), file in any_file(0), probe in 0..20_000_u64,
    ) {
        let mut points = Vec::new();
        condition.turning_points(&file, &mut points);
        let later = NOW.after(secs(probe));
        let between = points.iter().any(|point| NOW < *point && *point <= later);
        if !between {
            prop_assert_eq!(condition.holds(&file, NOW), condition.holds(&file, later));
        }
    }
}
