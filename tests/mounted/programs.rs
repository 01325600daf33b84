//! A program of the site as the tier of an instance: what is kept through it, and days on which it hangs, is killed,
//! replaced, gone, or speaks of another place.

use crate::needs_mounts;
use crate::rebuild::{BY_TIERS, assert_same, dump, forget_catalog};
use crate::rig::{CAIRN, Instance, on_disk, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Only a hang reaches it.
const BOUND: Duration = Duration::from_secs(240);

/// The example for a directory, behind a program that does as its file says.
const GATE: &str = r#"#!/bin/sh
# Not beyond the test.
stay() { while [ -e "$CAIRN_TIER_ROOT" ]; do sleep 1; done; exit 1; }
case $(cat "$CAIRN_TIER_ROOT.held" 2>/dev/null) in
hang) echo $$ >>"$CAIRN_TIER_ROOT.pids"; stay ;;
put)
    if [ "$1" = put ]; then
        head -c 100000 | "$CAIRN_TIER_REAL" "$@"
        echo $$ >>"$CAIRN_TIER_ROOT.pids"
        stay
    fi
    ;;
esac
exec "$CAIRN_TIER_REAL" "$@"
"#;

struct Site {
    cairn: Instance,
    program: PathBuf,
}

impl Site {
    /// With these options of the tier's URL, and these settings.
    fn new(options: &str, settings: &str) -> Result<Self> {
        let mut cairn = Instance::new(None)?;
        let at = |name: &str| cairn.dir.path().join(name);
        let (program, real, config) = (at("program"), at("real"), at("cairn.toml"));
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiers/dir");
        fs::copy(example, &real)?;
        fs::write(&program, GATE)?;
        for path in [&program, &real] {
            fs::set_permissions(path, Permissions::from_mode(0o755))?;
        }
        fs::write(&config, format!("snapshot-every = \"0s\"\n{settings}"))?;
        let url = format!(
            "exec:{}?opt.root={}&opt.real={}{options}",
            program.display(),
            cairn.tier.display(),
            real.display()
        );
        cairn.args = vec!["--tier".into(), format!("site={url}")];
        let config = config.to_string_lossy().into_owned();
        cairn.args.extend(["--config".to_owned(), config]);
        Ok(Self { cairn, program })
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut path = self.cairn.tier.clone().into_os_string();
        path.push(what);
        path.into()
    }

    /// What the program does from now on.
    fn hold(&self, what: &str) -> Result<()> {
        Ok(fs::write(self.beside(".held"), what)?)
    }

    /// Programs that did as they were told and hold on.
    fn held(&self) -> Vec<String> {
        let text = fs::read_to_string(self.beside(".pids")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// It works again, and what holds on ends.
    fn let_go(&self) -> Result<()> {
        self.hold("")?;
        for pid in self.held().iter().filter(|pid| !is_gone(pid)) {
            let _ = Command::new("kill").args(["-KILL", pid]).status()?;
        }
        Ok(())
    }

    /// Archived and released.
    fn released(&self, name: &str, data: &[u8]) -> Result<()> {
        fs::write(self.cairn.at(name), data)?;
        self.cairn.archive(name)?;
        self.cairn.release(name)?;
        let on_disk = on_disk(&self.cairn.below(name))?;
        ensure!(
            on_disk <= 8192,
            "{name} was not released\n{}",
            self.cairn.log()
        );
        Ok(())
    }

    fn reads(&self, name: &str, data: &[u8]) -> Result<()> {
        let read = fs::read(self.cairn.at(name));
        let read = read.with_context(|| format!("{name}\n{}", self.cairn.log()))?;
        ensure!(read == data, "{name} has other bytes");
        Ok(())
    }

    /// Names at the place but for its mark.
    fn names(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.cairn.tier)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != "cairn-tier.json");
        names.sort();
        Ok(names)
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.cairn.cairn(["status", "--json"])?,
        )?)
    }

    /// Waits until status says of the tier that it is away, and these words why.
    fn is_away(&self, why: &str) -> Result<()> {
        let mut last = Value::Null;
        let waited = wait_for("status to say what is missing", || {
            last = self.status()?["tiers"][0].take();
            let said = last["message"].as_str().unwrap_or_default();
            Ok(last["state"] == "unavailable" && said.contains(why))
        });
        waited.with_context(|| format!("{last}"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.let_go();
    }
}

/// Ends with an error instead of never.
fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (tell, told) = channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(BOUND).context("it was never answered")
}

fn errno<T>(result: std::io::Result<T>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn is_gone(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z 1 ")
}

#[test]
fn files_go_through_a_program_and_come_back_and_leave() -> Result<()> {
    needs_mounts!();
    let settings = "keep-deleted = \"0s\"\nscan-every = \"1s\"\ncollect-every = \"0s\"\ndelete-delay = \"0s\"\n";
    let mut site = Site::new("", settings)?;
    site.cairn.up()?;
    let (stays, goes) = (tree::bytes(1, 3_000_000), tree::bytes(2, 200_000));
    site.released("stays", &stays)?;
    site.released("goes", &goes)?;
    site.reads("stays", &stays)?;
    site.reads("goes", &goes)?;
    ensure!(
        site.status()?["tiers"][0]["state"] == "ok",
        "{}",
        site.status()?
    );
    site.cairn.cairn([
        "verify",
        "--wait",
        &site.cairn.at("stays").to_string_lossy(),
    ])?;
    ensure!(site.names()?.len() == 2, "{:?}", site.names()?);
    fs::remove_file(site.cairn.at("goes"))?;
    wait_for("the deleted file's object to go", || {
        site.cairn.cairn(["tier", "collect", "--wait"])?;
        Ok(site.names()?.len() == 1)
    })?;
    site.cairn.release("stays")?;
    site.cairn.down()?;
    let before = dump(&site.cairn, BY_TIERS)?;
    forget_catalog(&site.cairn)?;
    let url = site.cairn.args[1].clone();
    let output = Command::new(program())
        .args([
            "rebuild", "--json", "--from", "tiers", "--tier", &url, "--state",
        ])
        .args([&site.cairn.state, &site.cairn.backing])
        .stdin(Stdio::null())
        .output()?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(
        report["complete"] == true && report["without_copy"] == 0,
        "{report}"
    );
    assert_same(&before, &dump(&site.cairn, BY_TIERS)?)?;
    site.cairn.up()?;
    site.reads("stays", &stays)?;
    site.cairn.down()
}

#[test]
fn a_kill_in_the_middle_of_a_put_leaves_no_object_and_no_program() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("", "")?;
    site.cairn.up()?;
    let data = tree::bytes(3, 8_000_000);
    fs::write(site.cairn.at("f"), &data)?;
    site.hold("put")?;
    site.cairn
        .cairn(["archive", &site.cairn.at("f").to_string_lossy()])?;
    wait_for("the put to be in its middle", || {
        Ok(!site.held().is_empty())
    })?;
    site.cairn.kill()?;
    for pid in site.held() {
        wait_for("the program to end", || Ok(is_gone(&pid)))?;
    }
    let names = site.names()?;
    ensure!(
        names.iter().all(|name| name.starts_with("tmp-")),
        "{names:?}"
    );
    site.let_go()?;
    site.cairn.up()?;
    wait_for("the archive to go on", || {
        Ok(site.cairn.shown_state("f")? == "archived")
    })?;
    site.cairn.release("f")?;
    site.reads("f", &data)?;
    site.cairn.down()
}

/// The mount comes up, is handed on to the next process, and goes, while nothing comes from the program.
#[test]
fn a_program_that_hangs_holds_up_neither_a_start_nor_an_upgrade() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("&timeout=7d&wait=7d", "")?;
    site.cairn.hold = Some("300s".into());
    site.cairn
        .args
        .extend(["--recall-timeout".into(), "1s".into()]);
    site.cairn.up()?;
    let data = tree::bytes(4, 300_000);
    site.released("away", &data)?;
    fs::write(site.cairn.at("here"), b"resident")?;
    site.cairn.down()?;
    site.hold("hang")?;
    let mut site = bounded(move || {
        site.cairn.up()?;
        anyhow::Ok(site)
    })??;
    site.reads("here", b"resident")?;
    site.is_away("does not answer")?;
    let read = errno(fs::read(site.cairn.at("away")));
    ensure!(read == Some(libc::ETIMEDOUT), "{read:?}");
    let before = site.status()?["pid"].clone();
    let site = bounded(move || {
        let mount = site.cairn.mount.to_string_lossy().into_owned();
        let done = site.cairn.run(["upgrade", "--exec", CAIRN, &mount])?;
        ensure!(done.status.success(), "{done:?}");
        site.cairn.replaced()?;
        Ok(site)
    })??;
    ensure!(site.status()?["pid"] != before);
    site.reads("here", b"resident")?;
    site.let_go()?;
    wait_for("the file to be readable again", || {
        Ok(fs::read(site.cairn.at("away")).is_ok_and(|read| read == data))
    })?;
    // And the end is not held up either.
    site.cairn.release("away")?;
    site.hold("hang")?;
    let _ = fs::read(site.cairn.at("away"));
    let site = bounded(move || {
        let mount = site.cairn.mount.to_string_lossy().into_owned();
        site.cairn.cairn(["down", &mount]).map(|_| site)
    })??;
    for pid in site.held() {
        wait_for("the programs to end with Cairn", || Ok(is_gone(&pid)))?;
    }
    Ok(())
}

#[test]
fn a_program_that_is_gone_or_replaced_or_at_another_place_costs_no_copy() -> Result<()> {
    needs_mounts!();
    let mut site = Site::new("&timeout=30s", "")?;
    site.cairn.up()?;
    let data: Vec<Vec<u8>> = (10..14).map(|seed| tree::bytes(seed, 400_000)).collect();
    for (n, data) in data.iter().enumerate() {
        site.released(&format!("f{n}"), data)?;
    }
    // Gone.
    let aside = site.beside(".aside");
    fs::rename(&site.program, &aside)?;
    let read = errno(fs::read(site.cairn.at("f0")));
    ensure!(
        read == Some(libc::EHOSTDOWN),
        "{read:?}\n{}",
        site.cairn.log()
    );
    site.is_away("No such file")?;
    // Replaced, by one that cannot begin where it is told to.
    let real = fs::read_to_string(site.cairn.dir.path().join("real"))?;
    let without = real
        .replace("ranges=yes", "ranges=no")
        .replace("tail -c \"+$(($2 + 1))\" --", "cat --");
    ensure!(without != real, "the example reads with tail");
    fs::write(&site.program, without)?;
    fs::set_permissions(&site.program, Permissions::from_mode(0o755))?;
    wait_for("the file to be readable", || {
        Ok(fs::read(site.cairn.at("f0")).is_ok_and(|read| read == data[0]))
    })?;
    site.reads("f1", &data[1])?;
    fs::rename(&aside, &site.program)?;
    // Another place is mounted there: another's mark, and its objects have the names of ours.
    let (root, ours) = (site.cairn.tier.clone(), site.beside(".ours"));
    fs::rename(&root, &ours)?;
    fs::create_dir(&root)?;
    for entry in fs::read_dir(&ours)? {
        let entry = entry?;
        let mut bytes = fs::read(entry.path())?;
        if entry.file_name() == "cairn-tier.json" {
            let text = String::from_utf8(bytes)?;
            let owner = text.split("\"owner\": \"").nth(1).context("an owner")?;
            let other = "01010101-0101-0101-0101-010101010101";
            bytes = text.replace(&owner[..36], other).into_bytes();
        } else {
            bytes.iter_mut().for_each(|b| *b = !*b);
        }
        fs::write(root.join(entry.file_name()), bytes)?;
    }
    let read = errno(fs::read(site.cairn.at("f2")));
    ensure!(
        read == Some(libc::EHOSTDOWN),
        "{read:?}\n{}",
        site.cairn.log()
    );
    site.is_away("another place")?;
    let status = site.status()?;
    ensure!(status["copies"]["bad"] == 0, "{status}");
    fs::remove_dir_all(&root)?;
    fs::rename(&ours, &root)?;
    for (n, data) in data.iter().enumerate() {
        let path = site.cairn.at(&format!("f{n}"));
        wait_for("the files to be readable", || {
            Ok(fs::read(&path).is_ok_and(|read| read == *data))
        })?;
    }
    let status = site.status()?;
    ensure!(
        status["copies"]["bad"] == 0 && status["copies"]["lost"] == 0,
        "{status}"
    );
    site.cairn.down()
}
