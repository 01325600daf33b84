//! `cairn up --detach`: the same command in a session of its own; this one tells how it started.

use super::UpPlan;
use crate::cli::CliError;
use crate::error::Failure;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::process::{Command, Stdio};

/// Set for the process in the background: it leaves the caller's session.
pub const VARIABLE: &str = "CAIRN_DETACHED";

/// Starts the background process, waits for its "ready" line and prints it.
///
/// # Errors
/// What the background process said if it did not start; its exit code is this one's.
pub fn start(plan: &UpPlan) -> Result<u8, CliError> {
    let log = plan.state.join("cairn.log");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&plan.state)
        .map_err(|e| CliError::system(format!("make {}", plan.state.display()), &e))?;
    let open = |append: bool| {
        File::options()
            .create(true)
            .append(append)
            .write(true)
            .mode(0o600)
            .open(&log)
    };
    let errors = open(true).map_err(|e| CliError::system(format!("open {}", log.display()), &e))?;
    let before = errors.metadata().map_or(0, |m| m.len());
    let program = std::env::current_exe().map_err(|e| CliError::system("find this program", &e))?;
    let args: Vec<OsString> = std::env::args_os()
        .skip(1)
        .filter(|a| a != "--detach")
        .collect();
    let mut child = Command::new(program)
        .args(args)
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|e| CliError::system("start in the background", &e))?;
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut said)?;
    }
    if said.starts_with("ready") {
        print!("{said}");
        eprintln!(
            "cairn: in the background as process {}; log in {}",
            child.id(),
            log.display()
        );
        return Ok(0);
    }
    let status = child
        .wait()
        .map_err(|e| CliError::system("wait for the background process", &e))?;
    let text = fs::read(&log).unwrap_or_default();
    let start = usize::try_from(before).unwrap_or(0).min(text.len());
    let failed = CliError::new(
        Failure::Internal,
        String::from_utf8_lossy(&text[start..]).trim(),
    );
    match status.code().and_then(|c| u8::try_from(c).ok()) {
        Some(code) if code != 0 => {
            eprint!("{}", String::from_utf8_lossy(&text[start..]));
            Ok(code)
        }
        _ => Err(failed),
    }
}

/// In the background process: leaves the caller's terminal and session.
pub fn leave_session() {
    if std::env::var_os(VARIABLE).is_some() {
        // Fails only for a session leader, which has nothing to leave.
        let _ = rustix::process::setsid();
    }
}
