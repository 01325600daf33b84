//! Waiting for a request: a bar at a terminal, plain lines elsewhere, both on stderr; the result
//! on stdout.

use super::CliError;
use super::outcome;
use super::output::{Output, harmless};
use crate::client::{Client, Waited};
use crate::config::units::shown::{Bytes, counted, files, grouped, seconds};
use crate::server::wire::{Problem, RequestView, Verb};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// How often a plain line is printed at most.
const PLAIN_PERIOD: Duration = Duration::from_secs(5);

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Shown {
    fn new(quiet: bool) -> Self {
        if quiet {
            return Self::Nothing;
        }
        if !stderr().is_terminal() {
            return Self::Lines {
                last: Instant::now(),
            };
        }
        let bar = ProgressBar::new(0);
        let style = "{prefix} [{bar:30}] {msg}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self::Bar(bar)
    }

    fn update(&mut self, view: &RequestView) {
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => {
                bar.set_prefix(view.verb.as_str());
                bar.set_length(view.bytes.max(1));
                bar.set_position(view.bytes_done);
                bar.set_message(harmless(&line(view)));
            }
            Self::Lines { last } => {
                if last.elapsed() >= PLAIN_PERIOD {
                    *last = Instant::now();
                    eprintln!("request {}: {}", view.request, harmless(&line(view)));
                }
            }
        }
    }
}

/// Progress in one line.
fn line(view: &RequestView) -> String {
    let mut line = format!(
        "{}/{} files, {} of {}",
        grouped(view.files_done + view.files_failed),
        grouped(view.files),
        Bytes(view.bytes_done),
        Bytes(view.bytes)
    );
    if view.files_failed > 0 {
        line.push_str(&format!(", {} failed", grouped(view.files_failed)));
    }
    if let Some(eta) = view.eta_s {
        line.push_str(&format!(", about {} left", seconds(eta)));
    }
    if let Some(waiting) = &view.waiting {
        line.push_str(&format!("; waits for {waiting}"));
    } else if let Some(cartridges) = cartridges(view) {
        line.push_str(&format!("; waits for {cartridges}"));
    }
    line
}

/// Most cartridges named in a line.
const NAMED: usize = 3;

/// The cartridges that a request waits for, those of most files first.
pub(crate) fn cartridges(view: &RequestView) -> Option<String> {
    let mut all: Vec<_> = view.cartridges.iter().collect();
    all.sort_by_key(|wait| std::cmp::Reverse(wait.files));
    let named = |wait: &&crate::server::wire::CartridgeWait| {
        let barcode = harmless(&wait.barcode);
        format!("{barcode} ({})", counted(wait.files, "file"))
    };
    let mut words: Vec<String> = all.iter().take(NAMED).map(named).collect();
    if all.len() > NAMED {
        words.push(format!("{} more", all.len() - NAMED));
    }
    let many = if all.len() == 1 { "" } else { "s" };
    (!words.is_empty()).then(|| format!("cartridge{many} {}", words.join(", ")))
}

/// Waits for the request and says how it ended; returns what to exit with.
pub(crate) fn wait(
    client: &mut Client,
    output: &mut Output,
    id: u64,
    timeout: Option<Duration>,
    quiet: bool,
    not_handed_over: &[Problem],
) -> Result<u8, CliError> {
    let mut shown = Shown::new(quiet || output.json);
    let waited = client.wait(id, timeout, |view| shown.update(view))?;
    if let Shown::Bar(bar) = &shown {
        bar.finish_and_clear();
    }
    match waited {
        Waited::Final(view) => {
            let code = outcome::of_request(&view, not_handed_over);
            result(output, view, quiet)?;
            Ok(code)
        }
        Waited::TimedOut(view) => {
            eprintln!(
                "cairn: the time is up; request {id} is still running: {}",
                line(&view)
            );
            goes_on(output, id, view)
        }
        Waited::Detached(view) => {
            eprintln!("cairn: detached; request {id} is still running");
            goes_on(output, id, view)
        }
    }
}

fn goes_on(output: &mut Output, id: u64, view: RequestView) -> Result<u8, CliError> {
    eprintln!("hint: cairn wait {id} waits again, cairn cancel {id} stops it");
    if output.json {
        output.object(view)?;
    }
    Ok(outcome::STILL_RUNNING)
}

/// The result of a request that is final.
fn result(output: &mut Output, mut view: RequestView, quiet: bool) -> Result<(), CliError> {
    if output.json {
        return output.object(view);
    }
    for problem in std::mem::take(&mut view.problems) {
        output.problem(problem)?;
    }
    if quiet {
        return Ok(());
    }
    let failed = match view.files_failed {
        0 => String::new(),
        some => format!(", {} failed", grouped(some)),
    };
    let what = match view.verb {
        // A copy that is bad was read as well.
        Verb::Verify => {
            let took = view
                .finished
                .map_or(0, |at| view.created.age(at.0).as_secs());
            let read = grouped(view.files_done + view.files_failed);
            format!("{read} read, {}, in {}", Bytes(view.bytes), seconds(took))
        }
        _ => format!("{}, {}", files(view.files_done), Bytes(view.bytes_done)),
    };
    output.line(format!(
        "request {} {}: {}, {what}{failed}",
        view.request,
        view.state.as_str(),
        view.verb,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::wire::{CartridgeWait, RequestState, When};

    fn view(waits: &[(&str, u64)]) -> RequestView {
        RequestView {
            request: 1,
            verb: Verb::Stage,
            state: RequestState::Running,
            uid: 0,
            key: None,
            job: None,
            created: When::from_unix(0),
            finished: None,
            files: 20,
            files_done: 1,
            files_failed: 0,
            bytes: 2000,
            bytes_done: 100,
            eta_s: Some(90),
            waiting: None,
            cartridges: waits
                .iter()
                .map(|(barcode, files)| CartridgeWait {
                    barcode: (*barcode).to_owned(),
                    files: *files,
                })
                .collect(),
            paths: Vec::new(),
            problems: Vec::new(),
        }
    }

    #[test]
    fn cartridges_are_named_those_of_most_files_first() {
        assert_eq!(cartridges(&view(&[])), None);
        let one = line(&view(&[("CRN001L8", 1)]));
        assert!(
            one.ends_with("; waits for cartridge CRN001L8 (1 file)"),
            "{one}"
        );
        let waits = [
            ("CRN001L8", 2),
            ("CRN002L8", 9),
            ("CRN003L8", 3),
            ("CRN004L8", 1),
        ];
        let many = cartridges(&view(&waits)).expect("some");
        let named = "cartridges CRN002L8 (9 files), CRN003L8 (3 files), CRN001L8 (2 files), 1 more";
        assert_eq!(many, named);
    }
}
