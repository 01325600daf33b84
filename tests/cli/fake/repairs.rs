//! What the stand-in says of repairs and of policies, and a request at its beginning.

use cairn::server::control::{RepairSink, Subject};
use cairn::server::wire::*;

pub(super) fn repair(
    subjects: &[Subject],
    apply: bool,
    keep: Option<RepairKeep>,
    sink: RepairSink<'_>,
) {
    let view = |path: &str, trouble: &str, remedy: &str, advice: Option<&str>| RepairView {
        path: GivenPath::new(path.as_bytes()),
        trouble: trouble.to_owned(),
        why: "because".to_owned(),
        remedy: remedy.to_owned(),
        advice: advice.map(str::to_owned),
        result: match (apply, remedy) {
            (_, "none") | (false, _) => "planned".to_owned(),
            (true, _) => "done".to_owned(),
        },
        message: None,
        kept: (apply && remedy == "keep-disk").then(|| GivenPath::new(b"b.dat.cairn-kept-1")),
    };
    let mut found = vec![view("a.dat", "lost", "put-stub-back", None)];
    found.push(match keep {
        Some(_) => view("b.dat", "conflict", "keep-disk", None),
        None => view("b.dat", "conflict", "none", Some("choose")),
    });
    if !subjects.is_empty() {
        found.truncate(1);
    }
    let _ = found.into_iter().all(sink);
}

pub(super) fn policy_check(source: &str, text: &str) -> PolicyReport {
    let problems = match text.lines().position(|line| line.contains("bad")) {
        None => vec![],
        Some(at) => vec![PolicyProblem {
            file: source.to_owned(),
            line: u32::try_from(at).unwrap() + 1,
            column: 1,
            message: "unknown word \"bad\"".to_owned(),
            hint: Some("did you mean \"good\"?".to_owned()),
        }],
    };
    let says = "archive files that have not changed for 1h".to_owned();
    let rules = vec![PolicyRule {
        name: "cool".to_owned(),
        says,
    }];
    let rules = if problems.is_empty() { rules } else { vec![] };
    PolicyReport {
        source: source.to_owned(),
        rules,
        problems,
    }
}

pub(super) fn empty(request: u64, verb: Verb, uid: u32) -> RequestView {
    RequestView {
        request,
        verb,
        state: RequestState::Queued,
        uid,
        key: None,
        job: None,
        created: When::from_unix(1_700_000_000),
        finished: None,
        files: 0,
        files_done: 0,
        files_failed: 0,
        bytes: 0,
        bytes_done: 0,
        eta_s: None,
        waiting: None,
        cartridges: vec![],
        paths: vec![],
        problems: vec![],
    }
}

/// What the fake says was deleted, by names below a place.
pub(super) fn gone() -> [(&'static str, DeletedBy, u64); 2] {
    [
        ("notes.txt", DeletedBy::Overwrite, 2048),
        ("sub/results.h5", DeletedBy::Unlink, 70_000),
    ]
}

/// A file that is gone.
pub fn deleted(path: GivenPath, by: DeletedBy, size: u64) -> DeletedView {
    DeletedView {
        path,
        size,
        uid: 1000,
        version: 3,
        deleted: When::from_unix(1_700_000_000),
        by,
        until: When::from_unix(1_702_592_000),
        copies: vec![CopyView {
            tier: "archive".to_owned(),
            aggregate: "e00000001-000000000001".to_owned(),
            version: 3,
        }],
    }
}

/// A job pins what its stages are about; there is no time.
pub(super) fn job(
    requests: &mut std::collections::BTreeMap<u64, RequestView>,
    order: &JobOrder,
    peer: &cairn::server::control::Peer,
) -> JobHeld {
    let mut held = JobHeld::default();
    let own =
        |view: &&mut RequestView| view.uid == peer.uid && view.job.as_ref() == Some(&order.job);
    for view in requests.values_mut().filter(own) {
        if order.act == JobAct::Release {
            held.dropped += view.files;
            if !view.state.is_final() {
                held.cancelled += 1;
                view.state = RequestState::Cancelled;
            }
        } else if view.state != RequestState::Cancelled {
            held.files += view.files;
            held.bytes += view.bytes;
            held.until = Some(When::from_unix(1_700_600_000));
        }
    }
    held
}
