//! A control engine that only pretends: it answers about the real files behind the descriptors
//! it is given, and what it says of them follows from their names, so that a test can read off
//! what to expect.
//!
//! | in the name | the file |
//! |---|---|
//! | `cold` | is archived and released |
//! | `warm` | is archived |
//! | `forbidden` | may not be worked on |
//! | `notier` | lies on a tier that does not answer |
//! | `slow` | is never done until its request is cancelled |
//!
//! Of what is gone, in a directory of any name, `results.h5` was deleted and `notes.txt` overwritten;
//! below `lost` nothing can be had.

mod receipt;
mod repairs;
mod status;
mod tapes;

use cairn::error::Failure;
use cairn::id::RequestId;
use cairn::server::control::{
    Control, ControlError, DeletedSink, Gone, NodeSink, Peer, RepairSink, Subject, Undelete,
    UndeletedSink, Wake,
};
use cairn::server::wire::*;
use repairs::{empty, gone};
use status::status;
use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a submission asked for, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The verb.
    pub verb: Verb,
    /// The paths, as typed.
    pub given: Vec<Vec<u8>>,
    /// The options.
    pub options: SubmitOptions,
    /// Which part.
    pub part: Part,
    /// By whom.
    pub peer: Peer,
}

/// What a submission amounts to.
struct Work {
    files: u64,
    bytes: u64,
    problems: Vec<Problem>,
    slow: bool,
}

/// The engine.
pub struct Fake {
    requests: Mutex<BTreeMap<u64, RequestView>>,
    asked: Mutex<Vec<Asked>>,
    status: Mutex<Status>,
    wake: Mutex<Option<Wake>>,
    /// How often a request was looked at.
    pub looks: AtomicUsize,
    /// While set, this user's `status` does not return.
    pub held: Mutex<Option<u32>>,
    /// How many of them are waiting now.
    pub holding: AtomicUsize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            requests: Mutex::default(),
            asked: Mutex::default(),
            status: Mutex::new(status()),
            wake: Mutex::default(),
            looks: AtomicUsize::new(0),
            held: Mutex::new(None),
            holding: AtomicUsize::new(0),
        }
    }
}

impl Fake {
    /// Everything that was submitted.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.asked).clone()
    }
    /// Changes what `status` answers.
    pub fn set_status(&self, change: impl FnOnce(&mut Status)) {
        change(&mut lock(&self.status));
    }
    /// Changes a request, as the engine's work would.
    pub fn set_request(&self, id: u64, change: impl FnOnce(&mut RequestView)) {
        if let Some(view) = lock(&self.requests).get_mut(&id) {
            change(view);
        }
        if let Some(wake) = &*lock(&self.wake) {
            wake(RequestId(id));
        }
    }

    /// The request of that key, or a new one, or the one that this part belongs to; with more work.
    fn enter(&self, asked: &Asked, work: Work) -> Accepted {
        let mut requests = lock(&self.requests);
        let Asked {
            verb,
            given,
            options,
            part,
            peer,
        } = asked;
        let same = |r: &&RequestView| r.uid == peer.uid && r.key == options.key;
        if options.key.is_some()
            && part.into.is_none()
            && let Some(view) = requests.values().find(same)
        {
            return Accepted {
                request: view.request,
                known: true,
            };
        }
        let id = part.into.unwrap_or(requests.len() as u64 + 1);
        let entry = requests.entry(id);
        let view = entry.or_insert_with(|| empty(id, *verb, peer.uid));
        let failed = work.problems.len() as u64;
        (view.key, view.job) = (options.key.clone(), options.job.clone());
        view.files += work.files;
        view.files_failed += failed;
        view.files_done += if work.slow { 0 } else { work.files - failed };
        view.bytes += work.bytes;
        view.bytes_done += if work.slow { 0 } else { work.bytes };
        view.paths.extend(given.iter().map(|p| GivenPath::new(p)));
        view.paths.truncate(RequestView::MAX_PATHS);
        view.problems.extend(work.problems);
        view.state = match (work.slow || !part.last, view.files_failed) {
            (true, _) => RequestState::Running,
            (false, 0) => RequestState::Done,
            (false, _) => RequestState::Failed,
        };
        let then = When::from_unix(1_700_000_060);
        view.finished = view.state.is_final().then_some(then);
        if work.slow {
            view.waiting = Some("drive 1".to_owned());
            view.eta_s = Some(100);
        }
        Accepted {
            request: id,
            known: false,
        }
    }

    fn find(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError> {
        let requests = lock(&self.requests);
        let view = requests.get(&id.0).ok_or_else(|| {
            ControlError::new(Failure::NotFound, format!("there is no request {id}"))
        })?;
        Ok(seen_by(view, peer))
    }
}

/// Without paths and key, unless it is the peer's own.
fn seen_by(view: &RequestView, peer: &Peer) -> RequestView {
    let mut view = view.clone();
    if view.uid != peer.uid && !peer.is_root() {
        view.paths.clear();
        view.key = None;
        view.problems
            .iter_mut()
            .for_each(|problem| problem.path = None);
    }
    view
}

fn has(path: &[u8], word: &str) -> bool {
    let name = path.rsplit(|b| *b == b'/').next().unwrap_or_default();
    name.windows(word.len()).any(|part| part == word.as_bytes())
}

/// The subject's path by the kernel's account: the fake runs where /proc is.
fn real(subject: &Subject) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", subject.fd.as_fd().as_raw_fd()))
}

/// The file itself and, for a directory, everything below it.
fn files_of(subject: &Subject) -> Vec<(Vec<u8>, Metadata)> {
    let mut files = Vec::new();
    let walked = walk(&real(subject), Walk::Tree, &mut |below, found, _| {
        if found.is_file() {
            files.push((GivenPath::new(&subject.given).join(below).bytes(), found));
        }
        true
    });
    walked.unwrap();
    files
}

type Visit<'a> = &'a mut dyn FnMut(&[u8], Metadata, Option<PathBuf>) -> bool;

fn walk(top: &std::path::Path, how: Walk, visit: Visit<'_>) -> std::io::Result<()> {
    let target = fs::read_link(top)?;
    let found = fs::symlink_metadata(&target)?;
    let is_directory = found.is_dir();
    if !is_directory || how != Walk::Children {
        let link = fs::read_link(&target).ok();
        if !visit(b"", found, link) {
            return Ok(());
        }
    }
    if !is_directory || how == Walk::Itself {
        return Ok(());
    }
    let mut queue = vec![PathBuf::new()];
    while let Some(directory) = queue.pop() {
        let mut entries: Vec<_> = fs::read_dir(target.join(&directory))?
            .map(|e| e.map(|e| e.file_name()))
            .collect::<Result<_, _>>()?;
        entries.sort();
        let mut subdirectories = Vec::new();
        for name in entries {
            let below = directory.join(name);
            let path = target.join(&below);
            let found = fs::symlink_metadata(&path)?;
            if found.is_dir() && how == Walk::Tree {
                subdirectories.push(below.clone());
            }
            if !visit(
                below.as_os_str().as_bytes(),
                found,
                fs::read_link(&path).ok(),
            ) {
                return Ok(());
            }
        }
        queue.extend(subdirectories.into_iter().rev());
    }
    Ok(())
}

fn node(path: GivenPath, found: &Metadata, target: Option<PathBuf>) -> NodeState {
    let kind = found.file_type();
    let kind = if kind.is_file() {
        NodeType::File
    } else if kind.is_dir() {
        NodeType::Directory
    } else if kind.is_symlink() {
        NodeType::Symlink
    } else {
        assert!(kind.is_fifo() || kind.is_socket() || kind.is_char_device());
        NodeType::Special
    };
    let bytes = path.bytes();
    let (cold, warm) = (has(&bytes, "cold"), has(&bytes, "warm"));
    let is_file = kind == NodeType::File;
    let flags = match (cold && is_file, warm && is_file) {
        (true, _) => vec![StateFlag::Exists, StateFlag::Archived, StateFlag::Released],
        (false, true) => vec![StateFlag::Exists, StateFlag::Archived],
        (false, false) => vec![],
    };
    let copies = if flags.is_empty() {
        vec![]
    } else {
        let aggregate = "e00000001-000000000001".to_owned();
        vec![CopyView {
            tier: "archive".to_owned(),
            aggregate,
            version: 1,
        }]
    };
    NodeState {
        kind,
        mode: found.mode() & 0o7777,
        nlink: if kind == NodeType::Directory {
            2
        } else {
            found.nlink()
        },
        uid: found.uid(),
        gid: found.gid(),
        size: if kind == NodeType::Directory {
            4096
        } else {
            found.len()
        },
        on_disk: if cold {
            0
        } else {
            found.len().next_multiple_of(4096)
        },
        mtime_s: found.mtime(),
        mtime_ns: u32::try_from(found.mtime_nsec()).unwrap(),
        target: target.map(|t| t.display().to_string()),
        version: u64::from(!flags.is_empty()),
        flags,
        copies,
        pins: vec![],
        request: None,
        path,
    }
}

fn problem_of(path: &[u8]) -> Option<Problem> {
    let (code, message) = if has(path, "forbidden") {
        (Failure::NotPermitted, "you may not read it")
    } else if has(path, "notier") {
        (Failure::TierUnavailable, "tier archive does not answer")
    } else {
        return None;
    };
    Some(Problem {
        path: Some(GivenPath::new(path)),
        code: code.as_str().to_owned(),
        message: message.to_owned(),
    })
}

impl Control for Fake {
    fn deleted(
        &self,
        place: Gone,
        _peer: &Peer,
        sink: DeletedSink<'_>,
    ) -> Result<(), ControlError> {
        let top = GivenPath::new(&place.subject.given).reach(&place.below);
        if has(&place.below, "lost") {
            return Ok(());
        }
        for (name, by, size) in gone() {
            if !sink(repairs::deleted(top.join(name.as_bytes()), by, size)) {
                break;
            }
        }
        Ok(())
    }

    fn undelete(
        &self,
        ask: Undelete,
        _peer: &Peer,
        sink: UndeletedSink<'_>,
    ) -> Result<Option<Accepted>, ControlError> {
        let top = GivenPath::new(&ask.from.subject.given).reach(&ask.from.below);
        let to = ask
            .to
            .map(|to| GivenPath::new(&to.subject.given).reach(&to.below));
        if has(&ask.from.below, "lost") {
            let message = "what was never archived cannot be had".to_owned();
            sink(Err(Problem {
                path: Some(top),
                code: Failure::NotFound.as_str().to_owned(),
                message,
            }));
            return Ok(None);
        }
        for (name, by, size) in gone() {
            if !ask.recursive && by == DeletedBy::Unlink {
                continue;
            }
            let path = if ask.recursive {
                top.join(name.as_bytes())
            } else {
                top.clone()
            };
            sink(Ok(UndeletedView {
                now: to.clone().unwrap_or_else(|| path.clone()),
                path,
                size,
                modified: When::from_unix(1_690_000_000),
                version: ask.version.unwrap_or(3),
                deleted: ask.at.unwrap_or(When::from_unix(1_700_000_000)),
                by,
            }));
        }
        Ok(ask.stage.then_some(Accepted {
            request: 7,
            known: false,
        }))
    }

    fn submit(
        &self,
        verb: Verb,
        subjects: Vec<Subject>,
        options: &SubmitOptions,
        part: Part,
        peer: &Peer,
    ) -> Result<Submitted, ControlError> {
        let asked = Asked {
            verb,
            given: subjects.iter().map(|s| s.given.clone()).collect(),
            options: options.clone(),
            part,
            peer: peer.clone(),
        };
        lock(&self.asked).push(asked.clone());
        if options.tier.as_deref() == Some("nowhere") {
            let no = ControlError::new(Failure::Usage, "there is no tier nowhere");
            return Err(no.hint("tiers are: archive"));
        }
        let files: Vec<(Vec<u8>, Metadata)> = subjects.iter().flat_map(files_of).collect();
        let good = files.iter().filter(|(path, _)| problem_of(path).is_none());
        let work = Work {
            files: files.len() as u64,
            bytes: good.map(|(_, found)| found.len()).sum(),
            problems: files
                .iter()
                .filter_map(|(path, _)| problem_of(path))
                .collect(),
            slow: files.iter().any(|(path, _)| has(path, "slow")),
        };
        if !options.dry_run {
            return Ok(Submitted::Accepted(self.enter(&asked, work)));
        }
        let failed = work.problems.len() as u64;
        Ok(Submitted::Plan(Plan {
            verb,
            files: work.files - failed,
            bytes: work.bytes,
            eta_s: Some(work.bytes / 1000),
            in_parts: false,
            pins: None,
            fits: work.bytes <= 1 << 30,
            room: Some(1 << 30),
            cost: vec![status::cost()],
            skipped: work.problems,
            skipped_files: failed,
        }))
    }

    fn state(
        &self,
        subject: Subject,
        how: Walk,
        _peer: &Peer,
        sink: NodeSink<'_>,
    ) -> Result<(), ControlError> {
        if let Some(problem) = problem_of(&subject.given) {
            let code = Failure::parse(&problem.code).unwrap();
            return Err(ControlError::new(code, problem.message));
        }
        let given = GivenPath::new(&subject.given);
        let walked = walk(&real(&subject), how, &mut |below, found, target| {
            sink(node(given.join(below), &found, target))
        });
        walked.map_err(|error| ControlError::new(Failure::Internal, error))
    }

    fn why(&self, subject: Subject, _peer: &Peer) -> Result<Why, ControlError> {
        let path = GivenPath::new(&subject.given);
        let found = fs::symlink_metadata(fs::read_link(real(&subject)).unwrap()).unwrap();
        let flags = node(path.clone(), &found, None).flags;
        let waiting = if has(&subject.given, "slow") {
            vec![Waiting {
                verb: Verb::Stage,
                on: "drive 1 reads cartridge A00017, 31 files before this one".to_owned(),
                since: When::now(),
                eta_s: Some(200),
                request: Some(7),
            }]
        } else {
            vec![]
        };
        let because = vec!["rule keep-new: changed less than 7 days ago".to_owned()];
        Ok(Why {
            path,
            flags,
            waiting,
            because,
        })
    }

    fn receipt(
        &self,
        subject: Subject,
        sha256: bool,
        peer: &Peer,
        _wanted: &(dyn Fn() -> bool + Sync),
    ) -> Result<Receipt, ControlError> {
        let path = GivenPath::new(&subject.given);
        let root = peer.is_root() && !has(&subject.given, "other");
        Ok(receipt::receipt(path, sha256, root))
    }

    fn requests(
        &self,
        filter: &RequestFilter,
        peer: &Peer,
    ) -> Result<Vec<RequestView>, ControlError> {
        let wanted = |view: &&RequestView| {
            let live = filter.all || filter.failed || !view.state.is_final();
            let failed = !filter.failed || view.files_failed > 0;
            let live =
                (filter.job.is_none() && live) || (filter.job.is_some() && filter.job == view.job);
            live && failed && filter.before.is_none_or(|before| view.request < before)
        };
        let requests = lock(&self.requests);
        let seen = requests.values().rev().filter(wanted).take(filter.limit);
        Ok(seen.map(|view| seen_by(view, peer)).collect())
    }

    fn request(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        self.find(id, peer)
    }

    fn cancel(&self, id: RequestId, peer: &Peer) -> Result<RequestView, ControlError> {
        let view = self.find(id, peer)?;
        if view.uid != peer.uid && !peer.is_root() {
            return Err(ControlError::new(
                Failure::NotPermitted,
                format!("request {id} is another user's"),
            ));
        }
        self.set_request(id.0, |view| {
            view.state = RequestState::Cancelled;
            view.waiting = None;
            view.eta_s = None;
        });
        self.find(id, peer)
    }

    fn retry(&self, id: RequestId, peer: &Peer) -> Result<Accepted, ControlError> {
        let view = self.find(id, peer)?;
        if !view.state.is_final() {
            return Err(
                ControlError::new(Failure::Busy, format!("request {id} is still running"))
                    .hint(format!("wait for it: cairn wait {id}")),
            );
        }
        let mut requests = lock(&self.requests);
        let next = requests.len() as u64 + 1;
        requests.insert(
            next,
            RequestView {
                request: next,
                ..view
            },
        );
        Ok(Accepted {
            request: next,
            known: false,
        })
    }

    fn job(&self, order: &JobOrder, peer: &Peer) -> Result<JobHeld, ControlError> {
        Ok(repairs::job(&mut lock(&self.requests), order, peer))
    }

    fn status(&self, peer: &Peer) -> Result<Status, ControlError> {
        self.holding.fetch_add(1, Ordering::SeqCst);
        while *lock(&self.held) == Some(peer.uid) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.holding.fetch_sub(1, Ordering::SeqCst);
        let mut status = lock(&self.status).clone();
        if !peer.is_root() {
            status.backing = None;
        }
        Ok(status)
    }

    fn policy_check(
        &self,
        text: Option<(&str, &str)>,
        _peer: &Peer,
    ) -> Result<PolicyReport, ControlError> {
        let (source, text) = text.unwrap_or(("shipped policy", "good"));
        Ok(repairs::policy_check(source, text))
    }

    fn repair(
        &self,
        subjects: Vec<Subject>,
        apply: bool,
        keep: Option<RepairKeep>,
        peer: &Peer,
        sink: RepairSink<'_>,
    ) -> Result<(), ControlError> {
        if !peer.is_root() {
            let why = "only root may repair files of this instance";
            return Err(ControlError::new(Failure::NotPermitted, why));
        }
        repairs::repair(&subjects, apply, keep, sink);
        Ok(())
    }

    fn policy_run(
        &self,
        rule: Option<&str>,
        dry_run: bool,
        peer: &Peer,
    ) -> Result<Vec<PolicyRun>, ControlError> {
        if !peer.is_root() {
            let why = "only root may run policies";
            return Err(ControlError::new(Failure::NotPermitted, why));
        }
        let plan = Plan {
            verb: Verb::Release,
            files: 12,
            bytes: 34 << 20,
            eta_s: None,
            in_parts: false,
            pins: None,
            fits: true,
            room: None,
            cost: vec![],
            skipped: vec![],
            skipped_files: 0,
        };
        if !dry_run {
            // Done before anybody can wait; one file was in use.
            let problem = Problem {
                path: Some(GivenPath::new(b"busy.dat")),
                code: Failure::Busy.as_str().to_owned(),
                message: "it is in use".to_owned(),
            };
            let view = RequestView {
                state: RequestState::Failed,
                files: plan.files,
                files_done: plan.files - 1,
                files_failed: 1,
                bytes: plan.bytes,
                bytes_done: plan.bytes,
                problems: vec![problem],
                ..empty(42, Verb::Release, peer.uid)
            };
            lock(&self.requests).insert(42, view);
        }
        Ok(vec![PolicyRun {
            rule: rule.unwrap_or("make-room").to_owned(),
            because: "disk is at 91 %, above 90 %".to_owned(),
            plan: Some(plan),
            request: (!dry_run).then_some(42),
        }])
    }

    fn tiers(&self, _peer: &Peer) -> Result<TierList, ControlError> {
        Ok(status::tier_list())
    }

    fn collect(&self, dry_run: bool, peer: &Peer) -> Result<Collect, ControlError> {
        if !peer.is_root() {
            let why = "only root may free tiers";
            return Err(ControlError::new(Failure::NotPermitted, why));
        }
        Ok(status::collecting(dry_run))
    }

    fn collection(&self, number: u64, _peer: &Peer) -> Result<Collect, ControlError> {
        Ok(status::collect(number))
    }
    fn check_tier(&self, query: &TierCheckQuery, _: &Peer) -> Result<TierCheck, ControlError> {
        Ok(status::checking(query))
    }

    fn tier_check(&self, number: u64, _peer: &Peer) -> Result<TierCheck, ControlError> {
        Ok(status::checked(number))
    }

    fn tapes(&self, _tier: Option<&str>, _peer: &Peer) -> Result<TapeList, ControlError> {
        Ok(tapes::list())
    }
    fn tape(&self, _: Option<&str>, barcode: &str, _: &Peer) -> Result<TapeView, ControlError> {
        Ok(tapes::view(barcode))
    }
    fn tape_order(&self, order: &TapeOrder, _peer: &Peer) -> Result<TapeDone, ControlError> {
        Ok(tapes::order(order))
    }
    fn tape_run(&self, number: u64, _peer: &Peer) -> Result<TapeRun, ControlError> {
        Ok(tapes::run(number))
    }

    fn shutdown(&self, force: bool, peer: &Peer) -> Result<Stopped, ControlError> {
        if !peer.is_root() {
            let why = "only root may stop it";
            return Err(ControlError::new(Failure::NotPermitted, why));
        }
        if !force {
            return Err(ControlError::new(Failure::Busy, "/mnt/data is in use"));
        }
        Ok(Stopped {
            mount: "/mnt/data".to_owned(),
            pid: 4711,
        })
    }

    fn on_change(&self, wake: Wake) {
        *lock(&self.wake) = Some(wake);
    }
}
