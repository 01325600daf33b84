//! The human form of `cairn status`.

use crate::cli::output::{harmless, table};
use crate::config::units::shown::{Bytes, counted, files, grouped, seconds};
use crate::server::wire::{Level, Status, TierProof, TierStatus};

/// The whole screen, line by line.
pub(super) fn lines(status: &Status) -> Vec<String> {
    let mut lines = head(status);
    lines.push(String::new());
    lines.extend(table(&facts(status), &[]));
    if !status.backlog.is_empty() {
        lines.push(String::new());
        lines.extend(table(&backlog(status), &[1, 2]));
    }
    lines.push(String::new());
    lines.extend(table(&tiers(&status.tiers), &[2, 3]));
    if !status.failures.is_empty() {
        lines.push(String::new());
        lines.extend(table(&failures(status), &[1]));
    }
    if !status.troubled.is_empty() {
        lines.push(String::new());
        lines.extend(table(&troubled(status), &[]));
    }
    lines.iter().map(|line| harmless(line)).collect()
}

fn head(status: &Status) -> Vec<String> {
    let up = seconds(status.since.age(status.now.0).as_secs());
    let mut lines = vec![format!(
        "cairn {} on {}, pid {}, up {up}, mounted at {}",
        status.version, status.host, status.pid, status.mount
    )];
    lines.extend(status.warnings.iter().map(|warning| {
        let level = match warning.level {
            Level::Ok => "note",
            Level::Warning => "warning",
            Level::Critical => "CRITICAL",
        };
        format!("{level}: {} ({})", warning.message, warning.code)
    }));
    lines
}

fn row(name: &str, value: String) -> Vec<String> {
    vec![name.to_owned(), value]
}

fn facts(status: &Status) -> Vec<Vec<String>> {
    let mut rows = mirror(status);
    rows.extend(counts(status));
    rows.extend(health(status));
    rows
}

fn mirror(status: &Status) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    if let Some(backing) = &status.backing {
        rows.push(row("backing", backing.clone()));
    }
    let mirror = &status.mirror;
    let missing: Vec<&str> = mirror
        .capabilities
        .iter()
        .filter(|(_, has)| !**has)
        .map(|(name, _)| name.as_str())
        .collect();
    let missing = if missing.is_empty() {
        String::new()
    } else {
        format!(", without {}", missing.join(", "))
    };
    let passthrough = if mirror.passthrough {
        "passthrough"
    } else {
        "no passthrough"
    };
    let release = if mirror.release {
        "release possible"
    } else {
        "release not possible"
    };
    let held = match mirror.hold_s {
        0 => String::new(),
        seconds => format!(", held for {seconds} s if the instance dies"),
    };
    rows.push(row(
        "mirror",
        format!(
            "{}, {passthrough}, {release}{missing}{held}",
            mirror.filesystem
        ),
    ));
    rows.push(row(
        "disk",
        format!("{} free of {}", Bytes(mirror.free), Bytes(mirror.total)),
    ));
    rows
}

fn counts(status: &Status) -> Vec<Vec<String>> {
    let counts = &status.files;
    let mut rows = Vec::new();
    rows.push(row(
        "files",
        format!("{}, {}", grouped(counts.files), Bytes(counts.bytes)),
    ));
    let released = format!(
        "{} ({})",
        grouped(counts.released),
        Bytes(counts.released_bytes)
    );
    let archived = grouped(counts.archived);
    let dirty = grouped(counts.dirty);
    rows.push(row(
        "",
        format!("archived {archived}, dirty {dirty}, released {released}"),
    ));
    rows
}

fn health(status: &Status) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let oldest = status.recalls.oldest_s.map_or(String::new(), |s| {
        format!(", the oldest for {}", seconds(s))
    });
    rows.push(row(
        "recalls",
        format!("{} waiting{oldest}", files(status.recalls.waiting)),
    ));
    let copies = &status.copies;
    let lost = format!(
        "{} lost, {} in conflict, {} foreign, {} bad",
        grouped(copies.lost),
        grouped(copies.conflict),
        grouped(copies.foreign),
        grouped(copies.bad)
    );
    let few = files(copies.fewer_than_asked);
    rows.push(row(
        "copies",
        format!("{few} with fewer than asked, {lost}"),
    ));
    rows.extend(proof(status));
    let log = &status.changelog;
    let lag = log
        .lag_s
        .map_or(String::new(), |s| format!(" ({})", seconds(s)));
    let scans = format!(
        "{}, {} to scan again",
        counted(log.overflows, "overflow"),
        counted(log.rescans, "subtree")
    );
    rows.push(row(
        "changelog",
        format!("{} behind{lag}, {scans}", counted(log.lag, "event")),
    ));
    let scan = &status.scan;
    let last = scan
        .finished
        .map_or("never finished".to_owned(), |at| format!("finished {at}"));
    let now = if scan.running { "running, " } else { "" };
    rows.push(row(
        "scan",
        format!("{now}{} seen, {last}", files(scan.files)),
    ));
    rows
}

/// How old the oldest check of a copy is, and how often each is read, tier by tier.
fn proof(status: &Status) -> Vec<Vec<String>> {
    let proof = &status.proof;
    let every = match proof.every_s {
        0 => "read only when asked".to_owned(),
        all => format!("each read once in {}", seconds(all)),
    };
    let row_of = |tier: &TierProof| {
        let oldest = tier.oldest.map_or_else(String::new, |at| {
            format!(
                ", the oldest check {} ago",
                seconds(at.age(status.now.0).as_secs())
            )
        });
        let all = format!("{} in {} copies", Bytes(tier.bytes), grouped(tier.copies));
        row("scrub", format!("{}: {all}, {every}{oldest}", tier.tier))
    };
    proof.tiers.iter().map(row_of).collect()
}

fn backlog(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![["BACKLOG", "FILES", "BYTES"].map(str::to_owned).to_vec()];
    rows.extend(status.backlog.iter().map(|(class, work)| {
        vec![
            class.clone(),
            grouped(work.files),
            Bytes(work.bytes).to_string(),
        ]
    }));
    rows
}

fn tiers(tiers: &[TierStatus]) -> Vec<Vec<String>> {
    let bytes = |n: Option<u64>| n.map_or("?".to_owned(), |n| Bytes(n).to_string());
    let mut rows = vec![
        ["TIER", "STATE", "FREE", "TOTAL", "NAMESPACE", "WHERE"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(tiers.iter().map(|tier| {
        let mut message = tier
            .message
            .as_ref()
            .map_or(String::new(), |m| format!(" ({m})"));
        if let Some(can_go) = tier.reclaimable.filter(|n| *n > 0) {
            message += &format!(", {} can go", Bytes(can_go));
        }
        if let Some(objects) = tier.quarantined {
            message += &format!(", {} in quarantine", counted(objects, "object"));
        }
        vec![
            tier.name.clone(),
            tier.state.as_str().to_owned(),
            bytes(tier.free),
            bytes(tier.total),
            tier.namespace
                .map_or("never".to_owned(), |at| at.to_string()),
            format!("{}{message}", tier.url),
        ]
    }));
    rows
}

fn failures(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![
        ["FAILURES IN 24 H", "FILES", "LATEST"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.extend(status.failures.iter().map(|failure| {
        vec![
            failure.code.clone(),
            grouped(failure.count),
            failure.last.to_string(),
        ]
    }));
    rows
}

fn troubled(status: &Status) -> Vec<Vec<String>> {
    let mut rows = vec![["TROUBLE", "FILE"].map(str::to_owned).to_vec()];
    rows.extend(status.troubled.iter().map(|file| {
        let note = file
            .note
            .as_ref()
            .map_or(String::new(), |note| format!(" ({note})"));
        vec![file.state.clone(), format!("{}{note}", file.path)]
    }));
    rows
}
