//! Callers from other hosts: what they put is there, what they get is right, and they may what their user may.

use crate::needs_mounts;
use crate::rig::far::{Caller, Far, both};
use crate::rig::{Instance, on_disk, program, tree, wait_for};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

/// Debian's `nobody`: an account that is not root's.
const NOBODY: u32 = 65_534;
pub(crate) const LARGE: usize = 40 << 20;

pub(crate) fn opened() -> Result<(Instance, Far, Caller)> {
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let far = Far::open(&cairn)?;
    let token = far.token(&cairn, 0)?;
    let caller = far.caller(&token);
    Ok((cairn, far, caller))
}

pub(crate) fn arg(path: &Path) -> Result<&str> {
    path.to_str().context("a path in UTF-8")
}

/// What is left of copies that did not end well.
pub(crate) fn on_their_way(path: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(".cairn-") {
            found.push(name);
        }
    }
    Ok(found)
}

pub(crate) fn moved(said: &str) -> Result<u64> {
    let line = said
        .lines()
        .find(|l| l.contains("cairn.copied.v1"))
        .context("no result")?;
    let value: serde_json::Value = serde_json::from_str(line)?;
    value["bytes"].as_u64().context("no bytes")
}

#[test]
fn a_tree_goes_there_and_comes_back_as_it_was() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let top = cairn.dir.path().join("original");
    fs::create_dir_all(top.join("deep/er"))?;
    for n in 0..300_u64 {
        fs::write(
            top.join(format!("deep/small-{n}")),
            tree::bytes(n, (n * 37 % 9000) as usize),
        )?;
    }
    fs::write(top.join("large"), tree::bytes(1, LARGE))?;
    fs::write(top.join("empty"), "")?;
    fs::write(top.join("deep/er/secret"), "s")?;
    fs::set_permissions(
        top.join("deep/er/secret"),
        fs::Permissions::from_mode(0o600),
    )?;
    symlink("deep/small-1", top.join("link"))?;
    fs::set_permissions(top.join("deep/er"), fs::Permissions::from_mode(0o550))?;
    let said = caller.does(["put", arg(&top)?, ":there"])?;
    ensure!(
        said.contains("304 files") && said.contains("dialling out"),
        "{said}"
    );
    let back = cairn.dir.path().join("back");
    caller.does(["get", ":there", arg(&back)?])?;
    let original = tree::picture(&top)?;
    ensure!(original == tree::picture(&back)?, "what came back differs");
    ensure!(
        original == tree::picture(&cairn.at("there"))?,
        "what is there differs"
    );
    ensure!(on_their_way(&cairn.at("there"))?.is_empty() && on_their_way(&back)?.is_empty());
    // Into a directory that is there: below it, by its own name. One file: under the name that it is given.
    caller.does(["put", arg(&top.join("large"))?, ":there/deep"])?;
    ensure!(fs::read(cairn.at("there/deep/large"))? == tree::bytes(1, LARGE));
    caller.does(["get", ":there/empty", arg(&back.join("other"))?])?;
    ensure!(fs::metadata(back.join("other"))?.len() == 0);
    cairn.down()
}

#[test]
fn what_is_there_is_left_out_as_asked() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let file = cairn.dir.path().join("f");
    fs::write(&file, "old")?;
    caller.does(["put", arg(&file)?, ":f"])?;
    fs::write(&file, "new")?;
    ensure!(moved(&caller.does(["put", "--json", "--if-missing", arg(&file)?, ":f"])?)? == 0);
    ensure!(fs::read(cairn.at("f"))? == b"old");
    ensure!(moved(&caller.does(["put", "--json", "--if-newer", arg(&file)?, ":f"])?)? == 3);
    ensure!(fs::read(cairn.at("f"))? == b"new");
    ensure!(moved(&caller.does(["put", "--json", "--if-newer", arg(&file)?, ":f"])?)? == 0);
    ensure!(moved(&caller.does(["get", "--json", "--if-newer", ":f", arg(&file)?])?)? == 0);
    fs::remove_file(&file)?;
    ensure!(moved(&caller.does(["get", "--json", "--if-newer", ":f", arg(&file)?])?)? == 3);
    cairn.down()
}

#[test]
fn p15_without_a_good_token_or_the_right_server_nothing_is_done() -> Result<()> {
    needs_mounts!();
    let (mut cairn, far, caller) = opened()?;
    let file = cairn.dir.path().join("f");
    fs::write(&file, "x")?;
    let put = ["put", arg(&file)?, ":f"];
    let wrong = caller.with("CAIRN_TOKEN", "cairn_00000000_00");
    ensure!(
        wrong
            .fails(5, put)?
            .contains("the token is not known, or void")
    );
    // Another server than the one that is believed gets nothing, the token least of all.
    let other = caller.with("CAIRN_FINGERPRINT", "00".repeat(32));
    let said = other.fails(3, put)?;
    ensure!(said.contains("no server at 127.0.0.1"), "{said}");
    let unpinned = caller.with("CAIRN_FINGERPRINT", "");
    let said = unpinned.run(put)?;
    ensure!(!said.status.success(), "{}", both(&said));
    let token = far.token(&cairn, 0)?;
    let second = far.caller(&token);
    second.does(put)?;
    let id = token.split('_').nth(1).context("a token's name")?;
    cairn.cairn(["token", "revoke", id])?;
    fs::remove_file(cairn.at("f"))?;
    ensure!(second.fails(5, put)?.contains("void"));
    ensure!(!cairn.at("f").exists());
    let listed = cairn.cairn(["token", "list"])?;
    ensure!(!listed.contains(id) && listed.contains("root"), "{listed}");
    // What went over the wire stands in no log.
    let log = far.log();
    ensure!(
        log.contains("a call without a good token was refused"),
        "{log}"
    );
    ensure!(!log.contains(&token), "the log has a token");
    caller.does(put)?;
    cairn.down()
}

#[test]
fn p15_a_caller_may_what_their_user_may_and_no_more() -> Result<()> {
    needs_mounts!();
    let (mut cairn, far, _root) = opened()?;
    fs::create_dir(cairn.at("theirs"))?;
    chown(cairn.at("theirs"), Some(NOBODY), Some(NOBODY))?;
    fs::create_dir(cairn.at("roots"))?;
    fs::write(cairn.at("roots/secret"), "s")?;
    fs::set_permissions(cairn.at("roots/secret"), fs::Permissions::from_mode(0o600))?;
    symlink("/etc/passwd", cairn.at("theirs/out"))?;
    let caller = far.caller(&far.token(&cairn, NOBODY)?);
    let here = cairn.dir.path().join("here");
    fs::create_dir(&here)?;
    fs::write(here.join("f"), "mine")?;
    caller.does(["put", arg(&here.join("f"))?, ":theirs/f"])?;
    let made = fs::metadata(cairn.at("theirs/f"))?;
    ensure!((made.uid(), made.gid()) == (NOBODY, NOBODY));
    let refused = caller.fails(5, ["put", arg(&here.join("f"))?, ":roots/f"])?;
    ensure!(
        refused.contains("roots/f") && refused.contains("not-permitted"),
        "{refused}"
    );
    let refused = caller.fails(5, ["get", ":roots/secret", arg(&here)?])?;
    ensure!(
        refused.contains("roots/secret") && !here.join("secret").exists(),
        "{refused}"
    );
    // A link that leads out is a link, and what it leads to is not to be had through it.
    caller.does(["get", ":theirs/out", arg(&here)?])?;
    ensure!(fs::read_link(here.join("out"))? == Path::new("/etc/passwd"));
    let refused = caller.run(["put", arg(&here.join("f"))?, ":theirs/out/f"])?;
    ensure!(!refused.status.success(), "{}", both(&refused));
    let refused = caller.run(["get", ":../../etc/passwd", arg(&here)?])?;
    ensure!(refused.status.code() == Some(2), "{}", both(&refused));
    cairn.down()
}

#[test]
fn a_released_file_is_brought_back_while_it_is_got() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    fs::create_dir(cairn.at("cold"))?;
    let (large, small) = (tree::bytes(3, LARGE), tree::bytes(4, 200_000));
    cairn.released("cold/large", &large)?;
    cairn.released("cold/small", &small)?;
    let to = cairn.dir.path().join("warm");
    caller.does(["get", ":cold", arg(&to)?])?;
    ensure!(fs::read(to.join("large"))? == large && fs::read(to.join("small"))? == small);
    ensure!(
        on_disk(&cairn.below("cold/large"))? > LARGE as u64 / 2,
        "it was not brought back"
    );
    cairn.down()
}

/// Ports that nobody listens on, one behind the other, as far as can be told.
fn free_ports(count: u16) -> Result<(u16, u16)> {
    let probe = std::net::TcpListener::bind("127.0.0.1:0")?;
    let first = probe.local_addr()?.port().min(u16::MAX - count);
    Ok((first, first + count - 1))
}

#[test]
fn the_server_dials_where_it_can_and_else_this_end_does_and_says_why() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let file = cairn.dir.path().join("f");
    let data = tree::bytes(5, LARGE);
    fs::write(&file, &data)?;
    let (first, last) = free_ports(200)?;
    let reached = caller
        .with("CAIRN_HOSTNAME", "127.0.0.1")
        .with("CAIRN_PORT_RANGE", format!("{first}-{last}"));
    let said = reached.does(["put", arg(&file)?, ":f"])?;
    ensure!(said.contains("dialled by the server"), "{said}");
    ensure!(fs::read(cairn.at("f"))? == data);
    let back = cairn.dir.path().join("back");
    let said = reached.does(["get", "--streams", "3", ":f", arg(&back)?])?;
    ensure!(said.contains("dialled by the server, 3 streams"), "{said}");
    ensure!(fs::read(&back)? == data);
    // Nothing is forwarded: what is advertised is not what is listened on.
    let (half, next) = (first + 100, first + 99);
    let nowhere = reached.with("CAIRN_PORT_RANGE", format!("{half}-{last}:{first}-{next}"));
    let said = nowhere.does(["put", arg(&file)?, ":g"])?;
    ensure!(
        said.contains("the server cannot reach you") && said.contains("dialling out instead"),
        "{said}"
    );
    ensure!(said.matches("cannot reach").count() == 1, "{said}");
    ensure!(fs::read(cairn.at("g"))? == data);
    // Somebody else's address is not dialled.
    let third = reached.with("CAIRN_HOSTNAME", "192.0.2.1");
    let said = third.does(["put", arg(&file)?, ":h"])?;
    ensure!(
        said.contains("will not dial 192.0.2.1") && said.contains("dialling out instead"),
        "{said}"
    );
    ensure!(fs::read(cairn.at("h"))? == data);
    cairn.down()
}

#[test]
fn a_copy_that_was_killed_goes_on_where_it_was() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let file = cairn.dir.path().join("f");
    let size = 600 << 20;
    let data = tree::bytes(6, size);
    fs::write(&file, &data)?;
    let kept = |dir: &Path| {
        Ok::<_, anyhow::Error>(
            on_their_way(dir)?
                .iter()
                .any(|name| name.ends_with(".progress")),
        )
    };
    for way in ["put", "get"] {
        let to = cairn.dir.path().join("g");
        let paths = if way == "put" {
            [arg(&file)?, ":f"]
        } else {
            [":f", arg(&to)?]
        };
        let place = if way == "put" {
            cairn.mount.clone()
        } else {
            cairn.dir.path().to_owned()
        };
        let mut child = caller
            .command([way, "--limit-rate", "150M", paths[0], paths[1]])
            .spawn()?;
        wait_for("progress to be kept", || {
            ensure!(
                child.try_wait()?.is_none(),
                "{way} ended before it was killed"
            );
            kept(&place)
        })?;
        child.kill()?;
        child.wait()?;
        let target = if way == "put" {
            cairn.at("f")
        } else {
            to.clone()
        };
        ensure!(!target.exists(), "half a file has its name");
        let again = moved(&caller.does([way, "--json", "--resume", paths[0], paths[1]])?)?;
        ensure!(
            again < size as u64 && again > 0,
            "{way}: {again} bytes were moved again"
        );
        ensure!(fs::read(&target)? == data, "{way}: other bytes");
        ensure!(
            on_their_way(&place)?.is_empty(),
            "{way}: {:?}",
            on_their_way(&place)?
        );
    }
    cairn.down()
}

#[test]
fn a_server_that_dies_meanwhile_is_waited_for() -> Result<()> {
    needs_mounts!();
    let (mut cairn, mut far, caller) = opened()?;
    let file = cairn.dir.path().join("f");
    let data = tree::bytes(7, 200 << 20);
    fs::write(&file, &data)?;
    let child = caller
        .command(["put", "--json", "--limit-rate", "60M", arg(&file)?, ":f"])
        .spawn()?;
    wait_for("progress to be kept", || {
        let names = on_their_way(&cairn.mount)?;
        Ok(names.iter().any(|name| name.ends_with(".progress")))
    })?;
    far.dies_and_returns()?;
    let said = child.wait_with_output()?;
    ensure!(said.status.success(), "{}\n{}", both(&said), far.log());
    ensure!(fs::read(cairn.at("f"))? == data, "other bytes");
    // The second attempt went on where the first one had been.
    let last = moved(&both(&said))?;
    ensure!(
        last < data.len() as u64,
        "{last} bytes were moved in the end"
    );
    cairn.down()
}

#[test]
fn a_token_that_is_revoked_meanwhile_finishes_nothing() -> Result<()> {
    needs_mounts!();
    let (mut cairn, far, _root) = opened()?;
    let token = far.token(&cairn, 0)?;
    let file = cairn.dir.path().join("f");
    fs::write(&file, tree::bytes(9, 80 << 20))?;
    let child = far
        .caller(&token)
        .command(["put", "--limit-rate", "40M", arg(&file)?, ":f"])
        .spawn()?;
    wait_for("something to arrive", || {
        Ok(!on_their_way(&cairn.mount)?.is_empty())
    })?;
    cairn.cairn([
        "token",
        "revoke",
        token.split('_').nth(1).context("a name")?,
    ])?;
    let said = child.wait_with_output()?;
    ensure!(
        said.status.code() == Some(5) && both(&said).contains("void"),
        "{}",
        both(&said)
    );
    ensure!(!cairn.at("f").exists());
    cairn.down()
}

#[test]
fn a_copy_goes_on_while_the_instance_is_replaced() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.hold = Some("60s".to_owned());
    cairn.up()?;
    let far = Far::open(&cairn)?;
    let caller = far.caller(&far.token(&cairn, 0)?);
    let top = cairn.dir.path().join("many");
    fs::create_dir(&top)?;
    for n in 0..3000_u64 {
        fs::write(top.join(n.to_string()), tree::bytes(n, 20_000))?;
    }
    let child = caller
        .command(["put", "--limit-rate", "20M", arg(&top)?, ":many"])
        .spawn()?;
    wait_for("something to arrive", || {
        Ok(cairn.at("many").exists() && !on_their_way(&cairn.at("many"))?.is_empty())
    })?;
    cairn.cairn([std::ffi::OsStr::new("upgrade"), cairn.mount.as_os_str()])?;
    cairn.replaced()?;
    let said = child.wait_with_output()?;
    ensure!(said.status.success(), "{}\n{}", both(&said), far.log());
    let original = tree::picture(&top)?;
    ensure!(
        original == tree::picture(&cairn.at("many"))?,
        "what is there differs"
    );
    cairn.cairn([std::ffi::OsStr::new("down"), cairn.mount.as_os_str()])?;
    Ok(())
}

#[test]
fn p15_links_lead_nobody_out_and_directories_of_others_keep_their_modes() -> Result<()> {
    needs_mounts!();
    let (mut cairn, far, _root) = opened()?;
    let outside = cairn.dir.path().join("outside");
    for dir in [&outside, &cairn.at("theirs")] {
        fs::create_dir(dir)?;
        chown(dir, Some(NOBODY), Some(NOBODY))?;
        fs::set_permissions(dir, fs::Permissions::from_mode(0o2750))?;
    }
    // Under the name of a directory that comes lies a link of theirs that leads out of the mount.
    symlink(&outside, cairn.at("theirs/a"))?;
    let top = cairn.dir.path().join("top");
    fs::create_dir_all(top.join("a"))?;
    fs::write(top.join("a/f"), "x")?;
    fs::set_permissions(top.join("a"), fs::Permissions::from_mode(0o777))?;
    let caller = far.caller(&far.token(&cairn, NOBODY)?);
    let said = caller.run(["put", arg(&top.join("a"))?, ":theirs/"])?;
    ensure!(!said.status.success(), "{}", both(&said));
    let mode =
        |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o7777);
    ensure!(
        mode(&outside)? == 0o2750 && fs::read_dir(&outside)?.next().is_none(),
        "{}",
        both(&said)
    );
    // What was there keeps its mode; what is made inherits the group's bit.
    caller.does(["put", arg(&top)?, ":theirs/new"])?;
    caller.does(["put", arg(&top)?, ":theirs/new/"])?;
    ensure!(
        mode(&cairn.at("theirs"))? == 0o2750 && mode(&cairn.at("theirs/new/a"))? & 0o777 == 0o777
    );
    fs::set_permissions(cairn.at("theirs/new/a"), fs::Permissions::from_mode(0o2700))?;
    fs::rename(&top, cairn.dir.path().join("new"))?;
    caller.does(["put", arg(&cairn.dir.path().join("new"))?, ":theirs"])?;
    ensure!(mode(&cairn.at("theirs/new/a"))? == 0o2700);
    cairn.down()
}

#[test]
fn a_file_that_changes_meanwhile_is_refused_and_what_was_there_stays() -> Result<()> {
    needs_mounts!();
    let (mut cairn, _far, caller) = opened()?;
    let file = cairn.dir.path().join("f");
    fs::write(&file, tree::bytes(8, 100 << 20))?;
    fs::write(cairn.at("f"), "before")?;
    let child = caller
        .command(["put", "--limit-rate", "40M", arg(&file)?, ":f"])
        .spawn()?;
    wait_for("something to arrive", || {
        Ok(!on_their_way(&cairn.mount)?.is_empty())
    })?;
    use std::os::unix::fs::FileExt;
    fs::File::options()
        .write(true)
        .open(&file)?
        .write_all_at(b"changed", 0)?;
    let said = child.wait_with_output()?;
    ensure!(
        said.status.code() == Some(1) && both(&said).contains("changed"),
        "{}",
        both(&said)
    );
    ensure!(fs::read(cairn.at("f"))? == b"before");
    cairn.down()
}

/// Processes whose command line has all of this.
pub(crate) fn processes(words: &[&str]) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // It may have ended.
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        if words.iter().all(|word| line.contains(word)) {
            found.push(pid);
        }
    }
    Ok(found)
}

#[test]
fn an_instance_opens_the_door_itself_and_keeps_it_open() -> Result<()> {
    needs_mounts!();
    let (port, _) = free_ports(1)?;
    let mut cairn = Instance::new(None)?;
    let at = format!("127.0.0.1:{port}");
    cairn.args = vec!["--listen".into(), at.clone()];
    cairn.up()?;
    let said = cairn.cairn(["token", "issue", "--user", "0", "--json"])?;
    let issued: serde_json::Value = serde_json::from_str(&said)?;
    let word = |name: &str| {
        issued[name]
            .as_str()
            .map(str::to_owned)
            .context(name.to_owned())
    };
    let caller = Caller {
        runs: program(),
        before: Vec::new(),
        environment: vec![
            ("CAIRN_SERVER", at.clone().into()),
            ("CAIRN_TOKEN", word("token")?.into()),
            ("CAIRN_FINGERPRINT", word("fingerprint")?.into()),
        ],
    };
    let file = cairn.dir.path().join("f");
    fs::write(&file, "here")?;
    let door = ["serve", &at];
    for name in [":one", ":two"] {
        wait_for("the door to open", || {
            Ok(caller.run(["put", arg(&file)?, name])?.status.success())
        })?;
        ensure!(fs::read(cairn.at(&name[1..]))? == b"here");
        for pid in processes(&door)? {
            let pid = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            rustix::process::kill_process(
                pid.context("a process")?,
                rustix::process::Signal::KILL,
            )?;
        }
    }
    cairn.kill()?;
    wait_for("the door to go with its instance", || {
        Ok(processes(&door)?.is_empty())
    })?;
    cairn.up()?;
    wait_for("the door to open", || {
        Ok(caller.run(["put", arg(&file)?, ":three"])?.status.success())
    })?;
    cairn.down()?;
    ensure!(
        processes(&door)?.is_empty(),
        "the door is open, and the mount is gone"
    );
    Ok(())
}

#[test]
fn what_is_put_to_be_archived_is() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let far = Far::open(&cairn)?;
    let caller = far.caller(&far.token(&cairn, 0)?);
    let top = cairn.dir.path().join("run");
    fs::create_dir(&top)?;
    for n in 0..5 {
        fs::write(top.join(n.to_string()), tree::bytes(n, 10_000))?;
    }
    let said = caller.does(["put", "--archive", &top.to_string_lossy(), ":"])?;
    ensure!(said.contains("being archived by request "), "{said}");
    wait_for("all to be archived", || {
        let states = (0..5).map(|n| cairn.shown_state(&format!("run/{n}")));
        Ok(states
            .collect::<Result<Vec<_>>>()?
            .iter()
            .all(|state| state == "archived"))
    })?;
    cairn.down()
}

#[test]
fn a_hundred_clients_at_once_each_get_their_own() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let far = Far::open(&cairn)?;
    let caller = far.caller(&far.token(&cairn, 0)?);
    let content = |n: u64| tree::bytes(n, 300_000);
    let mut running = Vec::new();
    for n in 0..100 {
        let file = cairn.dir.path().join(format!("file-{n}"));
        fs::write(&file, content(n))?;
        let there = format!(":there-{n}");
        running.push(
            caller
                .command(["put", "-q", &file.to_string_lossy(), &there])
                .spawn()?,
        );
    }
    for child in running.drain(..) {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}\n{}", both(&output), far.log());
    }
    for n in 0..100 {
        let back = cairn.dir.path().join(format!("back-{n}"));
        let there = format!(":there-{n}");
        running.push(
            caller
                .command(["get", "-q", &there, &back.to_string_lossy()])
                .spawn()?,
        );
    }
    for child in running {
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{}\n{}", both(&output), far.log());
    }
    for n in 0..100 {
        let back = cairn.dir.path().join(format!("back-{n}"));
        ensure!(fs::read(back)? == content(n), "{n} is another's");
    }
    cairn.down()
}
