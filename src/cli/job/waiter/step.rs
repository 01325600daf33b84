//! One step for a job, as a process of this program: it can be stopped at any time, and what is asked for again has
//! the same key.

use super::super::super::CliError;
use super::super::super::up::detach;
use super::super::queue::TOKEN;
use super::course::Step;
use crate::server::wire::{JobHeld, JobView, Schema, Tagged};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a step says.
pub(super) enum Said {
    /// How far it is.
    View(JobView),
    /// To people.
    Words(String),
    /// It is over.
    Ended(Step),
}

/// What is read of it.
enum Line {
    Out(String),
    Err(String),
    End,
}

/// A step under way.
pub(super) struct Running {
    child: Child,
    lines: Receiver<Line>,
    /// Why it fails, in its own words.
    why: Option<String>,
    /// What it dropped.
    held: Option<JobHeld>,
}

impl Running {
    pub(super) fn start(words: &[OsString], script: Vec<u8>) -> Result<Self, CliError> {
        let failed = |e| CliError::system("start a process of this program", &e);
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(words)
            .env_remove(detach::VARIABLE)
            .env_remove(TOKEN)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let (tell, lines) = channel();
        if let Some(mut stdin) = child.stdin.take() {
            // Whoever does not read it to its end says why.
            std::thread::spawn(move || drop(stdin.write_all(&script)));
        }
        let errors = child
            .stderr
            .take()
            .map(|from| reader(from, tell.clone(), Line::Err));
        let out = child
            .stdout
            .take()
            .map(|from| reader(from, tell.clone(), Line::Out));
        std::thread::spawn(move || {
            for reader in [errors, out].into_iter().flatten() {
                drop(reader.join());
            }
            drop(tell.send(Line::End));
        });
        Ok(Self {
            child,
            lines,
            why: None,
            held: None,
        })
    }

    /// Its end is heard.
    pub(super) fn stop(&mut self) {
        // One that has ended already needs none.
        let _ = self.child.kill();
    }

    /// What it says next; nothing in that time is `None`.
    pub(super) fn hear(&mut self, limit: Duration) -> Option<Said> {
        match self.lines.recv_timeout(limit).ok()? {
            Line::Out(line) => {
                if let Some(held) = tagged::<JobHeld>(&line) {
                    self.held = Some(held);
                    return None;
                }
                let view = tagged::<JobView>(&line)?;
                Some(Said::View(view))
            }
            Line::Err(line) => {
                let said = line.strip_prefix("cairn: ").unwrap_or(&line);
                let counts = !said.starts_with("optional: ") && line != said;
                if counts && self.why.is_none() {
                    self.why = Some(said.to_owned());
                }
                Some(Said::Words(line))
            }
            Line::End => Some(Said::Ended(self.ended())),
        }
    }

    fn ended(&mut self) -> Step {
        let code = match self.child.wait() {
            Ok(status) => status.code().and_then(|code| u8::try_from(code).ok()),
            Err(_) => None,
        };
        match (code, &self.held) {
            (Some(0), Some(held)) if held.cancelled + held.dropped > 0 => Step::More,
            (Some(0), _) => Step::Good,
            (code, _) => {
                let silent = || match code {
                    Some(code) => format!("the step ended with code {code}"),
                    None => "the step was killed".to_owned(),
                };
                Step::Failed(code.unwrap_or(1), self.why.take().unwrap_or_else(silent))
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
        drop(self.child.wait());
    }
}

fn reader(
    from: impl Read + Send + 'static,
    tell: Sender<Line>,
    kind: fn(String) -> Line,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let lines = BufReader::new(from).split(b'\n').map_while(Result::ok);
        for line in lines {
            let line = String::from_utf8_lossy(&line).into_owned();
            if tell.send(kind(line)).is_err() {
                return;
            }
        }
    })
}

fn tagged<T: Schema + serde::de::DeserializeOwned>(line: &str) -> Option<T> {
    let tagged: Tagged<T> = serde_json::from_str(line).ok()?;
    (tagged.schema == T::SCHEMA).then_some(tagged.body)
}
