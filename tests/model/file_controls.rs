//! Each rule of P1 to P5 left out: something breaks, and how. And what two faults at once do.

use crate::explorer::explore;
use crate::file::{Bounds, File, Rules};
use crate::survived::ONCE;

/// Says how it breaks, by a shortest way.
fn breaks(rules: Rules, bounds: Bounds, wrong: &str) {
    let report = explore(&File { rules, bounds }, 2_000_000);
    println!("{report}");
    let found = report.violation.as_ref().map(|(wrong, _)| *wrong);
    assert_eq!(found, Some(wrong), "{report}");
}

/// Alone it is not missed: another rule does the same.
fn is_survived(rules: Rules, bounds: Bounds) {
    let report = explore(&File { rules, bounds }, 2_000_000);
    println!("{report}");
    assert!(report.whole && report.violation.is_none(), "{report}");
}

const ALL: Rules = Rules::ALL;
const POWER: Bounds = Bounds { losses: 1, ..ONCE };
const KILL: Bounds = Bounds { kills: 1, ..ONCE };

const ZEROS: &str = "a reader gets zeros where blocks were punched";
const OPEN_ZEROS: &str = "an open descriptor reads zeros";
const CONFLICT: &str = "a stub is in conflict that nobody wrote into";
const NO_COPY: &str = "a released file has no copy that can be read";
const UNPROVEN: &str = "blocks are gone, and no durable copy of these bytes is durably known";

#[test]
fn p1_a_ctime_that_is_now_proves_nothing() {
    let rules = Rules {
        clock_passed: false,
        ..ALL
    };
    breaks(rules, ONCE, UNPROVEN);
}

#[test]
fn p1_an_equal_v_from_before_a_loss_of_power_proves_nothing() {
    let rules = Rules {
        suspects: false,
        ..ALL
    };
    breaks(rules, POWER, UNPROVEN);
}

#[test]
fn p2_without_a_comparison_behind_the_read() {
    let rules = Rules {
        second_point: false,
        record_compared: false,
        ..ALL
    };
    breaks(rules, ONCE, UNPROVEN);
}

#[test]
fn p2_without_a_comparison_before_the_record() {
    let rules = Rules {
        record_compared: false,
        ..ALL
    };
    breaks(rules, ONCE, UNPROVEN);
}

#[test]
fn p2_without_the_second_point_alone_the_record_is_what_saves() {
    let rules = Rules {
        second_point: false,
        ..ALL
    };
    is_survived(rules, KILL);
}

#[test]
fn p2_without_the_tiers_sync() {
    let rules = Rules {
        tier_syncs: false,
        ..ALL
    };
    breaks(rules, POWER, NO_COPY);
}

#[test]
fn p2_with_a_commit_that_is_not_durable() {
    let rules = Rules {
        commit_full: false,
        ..ALL
    };
    breaks(rules, POWER, UNPROVEN);
}

#[test]
fn p3_with_a_descriptor_still_open() {
    let rules = Rules {
        alone: false,
        ..ALL
    };
    let bounds = Bounds {
        reader: true,
        ..ONCE
    };
    breaks(rules, bounds, OPEN_ZEROS);
}

#[test]
fn p3_without_a_comparison_under_the_lease() {
    let rules = Rules {
        compared: false,
        ..ALL
    };
    breaks(rules, ONCE, UNPROVEN);
}

#[test]
fn p3_without_another_look_at_the_lease() {
    let rules = Rules {
        lease_checked: false,
        ..ALL
    };
    let bounds = Bounds {
        beside: true,
        ..ONCE
    };
    breaks(rules, bounds, OPEN_ZEROS);
}

#[test]
fn p3_with_the_stub_set_behind_the_punch() {
    let rules = Rules {
        mark_first: false,
        ..ALL
    };
    breaks(rules, POWER, ZEROS);
}

#[test]
fn p3_with_a_mark_that_says_released() {
    let rules = Rules {
        mark_is_recalling: false,
        ..ALL
    };
    breaks(rules, POWER, CONFLICT);
}

#[test]
fn p3_with_a_mark_that_is_not_synced() {
    let rules = Rules {
        mark_synced: false,
        ..ALL
    };
    is_survived(rules, POWER);
    let disordered = Rules {
        journal_ordered: false,
        ..rules
    };
    breaks(disordered, POWER, ZEROS);
}

#[test]
fn p6_with_the_catalog_told_behind_the_punch() {
    let rules = Rules {
        noted_first: false,
        ..ALL
    };
    let bounds = Bounds {
        writes: 0,
        strips: 1,
        ..KILL
    };
    breaks(rules, bounds, ZEROS);
}

#[test]
fn p4_without_the_mark() {
    let rules = Rules {
        recall_marks: false,
        ..ALL
    };
    breaks(rules, POWER, CONFLICT);
}

#[test]
fn p4_with_the_record_before_the_datas_sync() {
    let rules = Rules {
        recall_syncs: false,
        ..ALL
    };
    breaks(rules, POWER, ZEROS);
}

#[test]
fn p5_with_the_stub_gone_before_the_cut() {
    let rules = Rules {
        cut_first: false,
        ..ALL
    };
    breaks(rules, KILL, "a file is called lost that is not");
}

#[test]
fn an_acceptance_that_is_not_durable() {
    let rules = Rules {
        accept_full: false,
        ..ALL
    };
    breaks(rules, POWER, "an accepted request is forgotten");
}

#[test]
fn not_survived_a_disk_whose_syncs_lie() {
    let rules = Rules {
        sync_works: false,
        ..ALL
    };
    breaks(rules, POWER, NO_COPY);
}

#[test]
fn not_survived_a_filesystem_that_keeps_no_order() {
    let rules = Rules {
        journal_ordered: false,
        ..ALL
    };
    breaks(rules, POWER, CONFLICT);
}

/// Beside the mount, in front of a lease that the kernel took away while the mark was being synced, and
/// a kill before the mark is taken back: the mark says that what is there means nothing.
#[test]
fn not_survived_a_writer_beside_the_mount_that_outwaits_a_lease_and_then_a_kill() {
    let bounds = Bounds {
        beside: true,
        ..KILL
    };
    breaks(ALL, bounds, "a reader gets other bytes than the file's");
}
