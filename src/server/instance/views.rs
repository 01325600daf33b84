//! From the engine's values to the wire's.

use super::told;
use crate::catalog;
use crate::error::Failure;
use crate::hsm::engine::ask::Skipped;
use crate::hsm::engine::repair::{Ill, Remedy, Repair, Went};
use crate::hsm::engine::{Admission, RequestReport, RuleRun};
use crate::id::Timestamp;
use crate::server::wire::{
    CartridgeWait, Cost, Flag, GivenPath, Plan, PolicyRun, Problem, RepairView, RequestState,
    RequestView, Verb, When,
};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

pub(super) fn verb_in(verb: Verb) -> catalog::Verb {
    match verb {
        Verb::Archive => catalog::Verb::Archive,
        Verb::Release => catalog::Verb::Release,
        Verb::Stage => catalog::Verb::Stage,
        Verb::Verify => catalog::Verb::Verify,
        Verb::Pin => catalog::Verb::Pin,
        Verb::Unpin => catalog::Verb::Unpin,
        Verb::Set => catalog::Verb::Set,
        Verb::Clear => catalog::Verb::Clear,
        Verb::Remove => catalog::Verb::Remove,
    }
}

/// The wire's verb; those that no door offers show as what they do to tiers.
pub(in crate::server) fn verb_out(verb: catalog::Verb) -> Verb {
    match verb {
        catalog::Verb::Archive | catalog::Verb::Repack => Verb::Archive,
        catalog::Verb::Release => Verb::Release,
        catalog::Verb::Remove => Verb::Remove,
        catalog::Verb::Stage => Verb::Stage,
        catalog::Verb::Verify => Verb::Verify,
        catalog::Verb::Pin => Verb::Pin,
        catalog::Verb::Unpin => Verb::Unpin,
        catalog::Verb::Set => Verb::Set,
        catalog::Verb::Clear => Verb::Clear,
    }
}

pub(super) fn flag_in(flag: Flag) -> catalog::Flag {
    match flag {
        Flag::NoArchive => catalog::Flag::NoArchive,
        Flag::NoRelease => catalog::Flag::NoRelease,
    }
}

pub(super) fn when(t: Timestamp) -> When {
    let since = Duration::new(u64::try_from(t.sec).unwrap_or(0), t.nsec.min(999_999_999));
    When(UNIX_EPOCH + since)
}

/// A file that is not in order.
pub(super) fn repair(found: Repair) -> RepairView {
    let (remedy, advice) = match found.remedy {
        Remedy::PutStubBack => ("put-stub-back", None),
        Remedy::KeepDisk => ("keep-disk", None),
        Remedy::KeepArchive => ("keep-archive", None),
        Remedy::Nothing(advice) => ("none", Some(advice)),
    };
    let (result, message, kept) = match found.went {
        Went::Planned => ("planned", None, None),
        Went::Done(kept) => ("done", None, kept),
        Went::Failed(code, why) => (code.as_str(), Some(why), None),
    };
    let trouble = match found.ill {
        Ill::Lost => "lost",
        Ill::Foreign => "foreign",
        Ill::Conflict => "conflict",
    };
    RepairView {
        path: GivenPath::new(&found.path),
        trouble: trouble.to_owned(),
        why: found.why,
        remedy: remedy.to_owned(),
        advice,
        result: result.to_owned(),
        message,
        kept: kept.map(|path| GivenPath::new(&path)),
    }
}

/// The code of what would be left out, or done in parts, and is no failure.
const SKIPPED: &str = "skipped";

/// What was left out of a plan, and why.
pub(super) fn skipped(skipped: Skipped) -> Problem {
    Problem {
        path: (!skipped.path.is_empty()).then(|| GivenPath::new(&skipped.path)),
        code: skipped.code.map_or(SKIPPED, Failure::as_str).to_owned(),
        message: skipped.why,
    }
}

/// What is said of the whole of a stage that does not begin at once.
pub(super) fn whole(admission: &Admission) -> Option<Problem> {
    let (code, why) = match admission {
        Admission::Fits => return None,
        Admission::InParts(why) => (SKIPPED, why),
        Admission::Refused(code, why) => (code.as_str(), why),
    };
    Some(Problem {
        path: None,
        code: code.to_owned(),
        message: why.clone(),
    })
}

/// Whether the asker may know a path below the mount.
pub(super) type Sees<'a> = &'a mut dyn FnMut(&[u8]) -> bool;

/// `sees`: keys and reasons are the asker's to see, and paths as far as it says; `None` for a
/// request of somebody else's. `rules`: reasons are told as they were written down.
pub(super) fn request(
    report: &RequestReport,
    mut sees: Option<Sees<'_>>,
    rules: bool,
    mount: &Path,
) -> RequestView {
    let own = sees.is_some();
    let (row, counts) = (&report.row, report.row.counts);
    let all = [
        counts.queued,
        counts.running,
        counts.waiting,
        counts.done,
        counts.failed,
        counts.cancelled,
    ];
    let problem = |(action, path): &(catalog::Action, Option<Vec<u8>>), sees: &mut Sees<'_>| {
        let (code, message) = action
            .failure
            .as_ref()
            .map_or(("internal".into(), String::new()), |f| {
                (f.code.clone(), told::written(&f.code, &f.text, rules))
            });
        let path = path.as_ref().filter(|p| sees(p)).map(|p| {
            let mount = std::os::unix::ffi::OsStrExt::as_bytes(mount.as_os_str());
            GivenPath::new(mount).join(p)
        });
        Problem {
            path,
            code,
            message,
        }
    };
    let problems = match &mut sees {
        Some(sees) => report.failed.iter().map(|one| problem(one, sees)).collect(),
        None => Vec::new(),
    };
    let waiting = report.waiting.as_ref().filter(|_| own);
    let waiting = waiting.map(|why| told::written(&why.code, &why.text, rules));
    RequestView {
        request: row.id.0,
        verb: verb_out(row.verb),
        state: match row.state {
            catalog::RequestState::Queued => RequestState::Queued,
            // Ended actions of an open request do not end it: more may be added.
            _ if row.finished.is_none() && row.state != catalog::RequestState::Cancelled => {
                RequestState::Running
            }
            catalog::RequestState::Running => RequestState::Running,
            catalog::RequestState::Done => RequestState::Done,
            catalog::RequestState::Failed => RequestState::Failed,
            catalog::RequestState::Cancelled => RequestState::Cancelled,
        },
        uid: row.uid,
        key: row.key.clone().filter(|_| own),
        job: crate::hsm::engine::job_of(row).map(str::to_owned),
        created: when(row.created),
        finished: row.finished.map(when),
        files: all.iter().map(|c| c.files).sum(),
        files_done: counts.done.files,
        files_failed: counts.failed.files,
        bytes: all.iter().map(|c| c.bytes).sum(),
        bytes_done: counts.done.bytes,
        eta_s: eta(row).max(report.tape.left.map(|left| left.as_secs().max(1))),
        waiting,
        cartridges: report
            .tape
            .cartridges
            .iter()
            .map(|(barcode, files)| CartridgeWait {
                barcode: barcode.clone(),
                files: *files,
            })
            .collect(),
        paths: Vec::new(),
        problems,
    }
}

/// By the rate so far; nothing can be said before something was done.
fn eta(row: &catalog::Request) -> Option<u64> {
    let started = row.started?;
    let counts = row.counts;
    let left = counts.queued.bytes + counts.running.bytes + counts.waiting.bytes;
    let spent = crate::hsm::engine::now()
        .sec
        .saturating_sub(started.sec)
        .max(1);
    if row.finished.is_some() || counts.done.bytes == 0 {
        return None;
    }
    let rate = counts.done.bytes / u64::try_from(spent).ok()?;
    left.checked_div(rate)
}

pub(super) fn cost(cost: crate::hsm::engine::Cost) -> Cost {
    Cost {
        currency: cost.currency,
        once: cost.once,
        monthly: cost.monthly,
    }
}

pub(super) fn policy_run(run: RuleRun) -> PolicyRun {
    let verb = if run.rule.starts_with("release") {
        Verb::Release
    } else {
        Verb::Archive
    };
    let forecast = run.forecast;
    PolicyRun {
        rule: run.rule,
        because: run.because,
        plan: Some(Plan {
            verb,
            files: forecast.files,
            bytes: forecast.bytes,
            eta_s: None,
            fits: true,
            in_parts: false,
            pins: None,
            room: None,
            cost: forecast.cost.into_iter().map(cost).collect(),
            skipped: forecast.skipped.into_iter().map(skipped).collect(),
            skipped_files: forecast.skipped_files,
        }),
        request: run.request.map(|r| r.0),
    }
}
