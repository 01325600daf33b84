//! Names: links, renames, extended attributes, ACLs, and inodes that outlive their names.

use crate::rig::{Rig, TestResult, need_mount, pattern};
use rustix::fs::{CWD, RenameFlags, XattrFlags, renameat_with};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::process::Command;

#[test]
fn links_and_symlinks_and_nodes() -> TestResult {
    need_mount!("links_and_symlinks_and_nodes");
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"one")?;
    fs::hard_link(rig.m("f"), rig.m("g"))?;
    assert_eq!(fs::metadata(rig.m("f"))?.nlink(), 2);
    assert_eq!(
        fs::metadata(rig.m("f"))?.ino(),
        fs::metadata(rig.m("g"))?.ino()
    );
    fs::write(rig.m("g"), b"two")?;
    assert_eq!(fs::read(rig.m("f"))?, b"two");
    fs::remove_file(rig.m("f"))?;
    assert_eq!(fs::metadata(rig.m("g"))?.nlink(), 1);
    std::os::unix::fs::symlink("g", rig.m("s"))?;
    assert_eq!(fs::read_link(rig.m("s"))?, fs::read_link(rig.b("s"))?);
    assert_eq!(fs::read(rig.m("s"))?, b"two");
    assert!(Command::new("mkfifo").arg(rig.m("p")).status()?.success());
    assert_eq!(
        fs::metadata(rig.m("p"))?.mode(),
        fs::metadata(rig.b("p"))?.mode()
    );
    Ok(())
}

#[test]
fn rename_flags_are_obeyed() -> TestResult {
    need_mount!("rename_flags_are_obeyed");
    let rig = Rig::new()?;
    fs::create_dir(rig.m("d"))?;
    fs::write(rig.m("f"), b"f")?;
    fs::write(rig.m("d/g"), b"g")?;
    let rename = |flags| renameat_with(CWD, rig.m("f"), CWD, rig.m("d/g"), flags);
    assert_eq!(
        rename(RenameFlags::NOREPLACE),
        Err(rustix::io::Errno::EXIST)
    );
    rename(RenameFlags::EXCHANGE)?;
    assert_eq!(
        (fs::read(rig.m("f"))?, fs::read(rig.m("d/g"))?),
        (b"g".into(), b"f".into())
    );
    rename(RenameFlags::empty())?;
    assert_eq!(fs::read(rig.b("d/g"))?, b"g");
    assert!(!rig.m("f").exists());
    fs::rename(rig.m("d"), rig.m("e"))?;
    assert_eq!(fs::read(rig.m("e/g"))?, b"g");
    fs::remove_file(rig.m("e/g"))?;
    fs::remove_dir(rig.m("e"))?;
    assert!(fs::read_dir(rig.b(""))?.next().is_none());
    Ok(())
}

#[test]
fn extended_attributes_pass_and_private_ones_do_not() -> TestResult {
    need_mount!("extended_attributes_pass_and_private_ones_do_not");
    use rustix::fs::{getxattr, listxattr, removexattr, setxattr};
    use rustix::io::Errno;
    let rig = Rig::new()?;
    fs::write(rig.m("f"), b"")?;
    let (m, b) = (rig.m("f"), rig.b("f"));
    for name in ["user.a", "trusted.t", "security.x"] {
        setxattr(&m, name, b"value", XattrFlags::CREATE)?;
        let mut value = [0; 64];
        assert_eq!(getxattr(&b, name, &mut value)?, 5);
        assert_eq!(rustix::fs::getxattr_query(&m, name)?, 5);
        assert_eq!(getxattr(&m, name, &mut value[..3]), Err(Errno::RANGE));
        assert_eq!(
            setxattr(&m, name, b"v", XattrFlags::CREATE),
            Err(Errno::EXIST)
        );
    }
    setxattr(&m, "user.large", &pattern(3000), XattrFlags::empty())?;
    let mut value = vec![0; 65536];
    assert_eq!(getxattr(&m, "user.large", &mut value)?, 3000);
    setxattr(&b, "trusted.cairn", b"stub", XattrFlags::empty())?;
    assert_eq!(
        getxattr(&m, "trusted.cairn", &mut value),
        Err(Errno::NODATA)
    );
    assert_eq!(
        setxattr(&m, "trusted.cairn", b"x", XattrFlags::empty()),
        Err(Errno::PERM)
    );
    assert_eq!(removexattr(&m, "trusted.cairn"), Err(Errno::PERM));
    assert_eq!(getxattr(&m, "user.cairn.state", &mut value)?, 6);
    let length = listxattr(&m, &mut value)?;
    let list = String::from_utf8_lossy(&value[..length]).into_owned();
    assert!(
        list.contains("user.a") && list.contains("trusted.t"),
        "{list:?}"
    );
    assert!(!list.contains("cairn"), "{list:?}");
    removexattr(&m, "user.a")?;
    assert_eq!(getxattr(&b, "user.a", &mut value), Err(Errno::NODATA));
    // On a symbolic link itself.
    std::os::unix::fs::symlink("nowhere", rig.m("l"))?;
    rustix::fs::lsetxattr(rig.m("l"), "trusted.l", b"1", XattrFlags::empty())?;
    assert_eq!(
        rustix::fs::lgetxattr(rig.b("l"), "trusted.l", &mut value)?,
        1
    );
    Ok(())
}

#[test]
fn acls_decide_and_are_inherited() -> TestResult {
    need_mount!("acls_decide_and_are_inherited");
    let rig = Rig::new()?;
    fs::create_dir(rig.m("d"))?;
    let run = |program: &str, args: &[&str], path| {
        Command::new(program)
            .args(args)
            .arg(path)
            .output()
            .map(|o| (o.status.success(), o.stdout))
    };
    if !run("setfacl", &["-d", "-m", "u:1000:rwx,m:rwx"], rig.m("d"))?.0 {
        eprintln!("SKIPPED acls_decide_and_are_inherited: the backing has no ACLs");
        return Ok(());
    }
    let made = Command::new("sh")
        .args([
            "-c",
            "umask 077; touch \"$0\"/d/f; mkdir \"$0\"/d/sub; touch \"$0\"/plain",
        ])
        .arg(rig.m(""))
        .status()?;
    assert!(made.success());
    let acl = |path| run("getfacl", &["-cpn"], path).map(|(_, out)| out);
    for name in ["d/f", "d/sub"] {
        assert_eq!(acl(rig.m(name))?, acl(rig.b(name))?);
    }
    let file = String::from_utf8(acl(rig.m("d/f"))?)?;
    assert!(
        file.contains("user:1000:rwx") && file.contains("mask::rw-"),
        "{file}"
    );
    // With a default ACL the umask does not count; without, it does.
    assert_eq!(fs::metadata(rig.m("plain"))?.mode() & 0o777, 0o600);
    fs::set_permissions(
        rig.m("d"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )?;
    let read = Command::new("setpriv")
        .args([
            "--reuid",
            "1000",
            "--regid",
            "1000",
            "--clear-groups",
            "cat",
        ])
        .arg(rig.m("d/f"))
        .status()?;
    assert!(read.success(), "the ACL lets user 1000 read");
    Ok(())
}

#[test]
fn an_open_file_outlives_its_name() -> TestResult {
    need_mount!("an_open_file_outlives_its_name");
    for passthrough in [true, false] {
        let rig = Rig::with(|c| {
            if !passthrough {
                c.passthrough = cairn_fuse::Passthrough::Off;
            }
        })?;
        let file = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(rig.m("f"))?;
        file.write_all_at(b"before", 0)?;
        fs::remove_file(rig.m("f"))?;
        file.write_all_at(b"after", 6)?;
        assert_eq!(file.metadata()?.nlink(), 0);
        assert_eq!(file.metadata()?.len(), 11);
        file.set_len(8)?;
        let mut data = [0; 8];
        file.read_exact_at(&mut data, 0)?;
        assert_eq!(&data, b"beforeaf");
        file.sync_all()?;
        // Replaced by rename while open.
        fs::write(rig.m("g"), b"old")?;
        let old = File::open(rig.m("g"))?;
        fs::write(rig.m("n"), b"new")?;
        fs::rename(rig.m("n"), rig.m("g"))?;
        let mut data = [0; 3];
        old.read_exact_at(&mut data, 0)?;
        assert_eq!((&data, fs::read(rig.m("g"))?), (b"old", b"new".to_vec()));
        assert_eq!(old.metadata()?.nlink(), 0);
    }
    Ok(())
}

#[test]
fn a_reused_inode_number_is_another_file() -> TestResult {
    need_mount!("a_reused_inode_number_is_another_file");
    let rig = Rig::with(|c| c.shared = true)?;
    // Around the mount, so that the mirror is not told.
    fs::write(rig.b("f"), b"first")?;
    assert_eq!(fs::read(rig.m("f"))?, b"first");
    let inode = fs::metadata(rig.b("f"))?.ino();
    fs::remove_file(rig.b("f"))?;
    let mut reused = false;
    for i in 0..300 {
        let name = format!("n{i}");
        fs::write(rig.b(&name), name.as_bytes())?;
        if fs::metadata(rig.b(&name))?.ino() == inode {
            reused = true;
        }
        assert_eq!(fs::read(rig.m(&name))?, name.as_bytes());
    }
    crate::rig::eventually("the old name is gone", || !rig.m("f").exists());
    if !reused {
        eprintln!("a_reused_inode_number_is_another_file: this filesystem reused no number");
    }
    Ok(())
}

#[test]
fn removing_gives_the_blocks_back() -> TestResult {
    need_mount!("removing_gives_the_blocks_back");
    let rig = Rig::new()?;
    let backing = File::open(rig.b(""))?;
    let free = || rustix::fs::fstatvfs(&backing).map(|s| s.f_bfree * s.f_frsize);
    fs::write(rig.m("f"), pattern(64 << 20))?;
    File::open(rig.m("f"))?.sync_all()?;
    let handle = cairn_fuse::NodeHandle::of(File::open(rig.b("f"))?)?;
    let full = free()?;
    fs::remove_file(rig.m("f"))?;
    // Gone for good: neither a cached descriptor nor a backing id keeps it.
    crate::rig::eventually("the inode is freed", || {
        handle.open(&backing, libc::O_PATH).is_err()
    });
    let _ = full;
    Ok(())
}
