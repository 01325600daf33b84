//! `cairn ports`: ranges of this host's ports, leased to containers.

mod lease;

use super::output::{Output, harmless, table};
use super::{CliError, names};
use crate::error::Failure;
use crate::server::wire::{PortLease, When};
use cairn_mover::PortRange;
use clap::{Args, Subcommand};
use lease::{Held, Pool, Taken};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// Where leases are kept, where nobody says: any user may write there, and it is empty after a boot.
const PLACE: &str = "/run/lock/cairn-ports";

/// Arguments of `ports`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Ports {
    #[command(subcommand)]
    command: Option<PortsCommand>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum PortsCommand {
    /// List leased ranges, and who has them
    #[command(after_help = "Example: cairn ports list")]
    List(List),
    /// Run a command with a range of this host's ports that nobody else has
    #[command(
        after_help = "Example: cairn ports lease --pool 7000-7999 --count 10 --inside 7000 -- \\\n         \
                      podman run -p {ports}:{inside} -e CAIRN_PORT_RANGE -e CAIRN_HOSTNAME=$(hostname) IMAGE"
    )]
    Lease(Lease),
}

#[derive(Debug, Clone, Args)]
struct List {
    /// Where leases are kept.
    #[arg(long, env = "CAIRN_PORTS", hide_env_values = true, value_name = "DIR", default_value = PLACE)]
    place: PathBuf,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

/// Arguments of `ports lease`.
#[derive(Debug, Args)]
struct Lease {
    /// The ports that are for containers.
    #[arg(long, value_name = "FIRST-LAST", default_value = "7000-7999")]
    pool: PortRange,
    /// How many are wanted, side by side.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=1000))]
    count: u16,
    /// The first of as many ports inside of the container (default: the same as outside).
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..))]
    inside: Option<u16>,
    /// Where leases are kept.
    #[arg(long, env = "CAIRN_PORTS", hide_env_values = true, value_name = "DIR", default_value = PLACE)]
    place: PathBuf,
    /// The command. In its arguments {ports} stands for the range outside, {inside} for that inside; both are also in
    /// CAIRN_PORT_RANGE, as `cairn put` wants it.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Ports {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        match &self.command {
            None => self.list.run(),
            Some(PortsCommand::List(list)) => list.run(),
            Some(PortsCommand::Lease(lease)) => lease.run(),
        }
    }
}

fn view(held: &Held) -> PortLease {
    PortLease {
        first: held.first,
        last: held.last,
        pid: held.pid,
        uid: held.uid,
        user: names::user(held.uid),
        command: held.command.clone(),
        since: When::from_unix(held.since),
    }
}

impl List {
    fn run(&self) -> Result<u8, CliError> {
        let held = Pool::at(&self.place).held();
        let held =
            held.map_err(|e| CliError::system(format!("read {}", self.place.display()), &e))?;
        let mut output = Output::new(self.json);
        if self.json {
            held.iter().try_for_each(|held| output.object(view(held)))?;
        } else {
            let mut rows = vec![
                ["PORTS", "PID", "USER", "SINCE", "COMMAND"]
                    .map(str::to_owned)
                    .to_vec(),
            ];
            rows.extend(held.iter().map(|held| {
                let view = view(held);
                let ports = format!("{}-{}", view.first, view.last);
                vec![
                    ports,
                    view.pid.to_string(),
                    view.user,
                    view.since.to_string(),
                    harmless(&view.command),
                ]
            }));
            table(&rows, &[1])
                .iter()
                .try_for_each(|line| output.line(line))?;
        }
        output.finish()?;
        Ok(0)
    }
}

impl Lease {
    fn run(&self) -> Result<u8, CliError> {
        let (program, arguments) = match self.command.split_first() {
            Some(found) => found,
            None => return Err(CliError::usage("no command")),
        };
        let inside_end = self
            .inside
            .and_then(|first| first.checked_add(self.count - 1));
        if self.inside.is_some() && inside_end.is_none() {
            return Err(CliError::usage(
                "the range inside ends behind the last port, 65535",
            ));
        }
        let pool = Pool::at(&self.place);
        let failed = |e: std::io::Error| {
            CliError::system(format!("lease ports in {}", self.place.display()), &e)
        };
        let text = program.to_string_lossy().into_owned();
        let lease = match pool.take(&self.pool, self.count, &text).map_err(failed)? {
            Taken::Range(lease) => lease,
            Taken::None(held) => return Err(self.exhausted(&held)),
        };
        let outside = format!("{}-{}", lease.first, lease.last);
        let (inside, range) = match (self.inside, inside_end) {
            (Some(first), Some(last)) => (
                format!("{first}-{last}"),
                format!("{outside}:{first}-{last}"),
            ),
            _ => (outside.clone(), outside.clone()),
        };
        let filled = arguments.iter().map(|argument| match argument.to_str() {
            Some(text) => OsString::from(
                text.replace("{ports}", &outside)
                    .replace("{inside}", &inside),
            ),
            None => argument.clone(),
        });
        let mut command = Command::new(program);
        command.args(filled).env("CAIRN_PORT_RANGE", range);
        // The command has the lease from here on: it is held as long as the command or what it started has it open.
        lease.inherit().map_err(failed)?;
        let error = command.exec();
        Err(CliError::system(
            format!("run {}", program.to_string_lossy()),
            &error,
        ))
    }

    fn exhausted(&self, held: &[Held]) -> CliError {
        let (first, last) = (self.pool.first(), self.pool.last());
        let mut who: Vec<String> = held
            .iter()
            .filter(|h| h.last >= first && h.first <= last)
            .map(|h| {
                let user = names::user(h.uid);
                format!(
                    "{}-{} by {} (process {} of {user})",
                    h.first,
                    h.last,
                    harmless(&h.command),
                    h.pid
                )
            })
            .collect();
        let others = who.len().saturating_sub(10);
        who.truncate(10);
        if others > 0 {
            who.push(format!("{others} more"));
        }
        let who = if who.is_empty() {
            "none of them by leases".to_owned()
        } else {
            who.join(", ")
        };
        let message = format!(
            "no {} ports side by side are free in {}: {who}",
            self.count, self.pool
        );
        CliError::new(Failure::Busy, message)
            .with_hint("end one of them, widen --pool, or ask for fewer with --count")
    }
}
