//! The client of a running instance: finds it, hands files over as descriptors, asks. Calls
//! block; a Ctrl-C is noticed only where a method says so.

mod discover;
mod error;
mod gone;
mod handles;
pub mod holders;
mod http;
pub mod remote;

pub use discover::Place;
pub(crate) use discover::{is_mounted_at, mounts};
pub use error::ClientError;

use crate::server::MAX_SUBJECTS;
use crate::server::wire::{
    Accepted, DeletedQuery, DeletedView, End, GivenPath, NodeState, Part, Plan, PolicyCheckQuery,
    PolicyReport, PolicyRun, PolicyRunQuery, Problem, Receipt, ReceiptQuery, RepairKeep,
    RepairQuery, RepairView, RequestFilter, RequestList, RequestView, Schema, Settled,
    ShutdownQuery, StateQuery, Status, Stopped, SubjectRef, Submission, SubmitOptions, Submitted,
    UndeleteQuery, UndeletedView, Verb, Walk, When, Why, WhyQuery,
};
use crate::server::wire::{Collect, CollectQuery, TierCheck, TierCheckQuery, TierList};
use crate::server::wire::{JobHeld, JobOrder};
use crate::server::wire::{TapeDone, TapeList, TapeOrder, TapeRun, TapeView};
use http::Http;
use hyper::Method;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A way to one running instance.
#[derive(Debug)]
pub struct Client {
    http: Http,
    socket: PathBuf,
}

/// How a wait ended; the latest view in each case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// The request is final.
    Final(RequestView),
    /// The time is up; the request goes on.
    TimedOut(RequestView),
    /// The user pressed Ctrl-C; the request goes on.
    Detached(RequestView),
}

/// What came of a submission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submittal {
    /// The answer; `None` if none of the paths could be handed over.
    pub submitted: Option<Submitted>,
    /// Paths that could not be handed over.
    pub problems: Vec<Problem>,
}

/// How deleted files are to come back.
#[derive(Debug, Clone, Copy, Default)]
pub struct Undeleting<'a> {
    /// Where to; else where they were.
    pub to: Option<&'a [u8]>,
    /// As they were at that time.
    pub at: Option<When>,
    /// The version of this number.
    pub version: Option<u64>,
    /// All below the path.
    pub recursive: bool,
    /// Their data, too.
    pub stage: bool,
}

/// A runtime for one caller that waits for its answers.
fn runtime() -> Result<tokio::runtime::Runtime, ClientError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| ClientError::Local {
            step: "start the client",
            source,
        })
}

impl Client {
    /// Finds the instance that `place` leads to and connects.
    ///
    /// # Errors
    /// [`ClientError::NoInstance`] and how to name one.
    pub fn find(place: &Place<'_>) -> Result<Self, ClientError> {
        Self::at(discover::socket(place)?)
    }

    /// The same, but a mount that says nothing within `limit` has no instance: it may be held for
    /// one to come.
    ///
    /// # Errors
    /// [`ClientError::NoInstance`].
    pub fn find_within(place: &Place<'_>, limit: Duration) -> Result<Self, ClientError> {
        Self::at(discover::socket_within(place, limit)?)
    }

    fn at(found: discover::Found) -> Result<Self, ClientError> {
        let http = Http::connect(&found.socket, found.trusted)?;
        Ok(Self {
            http,
            socket: found.socket,
        })
    }

    /// Has all that was written and named on the mount before made durable, unless it `only_look`s; how often a write was lost
    /// so far, from an arbitrary start on.
    ///
    /// # Errors
    /// The filesystem failed, or the connection broke.
    pub fn settle(&mut self, only_look: bool) -> Result<u64, ClientError> {
        let method = if only_look { Method::GET } else { Method::POST };
        let settled: Settled = self.http.ask(method, "/v1/settle", None::<&End>)?;
        Ok(settled.faults)
    }

    /// Asks for work on the paths, in as many parts as are needed.
    ///
    /// # Errors
    /// A refusal of the whole; a path that cannot be opened is a problem in the answer.
    pub fn submit(
        &mut self,
        verb: Verb,
        paths: &mut dyn Iterator<Item = Vec<u8>>,
        options: &SubmitOptions,
    ) -> Result<Submittal, ClientError> {
        let mut paths = paths.peekable();
        let mut so_far = Submittal {
            submitted: None,
            problems: Vec::new(),
        };
        let mut hatch = None;
        while paths.peek().is_some() {
            let chunk: Vec<Vec<u8>> = paths.by_ref().take(MAX_SUBJECTS).collect();
            let last = paths.peek().is_none();
            let hatch = self.hatch(&mut hatch)?;
            let (subjects, problems) = hatch.hand_over(chunk)?;
            so_far.problems.extend(problems);
            let into = match &so_far.submitted {
                Some(Submitted::Accepted(accepted)) => Some(accepted.request),
                Some(Submitted::Plan(_)) | None => None,
            };
            if subjects.is_empty() && !(last && into.is_some()) {
                continue;
            }
            let part = Part { into, last };
            let body = Submission {
                verb,
                subjects,
                options: options.clone(),
                part,
            };
            let answer = self.place(&body)?;
            let known = matches!(&answer, Submitted::Accepted(accepted) if accepted.known);
            so_far.submitted = Some(match (so_far.submitted, answer) {
                (Some(Submitted::Plan(sum)), Submitted::Plan(more)) => {
                    Submitted::Plan(sum.and(more))
                }
                (Some(earlier @ Submitted::Accepted(_)), _) => earlier,
                (_, answer) => answer,
            });
            if known {
                break;
            }
        }
        Ok(so_far)
    }

    /// Asks for a verification of copies of the whole archive, as `options.selection` says.
    ///
    /// # Errors
    /// Refused: not root.
    pub fn submit_selection(&mut self, options: &SubmitOptions) -> Result<Submitted, ClientError> {
        self.place(&Submission {
            verb: Verb::Verify,
            subjects: Vec::new(),
            options: options.clone(),
            part: Part::WHOLE,
        })
    }

    fn place(&mut self, body: &Submission) -> Result<Submitted, ClientError> {
        if body.options.dry_run {
            let plan: Plan = self.http.ask(Method::POST, "/v1/requests", Some(body))?;
            Ok(Submitted::Plan(plan))
        } else {
            let accepted: Accepted = self.http.ask(Method::POST, "/v1/requests", Some(body))?;
            Ok(Submitted::Accepted(accepted))
        }
    }

    fn hatch<'a>(
        &self,
        open: &'a mut Option<handles::Hatch>,
    ) -> Result<&'a mut handles::Hatch, ClientError> {
        match open {
            Some(hatch) => Ok(hatch),
            None => Ok(open.insert(handles::Hatch::connect(&self.socket)?)),
        }
    }

    /// The states of the paths, handed to `each` as they come; problems likewise.
    ///
    /// # Errors
    /// The answer broke off, or `each` failed.
    pub fn state<E: From<ClientError>>(
        &mut self,
        paths: &mut dyn Iterator<Item = Vec<u8>>,
        walk: Walk,
        mut each: impl FnMut(Result<NodeState, Problem>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut hatch = None;
        loop {
            let chunk: Vec<Vec<u8>> = (&mut *paths).take(MAX_SUBJECTS).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            let (subjects, problems) = self.hatch(&mut hatch)?.hand_over(chunk)?;
            problems
                .into_iter()
                .try_for_each(|problem| each(Err(problem)))?;
            if subjects.is_empty() {
                continue;
            }
            let body = StateQuery { subjects, walk };
            let mut lines = self.http.lines(Method::POST, "/v1/state", Some(&body))?;
            while let Some(line) = lines.next(None)? {
                if line.is(Problem::SCHEMA) {
                    each(Err(line.parse()?))?;
                } else {
                    each(Ok(line.parse()?))?;
                }
            }
        }
    }

    /// Why the file is as it is.
    ///
    /// # Errors
    /// Refused, or the path cannot be opened.
    pub fn why(&mut self, path: &[u8]) -> Result<Why, ClientError> {
        let mut hatch = handles::Hatch::connect(&self.socket)?;
        let subject = one(&mut hatch, path)?;
        self.http
            .ask(Method::POST, "/v1/why", Some(&WhyQuery { subject }))
    }

    /// The file's receipt; takes as long as it takes to read the file, with `sha256`.
    ///
    /// # Errors
    /// Refused, or the path cannot be opened.
    pub fn receipt(&mut self, path: &[u8], sha256: bool) -> Result<Receipt, ClientError> {
        let mut hatch = handles::Hatch::connect(&self.socket)?;
        let subject = one(&mut hatch, path)?;
        let body = ReceiptQuery { subject, sha256 };
        self.http.ask(Method::POST, "/v1/receipt", Some(&body))
    }

    /// What was deleted at the path and below it, handed to `each` as it comes.
    ///
    /// # Errors
    /// Refused, or the answer broke off, or `each` failed.
    pub fn deleted<E: From<ClientError>>(
        &mut self,
        path: &[u8],
        mut each: impl FnMut(DeletedView) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut hatch = handles::Hatch::connect(&self.socket)?;
        let place = hatch.hand_over_gone(path)?.map_err(ClientError::from)?;
        let body = DeletedQuery { place };
        let mut lines = self.http.lines(Method::POST, "/v1/deleted", Some(&body))?;
        while let Some(line) = lines.next(None)? {
            each(line.parse()?)?;
        }
        Ok(())
    }

    /// What is wrong with the paths (none: with anything), handed to `each` as it comes, and what was or
    /// would be done about it.
    ///
    /// # Errors
    /// Refused; a path cannot be opened; the answer broke off, or `each` failed.
    pub fn repair<E: From<ClientError>>(
        &mut self,
        paths: Vec<Vec<u8>>,
        apply: bool,
        keep: Option<RepairKeep>,
        mut each: impl FnMut(RepairView) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut subjects = Vec::new();
        // What was handed over is forgotten with it.
        let mut hatch = None;
        if !paths.is_empty() {
            let (handed, mut problems) = self.hatch(&mut hatch)?.hand_over(paths)?;
            if let Some(problem) = problems.pop() {
                return Err(ClientError::from(problem).into());
            }
            subjects = handed;
        }
        let body = RepairQuery {
            subjects,
            apply,
            keep,
        };
        let mut lines = self.http.lines(Method::POST, "/v1/repair", Some(&body))?;
        while let Some(line) = lines.next(None)? {
            each(line.parse()?)?;
        }
        Ok(())
    }

    /// Brings deleted files back; each, or why not, is handed to `each` as it comes. The request that
    /// stages them, if that was asked for.
    ///
    /// # Errors
    /// As [`Client::deleted`].
    pub fn undelete<E: From<ClientError>>(
        &mut self,
        path: &[u8],
        how: &Undeleting<'_>,
        mut each: impl FnMut(Result<UndeletedView, Problem>) -> Result<(), E>,
    ) -> Result<Option<Accepted>, E> {
        let mut hatch = handles::Hatch::connect(&self.socket)?;
        let from = hatch.hand_over_gone(path)?.map_err(ClientError::from)?;
        let to = match how.to {
            Some(to) => Some(hatch.hand_over_gone(to)?.map_err(ClientError::from)?),
            None => None,
        };
        let body = UndeleteQuery {
            from,
            to,
            at: how.at,
            version: how.version,
            recursive: how.recursive,
            stage: how.stage,
        };
        let mut lines = self.http.lines(Method::POST, "/v1/undelete", Some(&body))?;
        let mut staging = None;
        while let Some(line) = lines.next(None)? {
            if line.is(Problem::SCHEMA) {
                each(Err(line.parse()?))?;
            } else if line.is(Accepted::SCHEMA) {
                staging = Some(line.parse()?);
            } else {
                each(Ok(line.parse()?))?;
            }
        }
        Ok(staging)
    }

    /// Requests, newest first.
    ///
    /// # Errors
    /// Refused.
    pub fn requests(&mut self, filter: &RequestFilter) -> Result<Vec<RequestView>, ClientError> {
        let mut route = format!(
            "/v1/requests?all={}&failed={}&limit={}",
            filter.all, filter.failed, filter.limit
        );
        if let Some(job) = &filter.job {
            route.push_str(&format!("&job={}", escaped(job)));
        }
        if let Some(before) = filter.before {
            route.push_str(&format!("&before={before}"));
        }
        let list: RequestList = self.http.ask(Method::GET, &route, NOTHING)?;
        Ok(list.requests)
    }

    /// One request.
    ///
    /// # Errors
    /// Refused.
    pub fn request(&mut self, id: u64) -> Result<RequestView, ClientError> {
        self.http
            .ask(Method::GET, &format!("/v1/requests/{id}"), NOTHING)
    }

    /// Waits until the request is final, the time is up or the user presses Ctrl-C; calls `each`
    /// with every view that comes.
    ///
    /// # Errors
    /// Refused, or the instance went away.
    pub fn wait(
        &mut self,
        id: u64,
        timeout: Option<Duration>,
        mut each: impl FnMut(&RequestView),
    ) -> Result<Waited, ClientError> {
        let mut lines =
            self.http
                .lines(Method::GET, &format!("/v1/requests/{id}/wait"), NOTHING)?;
        let until = timeout.and_then(|t| std::time::Instant::now().checked_add(t));
        let mut latest: Option<RequestView> = None;
        loop {
            match (lines.next(until), latest.take()) {
                (Ok(Some(line)), _) => {
                    let view: RequestView = line.parse()?;
                    each(&view);
                    latest = Some(view);
                }
                (Ok(None), Some(view)) => return Ok(Waited::Final(view)),
                (Err(ClientError::TimedOut), Some(view)) => return Ok(Waited::TimedOut(view)),
                (Err(ClientError::Interrupted), Some(view)) => return Ok(Waited::Detached(view)),
                (Ok(None), None) => return Err(ClientError::not_understood("an empty wait")),
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// Cancels what is not finished.
    ///
    /// # Errors
    /// Refused.
    pub fn cancel(&mut self, id: u64) -> Result<RequestView, ClientError> {
        self.http
            .ask(Method::POST, &format!("/v1/requests/{id}/cancel"), NOTHING)
    }

    /// Asks again for what failed or was cancelled.
    ///
    /// # Errors
    /// Refused.
    pub fn retry(&mut self, id: u64) -> Result<Accepted, ClientError> {
        self.http
            .ask(Method::POST, &format!("/v1/requests/{id}/retry"), NOTHING)
    }

    /// Shows, prolongs or ends what a batch job of the caller's own holds.
    ///
    /// # Errors
    /// Refused.
    pub fn job(&mut self, order: &JobOrder) -> Result<JobHeld, ClientError> {
        self.http.ask(Method::POST, "/v1/jobs", Some(order))
    }

    /// The state of the instance.
    ///
    /// # Errors
    /// Refused.
    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.http.ask(Method::GET, "/v1/status", NOTHING)
    }

    /// Checks a policy (name and text), else the one in force.
    ///
    /// # Errors
    /// Refused.
    pub fn policy_check(
        &mut self,
        text: Option<(String, String)>,
    ) -> Result<PolicyReport, ClientError> {
        let (name, text) = text.unzip();
        self.http.ask(
            Method::POST,
            "/v1/policy/check",
            Some(&PolicyCheckQuery { name, text }),
        )
    }

    /// Runs one rule or all.
    ///
    /// # Errors
    /// Refused.
    pub fn policy_run(
        &mut self,
        rule: Option<String>,
        dry_run: bool,
    ) -> Result<Vec<PolicyRun>, ClientError> {
        let body = PolicyRunQuery { rule, dry_run };
        let mut lines = self
            .http
            .lines(Method::POST, "/v1/policy/run", Some(&body))?;
        let mut runs = Vec::new();
        while let Some(line) = lines.next(None)? {
            runs.push(line.parse()?);
        }
        Ok(runs)
    }

    /// What lies on the tiers.
    ///
    /// # Errors
    /// Refused.
    pub fn tiers(&mut self) -> Result<TierList, ClientError> {
        self.http.ask(Method::GET, "/v1/tiers", NOTHING)
    }

    /// Asks for a run that frees the tiers of what nobody needs.
    ///
    /// # Errors
    /// Refused.
    pub fn collect(&mut self, dry_run: bool) -> Result<Collect, ClientError> {
        let body = CollectQuery { dry_run };
        self.http
            .ask(Method::POST, "/v1/tiers/collect", Some(&body))
    }

    /// How far such a run has come.
    ///
    /// # Errors
    /// Refused.
    pub fn collection(&mut self, number: u64) -> Result<Collect, ClientError> {
        let route = format!("/v1/tiers/collect/{number}");
        self.http.ask(Method::GET, &route, NOTHING)
    }

    /// Asks for a comparison of a tier with the catalog. `closely`: each object is asked for.
    ///
    /// # Errors
    /// Refused, or there is no such tier.
    pub fn check_tier(&mut self, tier: &str, closely: bool) -> Result<TierCheck, ClientError> {
        let tier = tier.to_owned();
        let body = TierCheckQuery { tier, closely };
        self.http.ask(Method::POST, "/v1/tiers/check", Some(&body))
    }

    /// How far such a comparison has come.
    ///
    /// # Errors
    /// Refused.
    pub fn tier_check(&mut self, number: u64) -> Result<TierCheck, ClientError> {
        let route = format!("/v1/tiers/check/{number}");
        self.http.ask(Method::GET, &route, NOTHING)
    }

    /// The tape libraries: all, or that of one tier.
    ///
    /// # Errors
    /// Refused.
    pub fn tapes(&mut self, tier: Option<&str>) -> Result<TapeList, ClientError> {
        let route = format!("/v1/tapes{}", of_tier(tier));
        self.http.ask(Method::GET, &route, NOTHING)
    }

    /// One cartridge, and what is on it.
    ///
    /// # Errors
    /// Refused.
    pub fn tape(&mut self, tier: Option<&str>, barcode: &str) -> Result<TapeView, ClientError> {
        let route = format!("/v1/tapes/cartridge/{}{}", escaped(barcode), of_tier(tier));
        self.http.ask(Method::GET, &route, NOTHING)
    }

    /// Asks for something to be done with cartridges or drives.
    ///
    /// # Errors
    /// Refused.
    pub fn tape_order(&mut self, order: &TapeOrder) -> Result<TapeDone, ClientError> {
        self.http.ask(Method::POST, "/v1/tapes", Some(order))
    }

    /// How far a run over a cartridge has come.
    ///
    /// # Errors
    /// Refused.
    pub fn tape_run(&mut self, number: u64) -> Result<TapeRun, ClientError> {
        let route = format!("/v1/tapes/runs/{number}");
        self.http.ask(Method::GET, &route, NOTHING)
    }

    /// Unmounts and stops the instance.
    ///
    /// # Errors
    /// Refused: busy, not permitted.
    pub fn shutdown(&mut self, force: bool) -> Result<Stopped, ClientError> {
        self.http
            .ask(Method::POST, "/v1/shutdown", Some(&ShutdownQuery { force }))
    }

    /// The control socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

fn of_tier(tier: Option<&str>) -> String {
    tier.map_or(String::new(), |tier| format!("?tier={}", escaped(tier)))
}

/// Text within a URL: all but letters and digits as `%XX`.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

const NOTHING: Option<&ShutdownQuery> = None;

/// Hands one file over.
fn one(hatch: &mut handles::Hatch, path: &[u8]) -> Result<SubjectRef, ClientError> {
    let (mut subjects, mut problems) = hatch.hand_over(vec![path.to_vec()])?;
    match (subjects.pop(), problems.pop()) {
        (Some(subject), _) => Ok(subject),
        (None, Some(problem)) => Err(ClientError::from(problem)),
        (None, None) => Err(ClientError::not_understood("no token came back")),
    }
}

/// A problem of the client's own with one path.
fn problem(path: &[u8], failure: crate::error::Failure, message: String) -> Problem {
    Problem {
        path: Some(GivenPath::new(path)),
        code: failure.as_str().to_owned(),
        message,
    }
}
