//! `cairn status`: the whole instance in one value.

mod proof;

use super::Instance;
use super::views::when;
use crate::catalog::{Class, FileState, Snapshot, Trouble};
use crate::hsm::engine::{Engine, EngineError, Slot, now};
use crate::server::wire::{
    Backlog, ChangelogStatus, CopiesStatus, FailureCount, FileCounts, Level, Mirror, RecallStatus,
    ScanStatus, Status, TierHealth, TierStatus, TroubledFile, Warning, When,
};
use crate::tier::ErrorKind;
use crate::tier::tape::TapeTier;
use std::collections::BTreeMap;

/// Files in trouble of one kind that are named.
const NAMED: usize = 100;

/// `names`: with the names of files in trouble.
pub(super) fn status(instance: &Instance, names: bool) -> Result<Status, EngineError> {
    let engine = &instance.engine;
    let (snapshot, counts, (free, total)) = (engine.snapshot()?, engine.counts(), engine.room()?);
    let (tiers, scrub) = (tiers(instance)?, engine.scrub()?);
    let mut warnings = warnings(engine, &snapshot, &tiers, instance);
    warnings.extend(proof::warnings(&scrub));
    let age = |t: crate::id::Timestamp| u64::try_from(now().sec - t.sec).unwrap_or(0);
    let waiting = snapshot
        .backlog
        .iter()
        .filter(|b| matches!(b.class, Class::Read | Class::Stage));
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").into(),
        instance: instance.name.clone(),
        host: rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned(),
        pid: std::process::id(),
        since: when(engine.since()),
        now: When::now(),
        mount: instance.mount.display().to_string(),
        backing: Some(instance.backing.display().to_string()),
        mirror: mirror(instance, free, total),
        files: files(&snapshot),
        recalls: RecallStatus {
            waiting: counts.recalls,
            oldest_s: waiting.filter_map(|b| b.oldest).map(age).max(),
            begun: counts.begun.0,
            by_readers: counts.begun.1,
        },
        backlog: snapshot.backlog.iter().map(backlog).collect(),
        failures: snapshot
            .failures
            .iter()
            .map(|f| FailureCount {
                code: f.code.clone(),
                count: f.count,
                last: when(f.last_at),
            })
            .collect(),
        tiers,
        changelog: ChangelogStatus {
            lag: counts.changelog_lag,
            lag_s: counts.changelog_age.map(|age| age.as_secs()),
            overflows: snapshot.changelog.overflows,
            rescans: snapshot.rescans,
        },
        copies: CopiesStatus {
            fewer_than_asked: snapshot.under_copied,
            lost: snapshot
                .usage
                .iter()
                .filter(|u| u.state == FileState::Lost)
                .map(|u| u.files)
                .sum(),
            conflict: snapshot.conflict,
            foreign: snapshot.foreign,
            bad: scrub.tiers.iter().map(|t| t.bad).sum(),
        },
        troubled: if names { troubled(engine)? } else { Vec::new() },
        proof: proof::status(&scrub),
        scan: ScanStatus {
            running: snapshot.scan.running,
            files: snapshot.scan.seen,
            finished: snapshot.scan.finished_at.map(when),
        },
        warnings,
    })
}

fn troubled(engine: &Engine) -> Result<Vec<TroubledFile>, EngineError> {
    let catalog = engine.catalog();
    let found = [
        ("lost", catalog.lost_files(None, NAMED)?),
        (
            "conflict",
            catalog.troubled(Trouble::Conflict, None, NAMED)?,
        ),
        ("foreign", catalog.troubled(Trouble::Foreign, None, NAMED)?),
    ];
    let mut files = Vec::new();
    for (state, nodes) in found {
        for node in nodes {
            let path = catalog.path_of(node.id)?.unwrap_or_default();
            files.push(TroubledFile {
                state: state.to_owned(),
                path: String::from_utf8_lossy(&path).into_owned(),
                note: node.note,
            });
        }
    }
    files.extend(proof::bad_files(engine, NAMED)?);
    Ok(files)
}

fn mirror(instance: &Instance, free: u64, total: u64) -> Mirror {
    let engine = &instance.engine;
    let facts = instance.mirror.facts();
    let can = engine.backing().capabilities();
    let capabilities = BTreeMap::from([
        ("archive".to_owned(), can.archive().is_ok()),
        ("release".to_owned(), can.release().is_ok()),
        ("open-by-handle".to_owned(), facts.handles.is_ok()),
        ("own-mount-namespace".to_owned(), facts.own_namespace),
    ]);
    Mirror {
        filesystem: can.filesystem.name().into(),
        passthrough: facts.passthrough.is_ok(),
        release: engine.release_allowed().is_ok(),
        capabilities,
        hold_s: facts.hold.as_ref().map_or(0, |time| time.as_secs()),
        predecessors: facts.predecessors,
        free,
        total,
    }
}

fn files(snapshot: &Snapshot) -> FileCounts {
    let mut counts = FileCounts::default();
    for usage in &snapshot.usage {
        counts.files += usage.files;
        counts.bytes += usage.bytes;
        match usage.state {
            FileState::Archived => counts.archived += usage.files,
            FileState::Dirty => counts.dirty += usage.files,
            FileState::Released => {
                counts.archived += usage.files;
                counts.released += usage.files;
                counts.released_bytes += usage.bytes;
            }
            FileState::None | FileState::Lost => {}
        }
    }
    counts
}

fn backlog(of: &crate::catalog::Backlog) -> (String, Backlog) {
    let name = match of.class {
        Class::Read => "read",
        Class::Stage => "stage",
        Class::Archive => "archive",
        Class::Release => "release",
        Class::PolicyArchive => "policy-archive",
        Class::Verify => "verify",
        Class::Remove => "remove",
    };
    let files = of.queued.files + of.waiting.files + of.running.files;
    let bytes = of.queued.bytes + of.waiting.bytes + of.running.bytes;
    (name.to_owned(), Backlog { files, bytes })
}

/// Of the whole instance what a user may know who does not rule it: no place of the
/// administrator's, and no text that may name one, or a file.
pub(super) fn for_users(mut status: Status) -> Status {
    status.backing = None;
    for tier in &mut status.tiers {
        tier.message = None;
        tier.reclaimable = None;
        tier.quarantined = None;
        // What kind it is, and not where.
        if let Some(colon) = tier.url.find(':') {
            tier.url.truncate(colon + 1);
        }
    }
    for warning in &mut status.warnings {
        // What it is is in the code; a reason follows the colon.
        if warning.message.contains('/') {
            let said = warning.message.split(':').next().unwrap_or_default();
            warning.message = if said.contains('/') {
                warning.code.replace('-', " ")
            } else {
                said.to_owned()
            };
        }
    }
    status
}

fn tiers(instance: &Instance) -> Result<Vec<TierStatus>, EngineError> {
    let views = instance.engine.tier_views()?;
    let one = |slot: &Slot| {
        let said = instance.questions.space(slot.id, &slot.tier);
        let (state, message) = match &said {
            Ok(_) => (TierHealth::Ok, None),
            Err((ErrorKind::Full, why)) => (TierHealth::Full, Some(why.clone())),
            Err((_, why)) => (TierHealth::Unavailable, Some(why.clone())),
        };
        let space = said.unwrap_or_default();
        let of = views.iter().find(|view| view.name == slot.name);
        let quarantined = of.map(|view| view.quarantined()).filter(|n| *n > 0);
        let last = of
            .filter(|view| view.looked)
            .and_then(|view| view.last.as_ref());
        TierStatus {
            reclaimable: last.map(|report| report.reclaimable),
            quarantined,
            name: slot.name.clone(),
            url: slot.url.clone(),
            state,
            free: space.free,
            total: space.total,
            weakness: slot
                .weakness(instance.engine.backing())
                .map(|w| w.as_str().to_owned()),
            namespace: namespace(&instance.engine, slot).0.map(when),
            absent_cartridges: instance
                .engine
                .absent_cartridges(slot.id)
                .iter()
                .map(|absent| absent.cartridge.to_string())
                .collect(),
            message,
        }
    };
    Ok(instance.engine.tiers().iter().map(one).collect())
}

/// When the namespace was last put on the tier, and whether that is too long ago.
fn namespace(engine: &Engine, slot: &Slot) -> (Option<crate::id::Timestamp>, bool) {
    engine.namespace_on(slot.id).unwrap_or_default()
}

fn warnings(
    engine: &Engine,
    snapshot: &Snapshot,
    tiers: &[TierStatus],
    instance: &Instance,
) -> Vec<Warning> {
    let mut found = Vec::new();
    for slot in engine.tiers() {
        if let Some(weak) = slot.weakness(engine.backing()) {
            let message = format!("tier {} {weak}", slot.name);
            found.push(warning(weak.as_str(), Level::Warning, message));
        }
    }
    if engine.settings().unsafe_open_backing {
        found.push(warning(
            "unsafe-open-backing",
            Level::Warning,
            "users may enter the backing directory, where released files read as zeros".into(),
        ));
    }
    if let Err(why) = engine.release_allowed() {
        found.push(warning(
            "no-release",
            Level::Warning,
            format!("releases are disabled: {why}"),
        ));
    }
    if let Err(why) = &instance.mirror.facts().passthrough {
        found.push(warning(
            "no-passthrough",
            Level::Ok,
            format!("reads and writes go through the server: {why}"),
        ));
    }
    for lack in &engine.backing().capabilities().lacking {
        found.push(warning("backing-lacks", Level::Ok, lack.to_string()));
    }
    found.extend(tiers.iter().filter_map(unwell));
    if snapshot
        .usage
        .iter()
        .any(|u| u.state == FileState::Lost && u.files > 0)
    {
        found.push(warning(
            "lost",
            Level::Critical,
            "files are lost: no good copy and no data".into(),
        ));
    }
    if snapshot.write_errors > 0 {
        found.push(warning(
            "catalog",
            Level::Critical,
            format!("{} writes to the catalog failed", snapshot.write_errors),
        ));
    }
    found.extend(tiers.iter().filter_map(absent));
    found.extend(damage(engine));
    found.extend(engine.tiers().iter().filter_map(|slot| late(engine, slot)));
    found.extend(engine.tiers().iter().flat_map(worn));
    found.extend(engine.tiers().iter().flat_map(lacks));
    found.extend(emergency(engine));
    found
}

fn warning(code: &str, level: Level, message: String) -> Warning {
    Warning {
        code: code.into(),
        level,
        message,
    }
}

/// A tier that cannot be written, or not be reached.
fn unwell(tier: &TierStatus) -> Option<Warning> {
    let level = match tier.state {
        TierHealth::Ok => return None,
        TierHealth::Full => Level::Warning,
        _ => Level::Critical,
    };
    Some(Warning {
        code: "tier".into(),
        level,
        message: format!("tier {} is {}", tier.name, tier.state.as_str()),
    })
}

/// Cartridges that somebody has to bring.
fn absent(tier: &TierStatus) -> Option<Warning> {
    let barcodes = tier.absent_cartridges.join(", ");
    let name = &tier.name;
    (!barcodes.is_empty()).then(|| Warning {
        code: "cartridge-absent".into(),
        level: Level::Warning,
        message: format!("tier {name}: {barcodes} asked for and not in the library"),
    })
}

/// What a tier's place lacks, and what follows from that.
fn lacks(slot: &Slot) -> Vec<Warning> {
    let say = |note| {
        warning(
            "tier-lacks",
            Level::Ok,
            format!("tier {}: {note}", slot.name),
        )
    };
    slot.tier.describe().notes.into_iter().map(say).collect()
}

/// The catalog's file.
fn damage(engine: &Engine) -> Option<Warning> {
    let why = engine.has_sound_catalog().err()?;
    Some(Warning {
        code: "catalog-damaged".into(),
        level: Level::Critical,
        message: why.to_string(),
    })
}

/// The tier would give an old namespace back.
fn late(engine: &Engine, slot: &Slot) -> Option<Warning> {
    let (last, true) = namespace(engine, slot) else {
        return None;
    };
    let last = last.map_or("never".to_owned(), |at| when(at).to_string());
    Some(Warning {
        code: "namespace".into(),
        level: Level::Warning,
        message: format!("tier {} got the namespace last: {last}", slot.name),
    })
}

/// What an administrator should know of a tape library's media.
fn worn(slot: &Slot) -> Vec<Warning> {
    let Some(Ok(library)) = slot.tier.tape().map(TapeTier::library) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let mut warn = |code: &str, message: String| {
        found.push(Warning {
            code: code.into(),
            level: Level::Warning,
            message: format!("tier {}: {message}", slot.name),
        });
    };
    for drive in library.drive_states() {
        if let Some(why) = drive.retired.or(drive.bay.failed) {
            warn(
                "tape-drive",
                format!("{} is not used: {why}", drive.bay.number),
            );
        }
    }
    for cartridge in library.cartridges() {
        let entry = &cartridge.entry;
        let barcode = entry.barcode;
        if let Some(why) = &entry.read_only {
            warn(
                "tape-cartridge",
                format!("cartridge {barcode} is not written any more: {why}"),
            );
        }
        if !entry.bad.is_empty() {
            let bad = entry.bad.len();
            warn(
                "tape-cartridge",
                format!("cartridge {barcode} has {bad} bad files"),
            );
        }
        if let Some(why) = cartridge.trouble.filter(|_| entry.away.is_none()) {
            warn("tape-cartridge", format!("cartridge {barcode}: {why}"));
        }
    }
    found
}

fn emergency(engine: &Engine) -> Option<Warning> {
    let held = engine.counts().held_opens?;
    Some(Warning {
        code: "emergency".into(),
        level: Level::Critical,
        message: format!(
            "the backing is above the emergency mark: opens for writing wait for releases ({held} now)"
        ),
    })
}
