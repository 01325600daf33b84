//! The one table of settings: key, meaning, default, how it is read and printed.

use super::units::{format_duration, format_size, parse_duration, parse_size};
use super::{Config, Percent, Workers};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A setting that has one value.
pub struct Setting {
    /// Its key; a dot stands for a table (`workers.stage`).
    pub key: &'static str,
    /// What it does, in one line.
    pub meaning: &'static str,
    /// Reads the value; the error says what is wrong with it.
    pub(super) set: fn(&mut Config, &str) -> Result<(), String>,
    /// Prints the value; `None` if it has none.
    pub(super) get: fn(&Config) -> Option<String>,
}

impl Setting {
    /// The default as it would be written in a file; `None` if there is none.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        (self.get)(&Config::default())
    }
}

const fn workers(count: u32) -> NonZeroU32 {
    match NonZeroU32::new(count) {
        Some(count) => count,
        None => NonZeroU32::MIN,
    }
}

const EMERGENCY_MARK: Percent = match Percent::new(97) {
    Some(percent) => percent,
    None => Percent(100),
};

const JOB_PINS: Percent = match Percent::new(80) {
    Some(percent) => percent,
    None => Percent(100),
};

const REPACK_SHARE: Percent = match Percent::new(50) {
    Some(percent) => percent,
    None => Percent(100),
};

impl Default for Config {
    fn default() -> Self {
        Self {
            backing: None,
            mount: None,
            state: None,
            policy: None,
            tiers: Vec::new(),
            hold: Duration::from_secs(60),
            recall_timeout: None,
            min_residency: Duration::from_secs(3600),
            implicit_recalls_per_user: workers(1000),
            release_min_size: 64 << 10,
            aggregate_size: 1 << 30,
            keep_deleted: Duration::from_secs(30 * 86_400),
            collect_every: Duration::from_secs(86_400),
            delete_delay: Duration::from_secs(3600),
            repack_share: REPACK_SHARE,
            tape_repack_share: REPACK_SHARE,
            keep_requests: Duration::from_secs(30 * 86_400),
            scan_every: Duration::from_secs(7 * 86_400),
            snapshot_every: Duration::from_secs(86_400),
            snapshot_changes: Duration::from_secs(3600),
            scrub_every: Duration::from_secs(90 * 86_400),
            scrub_bandwidth: 16 << 20,
            heal: true,
            job_pins: JOB_PINS,
            job_pins_per_user: REPACK_SHARE,
            emergency_mark: EMERGENCY_MARK,
            emergency_wait: Duration::from_secs(60),
            ballast_size: 64 << 20,
            index_cache_size: 1 << 30,
            workers: Workers {
                archive: workers(2),
                release: workers(2),
                stage: workers(4),
                verify: workers(1),
            },
        }
    }
}

/// Every setting but the tiers.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "backing",
        meaning: "the directory that is mirrored",
        set: |c, text| path(text).map(|v| c.backing = Some(v)),
        get: |c| shown(c.backing.as_deref()),
    },
    Setting {
        key: "mount",
        meaning: "where it is shown",
        set: |c, text| path(text).map(|v| c.mount = Some(v)),
        get: |c| shown(c.mount.as_deref()),
    },
    Setting {
        key: "state",
        meaning: "where catalog, sockets and logs lie; outside the backing directory",
        set: |c, text| path(text).map(|v| c.state = Some(v)),
        get: |c| shown(c.state.as_deref()),
    },
    Setting {
        key: "policy",
        meaning: "the policy file; without it, the policy that is built in",
        set: |c, text| path(text).map(|v| c.policy = Some(v)),
        get: |c| shown(c.policy.as_deref()),
    },
    Setting {
        key: "hold",
        meaning: "how long the mount waits for a successor when the instance dies; 0s: not at all",
        set: |c, text| duration(text).map(|v| c.hold = v),
        get: |c| Some(format_duration(c.hold)),
    },
    Setting {
        key: "recall-timeout",
        meaning: "how long a read may wait for a recall, or \"none\"",
        set: |c, text| timeout(text).map(|v| c.recall_timeout = v),
        get: |c| {
            Some(
                c.recall_timeout
                    .map_or_else(|| "none".to_owned(), format_duration),
            )
        },
    },
    Setting {
        key: "min-residency",
        meaning: "what was just staged is not released for so long",
        set: |c, text| duration(text).map(|v| c.min_residency = v),
        get: |c| Some(format_duration(c.min_residency)),
    },
    Setting {
        key: "implicit-recalls-per-user",
        meaning: "how many recalls by reading one user may have in flight",
        set: |c, text| count(text).map(|v| c.implicit_recalls_per_user = v),
        get: |c| Some(c.implicit_recalls_per_user.to_string()),
    },
    Setting {
        key: "release-min-size",
        meaning: "smaller files are never released",
        set: |c, text| size(text).map(|v| c.release_min_size = v),
        get: |c| Some(format_size(c.release_min_size)),
    },
    Setting {
        key: "aggregate-size",
        meaning: "small files are packed into archives of about this size",
        set: |c, text| some_size(text).map(|v| c.aggregate_size = v),
        get: |c| Some(format_size(c.aggregate_size)),
    },
    Setting {
        key: "keep-deleted",
        meaning: "how long copies of deleted files are kept",
        set: |c, text| duration(text).map(|v| c.keep_deleted = v),
        get: |c| Some(format_duration(c.keep_deleted)),
    },
    Setting {
        key: "collect-every",
        meaning: "how often tiers are freed of what nobody needs; 0: only by `cairn tier collect`",
        set: |c, text| duration(text).map(|v| c.collect_every = v),
        get: |c| Some(format_duration(c.collect_every)),
    },
    Setting {
        key: "delete-delay",
        meaning: "how long the decision to delete an archive may be taken back",
        set: |c, text| duration(text).map(|v| c.delete_delay = v),
        get: |c| Some(format_duration(c.delete_delay)),
    },
    Setting {
        key: "repack-share",
        meaning: "an archive of which so much can go is written anew without it",
        set: |c, text| percent(text).map(|v| c.repack_share = v),
        get: |c| Some(c.repack_share.to_string()),
    },
    Setting {
        key: "tape-repack-share",
        meaning: "a full or retired cartridge of which so much is dead is emptied and used again",
        set: |c, text| percent(text).map(|v| c.tape_repack_share = v),
        get: |c| Some(c.tape_repack_share.to_string()),
    },
    Setting {
        key: "job-pins",
        meaning: "share of the disk that batch jobs may keep by pins; a job that would need more waits",
        set: |c, text| percent(text).map(|v| c.job_pins = v),
        get: |c| Some(c.job_pins.to_string()),
    },
    Setting {
        key: "job-pins-per-user",
        meaning: "the same, for the jobs of one user",
        set: |c, text| percent(text).map(|v| c.job_pins_per_user = v),
        get: |c| Some(c.job_pins_per_user.to_string()),
    },
    Setting {
        key: "emergency-mark",
        meaning: "when the backing is fuller, opens for writing wait for releases",
        set: |c, text| percent(text).map(|v| c.emergency_mark = v),
        get: |c| Some(c.emergency_mark.to_string()),
    },
    Setting {
        key: "emergency-wait",
        meaning: "how long they wait at most; 0: not at all",
        set: |c, text| duration(text).map(|v| c.emergency_wait = v),
        get: |c| Some(format_duration(c.emergency_wait)),
    },
    Setting {
        key: "keep-requests",
        meaning: "how long requests that ended are remembered; 0: for ever",
        set: |c, text| duration(text).map(|v| c.keep_requests = v),
        get: |c| Some(format_duration(c.keep_requests)),
    },
    Setting {
        key: "scan-every",
        meaning: "how long after a scan of the whole tree the next one follows; 0: never",
        set: |c, text| duration(text).map(|v| c.scan_every = v),
        get: |c| Some(format_duration(c.scan_every)),
    },
    Setting {
        key: "snapshot-every",
        meaning: "how often the listing of all names goes to every tier; 0: never",
        set: |c, text| duration(text).map(|v| c.snapshot_every = v),
        get: |c| Some(format_duration(c.snapshot_every)),
    },
    Setting {
        key: "snapshot-changes",
        meaning: "how often what changed of it goes there in between; 0: never",
        set: |c, text| duration(text).map(|v| c.snapshot_changes = v),
        get: |c| Some(format_duration(c.snapshot_changes)),
    },
    Setting {
        key: "scrub-every",
        meaning: "every copy is read back once in so long; 0s: only when somebody asks",
        set: |c, text| duration(text).map(|v| c.scrub_every = v),
        get: |c| Some(format_duration(c.scrub_every)),
    },
    Setting {
        key: "scrub-bandwidth",
        meaning: "how much of each tier that reads in a second",
        set: |c, text| some_size(text).map(|v| c.scrub_bandwidth = v),
        get: |c| Some(format_size(c.scrub_bandwidth)),
    },
    Setting {
        key: "heal",
        meaning: "copies that are found bad are made again from good ones",
        set: |c, text| yes_or_no(text).map(|v| c.heal = v),
        get: |c| Some(c.heal.to_string()),
    },
    Setting {
        key: "ballast-size",
        meaning: "room kept back in the state directory and the backing for full disks",
        set: |c, text| size(text).map(|v| c.ballast_size = v),
        get: |c| Some(format_size(c.ballast_size)),
    },
    Setting {
        key: "index-cache-size",
        meaning: "indexes of aggregates kept in the state directory",
        set: |c, text| size(text).map(|v| c.index_cache_size = v),
        get: |c| Some(format_size(c.index_cache_size)),
    },
    Setting {
        key: "workers.archive",
        meaning: "archives that run at once",
        set: |c, text| count(text).map(|v| c.workers.archive = v),
        get: |c| Some(c.workers.archive.to_string()),
    },
    Setting {
        key: "workers.release",
        meaning: "releases that run at once",
        set: |c, text| count(text).map(|v| c.workers.release = v),
        get: |c| Some(c.workers.release.to_string()),
    },
    Setting {
        key: "workers.stage",
        meaning: "stages that run at once (not in effect yet)",
        set: |c, text| count(text).map(|v| c.workers.stage = v),
        get: |c| Some(c.workers.stage.to_string()),
    },
    Setting {
        key: "workers.verify",
        meaning: "verifications that run at once",
        set: |c, text| count(text).map(|v| c.workers.verify = v),
        get: |c| Some(c.workers.verify.to_string()),
    },
];

fn shown(path: Option<&Path>) -> Option<String> {
    path.map(|p| p.to_string_lossy().into_owned())
}

fn path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{text:?} is no absolute path"))
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|e| e.to_string())
}

fn timeout(text: &str) -> Result<Option<Duration>, String> {
    if text == "none" {
        return Ok(None);
    }
    match duration(text)? {
        Duration::ZERO => Err("0 would fail every recall; write \"none\" for no limit".to_owned()),
        limit => Ok(Some(limit)),
    }
}

fn size(text: &str) -> Result<u64, String> {
    parse_size(text).map_err(|e| e.to_string())
}

fn some_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("must be more than 0".to_owned()),
        size => Ok(size),
    }
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is neither true nor false"))
}

fn count(text: &str) -> Result<NonZeroU32, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is no number from 1 to {}", u32::MAX))
}

fn percent(text: &str) -> Result<Percent, String> {
    text.strip_suffix('%')
        .and_then(|digits| digits.trim_end().parse().ok())
        .and_then(Percent::new)
        .ok_or_else(|| format!("{text:?} is no percentage from \"1%\" to \"100%\""))
}
