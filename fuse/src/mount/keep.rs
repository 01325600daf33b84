//! What the server's own mount namespace is left with: mounts that do not follow the users'
//! namespace would keep filesystems alive that an administrator unmounts there.

use rustix::mount::{UnmountFlags, unmount};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// What a process needs beside what it is told: programs, libraries, the kernel's own files.
const SYSTEM: [&str; 12] = [
    "/bin",
    "/dev/fuse",
    "/etc",
    "/lib",
    "/lib64",
    "/proc/self",
    "/run",
    "/sbin",
    "/sys/fs",
    "/tmp",
    "/usr/bin",
    "/usr/lib",
];

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    place: PathBuf,
    /// It is changed along with another namespace's.
    follows: bool,
    kind: String,
}

/// What is used in every depth.
const CONFIGURATION: &str = "/etc";

/// Takes away, in the calling process's mount namespace, the mounts that are on the way to none
/// of the `needed` places and lie in none of them, nor are on the way to `passed`, unless the
/// users' namespace can do so itself.
pub(crate) fn keep_only(needed: &[&Path], passed: Option<&Path>) {
    let Ok(table) = std::fs::read("/proc/self/mountinfo") else {
        return;
    };
    let program = std::env::current_exe().unwrap_or_default();
    let mut ways: Vec<&Path> = SYSTEM.iter().map(Path::new).collect();
    ways.push(&program);
    ways.extend(needed);
    ways.extend(passed);
    let mut whole = vec![Path::new(CONFIGURATION)];
    whole.extend(needed);
    // The innermost first: those that lie on others go before them.
    for mount in superfluous(&table, &ways, &whole).iter().rev() {
        let flags = UnmountFlags::DETACH | UnmountFlags::NOFOLLOW;
        if let Err(error) = unmount(mount, flags) {
            tracing::debug!(?mount, %error, "stays in this process's namespace");
        }
    }
}

/// Of the mounts in the table those that are not on the way to one of `ways`, nor in one of `whole`.
fn superfluous(table: &[u8], ways: &[&Path], whole: &[&Path]) -> Vec<PathBuf> {
    table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .filter(|mount| !mount.follows && is_a_store(&mount.kind))
        .map(|mount| mount.place)
        .filter(|place| !ways.iter().any(|kept| kept.starts_with(place)))
        .filter(|place| !whole.iter().any(|kept| place.starts_with(kept)))
        .collect()
}

/// Does it keep a device, another server or another process busy? The kernel's own do not.
fn is_a_store(kind: &str) -> bool {
    const KERNELS: [&str; 22] = [
        "autofs",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "configfs",
        "debugfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "fusectl",
        "hugetlbfs",
        "mqueue",
        "nsfs",
        "overlay",
        "proc",
        "pstore",
        "ramfs",
        "securityfs",
        "sysfs",
        "tmpfs",
        "tracefs",
    ];
    !KERNELS.contains(&kind)
}

fn parse(line: &[u8]) -> Option<Mount> {
    // ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [TAG...] - KIND SOURCE OPTIONS
    let mut words = line.split(|byte| *byte == b' ').skip(4);
    let place = unescaped(words.next()?);
    let follows = words
        .by_ref()
        .take_while(|word| *word != b"-")
        .any(|tag| tag.starts_with(b"master:"));
    // Of the tags one may have ended the look before the dash did.
    let at = line.windows(3).position(|three| three == b" - ")?;
    let kind = line[at + 3..].split(|byte| *byte == b' ').next()?;
    Some(Mount {
        place,
        follows,
        kind: String::from_utf8_lossy(kind).into_owned(),
    })
}

/// Space, tab, newline and backslash are written as a backslash and three octal digits.
fn unescaped(word: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        let code = || std::str::from_utf8(tail.get(..3)?).ok();
        let octal = || u8::from_str_radix(code()?, 8).ok();
        match (*first, octal()) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            (other, _) => bytes.push(other),
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn what_nothing_needs_and_nobody_else_can_end_goes() {
        let table = b"27 1 254:0 / / rw - ext4 /dev/vda rw\n\
            22 27 0:21 / /proc rw - proc proc rw\n\
            40 27 7:0 / /mnt/a\\040b rw,noatime - ext4 /dev/loop0 rw\n\
            41 27 7:1 / /mnt/follows rw shared:3 master:2 - xfs /dev/loop1 rw\n\
            42 27 7:2 / /mnt/cold rw shared:4 - xfs /dev/loop2 rw\n\
            43 27 0:50 / /srv/other rw - fuse.cairn cairn rw\n\
            44 27 7:3 / /usr rw - ext4 /dev/loop3 rw\n\
            45 27 0:51 / /dev/shm rw - tmpfs tmpfs rw\n\
            46 42 7:4 / /mnt/cold/tier/objects rw - xfs /dev/loop4 rw\n\
            47 42 7:5 / /mnt/cold/tiers rw - xfs /dev/loop5 rw\n\
            48 27 7:6 / /etc/ssl rw - ext4 /dev/loop6 rw\n\
            49 44 7:7 / /usr/lib/extra rw - ext4 /dev/loop7 rw\nnonsense\n";
        let ways = ["/usr/lib", "/mnt/cold/tier", "/etc"].map(Path::new);
        let whole = ["/mnt/cold/tier", "/etc"].map(Path::new);
        assert_eq!(
            superfluous(table, &ways, &whole),
            [
                "/mnt/a b",
                "/srv/other",
                "/mnt/cold/tiers",
                "/usr/lib/extra"
            ]
            .map(PathBuf::from)
        );
    }

    #[test]
    fn escapes_are_read_as_the_kernel_writes_them() {
        assert_eq!(
            unescaped(b"a\\134\\011z\\9").as_os_str().as_bytes(),
            b"a\\\tz\\9"
        );
    }
}
