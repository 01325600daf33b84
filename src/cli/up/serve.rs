//! Starts an instance and serves until it is told to stop: rooms are opened from the bottom up,
//! and closed from the top down.

use super::UpPlan;
use super::far::Far;
use super::leave::{Leaving, Signal, signals};
use super::plan::TierSpec;
use super::supervisor::Supervisor;
use super::take_over;
use crate::cli::CliError;
use crate::error::Failure;
use crate::hsm::engine::{Engine, EngineError, Opening, Settings, Slot, Startup, claim};
use crate::hsm::residency::HsmResidency;
use crate::hsm::state_dir::{StateDir, StateError};
use crate::server::Server;
use crate::server::audit::{Audit, Event};
use crate::server::instance::Instance;
use crate::server::socket::CONTROL;
use crate::tier::TierUrl;
use cairn_fuse::mount::{Inheritance, Mounter, is_dead};
use cairn_fuse::{Holding, Mirror, MirrorConfig, MirrorError};
use cairn_policies::{Policy, shipped};
use crossbeam_channel::{Receiver, bounded};
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What to do about a catalog that cannot be read.
const REBUILD: &str = "cairn rebuild puts it aside and builds it anew, from the records on the files and \
                       the indexes on the tiers";

/// How often the main thread looks whether the mount is still there: anybody may unmount it.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until `cairn down`, Ctrl-C or an unmount.
///
/// # Errors
/// Why it did not start; nothing is left mounted.
pub fn serve(plan: &UpPlan, mounter: Option<Mounter>) -> Result<u8, CliError> {
    let front = Front {
        supervisor: Supervisor::of_environment(),
        is_ready: Cell::new(false),
    };
    watch_programs(plan);
    let settings = settings(plan);
    for key in plan.settings.without_effect() {
        eprintln!("cairn: the setting {key} has no effect in this version");
    }
    let policy = policy(plan)?;
    // Nothing may look at a mount that is held for this process before it has taken it.
    let way = way(plan, mounter, &front.supervisor)?;
    stand_clear(plan, &way);
    let opening = Opening {
        backing: plan.backing.clone(),
        outside: way.outside(&plan.backing),
        state: plan.state.clone(),
        force: false,
        ballast: plan.settings.ballast_size,
    };
    let mut claimed = claim(&opening).map_err(startup)?;
    if claimed.catalog_was_gone {
        eprintln!(
            "cairn: the catalog is gone; it is built anew from the records on the files, by a scan"
        );
        eprintln!(
            "hint: what only the tiers know is found by `cairn rebuild`, while this instance is down"
        );
    }
    if claimed.rebuild_is_open {
        eprintln!("cairn: the catalog was being built anew, and not all that tiers hold is known");
        eprintln!("hint: the same `cairn rebuild` goes on, while this instance is down");
    }
    let named: Vec<_> = plan
        .tiers
        .iter()
        .map(|t| (t.name.clone(), t.url.to_string()))
        .collect();
    let tiers = claimed.open_tiers(&named).map_err(startup)?;
    for slot in &tiers {
        if let Some(weak) = slot.weakness(&claimed.backing) {
            eprintln!("cairn: tier {} {weak}", slot.name);
        }
    }
    let (engine, state) = claimed.start(tiers, settings, policy).map_err(startup)?;
    let engine = Arc::new(engine);
    let done = run(plan, &engine, &state, way, &front);
    front.supervisor.stopping();
    let stopped = engine.stop(matches!(done, Ok(true)));
    if engine.has_left_threads() {
        // Kept for ever, so that no drop waits for a tier; the process ends now.
        std::mem::forget(engine);
    }
    done?;
    stopped
        .map_err(|why| CliError::new(why.code(), format!("the stop was not a clean one: {why}")))?;
    Ok(0)
}

/// Starts the process that ends programs of tiers with this one, while this one has neither threads nor memory that
/// would stay in use with it.
fn watch_programs(plan: &UpPlan) {
    if !uses_programs(plan) {
        return;
    }
    if let Err(error) = crate::tier::exec::watch_programs() {
        tracing::warn!(%error, "the process that watches programs did not start; it is tried again with the first of them");
    }
}

fn uses_programs(plan: &UpPlan) -> bool {
    let of_programs = |tier: &TierSpec| matches!(tier.url, TierUrl::Exec { .. });
    plan.tiers.iter().any(of_programs)
}

/// Who is told that users are served, and whether that was told.
struct Front {
    supervisor: Supervisor,
    is_ready: Cell<bool>,
}

/// How the mount is come by.
enum Way {
    /// By this process alone.
    Alone,
    /// Through a process in the users' mount namespace.
    Mounter(Mounter),
    /// It is there already.
    Inherited(Inheritance),
}

impl Way {
    fn outside(&self, path: &Path) -> PathBuf {
        match self {
            Self::Alone => path.to_owned(),
            Self::Mounter(mounter) => mounter.outside(path),
            Self::Inherited(inheritance) => inheritance.mounter().outside(path),
        }
    }
}

fn way(plan: &UpPlan, mounter: Option<Mounter>, supervisor: &Supervisor) -> Result<Way, CliError> {
    let Some(mounter) = mounter else {
        return Ok(Way::Alone);
    };
    Ok(match take_over::inherit(plan, supervisor)? {
        Some(inheritance) => Way::Inherited(inheritance),
        None => Way::Mounter(mounter),
    })
}

/// Mounts and serves; `true`: the mount went and nobody can still write.
fn run(
    plan: &UpPlan,
    engine: &Arc<Engine>,
    state: &StateDir,
    way: Way,
    front: &Front,
) -> Result<bool, CliError> {
    let recaller = engine
        .recaller()
        .ok_or_else(|| CliError::new(Failure::Internal, "the engine has no recaller"))?;
    let socket = state.run().join(CONTROL);
    let residency = HsmResidency::new(recaller, engine.asks(), engine.changelog(), Some(socket));
    let residency = Arc::new(residency.with_room(engine.opens()));
    let mut config = MirrorConfig::new(plan.backing.clone(), plan.mount.clone(), residency);
    config.shared = plan.shared;
    config.hold = Some(Holding {
        time: plan.settings.hold,
        socket: take_over::socket(plan),
    });
    match way {
        Way::Alone => {}
        Way::Mounter(mounter) => config.mounter = Some(mounter),
        Way::Inherited(inheritance) => config.inherit = Some(inheritance),
    }
    let inherited = config.inherit.is_some();
    let namespace = namespace(&config);
    let mirror = Arc::new(Mirror::start(config).map_err(mount)?);
    engine.attach(mirror.gate());
    if let Err(why) = &mirror.facts().hold {
        eprintln!("cairn: the mount ends with this instance: {why}");
    }
    let done = open_doors(plan, engine, state, &mirror, (front, namespace));
    if done.is_err() && inherited && !front.is_ready.get() {
        // The mount's users had a server before; they shall have one after this process, too. So
        // it is not unmounted: the holder waits for the next.
        std::mem::forget(mirror.clone());
    } else if done.is_err() {
        // Whatever failed: nothing is left mounted, and no user is at the backing when the engine
        // stops. (The doors hold the mirror, too, so it does not go by itself.)
        let gone = mirror.unmount(false).or_else(|_| mirror.unmount(true));
        match gone {
            Ok(()) => drop(mirror.settle()),
            Err(why) => tracing::error!(%why, "still mounted"),
        }
    }
    done.map(|()| mirror.is_quiet())
}

/// The users' mount namespace, where this process has another.
fn namespace(config: &MirrorConfig) -> Option<PathBuf> {
    let inherited = config.inherit.as_ref().map(Inheritance::mounter);
    inherited
        .or(config.mounter.as_ref())
        .map(Mounter::namespace)
}

/// Of the machine's filesystems this process keeps none alive but those it works on, and a dead
/// mount is said to be in the way before it is taken away.
fn stand_clear(plan: &UpPlan, way: &Way) {
    let mounter = match way {
        Way::Alone => None,
        Way::Mounter(mounter) => Some(mounter),
        Way::Inherited(inheritance) => Some(inheritance.mounter()),
    };
    // One that is held must not be asked anything before it is served.
    if !matches!(way, Way::Inherited(_)) && is_dead(&plan.mount) {
        eprintln!(
            "cairn: a dead mount lies on {}: its instance died; it is taken away",
            plan.mount.display()
        );
    }
    // Every path of the plan is absolute by now.
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::warn!(%error, "the working directory stays in use");
    }
    // Nobody but its author knows which mounts a program works with.
    if let Some(mounter) = mounter.filter(|_| !uses_programs(plan)) {
        let mut needed = vec![plan.backing.as_path(), plan.state.as_path()];
        needed.extend(plan.tiers.iter().filter_map(|tier| tier.url.needs()));
        mounter.keep_only(&needed, plan.mount.parent());
    }
}

/// Serves at the doors until the mount is gone.
fn open_doors(
    plan: &UpPlan,
    engine: &Arc<Engine>,
    state: &StateDir,
    mirror: &Arc<Mirror>,
    (front, namespace): (&Front, Option<PathBuf>),
) -> Result<(), CliError> {
    let audit = Audit::open(&state.audit())
        .map_err(|e| CliError::system(format!("open {}", state.audit().display()), &e))?;
    write_ends(engine, audit.clone())?;
    let lost = audit.clone();
    engine.on_lost(Box::new(move |path| lost.record(&Event::lost(path))));
    let copies = audit.clone();
    engine.on_copy(Box::new(move |news| copies.record(&Event::copy(news))));
    let (end, ended) = bounded(1);
    let name = state.instance.to_string();
    let control = Instance::new(
        engine.clone(),
        mirror.clone(),
        plan.backing.clone(),
        name,
        end,
    );
    let server = Server::start(Arc::new(control), &state.run(), audit)
        .map_err(|why| CliError::new(Failure::Internal, why))?;
    if let Err(why) = engine.release_allowed() {
        eprintln!("cairn: releases are disabled: {why}");
    }
    ready(plan, engine.tiers())?;
    front.supervisor.ready(&plan.mount.to_string_lossy());
    front.is_ready.set(true);
    let far = plan.listen.map(|at| Far::open(at, &plan.mount, namespace));
    let far = far.transpose()?;
    wait(engine, mirror, &ended)?;
    drop(far);
    server.stop();
    Ok(())
}

/// Writes to the audit log how requests ended, each once.
fn write_ends(engine: &Arc<Engine>, audit: Audit) -> Result<(), CliError> {
    let (tell, told) = crossbeam_channel::unbounded();
    engine.on_change(Box::new(move |request| {
        // The far end lives as long as the engine.
        let _ = tell.send(request);
    }));
    let engine = Arc::downgrade(engine);
    let work = move || {
        let mut last = None;
        for request in told {
            let Some(engine) = engine.upgrade() else {
                return;
            };
            let Ok(report) = engine.request(request, 0) else {
                continue;
            };
            // A request changes no more once it has ended, but for a retry.
            let end = report.row.finished.map(|at| (request, at));
            if end.is_some() && end != last {
                audit.record(&Event::ended(&report.row));
                last = end;
            }
        }
    };
    std::thread::Builder::new()
        .name("cairn-audit".into())
        .spawn(work)
        .map(drop)
        .map_err(|e| CliError::system("start a thread", &e))
}

/// The one line on stdout: what runs where.
fn ready(plan: &UpPlan, tiers: &[Slot]) -> Result<(), CliError> {
    let tiers: Vec<_> = tiers
        .iter()
        .map(|t| format!("{}={}", t.name, t.url))
        .collect();
    let mut out = std::io::stdout();
    writeln!(
        out,
        "ready mount {} state {} tiers {}",
        plan.mount.display(),
        plan.state.display(),
        tiers.join(" ")
    )?;
    out.flush()?;
    Ok(())
}

/// Until the mount is gone.
fn wait(engine: &Engine, mirror: &Mirror, ended: &Receiver<bool>) -> Result<(), CliError> {
    let signals = signals()?;
    let mut beat = Instant::now();
    let mut leaving = Leaving::default();
    loop {
        crossbeam_channel::select! {
            recv(ended) -> _ => {}
            recv(signals) -> signal => leaving.told(mirror, signal.unwrap_or(Signal::Terminate)),
            default(LOOK) => leaving.again(mirror).map_err(mount)?,
        }
        if mirror.is_over() {
            return mirror.wait().map_err(mount);
        }
        if mirror.lingers() {
            eprintln!(
                "cairn: unmounted, but another mount namespace or an open file keeps the filesystem; \
                 it ends with this process"
            );
            return Ok(());
        }
        if beat.elapsed() >= Engine::BEAT {
            engine.beat();
            beat = Instant::now();
        }
    }
}

fn settings(plan: &UpPlan) -> Settings {
    let config = &plan.settings;
    let mut settings = Settings {
        min_release: config.release_min_size,
        keep_staged: config.min_residency,
        aggregate_bytes: config.aggregate_size,
        index_bytes: config.index_cache_size,
        archive_workers: config.workers.archive.get() as usize,
        release_workers: config.workers.release.get() as usize * 2,
        verify_workers: config.workers.verify.get() as usize,
        allow_same_fs: plan.allow_same_fs,
        unsafe_open_backing: plan.unsafe_open_backing,
        keep_requests: config.keep_requests,
        scan_every: config.scan_every,
        keep_deleted: config.keep_deleted,
        collect_every: config.collect_every,
        delete_delay: config.delete_delay,
        repack_share: config.repack_share,
        tape_repack_share: config.tape_repack_share,
        snapshot_every: config.snapshot_every,
        snapshot_changes: config.snapshot_changes,
        scrub_every: config.scrub_every,
        scrub_bandwidth: config.scrub_bandwidth,
        heal: config.heal,
        job_pins: config.job_pins,
        job_pins_per_user: config.job_pins_per_user,
        emergency_mark: config.emergency_mark,
        emergency_wait: config.emergency_wait,
        prices: plan.prices(),
        ..Settings::default()
    };
    settings.recall.timeout = config.recall_timeout;
    settings.recall.implicit_per_user = config.implicit_recalls_per_user.get() as usize;
    settings
}

fn policy(plan: &UpPlan) -> Result<(String, String, Policy), CliError> {
    let (name, text) = match &plan.policy {
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .map_err(|e| CliError::system(format!("read {}", path.display()), &e))?;
            (path.display().to_string(), text)
        }
        None => (
            "default.policy (shipped)".to_owned(),
            shipped::DEFAULT.to_owned(),
        ),
    };
    let policy = Policy::parse(&name, &text).map_err(CliError::usage)?;
    for warning in policy.warnings() {
        eprintln!(
            "cairn: {}:{}: {}",
            warning.source_name, warning.line, warning.text
        );
    }
    Ok((name, text, policy))
}

/// Why an instance, or what works on its directories, did not start.
pub(in crate::cli) fn startup(why: Startup) -> CliError {
    if let Startup::Engine(EngineError::Catalog(damaged)) = &why
        && damaged.is_damage()
    {
        return CliError::new(Failure::Internal, damaged).with_hint(REBUILD);
    }
    if let Startup::Engine(EngineError::Refused {
        code,
        hint: Some(hint),
        ..
    }) = &why
    {
        return CliError::new(*code, &why).with_hint(hint);
    }
    let failure = match &why {
        Startup::State(StateError::InUse { .. }) => Failure::AlreadyRunning,
        Startup::State(StateError::Newer { .. }) => Failure::Newer,
        Startup::Engine(why) => EngineError::code(why),
        Startup::Tier { .. } => Failure::TierUnavailable,
        Startup::Url { .. } => Failure::Usage,
        Startup::State(_) | Startup::Thread(_) => Failure::Internal,
    };
    CliError::new(failure, why)
}

pub(super) fn mount(why: MirrorError) -> CliError {
    let source = std::error::Error::source(&why)
        .map(|s| format!(": {s}"))
        .unwrap_or_default();
    CliError::new(Failure::Internal, format!("{why}{source}"))
}
