//! Each rule of P8 and P9 left out: something is deleted that is needed, and how that comes about.

use crate::deletion::{Bounds, Deletion, Rules};
use crate::explorer::explore;
use crate::survived::NOTHING;

/// Says how it breaks, by a shortest way.
fn breaks(rules: Rules, bounds: Bounds, wrong: &str) {
    let report = explore(&Deletion { rules, bounds }, 2_000_000);
    println!("{report}");
    let found = report.violation.as_ref().map(|(wrong, _)| *wrong);
    assert_eq!(found, Some(wrong), "{report}");
}

/// Alone it is not missed: another rule does the same.
fn is_survived(rules: Rules, bounds: Bounds) {
    let report = explore(&Deletion { rules, bounds }, 2_000_000);
    println!("{report}");
    assert!(report.whole && report.violation.is_none(), "{report}");
}

const ALL: Rules = Rules::ALL;
const UNDELETE: Bounds = Bounds {
    undeletes: 1,
    ..NOTHING
};
const OLD_CATALOG: Bounds = Bounds {
    restores: 1,
    ..UNDELETE
};

const NO_COPY: &str = "a released file has no copy on any tier";
const WINDOW: &str = "bytes of a deleted file went within the window";
const PROMISED: &str = "an undelete that was promised has no bytes";

#[test]
fn p8_without_the_window() {
    let rules = Rules {
        window: false,
        ..ALL
    };
    let bounds = Bounds {
        ticks: 0,
        ..NOTHING
    };
    breaks(rules, bounds, WINDOW);
}

/// A file that was taken for changed, and was not, is released, and deleted much later.
#[test]
fn p8_with_a_window_that_does_not_begin_anew() {
    let rules = Rules {
        window_restarts: false,
        ..ALL
    };
    let bounds = Bounds {
        touches: 1,
        releases: 1,
        ..NOTHING
    };
    breaks(rules, bounds, WINDOW);
}

/// An event that comes late makes a released file's row dirty, and the file is open when its name goes:
/// nobody tells of its last close.
#[test]
fn p8_with_an_end_that_nobody_noted() {
    let rules = Rules {
        end_is_noted: false,
        ..ALL
    };
    let bounds = Bounds {
        opens: 1,
        touches: 1,
        releases: 1,
        ..NOTHING
    };
    breaks(rules, bounds, WINDOW);
}

#[test]
fn p8_without_a_scan_after_the_tombstone() {
    let rules = Rules {
        scan_after: false,
        ..ALL
    };
    let bounds = Bounds {
        comebacks: 1,
        ..NOTHING
    };
    breaks(rules, bounds, NO_COPY);
}

#[test]
fn p8_with_a_scan_from_before_the_end_of_the_window() {
    let rules = Rules {
        scan_after_window: false,
        ..ALL
    };
    let bounds = Bounds {
        comebacks: 1,
        ..NOTHING
    };
    breaks(rules, bounds, NO_COPY);
}

#[test]
fn p8_with_a_scan_of_an_earlier_epoch() {
    let rules = Rules {
        scan_of_epoch: false,
        ..ALL
    };
    breaks(rules, OLD_CATALOG, NO_COPY);
}

#[test]
fn p8_without_what_the_scan_met() {
    let rules = Rules {
        records_count: false,
        ..ALL
    };
    let bounds = Bounds {
        comebacks: 1,
        ..NOTHING
    };
    breaks(rules, bounds, NO_COPY);
}

#[test]
fn p8_with_what_moved_past_a_scan() {
    let rules = Rules {
        moved_are_seen: false,
        ..ALL
    };
    let bounds = Bounds {
        comebacks: 1,
        renames: 1,
        ..NOTHING
    };
    breaks(rules, bounds, NO_COPY);
}

#[test]
fn p8_without_rows_and_inodes() {
    let bounds = Bounds {
        touches: 1,
        releases: 1,
        unlinks: 1,
        ..NOTHING
    };
    let rows = Rules {
        rows_count: false,
        ..ALL
    };
    is_survived(rows, bounds);
    let inodes = Rules {
        inode_asked: false,
        ..ALL
    };
    is_survived(inodes, bounds);
    let rules = Rules {
        inode_asked: false,
        ..rows
    };
    breaks(rules, bounds, NO_COPY);
}

#[test]
fn p8_without_another_look() {
    let rules = Rules {
        looks_twice: false,
        ..ALL
    };
    breaks(rules, UNDELETE, PROMISED);
}

#[test]
fn p9_with_a_decision_of_an_earlier_epoch() {
    let rules = Rules {
        decisions_of_epoch: false,
        ..ALL
    };
    is_survived(rules, OLD_CATALOG);
    let rules = Rules {
        looks_twice: false,
        ..rules
    };
    breaks(rules, OLD_CATALOG, PROMISED);
}

#[test]
fn p8_with_unknown_aggregates_taken_for_orphans() {
    let rules = Rules {
        quarantine: false,
        ..ALL
    };
    let bounds = Bounds {
        overwrites: 1,
        ..OLD_CATALOG
    };
    breaks(rules, bounds, WINDOW);
}

#[test]
fn p8_with_a_repacked_aggregate_that_is_not_durable() {
    let rules = Rules {
        repack_durable: false,
        ..ALL
    };
    let bounds = Bounds {
        repacks: 1,
        losses: 1,
        ..NOTHING
    };
    breaks(rules, bounds, WINDOW);
}

#[test]
fn p8_with_an_undelete_of_what_is_doomed() {
    let rules = Rules {
        undelete_looks: false,
        ..ALL
    };
    breaks(rules, UNDELETE, PROMISED);
}

#[test]
fn p8_with_an_undelete_that_does_not_say_so_first() {
    let rules = Rules {
        revived_first: false,
        ..ALL
    };
    breaks(rules, UNDELETE, PROMISED);
}

#[test]
fn p8_with_a_collector_that_does_not_see_undeletes() {
    let rules = Rules {
        heir_holds: false,
        ..ALL
    };
    breaks(rules, UNDELETE, PROMISED);
}
