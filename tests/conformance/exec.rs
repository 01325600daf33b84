//! Programs as tiers: the suite over the shortest whole example, bare and under the wrappers, and days on which
//! a program fails.

mod author;
mod bad_days;
mod clients;
mod puts;
mod replaced;

use crate::MARK;
use crate::suite::{all, judge, quiet_faults, retried};
use cairn::tier::conformance;
use cairn::tier::{OpenHow, Tier, TierError, TierUrl, open};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// A place for programs that nobody else can write to, wherever the sources lie.
struct Site {
    place: TempDir,
}

impl Site {
    fn new() -> Self {
        let place = TempDir::new().expect("temporary directory");
        let site = Self { place };
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        for (name, source) in [
            ("dir", "examples/tiers/dir"),
            ("rclone", "examples/tiers/rclone"),
            ("ssh", "examples/tiers/ssh"),
            ("faulty", "tests/conformance/exec/faulty"),
        ] {
            let text = fs::read(sources.join(source)).expect(source);
            site.install(name, &text);
        }
        // What is tried many times over is spared the disk: its promise is the plain one's to keep.
        let text = fs::read_to_string(site.path("dir")).expect("example");
        site.install("quick", text.replace("sync ", ": ").as_bytes());
        site
    }

    /// A test that runs beside this one may fork while the file is open for writing; a copy made by another
    /// process is never seen so.
    fn install(&self, name: &str, text: &[u8]) {
        let (path, draft) = (self.path(name), self.path("draft"));
        fs::write(&draft, text).expect("program");
        let copied = std::process::Command::new("cp")
            .arg(&draft)
            .arg(&path)
            .status();
        assert!(copied.expect("cp").success());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// An empty directory below the site.
    fn empty(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("directory");
        path
    }

    fn url(&self, program: &str, options: &str) -> TierUrl {
        let text = format!("exec:{}?{options}", self.path(program).display());
        text.parse().expect("URL")
    }

    /// The example over a directory of that name.
    fn plain(&self, root: &str) -> TierUrl {
        self.url("dir", &format!("opt.root={}", self.empty(root).display()))
    }

    /// The same through the program that fails when told to.
    fn faulty(&self, root: &str, options: &str) -> TierUrl {
        let (root, real, faults) = (self.empty(root), self.path("quick"), self.path("faults"));
        let given = format!(
            "opt.root={}&opt.real={}&opt.faults={}{options}",
            root.display(),
            real.display(),
            faults.display()
        );
        self.url("faulty", &given)
    }

    /// What strikes from now on.
    fn strike(&self, faults: &str) {
        fs::write(self.path("faults"), faults).expect("faults");
    }

    /// What was asked of the program that fails, a line each.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("faults.calls")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

fn opened(url: &TierUrl) -> Result<Arc<dyn Tier>, TierError> {
    open(url, OpenHow::new(MARK.owner, MARK.tier))
}

fn names(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root)
        .expect("directory")
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != "cairn-tier.json")
        .collect();
    names.sort();
    names
}

/// The suite, each case in a directory of its own, in which nothing half-written remains.
fn conforms(url: impl Fn(&Site, &str) -> TierUrl, wrap: impl Fn(Arc<dyn Tier>) -> Arc<dyn Tier>) {
    let site = Site::new();
    let count = AtomicU32::new(0);
    judge(conformance::run(&|| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        wrap(opened(&url(&site, &n.to_string())).expect("opens"))
    }));
    for n in 0..count.into_inner() {
        let left = names(&site.path(&n.to_string()));
        let half: Vec<_> = left.iter().filter(|name| name.contains("tmp-")).collect();
        assert!(half.is_empty(), "tier {n}: {half:?}");
    }
}

/// Set by those who have time: the suite starts a program some two thousand times, and does it here for one program in
/// two guises. Others, and clients, have the rest of it where there is time.
const WHOLE: &str = "CAIRN_TEST_WHOLE";

fn has_time() -> bool {
    std::env::var_os(WHOLE).is_some()
}

/// Is there time for this test? If not, it says so.
fn has_time_for(test: &str) -> bool {
    if !has_time() {
        eprintln!("SKIPPED {test}: minutes; {WHOLE}=1 runs it");
    }
    has_time()
}

#[test]
fn a_program_conforms() {
    conforms(Site::plain, |tier| tier);
}

#[test]
fn a_program_without_ranges_whose_commits_copy_conforms() {
    if !has_time_for("a_program_without_ranges_whose_commits_copy_conforms") {
        return;
    }
    let url = |site: &Site, root: &str| {
        site.strike("describe say=protocol=1\\nranges=no\\ncommit=copy\\n\n");
        site.faulty(root, "&prefix=near-")
    };
    conforms(url, |tier| tier);
}

#[test]
fn a_program_that_talks_and_leaves_others_running_conforms() {
    if !has_time_for("a_program_that_talks_and_leaves_others_running_conforms") {
        return;
    }
    let url = |site: &Site, root: &str| {
        site.strike("put chatter\ncommit chatter\ndelete chatter\nget chatter\nstat chatter\nlist chatter\n");
        site.faulty(root, "")
    };
    conforms(url, quiet_faults);
}

#[test]
fn programs_under_all_wrappers_conform() {
    let url = |site: &Site, root: &str| {
        let root = site.empty(root);
        site.url("quick", &format!("opt.root={}", root.display()))
    };
    conforms(url, all);
}

#[test]
fn programs_side_by_side_in_one_place_conform_with_faults_that_strike() {
    if !has_time_for("programs_side_by_side_in_one_place_conform_with_faults_that_strike") {
        return;
    }
    let site = Site::new();
    let root = site.empty("shared");
    let count = AtomicU32::new(0);
    judge(conformance::run(&|| {
        let n = count.fetch_add(1, Ordering::Relaxed);
        let options = format!("opt.root={}&prefix=t{n}-", root.display());
        retried(opened(&site.url("quick", &options)).expect("opens"))
    }));
}

#[test]
fn a_program_is_opened_by_its_owner_alone() {
    let site = Site::new();
    for (n, prefix) in ["", "&prefix=near-"].iter().enumerate() {
        let root = site.empty(&n.to_string());
        let options = format!("opt.root={}{prefix}", root.display());
        let url = site.url("dir", &options);
        judge(conformance::run_opening(&|how| open(&url, how)));
        let how = OpenHow::new(cairn::id::InstanceId([1; 16]), MARK.tier);
        let described = open(&url, how).expect("opens").describe();
        assert_eq!(described.url, url.to_string());
        assert_eq!(described.kind.as_str(), "exec");
        assert_eq!(described.root, None);
    }
}
