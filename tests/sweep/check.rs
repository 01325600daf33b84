//! The invariants (design section 4), looked at from outside: through the mount, and on the tiers
//! with standard tar.

use crate::reference::{Reference, look};
use crate::rig::is_mounted;
use crate::site::{Site, base};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

fn lines(site: &Site, args: &[&str]) -> Result<Vec<Value>> {
    let output = site.run(args)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "cairn {args:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines()
        .map(|l| serde_json::from_str(l).with_context(|| l.to_owned()))
        .collect()
}

/// Waits until nothing is under way: requests, scan, changelog. The last status.
pub(crate) fn settle(site: &Site) -> Result<Value> {
    let mut last = Value::Null;
    let quiet = patiently("requests and scan to end", || {
        let open = lines(site, &["requests", "--json"])?;
        last = lines(site, &["status", "--json"])?
            .pop()
            .context("a status")?;
        let scan = &last["scan"];
        Ok(open.is_empty()
            && scan["running"] == false
            && !scan["finished"].is_null()
            && last["changelog"]["lag"] == 0
            && last["changelog"]["rescans"] == 0)
    });
    quiet.with_context(|| format!("{last} {:?}", lines(site, &["requests", "--json"])))?;
    Ok(last)
}

/// When the last scan was done.
pub(crate) fn finished(site: &Site) -> Result<String> {
    let status = lines(site, &["status", "--json"])?;
    let status = status.last().context("a status")?;
    let time = status["scan"]["finished"].as_str();
    Ok(time.unwrap_or_default().to_owned())
}

/// Polls, with less haste than `wait_for`: each look starts a program.
pub(crate) fn patiently(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if done()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(40));
    }
    bail!("STUCK: waited in vain for {what}")
}

/// After a restart: nothing is lost, what is called archived is proven by tar alone, every file
/// reads right, and the whole cycle works again.
/// `dark`: the power was lost.
pub(crate) fn restarted(site: &Site, reference: &mut Reference, dark: bool) -> Result<()> {
    let status = settle(site).context("after the restart")?;
    ensure!(status["copies"]["lost"] == 0, "LOST files: {status}");
    ensure!(status["copies"]["conflict"] == 0, "CONFLICT: {status}");
    let output = site.run(["status", "--check"])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "CRITICAL: {said}"
    );
    let claims = claims(site)?;
    // What was in doubt is known from here on.
    let doubtful = if dark {
        reference.doubtful()
    } else {
        BTreeSet::new()
    };
    reference.compare(&look(&site.cairn.mount)?)?;
    proven(site, claims, reference, &doubtful)?;
    if !doubtful.is_empty() {
        // What a user did not sync may lie on the disk under the old times. Such a version is suspect
        // (P1): the first release reads it, and finds out.
        let _ = (site.whole("archive")?, site.whole("release"));
    }
    again(site, reference)?;
    if !doubtful.is_empty() {
        proven(site, self::claims(site)?, reference, &BTreeSet::new())?;
    }
    Ok(())
}

/// Every copy that is claimed is found by tar, of all files but these.
pub(crate) fn proven(
    site: &Site,
    claims: BTreeMap<String, Vec<Copy>>,
    reference: &Reference,
    but: &BTreeSet<String>,
) -> Result<()> {
    let proven = tiers(site)?;
    for (name, copies) in claims.iter().filter(|(name, _)| !but.contains(*name)) {
        let content = &reference.files[name];
        // A record's places are hints: what was repacked lies where the catalog says (P6).
        let moved = if copies.iter().all(|copy| proven.contains_key(copy)) {
            copies.clone()
        } else {
            receipt(site, name)?
        };
        ensure!(
            moved.len() >= copies.len(),
            "UNPROVEN: {name} has {copies:?}, and {moved:?} by its receipt"
        );
        for copy in &moved {
            let holds = proven
                .get(copy)
                .is_some_and(|all| all.iter().any(|c| c == &**content));
            ensure!(
                holds,
                "UNPROVEN: {name} is said to have a copy {copy:?}; tar finds none"
            );
        }
        ensure!(
            !copies.is_empty(),
            "UNPROVEN: {name} is called archived, without a copy"
        );
    }
    Ok(())
}

/// The cycle, once more.
fn again(site: &Site, reference: &mut Reference) -> Result<()> {
    site.whole("archive").context("a later archive")?;
    site.whole("release").context("a later release")?;
    for (name, content) in &reference.files {
        let large = content.len() >= 64 << 10;
        let state = attribute(&site.cairn.mount.join(name), "user.cairn.state")?;
        ensure!(
            state == if large { "released" } else { "archived" },
            "STUCK: {name} is {state} after another archive and release: {}",
            String::from_utf8_lossy(&site.run(["why".into(), site.cairn.at(name)])?.stdout)
        );
    }
    site.whole("verify").context("a later verify")?;
    reference
        .compare(&look(&site.cairn.mount)?)
        .context("after another cycle")
}

/// In a living instance, after the fault: every file reads right, at the second try at the latest.
pub(crate) fn living(site: &Site, reference: &mut Reference) -> Result<()> {
    let found = match look(&site.cairn.mount) {
        Ok(found) => found,
        Err(_) => look(&site.cairn.mount).context("STUCK: a second read fails as well")?,
    };
    reference.compare(&found)
}

/// After a stop: nothing is left behind.
pub(crate) fn stopped(site: &Site) -> Result<()> {
    ensure!(!is_mounted(&site.cairn.mount)?, "LEFT: the mount");
    for tier in ["one", "two"] {
        let mut found = Vec::new();
        files(&site.tier(tier).join("incoming"), &mut found)?;
        ensure!(found.is_empty(), "LEFT on tier {tier}: {found:?}");
    }
    let log = site.cairn.log();
    ensure!(!log.contains("panicked"), "PANIC: {log}");
    Ok(())
}

/// The aggregate that it lies in; the names of no two are alike.
pub(crate) type Copy = String;

/// Files that are called archived or released, with the copies that are claimed.
pub(crate) fn claims(site: &Site) -> Result<BTreeMap<String, Vec<Copy>>> {
    let mut found = BTreeMap::new();
    let mut all = Vec::new();
    files(&site.cairn.mount, &mut all)?;
    for path in all {
        if path.is_symlink() {
            continue;
        }
        let state = attribute(&path, "user.cairn.state")?;
        match state.as_str() {
            "resident" | "dirty" => continue,
            "archived" | "released" | "recalling" => {}
            other => bail!("STATE: {} is {other}", path.display()),
        }
        let copies = attribute(&path, "user.cairn.copies")?;
        let copies = copies.lines().filter_map(|l| l.split_once(' '));
        let copies = copies.map(|(_, aggregate)| aggregate.to_owned()).collect();
        let name = path.strip_prefix(&site.cairn.mount)?;
        found.insert(name.to_string_lossy().into_owned(), copies);
    }
    Ok(found)
}

/// The same of one file, as the catalog has it.
fn receipt(site: &Site, name: &str) -> Result<Vec<Copy>> {
    let path = site.cairn.at(name).to_string_lossy().into_owned();
    let receipt = lines(site, &["receipt", "--json", &path])?;
    let copies = receipt.first().and_then(|r| r["copies"].as_array());
    let copies = copies.context("copies")?.iter();
    let one = |copy: &Value| Some(copy["aggregate"].as_str()?.to_owned());
    Ok(copies.filter_map(one).collect())
}

/// What tar finds in each object of the tiers: the contents of its members.
pub(crate) fn tiers(site: &Site) -> Result<HashMap<Copy, Vec<Vec<u8>>>> {
    let mut proven = on_tier(site, "one")?;
    proven.extend(on_tier(site, "two")?);
    Ok(proven)
}

/// The same of one tier.
pub(crate) fn on_tier(site: &Site, tier: &str) -> Result<HashMap<Copy, Vec<Vec<u8>>>> {
    let mut objects = Vec::new();
    files(&site.tier(tier).join("aggregates"), &mut objects)?;
    let one = |object: PathBuf| {
        let name = object.file_stem().context("a name")?;
        Ok((name.to_string_lossy().into_owned(), contents(&object)?))
    };
    objects.into_iter().map(one).collect()
}

fn contents(object: &Path) -> Result<Vec<Vec<u8>>> {
    let dir = tempfile::Builder::new()
        .prefix("cairn-tar-")
        .tempdir_in(base())?;
    let output = Command::new("tar")
        .arg("-xf")
        .arg(object)
        .arg("-C")
        .arg(dir.path())
        .output()?;
    ensure!(
        output.status.success(),
        "TAR: {}: {}",
        object.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut all = Vec::new();
    files(dir.path(), &mut all)?;
    all.retain(|p| !p.is_symlink());
    all.iter().map(|p| Ok(fs::read(p)?)).collect()
}

fn files(at: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(at) else {
        return Ok(());
    };
    for entry in entries {
        let path = entry?.path();
        if fs::symlink_metadata(&path)?.is_dir() {
            files(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

/// An attribute's text.
pub(crate) fn attribute(path: &Path, name: &str) -> Result<String> {
    let mut value = [0_u8; 4096];
    let len = rustix::fs::getxattr(path, name, &mut value[..])
        .with_context(|| format!("{name} of {}", path.display()))?;
    Ok(String::from_utf8_lossy(&value[..len]).into_owned())
}
