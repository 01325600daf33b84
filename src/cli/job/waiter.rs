//! Follows a job from its submission to its end: stages, lets it run, archives, drops what it holds. What is next is
//! decided by [`course`]; here it is done, by processes of this program that do one step each.
//!
//! Invariants:
//! - Whoever watches may go: nothing depends on anybody reading what is said.
//! - If this process dies the job stays as it is, and held if it was: another one goes on.

mod course;
mod step;

pub(super) use course::{Part, Plan, Stand};

use super::super::{CliError, Session};
use super::queue::Queue;
use super::view;
use course::{Act, Course, Heard};
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use step::{Running, Said};

/// How often the queue is asked while a job is staged, and at most and at least while it waits and runs.
const LOOK: Duration = Duration::from_secs(2);
const CALM: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// How soon it is asked after an order.
const SOON: Duration = Duration::from_millis(300);
/// How often the comment is changed at most.
const COMMENT: Duration = Duration::from_secs(5);
/// What is said when the job may run.
pub(super) const RELEASED: &str = "released";

/// See the module.
pub(super) struct Waiter<'a> {
    pub(super) session: &'a Session,
    pub(super) queue: Queue,
    pub(super) job: String,
    /// Its script, or as much of it as has directives.
    pub(super) script: Vec<u8>,
    /// Where relative paths begin.
    pub(super) directory: PathBuf,
    pub(super) plan: Plan,
}

/// Where a wait stands.
struct Now {
    course: Course,
    running: Option<Running>,
    /// When the queue is asked next, and how long it is waited then.
    look: (Instant, Duration),
    /// What the comment says, and since when.
    commented: Option<(Instant, String)>,
    /// The last that could not be done, so that it is said once.
    trouble: String,
}

impl Waiter<'_> {
    pub(super) fn run(&self) -> Result<u8, CliError> {
        let mut now = Now {
            course: Course::new(self.plan),
            running: None,
            look: (Instant::now(), CALM.0),
            commented: None,
            trouble: String::new(),
        };
        loop {
            let heard = self.next(&mut now);
            for act in heard.map_or_else(Vec::new, |heard| now.course.hear(heard)) {
                if let Some(code) = self.act(&mut now, act)? {
                    return Ok(code);
                }
            }
        }
    }

    /// The next thing that is heard, if anything is before it is time to look again.
    fn next(&self, now: &mut Now) -> Option<Heard> {
        let left = now.look.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(self.looked(now));
        }
        let Some(running) = &mut now.running else {
            std::thread::sleep(left);
            return None;
        };
        match running.hear(left)? {
            Said::View(view) => {
                let text = view::line(&view);
                self.say(&text);
                self.show(now, &text, false);
                None
            }
            Said::Words(words) => {
                eprintln!("{words}");
                None
            }
            Said::Ended(step) => {
                now.running = None;
                now.look.0 = Instant::now() + SOON;
                Some(Heard::Done(step))
            }
        }
    }

    fn looked(&self, now: &mut Now) -> Heard {
        let stand = match self.queue.stand(&self.job) {
            Ok(stand) => Some(stand),
            Err(error) => {
                self.troubled(now, &format!("the queue does not answer: {error}"));
                None
            }
        };
        let pause = match now.course.is_calm() {
            true => now.look.1.mul_f32(1.5).clamp(CALM.0, CALM.1),
            false => LOOK,
        };
        now.look = (Instant::now() + pause, pause);
        Heard::Looked(stand)
    }

    /// Does it; what the wait exits with, if it is over.
    fn act(&self, now: &mut Now, act: Act) -> Result<Option<u8>, CliError> {
        let waits = ["--wait".into(), "--follow".into()];
        match act {
            Act::StageIn => now.running = Some(self.begin("stage-in", &waits)?),
            Act::StageOut => {
                self.say("the job has ended; what it wrote is archived");
                now.running = Some(self.begin("stage-out", &waits)?);
            }
            Act::Drop => now.running = Some(self.begin("release", &["--json".into()])?),
            Act::Stop => {
                if let Some(running) = &mut now.running {
                    running.stop();
                }
            }
            Act::Release => {
                if let Err(error) = self.queue.release(&self.job) {
                    self.troubled(now, &format!("the job is not released: {error}"));
                } else {
                    self.show(now, "all is on disk", true);
                    now.look.0 = Instant::now() + SOON;
                }
            }
            Act::Say(text) => self.say(&text),
            Act::Tell(text) => {
                self.say(&text);
                self.show(now, &text, true);
            }
            Act::Leave(code) => return Ok(Some(code)),
        }
        Ok(None)
    }

    fn begin(&self, verb: &str, more: &[OsString]) -> Result<Running, CliError> {
        let mut words: Vec<OsString> = vec!["job".into(), verb.into(), self.job.clone().into()];
        words.extend([OsString::from("--script"), "-".into(), "--directory".into()]);
        words.push(self.directory.clone().into_os_string());
        if let Some(socket) = &self.session.socket {
            words.extend([OsString::from("--socket"), socket.clone().into_os_string()]);
        }
        words.extend_from_slice(more);
        Running::start(&words, self.script.clone())
    }

    /// In the job's comment: at once, or not more often than people read.
    fn show(&self, now: &mut Now, text: &str, at_once: bool) {
        let known = now.commented.as_ref().is_some_and(|(at, said)| {
            let recent = !at_once && at.elapsed() < COMMENT;
            said == text || recent
        });
        if known {
            return;
        }
        now.commented = Some((Instant::now(), text.to_owned()));
        if let Err(error) = self.queue.comment(&self.job, text) {
            tracing::info!(%error, "the job's comment is not changed");
        }
    }

    fn troubled(&self, now: &mut Now, text: &str) {
        if now.trouble != text {
            text.clone_into(&mut now.trouble);
            self.say(text);
        }
    }

    /// To whoever watches, and to the log; a job of its own has one file for both.
    fn say(&self, text: &str) {
        if self.plan.part == Part::Whole {
            eprintln!("{text}");
        }
        let mut out = std::io::stdout().lock();
        // Nobody has to watch.
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}
