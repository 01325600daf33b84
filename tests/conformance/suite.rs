//! The suite over `mem`, `dir` and `tape`, bare and under each wrapper.

use crate::{MARK, dir};
use cairn::tier::clock::VirtualClock;
use cairn::tier::conformance::{self, Outcome};
use cairn::tier::dir::DirTier;
use cairn::tier::faults::{Fault, Faults, Operation};
use cairn::tier::limit::Limit;
use cairn::tier::mem::MemTier;
use cairn::tier::retry::{Attempts, Retry};
use cairn::tier::tape::{TapeOptions, TapeTier};
use cairn::tier::throttle::{Pace, Throttle};
use cairn::tier::{OpenHow, Tier, TierUrl, open};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

pub(crate) fn judge(outcomes: Vec<Outcome>) {
    assert!(!outcomes.is_empty());
    let failures: Vec<String> = outcomes
        .into_iter()
        .filter_map(|o| o.result.err().map(|why| format!("{}: {why}", o.case)))
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn on_mem(wrap: impl Fn(Arc<dyn Tier>) -> Arc<dyn Tier>) {
    judge(conformance::run(&|| wrap(Arc::new(MemTier::new(MARK)))));
}

fn on_dir(wrap: impl Fn(Arc<dyn Tier>) -> Arc<dyn Tier>) {
    let place = TempDir::new().expect("temporary directory");
    let count = AtomicU32::new(0);
    judge(conformance::run(&|| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        wrap(Arc::new(dir(&place.path().join(n.to_string()))))
    }));
    for n in 0..count.into_inner() {
        let left = crate::temporaries(&place.path().join(n.to_string()));
        assert_eq!(left, 0, "temporaries of tier {n}");
    }
}

/// A library of small cartridges: room for 64 MiB, several of them met by the suite's puts.
fn library() -> TapeOptions {
    TapeOptions {
        capacity: Some(24 << 20),
        cartridges: 4,
        ..TapeOptions::default()
    }
}

fn on_tape(options: &TapeOptions, wrap: impl Fn(Arc<dyn Tier>) -> Arc<dyn Tier>) {
    let place = TempDir::new().expect("temporary directory");
    let count = AtomicU32::new(0);
    judge(conformance::run(&|| {
        let root = place
            .path()
            .join(count.fetch_add(1, Ordering::Relaxed).to_string());
        let how = OpenHow::new(MARK.owner, MARK.tier);
        wrap(Arc::new(
            TapeTier::open(&root, options, how).expect("opens"),
        ))
    }));
}

fn throttled(tier: Arc<dyn Tier>) -> Arc<dyn Tier> {
    let pace = Pace {
        bytes_per_second: NonZeroU64::new(1_000_000),
        delay: Duration::from_millis(50),
    };
    Arc::new(Throttle::with_clock(
        tier,
        pace,
        Arc::new(VirtualClock::default()),
    ))
}

fn one_at_a_time(tier: Arc<dyn Tier>) -> Arc<dyn Tier> {
    Arc::new(Limit::new(tier, NonZeroUsize::MIN))
}

pub(crate) fn quiet_faults(tier: Arc<dyn Tier>) -> Arc<dyn Tier> {
    Arc::new(Faults::new(tier))
}

/// Every second call fails once, and the retries hide it.
pub(crate) fn retried(tier: Arc<dyn Tier>) -> Arc<dyn Tier> {
    let faulty = Faults::new(tier);
    use Operation::{Delete, List, Put, Read, Space, Stat};
    for operation in [Put, Read, Stat, Delete, List, Space] {
        faulty.control().fail_every(operation, 2, Fault::Transient);
    }
    // With several threads one caller may meet several of the failures.
    let attempts = Attempts {
        tries: 50,
        ..Attempts::default()
    };
    let clock = Arc::new(VirtualClock::default());
    Arc::new(Retry::with_clock(Arc::new(faulty), attempts, clock))
}

pub(crate) fn all(tier: Arc<dyn Tier>) -> Arc<dyn Tier> {
    one_at_a_time(throttled(retried(tier)))
}

#[test]
fn mem_conforms() {
    on_mem(|tier| tier);
}

fn short() -> Arc<dyn Tier> {
    Arc::new(MemTier::new(MARK).with_longest(24 << 20))
}

#[test]
fn mem_with_a_bound_conforms() {
    judge(conformance::run(&short));
}

#[test]
fn wrappers_answer_for_the_bound_of_what_they_wrap() {
    for wrap in [throttled, one_at_a_time, quiet_faults, retried, all] {
        let (bounded, full) = (short(), MemTier::with_capacity(MARK, 100));
        assert_eq!(wrap(bounded).longest().expect("a bound"), Some(24 << 20));
        let full = wrap(Arc::new(full));
        assert!(full.admit(&[50, 50]).is_ok());
        assert!(full.admit(&[50, 51]).is_err());
    }
}

#[test]
fn dir_conforms() {
    on_dir(|tier| tier);
}

#[test]
fn tape_conforms_with_one_drive_and_with_several() {
    for drives in [1, 3] {
        let options = TapeOptions {
            drives,
            ..library()
        };
        on_tape(&options, |tier| tier);
    }
}

#[test]
fn throttled_tiers_conform() {
    on_mem(throttled);
    on_dir(throttled);
}

#[test]
fn limited_tiers_conform() {
    on_mem(one_at_a_time);
    on_dir(one_at_a_time);
}

#[test]
fn tiers_with_faults_that_do_not_strike_conform() {
    on_mem(quiet_faults);
    on_dir(quiet_faults);
    on_tape(&library(), quiet_faults);
}

#[test]
fn retried_tiers_with_faults_that_strike_conform() {
    on_mem(retried);
    on_dir(retried);
}

#[test]
fn tiers_under_all_wrappers_conform() {
    on_mem(all);
    on_dir(all);
    on_tape(&library(), all);
}

#[test]
fn a_pool_of_a_library_conforms() {
    let options = TapeOptions {
        pool: Some("near".to_owned()),
        ..library()
    };
    on_tape(&options, |tier| tier);
}

#[test]
fn a_dir_is_opened_by_its_owner_alone() {
    let place = TempDir::new().expect("temporary directory");
    let root = place.path().join("tier");
    judge(conformance::run_opening(&|how| {
        DirTier::open(&root, how).map(|tier| Arc::new(tier) as Arc<dyn Tier>)
    }));
}

#[test]
fn a_library_and_a_pool_of_one_are_opened_by_their_owner_alone() {
    let place = TempDir::new().expect("temporary directory");
    for options in ["", "&pool=near"] {
        let root = place.path().join(format!("tape{}", options.len()));
        let url = format!(
            "tape:{}?capacity=32MiB&cartridges=2{options}",
            root.display()
        );
        let url: TierUrl = url.parse().expect("URL");
        judge(conformance::run_opening(&|how| open(&url, how)));
        let how = OpenHow::new(cairn::id::InstanceId([1; 16]), MARK.tier);
        let described = open(&url, how).expect("opens").describe();
        assert_eq!(described.url, url.to_string());
        assert_eq!(described.kind.as_str(), "tape");
    }
}

#[test]
fn a_url_opens_a_dir() {
    let place = TempDir::new().expect("temporary directory");
    let root = place.path().join("tier");
    let url = TierUrl::Dir {
        path: root.clone(),
        pace: Pace {
            bytes_per_second: NonZeroU64::new(1 << 40),
            delay: Duration::from_nanos(1),
        },
    };
    judge(conformance::run_opening(&|how| open(&url, how)));
    let how = OpenHow::new(cairn::id::InstanceId([1; 16]), MARK.tier);
    let described = open(&url, how).expect("opens").describe();
    let dev = std::os::unix::fs::MetadataExt::dev(&std::fs::metadata(&root).expect("root"));
    let seen = described.root.expect("a directory has a root");
    assert_eq!((&*seen.path, seen.dev), (&*root, Some(dev)));
    assert!(described.url.starts_with("dir:/"), "{}", described.url);
}
