//! With all rules kept nothing breaks, whatever comes when: all states within bounds, and wider ones
//! where there is time (`cargo test --test model -- --ignored --nocapture`).

use crate::deletion::{self, Deletion};
use crate::explorer::{Protocol, Report, explore};
use crate::file::{self, File};

/// More than any bound here has; a search that meets it fails.
const MOST: usize = 40_000_000;

/// Explores all of it, and says what there was.
fn survives<P: Protocol>(name: &str, protocol: &P) -> Report {
    let report = explore(protocol, MOST);
    println!("{name}: {report}");
    assert!(report.whole, "{name}: more than {MOST} states");
    assert!(report.violation.is_none(), "{name}: {report}");
    report
}

/// Steps that no run took are steps of which nothing was shown.
fn took(report: &Report, steps: &[&str]) {
    for step in steps {
        let taken = report.taken.iter().any(|t| t.starts_with(step));
        assert!(taken, "no run came to {step:?}: {:?}", report.taken);
    }
}

/// One write, archive, release, recall and scan, and whatever comes in between.
pub(crate) const ONCE: file::Bounds = file::Bounds {
    writes: 1,
    archives: 1,
    releases: 1,
    recalls: 1,
    scans: 1,
    kills: 0,
    losses: 0,
    strips: 0,
    reader: false,
    maps: false,
    ticks: false,
    beside: false,
};

fn file(bounds: file::Bounds) -> File {
    File {
        rules: file::Rules::ALL,
        bounds,
    }
}

#[test]
fn a_file_survives_a_loss_of_power_at_any_step() {
    let report = survives("power", &file(file::Bounds { losses: 1, ..ONCE }));
    took(
        &report,
        &[
            "power is lost",
            "the first block is punched",
            "the record says resident",
            "a scan finds a mark",
            "whole data under the mark",
            "a truncation that was cut short",
            "no room",
            "the record is set and its ctime noted",
        ],
    );
}

#[test]
fn a_file_survives_a_kill_at_any_step_with_readers_and_mappings() {
    let bounds = file::Bounds {
        kills: 1,
        reader: true,
        maps: true,
        ..ONCE
    };
    took(
        &survives("kill", &file(bounds)),
        &[
            "kill -9",
            "the first store through a mapping",
            "a reader opens the resident file",
            "a truncation that was cut short",
        ],
    );
}

#[test]
fn a_file_survives_two_crashes_of_either_kind() {
    let bounds = file::Bounds {
        writes: 0,
        kills: 1,
        losses: 2,
        ..ONCE
    };
    survives("two crashes", &file(bounds));
}

#[test]
fn a_file_survives_writers_beside_the_mount_that_only_a_lease_keeps_out() {
    let bounds = file::Bounds {
        beside: true,
        ..ONCE
    };
    took(
        &survives("beside", &file(bounds)),
        &[
            "the kernel takes the lease away",
            "the record is resident again",
            "the catalog takes the release back",
        ],
    );
}

#[test]
fn a_stub_whose_attribute_is_taken_away_never_reads_as_zeros() {
    let bounds = file::Bounds {
        writes: 0,
        kills: 1,
        strips: 1,
        ..ONCE
    };
    took(
        &survives("strip", &file(bounds)),
        &["somebody takes the stub's attribute away"],
    );
}

/// Nothing happens but what is named.
pub(crate) const NOTHING: deletion::Bounds = deletion::Bounds {
    unlinks: 2,
    opens: 0,
    overwrites: 0,
    touches: 0,
    releases: 0,
    recalls: 0,
    scans: 1,
    renames: 0,
    ticks: 1,
    deletions: 1,
    repacks: 0,
    undeletes: 0,
    comebacks: 0,
    restores: 0,
    kills: 0,
    losses: 0,
};

fn deletion(bounds: deletion::Bounds) -> Deletion {
    Deletion {
        rules: deletion::Rules::ALL,
        bounds,
    }
}

/// From judging to forgetting: else nothing was deleted, and nothing shown.
const DELETED: &[&str] = &["the tier deletes", "the catalog forgets"];

#[test]
fn nothing_that_is_needed_goes_while_users_release_write_and_unlink() {
    let bounds = deletion::Bounds {
        opens: 1,
        touches: 1,
        releases: 1,
        ..NOTHING
    };
    let report = survives("users", &deletion(bounds));
    took(&report, DELETED);
    took(&report, &["the release punches", "the user closes file 1"]);
    let bounds = deletion::Bounds {
        overwrites: 1,
        releases: 1,
        recalls: 1,
        ..NOTHING
    };
    let report = survives("users, new data", &deletion(bounds));
    took(&report, DELETED);
    took(
        &report,
        &["a recall brings back", "file 1 is archived anew"],
    );
}

#[test]
fn nothing_that_is_needed_goes_while_files_are_undeleted_and_the_server_killed() {
    let bounds = deletion::Bounds {
        undeletes: 1,
        kills: 1,
        scans: 2,
        ..NOTHING
    };
    let report = survives("undelete", &deletion(bounds));
    took(&report, DELETED);
    took(
        &report,
        &[
            "the catalog notes the undeleted",
            "the catalog cannot note",
            "kill -9",
        ],
    );
}

#[test]
fn nothing_that_is_needed_goes_with_repacking_and_losses_of_power() {
    let bounds = deletion::Bounds {
        repacks: 1,
        releases: 1,
        deletions: 2,
        kills: 1,
        losses: 1,
        scans: 2,
        ..NOTHING
    };
    let report = survives("repack", &deletion(bounds));
    took(&report, DELETED);
    took(&report, &["the rows move", "the census quarantines"]);
}

#[test]
fn nothing_that_is_needed_goes_with_an_old_catalog_in_place_of_todays() {
    let bounds = deletion::Bounds {
        undeletes: 1,
        restores: 1,
        renames: 1,
        ..NOTHING
    };
    let report = survives("old catalog", &deletion(bounds));
    took(&report, DELETED);
    took(
        &report,
        &["the backup of the catalog", "a user moves it past"],
    );
    let bounds = deletion::Bounds {
        overwrites: 1,
        repacks: 1,
        restores: 1,
        ..NOTHING
    };
    took(
        &survives("old catalog, new data", &deletion(bounds)),
        DELETED,
    );
}

#[test]
fn a_stub_that_comes_back_within_the_window_is_read() {
    let bounds = deletion::Bounds {
        comebacks: 1,
        renames: 1,
        scans: 2,
        ..NOTHING
    };
    let report = survives("comeback", &deletion(bounds));
    took(
        &report,
        &["a stub of file 1 comes back", "a user moves it past"],
    );
}

#[test]
#[ignore = "some minutes, and some gigabytes of memory"]
fn a_file_survives_within_wider_bounds() {
    let two = file::Bounds {
        writes: 2,
        archives: 2,
        ..ONCE
    };
    survives(
        "two writes, no crash",
        &file(file::Bounds { releases: 2, ..two }),
    );
    survives("two writes, kill", &file(file::Bounds { kills: 1, ..two }));
    survives(
        "two writes, power",
        &file(file::Bounds { losses: 1, ..two }),
    );
    let both = file::Bounds {
        kills: 1,
        losses: 1,
        ..ONCE
    };
    survives("kill and power", &file(both));
    let ticks = file::Bounds {
        ticks: true,
        maps: true,
        kills: 1,
        ..ONCE
    };
    survives("ticks at any time", &file(ticks));
    let ticks = file::Bounds {
        ticks: true,
        losses: 1,
        ..ONCE
    };
    survives("ticks at any time, power", &file(ticks));
}

#[test]
#[ignore = "some minutes, and some gigabytes of memory"]
fn nothing_that_is_needed_goes_within_wider_bounds() {
    let all = deletion::Bounds {
        opens: 1,
        overwrites: 1,
        touches: 1,
        releases: 1,
        recalls: 1,
        repacks: 1,
        deletions: 2,
        ..NOTHING
    };
    survives("users and repack", &deletion(all));
    let back = deletion::Bounds {
        undeletes: 1,
        restores: 1,
        renames: 1,
        scans: 2,
        ..NOTHING
    };
    survives("old catalog, two scans", &deletion(back));
    let both = deletion::Bounds {
        undeletes: 1,
        restores: 1,
        releases: 1,
        kills: 1,
        ..NOTHING
    };
    survives("old catalog and kill", &deletion(both));
    let back = deletion::Bounds {
        comebacks: 1,
        restores: 1,
        kills: 1,
        scans: 2,
        ..NOTHING
    };
    survives("comeback and old catalog", &deletion(back));
}
