//! How a copy is shown: a bar at a terminal, plain lines elsewhere, one sentence at the end.

use crate::client::remote::plan::Plan;
use crate::client::remote::session::{Session, Shared};
use crate::config::units::shown::{Bytes, counted, files};
use crate::server::wire::Copied;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// How often a plain line is printed at most.
const PLAIN: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Bar {
    bar: Option<ProgressBar>,
    lines: bool,
    last: Cell<Instant>,
    bytes: u64,
}

impl Bar {
    pub(super) fn new(quiet: bool, bytes: u64) -> Self {
        let terminal = stderr().is_terminal();
        let bar = (!quiet && terminal).then(|| {
            let bar = ProgressBar::new(bytes);
            let style = "[{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left{msg}";
            match ProgressStyle::with_template(style) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        Self {
            bar,
            lines: !quiet && !terminal,
            last: Cell::new(Instant::now()),
            bytes,
        }
    }

    pub(super) fn at(&self, shared: &Shared) {
        let moved = shared.moved();
        self.why(shared);
        if let Some(bar) = &self.bar {
            bar.set_position(moved.min(self.bytes));
        }
        if self.lines && self.last.get().elapsed() >= PLAIN {
            self.last.set(Instant::now());
            eprintln!("cairn: {} of {}", Bytes(moved), Bytes(self.bytes));
        }
    }

    /// Why the server does not dial: one line, once, also where nothing else is shown.
    fn why(&self, shared: &Shared) {
        if let Some(why) = shared.take_why() {
            let say = || eprintln!("cairn: {why}; dialling out instead");
            match &self.bar {
                Some(bar) => bar.suspend(say),
                None => say(),
            }
        }
    }

    pub(super) fn end(&self, shared: &Shared) {
        self.why(shared);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What was copied.
pub(super) fn summary(
    session: &Session,
    plan: &Plan,
    failed: u64,
    bytes: u64,
    took: Duration,
) -> Copied {
    let parallel = session.listening.is_some() && !session.shared.falls_back();
    Copied {
        files: plan.count.saturating_sub(failed),
        bytes,
        skipped: plan.skipped,
        failed,
        seconds: took.as_secs_f64(),
        streams: session.shared.streams(),
        dialling: if parallel { "parallel" } else { "firewall" }.to_owned(),
    }
}

/// The same in a sentence.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
pub(super) fn sentence(copied: &Copied) -> String {
    let rate = copied.bytes as f64 / copied.seconds.max(0.001);
    let mut text = format!(
        "{}, {} in {:.1} s ({}/s), {}",
        files(copied.files),
        Bytes(copied.bytes),
        copied.seconds,
        Bytes(rate as u64),
        match copied.dialling.as_str() {
            "parallel" => "dialled by the server",
            _ => "dialling out",
        }
    );
    if copied.streams > 0 {
        text.push_str(&format!(", {}", counted(copied.streams, "stream")));
    }
    for (count, what) in [(copied.skipped, "left out"), (copied.failed, "failed")] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}
