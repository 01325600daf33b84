//! Three jobs instead of a process that waits: one stages, the user's own depends on it, one follows.
//!
//! Invariants:
//! - The user's job is released only when it depends on the one that stages.
//! - Either all three are there or none.

use super::super::directives::Directives;
use super::super::queue::{Commands, Queue, Submitted, Taken};
use crate::cli::{CliError, Session};
use crate::error::Failure;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What ends the directives in the jobs' scripts; no line of them is it, as each begins with `#`.
const END: &str = "CAIRN-END";

/// See the module.
pub(super) struct Chain<'a> {
    pub(super) session: &'a Session,
    pub(super) slurm: &'a Commands,
    pub(super) partition: &'a str,
    /// The user's job, which is held.
    pub(super) job: &'a str,
    pub(super) script: &'a [u8],
    pub(super) directory: &'a Path,
    pub(super) directives: &'a Directives,
    /// What the user's job waits for anyway.
    pub(super) dependency: Option<&'a OsStr>,
    pub(super) account: Option<&'a OsStr>,
    pub(super) keep_held: bool,
}

/// That another dependency can be added: any of several cannot be, as all of several can.
pub(super) fn may_join(dependency: Option<&OsStr>) -> Result<(), CliError> {
    let any = dependency.is_some_and(|text| text.as_bytes().contains(&b'?'));
    if any {
        let why = "--dependency with `?` leaves no room for the job that stages";
        return Err(CliError::usage(why).with_hint("leave --cairn-partition out"));
    }
    Ok(())
}

impl Chain<'_> {
    /// Submits the two others and lets the user's job wait for the first; what was done, for people.
    pub(super) fn submit(&self) -> Result<String, CliError> {
        let first = self.one("stage-in", &[])?;
        let after = format!("--dependency=afterany:{}", self.job);
        let undo = |jobs: &[&str], error: CliError| {
            let queue = Queue::Slurm(self.slurm.clone());
            jobs.iter()
                .filter_map(|job| queue.cancel(job).err().map(|also| (job, also)))
                .for_each(|(job, also)| eprintln!("cairn: job {job} is not cancelled: {also}"));
            error
        };
        let last = self
            .one("stage-out", &[after.into()])
            .map_err(|error| undo(&[&first], error))?;
        let mut on = format!("afterok:{first}");
        if let Some(own) = self.dependency {
            on = format!("{},{on}", own.to_string_lossy());
        }
        let queue = Queue::Slurm(self.slurm.clone());
        self.slurm
            .depend(self.job, &on)
            .and_then(|()| match self.keep_held {
                true => Ok(()),
                false => queue.release(self.job),
            })
            .map_err(|error| undo(&[&last, &first], error))?;
        Ok(format!(
            "job {first} stages for it on {}, job {last} follows its end",
            self.partition
        ))
    }

    fn one(&self, part: &str, more: &[OsString]) -> Result<String, CliError> {
        let job = self.job;
        let mut words: Vec<OsString> = vec![
            format!("--partition={}", self.partition).into(),
            "--ntasks=1".into(),
            format!("--job-name=cairn-{part}-{job}").into(),
            format!("--output=cairn-{job}.out").into(),
            "--open-mode=append".into(),
        ];
        words.extend([OsString::from("--chdir"), self.directory.into()]);
        if let Some(account) = self.account {
            words.extend([OsString::from("--account"), account.into()]);
        }
        words.extend_from_slice(more);
        let script = self.text(part)?;
        match self.slurm.submit(&words, Some(&script), true)? {
            Submitted::Taken(Taken { job, .. }) => Ok(job),
            Submitted::Refused(code) => {
                let why = format!("sbatch refused the job for {part} (code {code})");
                Err(CliError::new(Failure::Internal, why))
            }
        }
    }

    /// A job's script: this program, with the directives as its input.
    fn text(&self, part: &str) -> Result<Vec<u8>, CliError> {
        let program =
            std::env::current_exe().map_err(|e| CliError::system("find this program", &e))?;
        let mut words: Vec<OsString> = vec![program.into_os_string()];
        words.extend(
            ["job", "resume", self.job, "--part", part]
                .iter()
                .map(Into::into),
        );
        words.extend(Queue::Slurm(self.slurm.clone()).arguments());
        words.extend([OsString::from("--directory"), self.directory.into()]);
        if let Some(socket) = &self.session.socket {
            words.extend([OsString::from("--socket"), socket.clone().into_os_string()]);
        }
        words.extend([OsString::from("--script"), "-".into()]);
        let mut text = b"#!/bin/sh\nexec".to_vec();
        for word in &words {
            text.push(b' ');
            text.extend(quoted(word));
        }
        text.extend(format!(" <<'{END}'\n").into_bytes());
        text.extend(head(self.script, self.directives));
        text.extend(format!("{END}\n").into_bytes());
        Ok(text)
    }
}

/// A word as a shell takes it whole.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut out = b"'".to_vec();
    for byte in word.as_bytes() {
        match byte {
            b'\'' => out.extend(b"'\\''"),
            other => out.push(*other),
        }
    }
    out.push(b'\'');
    out
}

/// The directives, each in its own line as in the script: their numbers are in the keys of requests.
fn head(script: &[u8], directives: &Directives) -> Vec<u8> {
    let lines: Vec<usize> = directives.all.iter().map(|one| one.line).collect();
    let last = lines.iter().copied().max().unwrap_or(0);
    let mut out = Vec::new();
    for (number, line) in script.split(|b| *b == b'\n').take(last).enumerate() {
        match lines.contains(&(number + 1)) {
            true => out.extend_from_slice(line),
            false => out.push(b'#'),
        }
        out.push(b'\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::super::directives::parse;
    use super::*;

    #[test]
    fn the_directives_keep_their_lines() {
        let script = b"#!/bin/sh\n#SBATCH -N 2\n#CAIRN stage_in /x\n\n#CAIRN stage_out /y archive=cold\nrm -r /\nCAIRN-END\n";
        let directives = parse(script).unwrap();
        let head = head(script, &directives);
        let text = String::from_utf8(head.clone()).unwrap();
        assert_eq!(
            text,
            "#\n#\n#CAIRN stage_in /x\n#\n#CAIRN stage_out /y archive=cold\n"
        );
        assert_eq!(parse(&head).unwrap().all, directives.all);
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted(OsStr::new("/a b/it's")), b"'/a b/it'\\''s'");
    }

    #[test]
    fn any_of_several_dependencies_is_refused() {
        assert!(may_join(None).is_ok());
        assert!(may_join(Some(OsStr::new("afterok:1,afterany:2"))).is_ok());
        assert!(may_join(Some(OsStr::new("afterok:1?afterany:2"))).is_err());
    }
}
