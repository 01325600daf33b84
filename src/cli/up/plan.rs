//! What `cairn up` is to start: every path absolute and free of links, nothing of Cairn's own
//! inside what it mirrors.
//!
//! Promise: what stands on the command line wins over the configuration file, setting by setting;
//! one `--tier` replaces all tiers of the file.

use super::UpArgs;
use crate::cli::CliError;
use crate::config::{Config, TierSetting};
use crate::hsm::engine::Rates;
use crate::tier::{TierUrl, UrlError};
use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A tier as named on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierSpec {
    /// Its name: letters, digits, `-` and `_`, at most 32.
    pub name: String,
    /// Where it is.
    pub url: TierUrl,
}

impl FromStr for TierSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = text
            .split_once('=')
            .ok_or("write NAME=URL, such as cold=dir:/mnt/cold")?;
        Self::new(name, url)
    }
}

impl TierSpec {
    fn new(name: &str, url: &str) -> Result<Self, String> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 32 || !name.bytes().all(good) {
            return Err(format!(
                "{name:?}: names are 1 to 32 letters, digits, - and _"
            ));
        }
        let url = url.parse().map_err(|why: UrlError| why.to_string())?;
        Ok(Self {
            name: name.to_owned(),
            url,
        })
    }
}

/// What is to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpPlan {
    /// The directory to mirror. Exists.
    pub backing: PathBuf,
    /// Where to mount. Exists.
    pub mount: PathBuf,
    /// Cairn's own files; need not exist.
    pub state: PathBuf,
    /// At least one; names differ.
    pub tiers: Vec<TierSpec>,
    /// The tiers are the embedded default.
    pub embedded: bool,
    /// The policy file, if one was named. Exists.
    pub policy: Option<PathBuf>,
    /// The settings: of the configuration file, if one was named, else the defaults; with what
    /// the command line says instead.
    pub settings: Config,
    /// Go to the background once ready.
    pub detach: bool,
    /// Serve it to other hosts there.
    pub listen: Option<SocketAddr>,
    /// Others change the backing directory as well, around the mount.
    pub shared: bool,
    /// Release also where a tier shares the backing's filesystem.
    pub allow_same_fs: bool,
    /// Release also where users can enter the backing.
    pub unsafe_open_backing: bool,
}

impl UpPlan {
    /// Checks and completes the arguments.
    ///
    /// # Errors
    /// The first thing that is wrong, with the way out.
    pub fn new(args: &UpArgs) -> Result<Self, CliError> {
        let mut settings = match &args.config {
            Some(path) => Config::load(path).map_err(CliError::usage)?,
            None => Config::default(),
        };
        settings.hold = args.hold.unwrap_or(settings.hold);
        settings.recall_timeout = args.recall_timeout.or(settings.recall_timeout);
        if let Some(at) = args.listen.filter(|at| at.port() < 1024) {
            let why = format!("--listen {at}: streams are never dialled below port 1024");
            return Err(
                CliError::usage(why).with_hint("listen on 7300, and forward another port to it")
            );
        }
        let backing = named("BACKING", &args.backing, &settings.backing)?;
        let mount = named("MOUNT", &args.mount, &settings.mount)?;
        if backing == mount {
            return Err(
                CliError::usage("BACKING and MOUNT are the same directory").with_hint(format!(
                    "move the tree aside first: cairn adopt {}",
                    mount.display()
                )),
            );
        }
        apart("MOUNT", &mount, "BACKING", &backing)?;
        apart("BACKING", &backing, "MOUNT", &mount)?;
        let state = match args.state.as_ref().or(settings.state.as_ref()) {
            Some(state) => resolved(state)?,
            None => resolved(&default_state(&backing)?)?,
        };
        apart("the state directory", &state, "BACKING", &backing)?;
        apart("the state directory", &state, "MOUNT", &mount)?;
        let mut tiers = match args.tiers.as_slice() {
            [] => of_file(&settings.tiers)?,
            named => named.to_vec(),
        };
        let embedded = tiers.is_empty();
        if embedded {
            tiers.push(self::embedded(&state));
        }
        check_tiers(&mut tiers, &backing, &mount)?;
        Ok(Self {
            policy: args
                .policy
                .as_deref()
                .or(settings.policy.as_deref())
                .map(|p| file("the policy", p))
                .transpose()?,
            backing,
            mount,
            state,
            tiers,
            embedded,
            detach: args.detach,
            settings,
            listen: args.listen,
            shared: args.shared,
            allow_same_fs: args.allow_same_fs,
            unsafe_open_backing: args.unsafe_open_backing,
        })
    }

    /// Prices of its tiers: those that the configuration file has under the same name, wherever the
    /// tier itself is named.
    pub(super) fn prices(&self) -> BTreeMap<String, Rates> {
        let rates = |tier: &TierSpec| {
            let filed = self.settings.tiers.iter().find(|t| t.name == tier.name)?;
            let rates = Rates::new(filed.prices.clone()?);
            let rates = match &tier.url {
                TierUrl::S3(place) => Rates {
                    restore_days: place.days(),
                    part: place.part_size,
                    ..rates
                },
                TierUrl::Dir { .. }
                | TierUrl::Tape { .. }
                | TierUrl::Exec { .. }
                | TierUrl::Mover { .. } => rates,
            };
            Some((tier.name.clone(), rates))
        };
        self.tiers.iter().filter_map(rates).collect()
    }
}

/// The tier that is used where none is named: a tape library, or the directory that earlier
/// versions made, where that is there.
pub(super) fn embedded(state: &Path) -> TierSpec {
    let directory = state.join("archive");
    let url = if std::fs::symlink_metadata(&directory).is_ok() {
        TierUrl::Dir {
            path: directory,
            pace: Default::default(),
        }
    } else {
        TierUrl::Tape {
            path: state.join("library"),
            options: Default::default(),
        }
    };
    TierSpec {
        name: "archive".to_owned(),
        url,
    }
}

/// The tiers of a configuration file.
pub(super) fn of_file(tiers: &[TierSetting]) -> Result<Vec<TierSpec>, CliError> {
    let spec = |t: &TierSetting| {
        TierSpec::new(&t.name, &t.url)
            .map_err(|why| CliError::usage(format!("tier.{}.url: {why}", t.name)))
    };
    tiers.iter().map(spec).collect()
}

/// The directory of the command line, else that of the configuration file.
pub(super) fn named(
    what: &str,
    given: &Option<PathBuf>,
    set: &Option<PathBuf>,
) -> Result<PathBuf, CliError> {
    match given.as_deref().or(set.as_deref()) {
        Some(path) if what == "MOUNT" => mountpoint(path),
        Some(path) => directory(what, path),
        None => Err(CliError::usage(format!(
            "{what} is named neither here nor in the configuration file"
        ))),
    }
}

pub(super) fn check_tiers(
    tiers: &mut [TierSpec],
    backing: &Path,
    mount: &Path,
) -> Result<(), CliError> {
    for at in 0..tiers.len() {
        let (earlier, rest) = tiers.split_at_mut(at);
        let Some(tier) = rest.first_mut() else { break };
        if earlier.iter().any(|other| other.name == tier.name) {
            return Err(CliError::usage(format!(
                "two tiers are named {}",
                tier.name
            )));
        }
        if let Some(path) = tier.url.path() {
            let path = resolved(path)?;
            let name = format!("tier {}", tier.name);
            apart(&name, &path, "BACKING", backing)?;
            apart(&name, &path, "MOUNT", mount)?;
            tier.url = tier.url.clone().at(path);
        }
        if let TierUrl::Exec { program, .. } = &tier.url {
            let program = resolved(program)?;
            let name = format!("the program of tier {}", tier.name);
            apart(&name, &program, "BACKING", backing)?;
            apart(&name, &program, "MOUNT", mount)?;
        }
        let place = tier.url.place();
        if earlier.iter().any(|other| other.url.place() == place) {
            let in_a_pool = matches!(&tier.url, TierUrl::Tape { path, .. } if *path != *place);
            let what = if in_a_pool {
                "; each needs a pool= of its own"
            } else {
                ""
            };
            let why = format!("two tiers are at {}{what}", tier.url);
            return Err(CliError::usage(why));
        }
    }
    Ok(())
}

fn directory(what: &str, path: &Path) -> Result<PathBuf, CliError> {
    // A dead mount is no obstacle: whoever mounts there takes it away first. Its path may still be
    // in the kernel's cache.
    let dead = |error: &std::io::Error| error.raw_os_error() == Some(libc::ENOTCONN);
    let whole = match path.canonicalize() {
        Err(error) if dead(&error) => return resolved(path),
        other => {
            other.map_err(|error| CliError::usage(format!("{what} {}: {error}", path.display())))?
        }
    };
    if whole.is_dir() || whole.metadata().is_err_and(|error| dead(&error)) {
        Ok(whole)
    } else {
        Err(CliError::usage(format!(
            "{what} {}: no directory",
            path.display()
        )))
    }
}

/// The mount point. What is mounted there may be held for this very process to serve: nothing may
/// be asked of it, or nobody would ever answer.
fn mountpoint(path: &Path) -> Result<PathBuf, CliError> {
    let wrong =
        |error: std::io::Error| CliError::usage(format!("MOUNT {}: {error}", path.display()));
    let whole = std::path::absolute(path).map_err(wrong)?;
    // Without a slash at its end, which would have it looked into.
    let whole: PathBuf = whole.components().collect();
    let (Some(parent), Some(name)) = (whole.parent(), whole.file_name()) else {
        return directory("MOUNT", path);
    };
    let place = parent.canonicalize().map_err(wrong)?.join(name);
    if std::fs::read_link(&place).is_ok() {
        return directory("MOUNT", &place);
    }
    let how = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_DONT_SYNC;
    let stat = statx(CWD, &place, how, StatxFlags::TYPE).map_err(|e| wrong(e.into()))?;
    if FileType::from_raw_mode(stat.stx_mode.into()).is_dir() {
        Ok(place)
    } else {
        Err(CliError::usage(format!(
            "MOUNT {}: no directory",
            path.display()
        )))
    }
}

fn file(what: &str, path: &Path) -> Result<PathBuf, CliError> {
    path.canonicalize()
        .map_err(|error| CliError::usage(format!("{what} {}: {error}", path.display())))
}

/// Absolute and free of links, as far as it exists.
pub(super) fn resolved(path: &Path) -> Result<PathBuf, CliError> {
    let failed = |error| CliError::system(format!("resolve {}", path.display()), &error);
    let whole = std::path::absolute(path).map_err(failed)?;
    for above in whole.ancestors() {
        if let (Ok(real), Ok(below)) = (above.canonicalize(), whole.strip_prefix(above)) {
            return Ok(if below.as_os_str().is_empty() {
                real
            } else {
                real.join(below)
            });
        }
    }
    Ok(whole)
}

fn apart(inner: &str, path: &Path, outer: &str, of: &Path) -> Result<(), CliError> {
    if !path.starts_with(of) {
        return Ok(());
    }
    let message = format!(
        "{inner} ({}) lies inside {outer} ({})",
        path.display(),
        of.display()
    );
    Err(CliError::usage(message).with_hint("name a place outside of it"))
}

/// `/var/lib/cairn/NAME-HASH` for root, below `$XDG_STATE_HOME` for users: the same for the same
/// backing directory, and different ones for different ones.
pub(in crate::cli) fn default_state(backing: &Path) -> Result<PathBuf, CliError> {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/var/lib")
    } else {
        std::env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
            .ok_or_else(|| CliError::usage("neither XDG_STATE_HOME nor HOME is set; use --state"))?
    };
    let name = backing.file_name().unwrap_or_default().to_string_lossy();
    let name: String = name
        .chars()
        .filter(|c| c.is_ascii_alphanumeric())
        .take(32)
        .collect();
    let name = if name.is_empty() { "root" } else { &name };
    Ok(base
        .join("cairn")
        .join(format!("{name}-{:08x}", hash(backing))))
}

/// FNV-1a, folded to 32 bits: must never change, or instances would not find their state.
fn hash(path: &Path) -> u32 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, step);
    let folded = (hash ^ (hash >> 32)) & u64::from(u32::MAX);
    u32::try_from(folded).unwrap_or(0)
}

#[cfg(test)]
mod tests;
