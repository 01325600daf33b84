//! A mount served to other hosts, and callers of it.

use super::{Instance, program, wait_for};
use anyhow::{Context, Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

/// A door that is open; closed when this is dropped.
pub(crate) struct Far {
    child: Child,
    /// Host and port as callers name them.
    pub(crate) at: String,
    /// How it is started: what stands before the program (a network namespace), and behind `serve`.
    before: Vec<OsString>,
    args: Vec<OsString>,
    pub(crate) fingerprint: String,
    log: PathBuf,
}

impl Drop for Far {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `command`, started by what stands before it, and ended with this process.
pub(crate) fn behind(before: &[OsString], command: &OsStr) -> Command {
    let mut whole = Command::new("setpriv");
    whole
        .args(["--pdeathsig", "KILL", "--"])
        .args(before)
        .arg(command);
    whole
}

fn open(before: &[OsString], args: &[OsString], log: &PathBuf) -> Result<(Child, String, String)> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut child = behind(before, &program())
        .arg("serve")
        .args(args)
        .env("CAIRN_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()?;
    let mut said = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut said)?;
    let words: Vec<&str> = said.split_whitespace().collect();
    match words.as_slice() {
        ["ready", "serve", at, "mount", _, "fingerprint", print] => {
            Ok((child, (*at).to_owned(), (*print).to_owned()))
        }
        _ => {
            let status = child.wait()?;
            bail!("cairn serve said {said:?} and ended with {status}")
        }
    }
}

impl Far {
    /// Opens the door of an instance on the loopback interface.
    pub(crate) fn open(cairn: &Instance) -> Result<Self> {
        Self::open_at(cairn, &[], "127.0.0.1:0", &[])
    }

    /// The same elsewhere.
    pub(crate) fn open_at(
        cairn: &Instance,
        before: &[OsString],
        listen: &str,
        more: &[&str],
    ) -> Result<Self> {
        let log = cairn.dir.path().join("serve.log");
        let mut args: Vec<OsString> = vec!["--listen".into(), listen.into()];
        args.extend(more.iter().map(OsString::from));
        args.push(cairn.mount.clone().into());
        let (child, at, fingerprint) = open(before, &args, &log)?;
        args[1] = at.clone().into();
        Ok(Self {
            child,
            at,
            before: before.to_vec(),
            args,
            fingerprint,
            log,
        })
    }

    /// kill -9, and another one in its place at the same port.
    pub(crate) fn dies_and_returns(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let (before, args, log) = (self.before.clone(), self.args.clone(), self.log.clone());
        let mut opened = None;
        wait_for("the door to open again", || {
            opened = open(&before, &args, &log).ok();
            Ok(opened.is_some())
        })?;
        self.child = opened.context("no door")?.0;
        Ok(())
    }

    /// What it and its agents logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// A token for a user.
    pub(crate) fn token(&self, cairn: &Instance, uid: u32) -> Result<String> {
        let said = cairn.cairn(["token", "issue", "--user", &uid.to_string()])?;
        let token = said
            .lines()
            .find_map(|line| line.strip_prefix("CAIRN_TOKEN="));
        Ok(token.context("no token")?.to_owned())
    }

    /// A caller with that token.
    pub(crate) fn caller(&self, token: &str) -> Caller {
        Caller {
            before: Vec::new(),
            runs: program(),
            environment: vec![
                ("CAIRN_SERVER", self.at.clone().into()),
                ("CAIRN_TOKEN", token.into()),
                ("CAIRN_FINGERPRINT", self.fingerprint.clone().into()),
            ],
        }
    }
}

/// Somebody on another host, or as if.
#[derive(Clone)]
pub(crate) struct Caller {
    /// What stands before the program.
    pub(crate) before: Vec<OsString>,
    /// The program, or what starts it.
    pub(crate) runs: OsString,
    pub(crate) environment: Vec<(&'static str, OsString)>,
}

impl Caller {
    /// With one more variable.
    pub(crate) fn with(&self, name: &'static str, value: impl Into<OsString>) -> Self {
        let mut more = self.clone();
        more.environment.retain(|(known, _)| *known != name);
        more.environment.push((name, value.into()));
        more
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = behind(&self.before, &self.runs);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        Ok(self.command(args).output()?)
    }

    /// Expects success; what it said, on both.
    pub(crate) fn does<S: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let output = self.run(args)?;
        let said = both(&output);
        ensure!(output.status.success(), "{}: {said}", output.status);
        Ok(said)
    }

    /// Expects that exit code; what it said, on both.
    pub(crate) fn fails<S: AsRef<OsStr>>(
        &self,
        code: i32,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String> {
        let output = self.run(args)?;
        let said = both(&output);
        ensure!(
            output.status.code() == Some(code),
            "{} and not {code}: {said}",
            output.status
        );
        Ok(said)
    }
}

pub(crate) fn both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
