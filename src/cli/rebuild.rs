//! `cairn rebuild`: builds a lost catalog anew, while the instance is down.

use super::CliError;
use super::output::Output;
use super::up::{OfflineArgs, startup};
use crate::catalog::{FileState, Sources};
use crate::config::units::shown::{counted, files, grouped, seconds};
use crate::error::Failure;
use crate::hsm::engine::rebuild::{Order, Progress, Rebuild, Report};
use crate::hsm::engine::{EngineError, Opening};
use crate::server::wire::{RebuildReport, RebuiltFiles, RebuiltTier};
use cairn_policies::{Policy, shipped};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

/// How often it is looked how far it is, and how often a plain line says so.
const LOOK: Duration = Duration::from_millis(200);
const PLAIN_PERIOD: Duration = Duration::from_secs(10);

/// Where what the catalog knew is found again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// The records on the files.
    Stubs,
    /// The indexes of all aggregates.
    Tiers,
}

/// Arguments of `rebuild`.
#[derive(Debug, Args)]
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    of: OfflineArgs,
    /// What from: the records on the files, the indexes on the tiers, or both.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "stubs,tiers",
        value_name = "SOURCE"
    )]
    from: Vec<Source>,
    /// Also if the catalog is whole: put it aside.
    #[arg(long)]
    anew: bool,
    /// Say only how it ended.
    #[arg(short, long)]
    quiet: bool,
    /// Print one JSON object at the end.
    #[arg(long)]
    json: bool,
}

impl RebuildArgs {
    pub(crate) fn run(&self) -> Result<u8, CliError> {
        let plan = self.of.plan()?;
        let begun = Instant::now();
        let sources = Sources {
            stubs: self.from.contains(&Source::Stubs),
            tiers: self.from.contains(&Source::Tiers),
        };
        let order = Order {
            opening: Opening {
                outside: plan.backing.clone(),
                backing: plan.backing,
                state: plan.state,
                force: false,
                ballast: 0,
            },
            tiers: plan
                .tiers
                .iter()
                .map(|t| (t.name.clone(), t.url.to_string()))
                .collect(),
            sources,
            anew: self.anew,
        };
        let name = "default.policy (shipped)".to_owned();
        let text = shipped::DEFAULT.to_owned();
        let policy = Policy::parse(&name, &text).map_err(CliError::usage)?;
        let rebuild = Rebuild::begin(&order, (name, text, policy)).map_err(startup)?;
        let report = self.watch(&rebuild)?;
        let view = view(report, sources, begun.elapsed());
        let code = code(&view);
        let mut output = Output::new(self.json);
        if self.json {
            output.object(view)?;
        } else {
            tell(&mut output, &view)?;
        }
        output.finish()?;
        Ok(code)
    }

    /// Runs it, saying how far it is.
    fn watch(&self, rebuild: &Rebuild) -> Result<Report, CliError> {
        let mut shown = Shown::new(self.quiet || self.json);
        let done = std::thread::scope(|scope| {
            let (tell, told) = crossbeam_channel::bounded(1);
            scope.spawn(move || {
                // The other end waits for it.
                let _ = tell.send(rebuild.run());
            });
            loop {
                match told.recv_timeout(LOOK) {
                    Ok(done) => return done,
                    Err(crossbeam_channel::RecvTimeoutError::Timeout) => {
                        shown.update(rebuild.progress());
                    }
                    Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                        return Err(EngineError::Refused {
                            code: Failure::Internal,
                            message: "the rebuild broke off".to_owned(),
                            hint: None,
                        });
                    }
                }
            }
        });
        shown.end();
        done.map_err(|why| {
            CliError::new(why.code(), &why).with_hint("the same command goes on where it stopped")
        })
    }
}

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
            let last = Instant::now();
            return Self::Lines { last };
        }
        // How much there is nobody knows before the end.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    fn update(&mut self, at: Progress) {
        let line = || {
            format!(
                "{}, {}; {} looked at",
                counted(at.aggregates, "aggregate"),
                copies(at.members),
                files(at.seen)
            )
        };
        match self {
            Self::Nothing => {}
            Self::Bar(bar) => {
                bar.set_message(line());
                bar.tick();
            }
            Self::Lines { last } => {
                if last.elapsed() >= PLAIN_PERIOD {
                    *last = Instant::now();
                    eprintln!("rebuild: {}", line());
                }
            }
        }
    }

    fn end(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn copies(count: u64) -> String {
    match count {
        1 => "1 copy".to_owned(),
        many => format!("{} copies", grouped(many)),
    }
}

/// What no rebuild can know, and what one from these sources cannot (docs/operations.md).
fn not_known(sources: Sources) -> Vec<String> {
    let mut list = vec![
        "pins, the flags noarchive and norelease, requests",
        "what was deleted or overwritten, when, and by whom (tombstones)",
        "when files were read or staged last, and when copies were proven or verified",
        "checksums of whole aggregates; versions are compared again before blocks are given back",
    ];
    if !sources.tiers {
        list.push("copies of data that no file has now, and copies that a record has no room for");
        list.push("how much of a file is stored, and what else lies in an aggregate");
        list.push("which files of holes are released ones that lost their stub");
    }
    list.into_iter().map(str::to_owned).collect()
}

fn view(report: Report, sources: Sources, took: Duration) -> RebuildReport {
    let mut from = Vec::new();
    from.extend(sources.stubs.then(|| "stubs".to_owned()));
    from.extend(sources.tiers.then(|| "tiers".to_owned()));
    let tiers = report.tiers.iter().map(|tier| {
        let read = tier.read.unwrap_or_default();
        RebuiltTier {
            name: tier.name.clone(),
            complete: read.complete,
            aggregates: read.aggregates,
            copies: read.members,
            damaged: read.damaged,
            why: tier.why.clone(),
        }
    });
    RebuildReport {
        complete: report.complete,
        resumed: report.resumed,
        from,
        aside: report.aside.as_ref().map(|p| p.display().to_string()),
        took_s: took.as_secs(),
        seen: report.seen,
        files: RebuiltFiles {
            archived: report.in_state(FileState::Archived),
            released: report.in_state(FileState::Released),
            dirty: report.in_state(FileState::Dirty),
            lost: report.in_state(FileState::Lost),
            none: report.in_state(FileState::None),
        },
        without_copy: report.uncopied,
        foreign: report.foreign,
        conflict: report.conflict,
        gaps: report.gaps,
        epoch: report.epoch,
        tiers: tiers.collect(),
        problems: report.problems,
        not_known: not_known(sources),
    }
}

fn code(view: &RebuildReport) -> u8 {
    let away = |tier: &RebuiltTier| !tier.complete && tier.why.is_some();
    match view.complete {
        true => 0,
        false if view.tiers.iter().any(away) => Failure::TierUnavailable.exit_code(),
        false => 1,
    }
}

fn tell(output: &mut Output, view: &RebuildReport) -> Result<(), CliError> {
    for problem in &view.problems {
        eprintln!("cairn: {problem}");
    }
    if let Some(aside) = &view.aside {
        output.line(format!("the catalog that was there: {aside}"))?;
    }
    for tier in &view.tiers {
        let damaged = match tier.damaged {
            0 => String::new(),
            some => format!(", {} with a damaged index", grouped(some)),
        };
        let (found, within) = (counted(tier.aggregates, "aggregate"), copies(tier.copies));
        let why = match (&tier.why, tier.complete) {
            (Some(why), false) => format!("; not read to its end: {why}"),
            _ => String::new(),
        };
        output.line(format!(
            "tier {}: {found}, {within}{damaged}{why}",
            tier.name
        ))?;
    }
    let f = &view.files;
    output.line(format!(
        "{} looked at in {}: {} archived, {} released, {} dirty, {} lost, {} never archived",
        files(view.seen),
        seconds(view.took_s),
        grouped(f.archived),
        grouped(f.released),
        grouped(f.dirty),
        grouped(f.lost),
        grouped(f.none),
    ))?;
    for (count, what) in [
        (view.without_copy, "without a good copy"),
        (view.foreign, "with the stub of another file"),
        (view.conflict, "not as their stubs say"),
    ] {
        if count > 0 {
            output.line(format!("{} {what}", files(count)))?;
        }
    }
    if view.gaps {
        eprintln!("cairn: something could not be looked at; the same command looks at it again");
    }
    output.line("not known any more:")?;
    for what in &view.not_known {
        output.line(format!("  {what}"))?;
    }
    if !view.complete {
        eprintln!("cairn: not complete");
        eprintln!("hint: the same command goes on; or start without the rest: cairn up");
    } else if f.lost + view.foreign + view.conflict > 0 {
        eprintln!("hint: start it (cairn up), and see what can be mended: cairn repair");
    }
    Ok(())
}
