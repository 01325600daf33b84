//! The status that the pretended engine shows: one of everything.

use cairn::server::wire::*;

/// A status in which something is in every field.
pub(super) fn status() -> Status {
    let backlog = |files, bytes| Backlog { files, bytes };
    Status {
        version: "0.1.0".to_owned(),
        instance: "01234567-89ab-cdef-0123-456789abcdef".to_owned(),
        host: "archive1".to_owned(),
        pid: 4711,
        since: When::from_unix(1_700_000_000),
        now: When::from_unix(1_700_090_000),
        mount: "/mnt/data".to_owned(),
        backing: Some("/srv/.cairn-data/backing".to_owned()),
        mirror: Mirror {
            filesystem: "xfs".to_owned(),
            passthrough: true,
            release: true,
            capabilities: ["handles", "leases", "punch", "xattrs"]
                .map(|name| (name.to_owned(), name != "handles"))
                .into(),
            hold_s: 0,
            predecessors: 0,
            free: 3 << 40,
            total: 10 << 40,
        },
        files: FileCounts {
            files: 1_234_567,
            bytes: 9 << 40,
            archived: 1_200_000,
            dirty: 12,
            released: 1_000_000,
            released_bytes: 7 << 40,
        },
        recalls: RecallStatus {
            waiting: 3,
            oldest_s: Some(95),
            begun: 400,
            by_readers: 12,
        },
        backlog: [
            ("archive".to_owned(), backlog(31, 5 << 30)),
            ("stage".to_owned(), backlog(2, 700 << 20)),
        ]
        .into(),
        failures: vec![FailureCount {
            code: "tier-unavailable".to_owned(),
            count: 17,
            last: When::from_unix(1_700_080_000),
        }],
        tiers: tiers(),
        changelog: ChangelogStatus {
            lag: 250,
            lag_s: Some(2),
            overflows: 1,
            rescans: 1,
        },
        copies: CopiesStatus {
            fewer_than_asked: 5,
            lost: 0,
            conflict: 1,
            foreign: 1,
            bad: 2,
        },
        proof: proof(),
        troubled: troubled(),
        scan: ScanStatus {
            running: false,
            files: 1_234_567,
            finished: Some(When::from_unix(1_700_003_600)),
        },
        warnings: vec![Warning {
            code: "same-filesystem".to_owned(),
            level: Level::Warning,
            message:
                "tier archive shares the backing's filesystem: frees no space, protects nothing"
                    .to_owned(),
        }],
    }
}

fn proof() -> ProofStatus {
    ProofStatus {
        every_s: 90 * 86_400,
        bandwidth: 16 << 20,
        heal: true,
        tiers: vec![TierProof {
            tier: "archive".to_owned(),
            copies: 1_200_000,
            bytes: 30 << 40,
            bad: 2,
            oldest: Some(When::from_unix(1_700_000_000 - 40 * 86_400)),
            takes_s: (30 << 40) / (16 << 20),
        }],
    }
}

fn troubled() -> Vec<TroubledFile> {
    vec![
        TroubledFile {
            state: "conflict".to_owned(),
            path: "proj/written-into".to_owned(),
            note: None,
        },
        TroubledFile {
            state: "foreign".to_owned(),
            path: "proj/copied".to_owned(),
            note: None,
        },
    ]
}

fn tiers() -> Vec<TierStatus> {
    vec![
        TierStatus {
            name: "archive".to_owned(),
            url: "dir:/var/lib/cairn/data/archive".to_owned(),
            state: TierHealth::Ok,
            free: Some(20 << 40),
            total: Some(40 << 40),
            weakness: None,
            reclaimable: Some(5 << 30),
            quarantined: Some(2),
            namespace: Some(When::from_unix(1_767_225_600)),
            absent_cartridges: vec![],
            message: None,
        },
        TierStatus {
            name: "off-site".to_owned(),
            url: "s3://bucket/prefix".to_owned(),
            state: TierHealth::Unavailable,
            free: None,
            total: None,
            weakness: None,
            reclaimable: None,
            quarantined: None,
            namespace: None,
            absent_cartridges: vec![],
            message: Some("connection refused".to_owned()),
        },
    ]
}

/// Tiers of which one has something of everything.
pub(super) fn tier_list() -> TierList {
    let count = |objects, bytes| ObjectCount { objects, bytes };
    TierList {
        tiers: vec![
            TierObjects {
                tier: "archive".to_owned(),
                url: "dir:/var/lib/cairn/data/archive".to_owned(),
                ordinary: count(12_345, 7 << 40),
                live_bytes: 6 << 40,
                dead_bytes: 1 << 40,
                condemned: count(3, 300 << 20),
                quarantined: count(2, 2 << 30),
                reclaimable: Some(5 << 30),
                next: Some(When::from_unix(1_700_100_000)),
                missing: 1,
                strange: vec![StrangeObject {
                    object: "e00000001-000000000007".to_owned(),
                    why: "no trailer at the end".to_owned(),
                }],
            },
            TierObjects {
                tier: "off-site".to_owned(),
                url: "s3://bucket/prefix".to_owned(),
                ordinary: ObjectCount::default(),
                live_bytes: 0,
                dead_bytes: 0,
                condemned: ObjectCount::default(),
                quarantined: ObjectCount::default(),
                reclaimable: None,
                next: None,
                missing: 0,
                strange: Vec::new(),
            },
        ],
    }
}

/// A run that did something of everything; number 4 is a dry one.
pub(super) fn collect(number: u64) -> Collect {
    let deed = |object: &str, act: &str, bytes, why: &str| CollectDeed {
        object: object.to_owned(),
        act: act.to_owned(),
        bytes,
        why: why.to_owned(),
    };
    let kept = [("keep-deleted", 7), ("scan", 1), ("named-by-record", 2)];
    let tier = CollectTier {
        tier: "archive".to_owned(),
        objects: 12_350,
        reclaimable: 5 << 30,
        done: [("condemn".to_owned(), 1), ("repack".to_owned(), 1)].into(),
        deeds: vec![
            deed(
                "e00000002-000000000001",
                "condemn",
                1 << 30,
                "nobody needs its 3 members",
            ),
            deed(
                "e00000002-000000000002",
                "repack",
                4 << 30,
                "80 % of it can go",
            ),
        ],
        kept: kept.map(|(why, n)| (why.to_owned(), n)).into(),
        below_share: 4,
        next: Some(When::from_unix(1_700_100_000)),
        error: None,
    };
    let away = CollectTier {
        tier: "off-site".to_owned(),
        error: Some("connection refused".to_owned()),
        ..CollectTier::default()
    };
    Collect {
        number,
        dry_run: number == 4,
        begun: Some(When::from_unix(1_700_000_000)),
        ended: Some(When::from_unix(1_700_000_060)),
        tiers: vec![tier, away],
    }
}

/// A run that was just asked for.
pub fn collecting(dry_run: bool) -> Collect {
    Collect {
        number: 3 + u64::from(dry_run),
        dry_run,
        ..Collect::default()
    }
}

/// Its number says whether it was to look closely.
pub fn checking(query: &TierCheckQuery) -> TierCheck {
    TierCheck {
        number: 5 + u64::from(query.closely),
        tier: query.tier.clone(),
        ..TierCheck::default()
    }
}

pub fn checked(number: u64) -> TierCheck {
    let one = |object: &str, differs: &str, why: &str| TierDifference {
        object: object.to_owned(),
        differs: differs.to_owned(),
        why: why.to_owned(),
    };
    let mut differences = vec![
        one(
            "e00000001-000000000007",
            "missing",
            "3 of its 40 members are needed",
        ),
        one(
            "e00000002-000000000001",
            "unknown",
            "the catalog does not know it",
        ),
    ];
    if number == 5 {
        differences.clear();
    }
    let counts = differences.iter().map(|one| (one.differs.clone(), 1));
    TierCheck {
        number,
        tier: "archive".to_owned(),
        begun: Some(When::from_unix(1_700_000_000)),
        ended: Some(When::from_unix(1_700_000_060)),
        error: None,
        objects: 12,
        alike: 9,
        snapshots: 2,
        young: 0,
        leaving: 1,
        counts: counts.collect(),
        differences,
    }
}

/// What a request would cost.
pub fn cost() -> Cost {
    Cost {
        currency: "USD".to_owned(),
        once: "12.345600001".parse().unwrap(),
        monthly: "0.000432".parse().unwrap(),
    }
}
