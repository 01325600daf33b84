//! `cairn slurm install`: what Slurm needs to have jobs' files on disk before they run, for each version's
//! signatures from one source (`packaging/slurm/`).

use super::CliError;
use super::output::Output;
use crate::error::Failure;
use clap::{Args, Subcommand, ValueEnum};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const SOURCE: &str = include_str!("../../packaging/slurm/burst_buffer.lua.in");
const WAITS: &str = include_str!("../../packaging/slurm/waits.lua.in");
const POLLS: &str = include_str!("../../packaging/slurm/polls.lua.in");
/// What the first line of every script of ours begins with.
const OURS: &str = "-- Cairn for Slurm ";

/// What `burst_buffer.conf` says, where there is none yet.
const CONF: &str = "\
# Made by `cairn slurm install`, and not changed by it again.
# Lines #CAIRN of batch scripts are for the plugin.
Directive=CAIRN
# A job waits for a tape library that is down; it is not lost before.
StageInTimeout=604800
StageOutTimeout=604800
OtherTimeout=300
";

/// Arguments of `slurm`.
#[derive(Debug, Args)]
pub(crate) struct Slurm {
    #[command(subcommand)]
    command: SlurmCommand,
}

#[derive(Debug, Subcommand)]
enum SlurmCommand {
    /// Write burst_buffer.lua, and burst_buffer.conf where there is none
    #[command(
        after_help = "Example: cairn slurm install --slurm-version 22.05 --directory /etc/slurm"
    )]
    Install(Install),
}

#[derive(Debug, Args)]
struct Install {
    /// Slurm's version, by its first two numbers.
    #[arg(long, value_name = "VERSION")]
    slurm_version: Version,
    /// Where slurm.conf is.
    #[arg(long, value_name = "DIR", default_value = "/etc/slurm")]
    directory: PathBuf,
    /// This program as slurmctld's host has it (default: where it is here).
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Replace a burst_buffer.lua that is not Cairn's.
    #[arg(long)]
    force: bool,
}

/// Versions whose signatures differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Version {
    /// Job numbers and scripts alone are passed.
    #[value(name = "22.05")]
    V22_05,
    /// User and group are passed, too. For 23.11, too.
    #[value(name = "23.02")]
    V23_02,
    /// What takes long is polled. For what came later, too.
    #[value(name = "24.05")]
    V24_05,
}

impl Version {
    const fn name(self) -> &'static str {
        match self {
            Self::V22_05 => "22.05",
            Self::V23_02 => "23.02",
            Self::V24_05 => "24.05",
        }
    }

    /// What comes behind the parameters that all versions pass.
    const fn further(self) -> &'static str {
        match self {
            Self::V22_05 => "",
            Self::V23_02 => ", uid, gid",
            Self::V24_05 => ", uid, gid, job_info",
        }
    }
}

/// The script for a version.
fn script(version: Version, program: &str, conf: &str) -> String {
    let more = version.further();
    let with = |common: &str| format!("{common}{more}");
    let stage = with("job_id, job_script");
    let long = match version {
        Version::V22_05 | Version::V23_02 => WAITS,
        Version::V24_05 => POLLS,
    };
    let part = |name: &str, verb: &str| {
        long.replace("@NAME@", name)
            .replace("@VERB@", verb)
            .replace("@ARGS@", &stage)
    };
    let status = match version {
        Version::V22_05 => "...",
        Version::V23_02 | Version::V24_05 => "uid, gid, ...",
    };
    // In setup user and group are no news.
    let setup = match version {
        Version::V22_05 | Version::V23_02 => {
            "job_id, uid, gid, pool, bb_size, job_script".to_owned()
        }
        Version::V24_05 => "job_id, uid, gid, pool, bb_size, job_script, job_info".to_owned(),
    };
    let teardown = match version {
        Version::V22_05 => "job_id, job_script, hurry".to_owned(),
        Version::V23_02 | Version::V24_05 => "job_id, job_script, hurry, uid, gid".to_owned(),
    };
    SOURCE
        .replace("@VERSION@", version.name())
        .replace("@CAIRN@", &text(program))
        .replace("@CONF@", &text(conf))
        .replace("@DATA_IN@\n", &part("data_in", "stage-in"))
        .replace("@DATA_OUT@\n", &part("data_out", "stage-out"))
        .replace("@job_process@", &with("job_script"))
        .replace("@setup@", &setup)
        .replace("@real_size@", &with("job_id"))
        .replace("@paths@", &with("job_id, job_script, path_file"))
        .replace("@pre_run@", &stage)
        .replace("@post_run@", &stage)
        .replace("@teardown@", &teardown)
        .replace("@get_status@", status)
}

/// A text as Lua reads it.
fn text(text: &str) -> String {
    let escape = |c: char| match c {
        '\\' | '"' => format!("\\{c}"),
        '\n' => "\\n".to_owned(),
        c => c.to_string(),
    };
    format!("\"{}\"", text.chars().map(escape).collect::<String>())
}

impl Slurm {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        let SlurmCommand::Install(args) = &self.command;
        args.run()
    }
}

impl Install {
    fn run(&self) -> Result<u8, CliError> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|e| CliError::system(format!("find {}", path.display()), &e))
        };
        let directory = absolute(&self.directory)?;
        let program = match &self.program {
            Some(program) => absolute(program)?,
            None => {
                std::env::current_exe().map_err(|e| CliError::system("find this program", &e))?
            }
        };
        let (lua, conf) = (
            directory.join("burst_buffer.lua"),
            directory.join("burst_buffer.conf"),
        );
        self.may_replace(&lua)?;
        let slurm_conf = directory.join("slurm.conf");
        let made = script(self.slurm_version, &utf8(&program)?, &utf8(&slurm_conf)?);
        write(&lua, &made)?;
        let mut output = Output::new(false);
        output.line(format!(
            "{} written, for Slurm {}",
            lua.display(),
            self.slurm_version.name()
        ))?;
        if conf.exists() {
            output.line(format!(
                "{} is left as it is: it needs Directive=CAIRN",
                conf.display()
            ))?;
        } else {
            write(&conf, CONF)?;
            output.line(format!("{} written", conf.display()))?;
        }
        output.line(format!(
            "now {} needs BurstBufferType=burst_buffer/lua, and slurmctld a restart",
            slurm_conf.display()
        ))?;
        output.line("where SlurmUser is not root, sudoers needs:")?;
        output.line(format!(
            "  slurm ALL=(ALL,!root) NOPASSWD: {} job *",
            program.display()
        ))?;
        output.finish()?;
        Ok(0)
    }

    /// A script of the site's own stays.
    fn may_replace(&self, lua: &Path) -> Result<(), CliError> {
        match fs::read(lua) {
            Ok(there) if !there.starts_with(OURS.as_bytes()) && !self.force => {
                let why = format!("{} is not Cairn's", lua.display());
                Err(CliError::new(Failure::Exists, why)
                    .with_hint("one script serves a controller: merge them, or --force"))
            }
            Ok(_) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(CliError::system(format!("read {}", lua.display()), &e)),
        }
    }
}

fn utf8(path: &Path) -> Result<String, CliError> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| CliError::usage(format!("{} is no UTF-8", path.display())))
}

/// The whole file or none: a controller may read it at any time.
fn write(path: &Path, text: &str) -> Result<(), CliError> {
    let failed = |e: io::Error| CliError::system(format!("write {}", path.display()), &e);
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let put = || -> io::Result<()> {
        let mut file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    put()
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Version; 3] = [Version::V22_05, Version::V23_02, Version::V24_05];

    #[test]
    fn one_source_gives_the_signatures_of_each_version() {
        let heads = |version| {
            let made = script(version, "/usr/bin/cairn", "/etc/slurm/slurm.conf");
            let heads = made.lines().filter(|l| l.starts_with("function slurm_bb_"));
            heads.map(|l| format!("{l}\n")).collect::<String>()
        };
        let all: String = ALL
            .iter()
            .map(|v| format!("{}\n{}", v.name(), heads(*v)))
            .collect();
        insta::assert_snapshot!(all);
    }

    #[test]
    fn nothing_of_the_source_is_left_open_and_lua_reads_it() {
        for version in ALL {
            let made = script(version, r#"/a "b"\c/cairn"#, "");
            assert!(!made.contains('@'), "{made}");
            assert!(made.starts_with(OURS));
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("x.lua");
            write(&file, &made).unwrap();
            let lua = ["luac5.1", "luac", "luac5.4", "luac5.3"].into_iter();
            let mut runs = lua.map(|c| std::process::Command::new(c).arg("-p").arg(&file).output());
            match runs.find_map(Result::ok) {
                Some(out) => assert!(
                    out.status.success(),
                    "{}",
                    String::from_utf8_lossy(&out.stderr)
                ),
                None => eprintln!(
                    "SKIPPED nothing_of_the_source_is_left_open_and_lua_reads_it: there is no luac here"
                ),
            }
        }
    }
}
