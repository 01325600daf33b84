//! The `mtx` program, run as a child without a shell, for a bounded time.

use super::Mtx;
use crate::tier::tape::robot::RobotError;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a move may take: a large library has queues of its own.
const PATIENCE: Duration = Duration::from_secs(600);
/// Between two looks whether it is through.
const PAUSE: Duration = Duration::from_millis(20);
/// One that was killed and does not end waits for the kernel: nobody waits for it.
const KILLED: Duration = Duration::from_secs(5);
/// Of what it prints, bytes: some 80 for each element.
const PRINTED: u64 = 4 << 20;
/// Of what it says of an error, characters.
const SAID: usize = 500;

/// The program, and the changer that it works on.
#[derive(Debug, Clone)]
pub struct Program {
    program: PathBuf,
    changer: PathBuf,
    patience: Duration,
}

impl Program {
    /// `mtx` as the PATH has it.
    #[must_use]
    pub fn new(changer: PathBuf) -> Self {
        Self::of("mtx".into(), changer, PATIENCE)
    }

    /// Another program in its place.
    #[must_use]
    pub fn of(program: PathBuf, changer: PathBuf, patience: Duration) -> Self {
        Self {
            program,
            changer,
            patience,
        }
    }

    fn start(&self, arguments: &[String]) -> std::io::Result<Child> {
        Command::new(&self.program)
            .arg("-f")
            .arg(&self.changer)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Reads a pipe to its end, so that nobody writes into one that is full; keeps its beginning.
fn gather(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(PRINTED).read_to_end(&mut text);
            let _ = std::io::copy(&mut pipe, &mut std::io::sink());
        }
        String::from_utf8_lossy(&text).into_owned()
    })
}

/// Waits until the child is through, or that long.
fn wait(child: &mut Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    let until = Instant::now() + patience;
    loop {
        match child.try_wait()? {
            Some(status) => return Ok(Some(status)),
            None if Instant::now() >= until => return Ok(None),
            None => std::thread::sleep(PAUSE),
        }
    }
}

impl Mtx for Program {
    fn run(&self, arguments: &[String]) -> Result<String, RobotError> {
        let failed = |why: String| RobotError::Failed {
            step: arguments.join(" "),
            why,
        };
        let program = self.program.display();
        let child = self.start(arguments);
        let mut child = child.map_err(|e| failed(format!("{program} cannot be run: {e}")))?;
        let (printed, said) = (gather(child.stdout.take()), gather(child.stderr.take()));
        let status = wait(&mut child, self.patience).map_err(|e| failed(e.to_string()))?;
        let Some(status) = status else {
            let _ = child.kill();
            let _ = wait(&mut child, KILLED);
            let why = format!("{program} was not through in {} s", self.patience.as_secs());
            return Err(failed(why));
        };
        let gone = || "its output cannot be read".to_owned();
        let printed = printed.join().map_err(|_| failed(gone()))?;
        let said = said.join().map_err(|_| failed(gone()))?;
        if status.success() {
            return Ok(printed);
        }
        let said: Vec<&str> = said.lines().chain(printed.lines()).map(str::trim).collect();
        let said: String = said.join("; ").chars().take(SAID).collect();
        Err(failed(format!("{program}: {said} ({status})")))
    }
}
