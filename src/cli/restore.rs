//! `cairn restore`: a new backing of stubs from a tier alone.

use super::CliError;
use super::output::{Output, harmless, table};
use super::up::default_state;
use crate::config::units::shown::{Bytes, counted, grouped};
use crate::error::Failure;
use crate::format::namespace::encode_text;
use crate::hsm::backing::this_boot;
use crate::hsm::engine::now;
use crate::hsm::restore::{
    Found, Loss, Order, Outcome, Report, RestoreError, Step, is_unfinished, restore, snapshots,
};
use crate::hsm::state_dir::StateDir;
use crate::id::{AggregateId, InstanceId, Timestamp};
use crate::server::wire::{Schema, When};
use crate::tier::retry::{Attempts, Retry};
use crate::tier::{Mark, OpenHow, Tier, TierUrl, mark_at, open, owner};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names that are shown of each kind; the report has all.
const SHOWN: u64 = 10;

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The tier to restore from; it is only read.
    #[arg(long, value_name = "[NAME=]URL")]
    tier: String,
    /// The new backing: an empty directory, or none yet; below one that only root may enter.
    #[arg(long, value_name = "DIR", required_unless_present = "list")]
    to: Option<PathBuf>,
    /// As of the last snapshot before TIME, such as "2026-03-01 06:00:00" (UTC).
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<Timestamp>,
    /// List the snapshots on the tier, and restore nothing.
    #[arg(long)]
    list: bool,
    /// Put files that were archived after the snapshot where their archive says; else they are listed.
    #[arg(long)]
    with_later: bool,
    /// State directory of the new instance, which must not be there yet.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Give the tier to the new instance, when all is restored. The instance that it belonged to must
    /// never write there again.
    #[arg(long)]
    take: bool,
    /// Where to list names that are not as they were; else beside DIR.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    let time: SystemTime = humantime::parse_rfc3339_weak(text)
        .map_err(|_| "write it as 2026-03-01 06:00:00 (UTC)".to_owned())?;
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Timestamp {
        sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nsec: since.subsec_nanos(),
    })
}

fn when(time: Timestamp) -> When {
    let seconds = u64::try_from(time.sec).unwrap_or(0);
    let nanos = std::time::Duration::from_nanos(u64::from(time.nsec));
    When(When::from_unix(seconds).0 + nanos)
}

/// A snapshot, in JSON.
#[derive(Debug, Serialize)]
struct SnapshotLine {
    snapshot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<When>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
}

impl Schema for SnapshotLine {
    const SCHEMA: &'static str = "cairn.namespace-snapshot.v1";
}

/// What was done, in JSON.
#[derive(Debug, Serialize)]
struct Restored {
    snapshot: String,
    time: When,
    directories: u64,
    names: u64,
    stubs: u64,
    bytes: u64,
    lost: BTreeMap<&'static str, u64>,
    unlisted: u64,
    skipped: Vec<String>,
    report: String,
    backing: String,
    state: String,
    instance: String,
    taken: bool,
}

impl Schema for Restored {
    const SCHEMA: &'static str = "cairn.restored.v1";
}

/// A name of the report.
#[derive(Serialize)]
struct LostLine<'a> {
    schema: &'static str,
    path: String,
    state: &'static str,
    why: &'a str,
}

/// The report file, and what is told of it on the screen. It has its name once all of it is there: a
/// restore that goes on behind that leaves it alone.
struct Lost<'a> {
    path: &'a Path,
    partial: PathBuf,
    file: BufWriter<std::fs::File>,
    counts: BTreeMap<Loss, u64>,
    is_told: bool,
    /// Makes the new instance.
    make: &'a dyn Fn() -> Result<InstanceId, CliError>,
    made: Option<Result<InstanceId, CliError>>,
}

impl<'a> Lost<'a> {
    fn begin(
        path: &'a Path,
        make: &'a dyn Fn() -> Result<InstanceId, CliError>,
    ) -> Result<Self, CliError> {
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        Ok(Self {
            path,
            file: BufWriter::new(create(&partial)?),
            partial,
            counts: BTreeMap::new(),
            is_told: false,
            make,
            made: None,
        })
    }

    /// Whatever ended the restore, the instance's own failure says more.
    fn end(
        self,
        outcome: Result<Outcome, RestoreError>,
        to: &Path,
    ) -> Result<(Outcome, InstanceId), CliError> {
        if !self.is_told && outcome.is_ok() {
            // It holds nothing: all was told by an earlier try.
            std::fs::remove_file(&self.partial)
                .map_err(|e| CliError::system(format!("remove {}", self.partial.display()), &e))?;
        }
        match (outcome, self.made) {
            (_, Some(Err(why))) => Err(why),
            (Err(why), _) => Err(failed(why, to)),
            (Ok(outcome), Some(Ok(made))) => Ok((outcome, made)),
            (Ok(_), None) => {
                let why = "the new instance was not made";
                Err(CliError::new(Failure::Internal, why))
            }
        }
    }
}

impl Report for Lost<'_> {
    fn told(&mut self) -> io::Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.partial, self.path)?;
        let above = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        std::fs::File::open(above.unwrap_or(Path::new(".")))?.sync_all()?;
        self.is_told = true;
        Ok(())
    }

    fn placed(&mut self) -> io::Result<()> {
        let made = (self.make)();
        let failed = made.is_err();
        self.made = Some(made);
        if failed {
            return Err(io::Error::other("see above"));
        }
        Ok(())
    }

    fn lost(&mut self, path: &[u8], loss: Loss, why: &str) -> io::Result<()> {
        let count = self.counts.entry(loss).or_default();
        *count += 1;
        let line = LostLine {
            schema: "cairn.restore-report.v1",
            path: encode_text(path),
            state: loss.as_str(),
            why,
        };
        if *count <= SHOWN {
            let shown = format!("{}: {} ({})", line.path, why, line.state);
            eprintln!("cairn: {}", harmless(&shown));
        }
        serde_json::to_writer(&mut self.file, &line)?;
        self.file.write_all(b"\n")
    }
}

impl Restore {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        let url = self.url()?;
        let (tier, mark) = read_only(&url)?;
        if self.list {
            return self.list(&*tier);
        }
        let Some(to) = &self.to else {
            return Err(CliError::usage("name a directory: --to DIR"));
        };
        if !rustix::process::geteuid().is_root() {
            let why = "only root can give files back to their owners";
            return Err(CliError::new(Failure::NotPermitted, why));
        }
        let to = std::path::absolute(to).map_err(|e| CliError::system("working directory", &e))?;
        let report = self.report_path(&to);
        let state = self.fresh_state(&to, &report)?;
        let make = || self.instance(&to, &state, &url, mark);
        let mut lost = Lost::begin(&report, &make)?;
        let (host, _) = this_boot().map_err(|e| CliError::system("read the boot id", &e))?;
        let order = Order {
            tier: &*tier,
            to: &to,
            at: self.at,
            with_later: self.with_later,
            host: &host,
            now: now(),
            reached: &stop_here,
        };
        let done = restore(&order, &mut lost);
        let (outcome, instance) = lost.end(done, &to)?;
        self.tell(
            &outcome,
            &outcome.lost,
            &Places {
                to: &to,
                state: &state,
                report: &report,
                instance,
                owner: mark.owner,
            },
        )
    }

    fn url(&self) -> Result<TierUrl, CliError> {
        // A URL's kind has no `=`; a path behind it may.
        let named = self
            .tier
            .split_once('=')
            .filter(|(name, _)| !name.contains(':'));
        let url = named.map_or(self.tier.as_str(), |(_, url)| url);
        url.parse().map_err(CliError::usage)
    }

    fn list(&self, tier: &dyn Tier) -> Result<u8, CliError> {
        let found = snapshots(tier).map_err(|why| failed(why, Path::new("")))?;
        let mut output = Output::new(self.json);
        let mut rows = vec![
            ["SNAPSHOT", "TIME", "KIND", "LISTING"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (id, found) in &found {
            if self.json {
                output.object(line(*id, found))?;
            } else {
                rows.push(row(*id, found));
            }
        }
        if !self.json {
            for line in table(&rows, &[3]) {
                output.line(line)?;
            }
        }
        output.finish()?;
        Ok(u8::from(found.iter().any(|(_, found)| found.is_err())))
    }

    /// A state directory knows its backing by an identity that the new one does not have.
    fn fresh_state(&self, to: &Path, report: &Path) -> Result<PathBuf, CliError> {
        let state = match &self.state {
            Some(state) => {
                std::path::absolute(state).map_err(|e| CliError::system("working directory", &e))?
            }
            None => default_state(to)?,
        };
        if !state.join("instance.json").exists() {
            return Ok(state);
        }
        match kin(&state, to)? {
            Kin::Unfinished => Ok(state),
            // An earlier try may have been cut short before it could say so, or no restore made it.
            Kin::Finished => {
                let (to, state) = (to.display(), state.display());
                let why = format!("{to} is the backing of the instance in {state}");
                let error = CliError::new(Failure::Exists, why);
                Err(if report.exists() {
                    let report = report.display();
                    error.with_hint(format!("names that are not as they were: {report}"))
                } else {
                    error
                })
            }
            Kin::Other => {
                let why = format!(
                    "{} is the state directory of another backing",
                    state.display()
                );
                let hint = "move it away, or name another one with --state";
                Err(CliError::usage(why).with_hint(hint))
            }
        }
    }

    fn report_path(&self, to: &Path) -> PathBuf {
        self.report.clone().unwrap_or_else(|| {
            let mut name = to.file_name().unwrap_or_default().to_owned();
            name.push(".restore-report.jsonl");
            to.with_file_name(name)
        })
    }

    /// The new instance: its state directory, and the tier if it is to have that.
    fn instance(
        &self,
        to: &Path,
        state: &Path,
        url: &TierUrl,
        mark: Mark,
    ) -> Result<InstanceId, CliError> {
        let internal = |why: String| CliError::new(Failure::Internal, why);
        let known =
            crate::hsm::backing::Backing::mark_of(to).map_err(|e| internal(e.to_string()))?;
        if let Some(parent) = state.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|e| CliError::system(format!("make {}", parent.display()), &e))?;
        }
        let made =
            StateDir::open(state, known.map(|m| m.fs)).map_err(|e| internal(e.to_string()))?;
        // An earlier try may have got so far.
        if self.take && mark.owner != made.instance {
            owner::take(url, mark.owner, made.instance)
                .map(drop)
                .map_err(|why| CliError::new(Failure::TierUnavailable, why))?;
        }
        Ok(made.instance)
    }

    fn tell(
        &self,
        outcome: &Outcome,
        counts: &BTreeMap<Loss, u64>,
        places: &Places<'_>,
    ) -> Result<u8, CliError> {
        for (id, why) in &outcome.skipped {
            eprintln!(
                "cairn: the newer snapshot {id} cannot be used: {}",
                harmless(why)
            );
        }
        let mut output = Output::new(self.json);
        let snapshot = outcome
            .snapshot
            .map(|s| s.id.to_string())
            .unwrap_or_default();
        let begun = outcome.snapshot.map_or(Timestamp::default(), |s| s.begun);
        if self.json {
            output.object(Restored {
                snapshot,
                time: when(begun),
                directories: outcome.directories,
                names: outcome.names,
                stubs: outcome.stubs,
                bytes: outcome.bytes,
                lost: counts.iter().map(|(l, n)| (l.as_str(), *n)).collect(),
                unlisted: outcome.gaps,
                skipped: outcome
                    .skipped
                    .iter()
                    .map(|(id, _)| id.to_string())
                    .collect(),
                report: places.report.display().to_string(),
                backing: places.to.display().to_string(),
                state: places.state.display().to_string(),
                instance: places.instance.to_string(),
                taken: self.take,
            })?;
        } else {
            output.line(format!(
                "restored {} and {} as of {} (snapshot {snapshot})",
                counted(outcome.directories, "directory").replace("directorys", "directories"),
                counted(outcome.names, "name"),
                when(begun),
            ))?;
            output.line(format!(
                "of these {} with {} on the tier, to be read through a mount",
                counted(outcome.stubs, "file"),
                Bytes(outcome.bytes)
            ))?;
            for (loss, count) in counts {
                output.line(format!("{:<14} {}", loss.as_str(), grouped(*count)))?;
            }
            if outcome.gaps > 0 {
                output.line(format!("{:<14} {}", "unlisted", grouped(outcome.gaps)))?;
            }
        }
        output.finish()?;
        self.hints(outcome, counts, places);
        let whole = counts
            .keys()
            .all(|l| matches!(l, Loss::Later | Loss::LaterPlaced));
        let all = outcome.gaps == 0 && outcome.skipped.is_empty();
        Ok(u8::from(!whole || !all))
    }

    fn hints(&self, outcome: &Outcome, counts: &BTreeMap<Loss, u64>, places: &Places<'_>) {
        let hint = |text: String| eprintln!("hint: {text}");
        if !counts.is_empty() {
            hint(format!("each name, and why: {}", places.report.display()));
        }
        if !outcome.guarded {
            hint(format!(
                "users could enter {0}, so it has mode 0700 now: move it below a directory that only \
                 root may enter, then give it its mode",
                places.to.display()
            ));
        }
        if !self.take {
            hint(format!(
                "the tier belongs to instance {}; when that will never write there again, give it to \
                 {}: set \"owner\" in its cairn-tier.json, or restore with --take",
                places.owner, places.instance
            ));
        }
        let name = self
            .tier
            .split_once('=')
            .filter(|(name, _)| !name.contains(':'));
        let (name, url) = name.unwrap_or(("tier", self.tier.as_str()));
        hint(format!(
            "then: cairn up --state {} --tier {name}={url} {} MOUNT",
            places.state.display(),
            places.to.display()
        ));
    }
}

/// What lies where.
struct Places<'a> {
    to: &'a Path,
    state: &'a Path,
    report: &'a Path,
    instance: InstanceId,
    owner: InstanceId,
}

/// The tier as its owner would open it; nothing is written.
fn read_only(url: &TierUrl) -> Result<(Arc<dyn Tier>, Mark), CliError> {
    let away = |why| CliError::new(Failure::TierUnavailable, why);
    let mark = mark_at(url).map_err(away)?;
    let tier = open(url, OpenHow::known(mark.owner, mark.tier)).map_err(away)?;
    Ok((Arc::new(Retry::new(tier, Attempts::default())), mark))
}

fn create(path: &Path) -> Result<std::fs::File, CliError> {
    std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| CliError::system(format!("write {}", path.display()), &e))
}

/// What a state directory is to a backing.
enum Kin {
    /// A restore that is not at its end made both.
    Unfinished,
    /// It is that of the backing, which no restore works on.
    Finished,
    /// It is another one's.
    Other,
}

fn kin(state: &Path, to: &Path) -> Result<Kin, CliError> {
    let system = |e: io::Error| CliError::system(format!("look at {}", to.display()), &e);
    let internal = |why: String| CliError::new(Failure::Internal, why);
    if !to.exists() {
        return Ok(Kin::Other);
    }
    let is_unfinished = is_unfinished(to).map_err(system)?.is_some();
    let mark = crate::hsm::backing::Backing::mark_of(to).map_err(|e| internal(e.to_string()))?;
    let found = match StateDir::open(state, None) {
        Ok(found) => found,
        Err(why) if is_unfinished => return Err(internal(why.to_string())),
        // In use, for one: by an instance on whatever backing.
        Err(_) => return Ok(Kin::Other),
    };
    Ok(match mark {
        Some(mark) if mark.fs == found.fs && is_unfinished => Kin::Unfinished,
        Some(mark) if mark.fs == found.fs => Kin::Finished,
        _ => Kin::Other,
    })
}

/// Where a test has the process die.
fn stop_here(step: Step) -> io::Result<()> {
    let _ = step;
    Ok(())
}

fn failed(why: RestoreError, to: &Path) -> CliError {
    let failure = match &why {
        RestoreError::Tier(_) => Failure::TierUnavailable,
        RestoreError::None { .. } => Failure::NotFound,
        RestoreError::Target { .. } => Failure::Usage,
        RestoreError::Backing(why) if why.is_full() => Failure::NoSpace,
        RestoreError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            Failure::NoSpace
        }
        _ => Failure::Internal,
    };
    let hint = match &why {
        RestoreError::Target { .. } | RestoreError::Tier(_) => None,
        RestoreError::None {
            reach: Some(reach), ..
        } => Some(format!(
            "those on the tier reach back to {}: --list names them",
            when(*reach)
        )),
        RestoreError::None { .. } => Some("list what is there with --list".to_owned()),
        why if why.is_damage() => {
            Some("an earlier snapshot may do: --list names them, --at chooses".to_owned())
        }
        _ => Some(format!(
            "the same command goes on where this ended ({})",
            to.display()
        )),
    };
    let error = CliError::new(failure, why);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn line(id: AggregateId, found: &Result<Found, RestoreError>) -> SnapshotLine {
    let good = found.as_ref().ok();
    SnapshotLine {
        snapshot: id.to_string(),
        time: good.map(|f| when(f.begun)),
        base: good.and_then(|f| f.base).map(|b| b.to_string()),
        bytes: good.map(|f| f.bytes),
        damaged: found.as_ref().err().map(ToString::to_string),
    }
}

fn row(id: AggregateId, found: &Result<Found, RestoreError>) -> Vec<String> {
    match found {
        Ok(found) => vec![
            id.to_string(),
            when(found.begun).to_string(),
            found
                .base
                .map_or("full".to_owned(), |base| format!("changes since {base}")),
            Bytes(found.bytes).to_string(),
        ],
        Err(why) => vec![id.to_string(), "?".to_owned(), harmless(&why.to_string())],
    }
}
