//! What was deleted or overwritten by mistake comes back: the right bytes, or a plain word that it
//! cannot be had.

use crate::needs_mounts;
use crate::rig::{self, Instance, on_disk, tree};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

const OWNER: u32 = 54_321;
const STRANGER: u32 = 54_322;

/// `cairn undelete` with these arguments and a path on the mount; both streams.
fn undelete(cairn: &Instance, args: &[&str], name: &str) -> Result<(bool, String)> {
    let path = cairn.at(name);
    let args = ["undelete"].iter().chain(args).map(|a| (*a).into());
    let output = cairn.run(args.chain([path.into_os_string()]))?;
    Ok(said(&output))
}

fn said(output: &Output) -> (bool, String) {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}

fn expect(cairn: &Instance, args: &[&str], name: &str) -> Result<String> {
    let (good, text) = undelete(cairn, args, name)?;
    ensure!(good, "undelete {args:?} {name}: {text}\n{}", cairn.log());
    Ok(text)
}

fn refuse(cairn: &Instance, args: &[&str], name: &str, why: &str) -> Result<()> {
    let (good, text) = undelete(cairn, args, name)?;
    ensure!(
        !good && text.contains(why),
        "undelete {args:?} {name}: {text}"
    );
    Ok(())
}

/// By another user, in the mount.
fn as_user(cairn: &Instance, uid: u32, args: &[&str]) -> Result<Output> {
    let program = cairn.dir.path().join("cairn");
    if !program.exists() {
        let copied = Command::new("cp")
            .arg(rig::program())
            .arg(&program)
            .status()?;
        ensure!(copied.success(), "copying the program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(Command::new(program)
        .args(args)
        .env("CAIRN_SOCKET", cairn.state.join("run/control.sock"))
        .current_dir(&cairn.mount)
        .uid(uid)
        .gid(uid)
        .stdin(Stdio::null())
        .output()?)
}

/// Everything about a file but its inode and ctime.
fn facts(cairn: &Instance, name: &str) -> Result<(u32, u32, u32, u64, i64, i64)> {
    let m = fs::symlink_metadata(cairn.at(name))?;
    Ok((
        m.mode(),
        m.uid(),
        m.gid(),
        m.size(),
        m.mtime(),
        m.mtime_nsec(),
    ))
}

fn attribute(cairn: &Instance, name: &str, key: &str) -> Result<Vec<u8>> {
    let mut value = [0; 256];
    let len = rustix::fs::getxattr(cairn.at(name), key, &mut value[..])?;
    Ok(value[..len].to_vec())
}

#[test]
fn a_file_that_was_removed_by_mistake_comes_back_with_all_that_was_its() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let data = tree::bytes(1, 300_001);
    for released in [true, false] {
        let name = format!("f{released}");
        fs::write(cairn.at(&name), &data)?;
        fs::set_permissions(cairn.at(&name), fs::Permissions::from_mode(0o4751))?;
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(cairn.at(&name), "user.note", b"\x00kept\xff", flags)?;
        std::os::unix::fs::chown(cairn.at(&name), Some(OWNER), Some(OWNER))?;
        fs::set_permissions(cairn.at(&name), fs::Permissions::from_mode(0o4751))?;
        let acl = Command::new("setfacl")
            .args(["-m", "u:77:rw-"])
            .arg(cairn.at(&name))
            .status();
        let acl = acl.is_ok_and(|s| s.success());
        cairn.archive(&name)?;
        if released {
            cairn.release(&name)?;
        }
        let before = facts(&cairn, &name)?;
        fs::remove_file(cairn.at(&name))?;
        // The kernel remembers that there is none.
        ensure!(fs::metadata(cairn.at(&name)).is_err());
        let listed = expect(&cairn, &["--list"], "")?;
        ensure!(
            listed.contains(&name) && listed.contains("unlink"),
            "{listed}"
        );
        let json = expect(&cairn, &["--list", "--json"], &name)?;
        ensure!(
            json.contains("cairn.undelete.v1") && json.contains("300001"),
            "{json}"
        );
        let told = expect(&cairn, &[], &name)?;
        ensure!(told.contains("released"), "{told}");
        rig::wait_for("the kernel to see the name", || {
            Ok(fs::metadata(cairn.at(&name)).is_ok())
        })?;
        ensure!(
            facts(&cairn, &name)? == before,
            "{:?}",
            facts(&cairn, &name)?
        );
        ensure!(attribute(&cairn, &name, "user.note")? == b"\x00kept\xff");
        if acl {
            attribute(&cairn, &name, "system.posix_acl_access").context("no ACL")?;
        }
        ensure!(cairn.shown_state(&name)? == "released", "not released");
        ensure!(on_disk(&cairn.below(&name))? <= 8192, "it has blocks");
        cairn.cold()?;
        ensure!(fs::read(cairn.at(&name))? == data, "other bytes");
        ensure!(facts(&cairn, &name)? == before, "changed by its recall");
        let listed = expect(&cairn, &["--list"], &name)?;
        ensure!(!listed.contains("unlink"), "still listed: {listed}");
        let names: Vec<_> = fs::read_dir(&cairn.mount)?
            .map(|e| e.map(|e| e.file_name()))
            .collect::<Result<_, _>>()?;
        ensure!(names.iter().any(|n| *n == *name), "{names:?}");
        refuse(&cairn, &[], &name, "no version of it")?;
    }
    // It is a file like any other: changed, archived and released again, and deleted again.
    fs::write(cairn.at("ftrue"), tree::bytes(2, 200_000))?;
    cairn.archive("ftrue")?;
    cairn.release("ftrue")?;
    fs::remove_file(cairn.at("ftrue"))?;
    expect(&cairn, &["--stage", "--wait"], "ftrue")?;
    ensure!(cairn.shown_state("ftrue")? == "archived", "not staged");
    ensure!(fs::read(cairn.at("ftrue"))? == tree::bytes(2, 200_000));
    let audit = fs::read_to_string(cairn.state.join("audit.jsonl"))?;
    ensure!(audit.contains("\"undelete\""), "{audit}");
    cairn.down()
}

#[test]
fn a_tree_that_was_removed_by_mistake_comes_back() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::create_dir_all(cairn.at("proj/a/b c"))?;
    fs::create_dir_all(cairn.at("proj-2"))?;
    let files = [
        ("proj/x", 1_u64),
        ("proj/a/y", 2),
        ("proj/a/b c/z", 3),
        ("proj-2/other", 4),
        ("proj/a-b", 5),
    ];
    for (name, seed) in files {
        fs::write(cairn.at(name), tree::bytes(seed, 70_000 + seed as usize))?;
    }
    fs::write(cairn.at("proj/small"), b"tiny")?;
    fs::write(cairn.at("proj/empty"), b"")?;
    fs::set_permissions(cairn.at("proj/a"), fs::Permissions::from_mode(0o2750))?;
    cairn.archive("")?;
    cairn.release("")?;
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::open(cairn.at("proj/a"))?.set_modified(old)?;
    fs::write(cairn.at("proj/new"), tree::bytes(9, 70_000))?;
    fs::remove_dir_all(cairn.at("proj"))?;
    ensure!(fs::metadata(cairn.at("proj/a")).is_err());
    refuse(&cairn, &[], "proj/x", "gone, too")?;
    refuse(&cairn, &[], "proj", "-r brings back")?;
    refuse(&cairn, &["-r"], "proj/new", "never archived")?;
    let listed = expect(&cairn, &["--list"], "proj")?;
    ensure!(
        !listed.contains("other") && !listed.contains("proj/new"),
        "{listed}"
    );
    expect(&cairn, &["-r"], "proj")?;
    rig::wait_for("the kernel to see the tree", || {
        Ok(fs::metadata(cairn.at("proj/a/b c/z")).is_ok())
    })?;
    for (name, seed) in files {
        let found = fs::read(cairn.at(name)).with_context(|| name.to_owned())?;
        ensure!(found == tree::bytes(seed, 70_000 + seed as usize), "{name}");
    }
    ensure!(fs::read(cairn.at("proj/small"))? == b"tiny");
    ensure!(fs::read(cairn.at("proj/empty"))? == b"");
    let a = fs::metadata(cairn.at("proj/a"))?;
    ensure!(a.mode() & 0o7777 == 0o2750, "{:o}", a.mode());
    ensure!(fs::metadata(cairn.at("proj/new")).is_err());
    // Elsewhere, too; and again what is there is left alone.
    fs::remove_dir_all(cairn.at("proj/a"))?;
    expect(
        &cairn,
        &["-r", "--to", &cairn.at("copy").to_string_lossy()],
        "proj/a",
    )?;
    ensure!(fs::read(cairn.at("copy/b c/z"))? == tree::bytes(3, 70_003));
    ensure!(fs::metadata(cairn.at("proj/a")).is_err());
    cairn.down()
}

#[test]
fn the_version_before_an_overwrite_comes_back_beside_the_file() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    let (one, two) = (tree::bytes(1, 200_000), tree::bytes(2, 150_000));
    cairn.released("f", &one)?;
    // As a shell does: `> f`.
    fs::write(cairn.at("f"), b"oops")?;
    let told = expect(&cairn, &[], "f")?;
    ensure!(told.contains("as it was until"), "{told}");
    let beside = told.split(": released").next().context("no name")?.trim();
    ensure!(beside.contains("/f.until-"), "{told}");
    ensure!(fs::read(cairn.at("f"))? == b"oops", "the file was touched");
    ensure!(fs::read(beside)? == one, "other bytes");
    // Two versions and a later file of that name: by number, by time, and the last.
    cairn.archive("f")?;
    fs::write(cairn.at("f"), &two)?;
    cairn.archive("f")?;
    fs::write(cairn.at("f"), b"again")?;
    for (args, want) in [(["--version", "1"], &one[..]), (["--version", "3"], &two)] {
        let to = cairn.at(&format!("to{}", args[1]));
        let to = to.to_string_lossy().into_owned();
        expect(&cairn, &[args[0], args[1], "--to", &to], "f")?;
        ensure!(fs::read(&to)? == want, "{args:?}");
    }
    let to = cairn.at("to1").to_string_lossy().into_owned();
    refuse(&cairn, &["--to", &to], "f", "has that name")?;
    refuse(&cairn, &["--version", "9"], "f", "no such version")?;
    // Each is a file of its own: what is written to one is no other's.
    fs::write(cairn.at("to1"), tree::bytes(7, 100_000))?;
    cairn.archive("")?;
    cairn.release("")?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("to1"))? == tree::bytes(7, 100_000));
    ensure!(fs::read(cairn.at("f"))? == b"again");
    ensure!(fs::read(cairn.at("to3"))? == two);
    cairn.down()
}

#[test]
fn what_was_never_archived_is_said_to_be_lost_for_good() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::write(cairn.at("new"), tree::bytes(1, 100_000))?;
    fs::remove_file(cairn.at("new"))?;
    refuse(&cairn, &[], "new", "what was never archived cannot be had")?;
    refuse(
        &cairn,
        &["-r"],
        "new",
        "what was never archived cannot be had",
    )?;
    // Changed since it was archived: what was archived comes back, and that is said.
    fs::write(cairn.at("dirty"), tree::bytes(2, 100_000))?;
    cairn.archive("dirty")?;
    fs::write(cairn.at("dirty"), tree::bytes(3, 100_000))?;
    let listed = expect(&cairn, &["--list"], "dirty")?;
    ensure!(listed.contains("overwrite"), "{listed}");
    fs::remove_file(cairn.at("dirty"))?;
    let told = expect(&cairn, &[], "dirty")?;
    ensure!(told.contains("as it was until"), "{told}");
    ensure!(fs::read(cairn.at("dirty"))? == tree::bytes(2, 100_000));
    cairn.down()
}

#[test]
fn p15_users_have_back_their_own_and_learn_of_no_others() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    cairn.up()?;
    fs::set_permissions(&cairn.mount, fs::Permissions::from_mode(0o755))?;
    fs::create_dir(cairn.at("home"))?;
    std::os::unix::fs::chown(cairn.at("home"), Some(OWNER), Some(OWNER))?;
    fs::create_dir(cairn.at("secret"))?;
    fs::set_permissions(cairn.at("secret"), fs::Permissions::from_mode(0o700))?;
    for name in ["home/mine", "home/moved", "home/roots"] {
        fs::write(cairn.at(name), tree::bytes(1, 80_000))?;
        if name != "home/roots" {
            std::os::unix::fs::chown(cairn.at(name), Some(OWNER), Some(OWNER))?;
        }
    }
    cairn.archive("")?;
    cairn.release("")?;
    fs::rename(cairn.at("home/moved"), cairn.at("secret/hidden"))?;
    for name in ["home/mine", "secret/hidden", "home/roots"] {
        fs::remove_file(cairn.at(name))?;
    }
    let all = expect(&cairn, &["--list"], "")?;
    ensure!(all.contains("hidden") && all.contains("roots"), "{all}");
    for args in [&["undelete", "--list"][..], &["undelete", "--list", "home"]] {
        let (good, text) = said(&as_user(&cairn, OWNER, args)?);
        ensure!(good && text.contains("mine"), "{text}");
        ensure!(
            !text.contains("hidden") && !text.contains("roots"),
            "{text}"
        );
        let (_, text) = said(&as_user(&cairn, STRANGER, args)?);
        ensure!(!text.contains("mine"), "{text}");
    }
    let (good, text) = said(&as_user(&cairn, STRANGER, &["undelete", "home/mine"])?);
    ensure!(!good && text.contains("no version of it"), "{text}");
    let (good, text) = said(&as_user(&cairn, OWNER, &["undelete", "secret/hidden"])?);
    ensure!(!good, "{text}");
    let (good, text) = said(&as_user(
        &cairn,
        OWNER,
        &["undelete", "--to", "mine", "home/mine"],
    )?);
    ensure!(!good && text.contains("may not make files"), "{text}");
    let output = as_user(&cairn, OWNER, &["undelete", "home/mine"])?;
    let (good, text) = said(&output);
    ensure!(good, "{text}\n{}", cairn.log());
    ensure!(text.starts_with("home/mine: released"), "{text}");
    let found = fs::metadata(cairn.at("home/mine"))?;
    ensure!((found.uid(), found.gid()) == (OWNER, OWNER), "another's");
    ensure!(fs::read(cairn.at("home/mine"))? == tree::bytes(1, 80_000));
    cairn.down()
}

#[test]
fn a_copy_that_was_removed_is_no_more_counted_on() -> Result<()> {
    needs_mounts!();
    let mut cairn = Instance::new(None)?;
    let second = cairn.dir.path().join("second");
    fs::create_dir(&second)?;
    for (name, at) in [("one", &cairn.tier), ("two", &second)] {
        let url = format!("{name}=dir:{}", at.display());
        cairn.args.extend(["--tier".to_owned(), url]);
    }
    cairn.up()?;
    let data = tree::bytes(1, 300_000);
    fs::write(cairn.at("f"), &data)?;
    let path = cairn.at("f").to_string_lossy().into_owned();
    for tier in ["one", "two"] {
        cairn.cairn(["archive", "--wait", "--tier", tier, &path])?;
    }
    cairn.release("f")?;
    let ctime = |m: fs::Metadata| (m.ctime(), m.ctime_nsec());
    let shown = ctime(fs::metadata(cairn.at("f"))?);
    let copies = |cairn: &Instance| -> Result<String> {
        Ok(String::from_utf8(attribute(
            cairn,
            "f",
            "user.cairn.copies",
        )?)?)
    };
    ensure!(copies(&cairn)?.lines().count() == 2, "{}", copies(&cairn)?);
    let told = said(&as_user(
        &cairn,
        STRANGER,
        &["remove", "--wait", "--tier", "one", "f"],
    )?);
    ensure!(!told.0 && told.1.contains("owner"), "{told:?}");
    cairn.cairn(["remove", "--wait", "--tier", "one", &path])?;
    let left = copies(&cairn)?;
    ensure!(
        left.lines().count() == 1 && left.contains("000002"),
        "{left}"
    );
    ensure!(
        ctime(fs::metadata(cairn.at("f"))?) == shown,
        "it shows as a change of status"
    );
    let last = cairn.run(["remove", "--wait", "--last-copy", "--tier", "two", &path])?;
    ensure!(
        !last.status.success() && said(&last).1.contains("stage"),
        "{:?}",
        said(&last)
    );
    // The bytes on the first may go, and the second is read.
    fs::remove_dir_all(&cairn.tier)?;
    cairn.cold()?;
    ensure!(fs::read(cairn.at("f"))? == data, "other bytes");
    let last = cairn.run(["remove", "--wait", "--last-copy", "--tier", "two", &path])?;
    ensure!(last.status.success(), "{:?}", said(&last));
    ensure!(
        cairn.shown_state("f")? == "resident",
        "{}",
        cairn.shown_state("f")?
    );
    let why = cairn.cairn(["why", &path])?;
    ensure!(why.contains("0 of the 1 copies"), "{why}");
    // Until its bytes are reclaimed even that can be had again.
    let listed = expect(&cairn, &["--list"], "f")?;
    ensure!(listed.contains("remove"), "{listed}");
    cairn.down()
}
