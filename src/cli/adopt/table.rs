//! What the mount table says against adopting a directory.

use crate::cli::CliError;
use crate::error::Failure;
use std::fs;
use std::path::Path;

/// One line of the mount table.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    point: String,
    kind: String,
    source: String,
    options: String,
}

/// Refuses a directory that is a mount point or holds one.
pub(super) fn check_unmounted(dir: &Path) -> Result<(), CliError> {
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| CliError::system("read the mount table", &e))?;
    match judge(&parse(&text), dir) {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

fn judge(mounts: &[Mounted], dir: &Path) -> Option<CliError> {
    // The last one is on top.
    let here = mounts.iter().rev().find(|m| Path::new(&m.point) == dir);
    if let Some(here) = here {
        if here.kind == "fuse.cairn" {
            let message = format!("{} is mounted by a running Cairn", dir.display());
            let hint = format!("stop it first: cairn down {}", dir.display());
            return Some(CliError::new(Failure::Busy, message).with_hint(hint));
        }
        return Some(root_of(dir, here));
    }
    let below = mounts
        .iter()
        .find(|m| Path::new(&m.point).starts_with(dir))?;
    let message = format!("{} is mounted below {}", below.point, dir.display());
    Some(CliError::new(Failure::Busy, message).with_hint("unmount it first"))
}

/// The root of a filesystem cannot be renamed.
pub(super) fn no_root(dir: &Path) -> CliError {
    let message = format!(
        "{} is the root of a filesystem and cannot be moved",
        dir.display()
    );
    CliError::usage(message).with_hint("adopt a directory in it")
}

fn root_of(dir: &Path, mounted: &Mounted) -> CliError {
    let message = format!(
        "{} is the root of a filesystem and cannot be moved",
        dir.display()
    );
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return no_root(dir);
    };
    let guarded = parent
        .join(format!(".cairn-{}", name.to_string_lossy()))
        .join("backing");
    let Mounted {
        source,
        kind,
        options,
        ..
    } = mounted;
    CliError::usage(message).with_hint(format!(
        "unmount it and mount it below a directory with mode 0700 instead; in /etc/fstab:\n  \
         {source} {} {kind} {options} 0 2",
        guarded.display()
    ))
}

fn parse(text: &str) -> Vec<Mounted> {
    let line = |line: &str| {
        let (front, back) = line.split_once(" - ")?;
        let mut front = front.split(' ').skip(4);
        let mut back = back.split(' ');
        Some(Mounted {
            point: unescape(front.next()?),
            options: front.next()?.to_owned(),
            kind: back.next()?.to_owned(),
            source: back.next()?.to_owned(),
        })
    };
    text.lines().filter_map(line).collect()
}

fn unescape(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    escapes
        .iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_refused_with_the_way_out() {
        let mounts = parse(
            "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
             2 1 8:2 / /srv/data rw,noatime - xfs /dev/sdb1 rw\n\
             3 1 0:9 / /srv/proj rw - fuse.cairn cairn rw\n\
             4 1 8:3 / /home/a\\040b/x rw - ext4 /dev/sdc1 rw\n",
        );
        let judged = |dir| judge(&mounts, Path::new(dir));
        let root = judged("/srv/data").unwrap();
        let line = "/dev/sdb1 /srv/.cairn-data/backing xfs rw,noatime 0 2";
        assert!(root.hint().unwrap().ends_with(line), "{root:?}");
        assert_eq!(root.exit_code(), 2);
        assert!(
            judged("/srv/proj")
                .unwrap()
                .to_string()
                .contains("running Cairn")
        );
        assert!(
            judged("/home/a b")
                .unwrap()
                .to_string()
                .contains("/home/a b/x")
        );
        assert!(judged("/srv/dat").is_none() && judged("/opt").is_none());
        assert!(
            judged("/")
                .unwrap()
                .to_string()
                .contains("root of a filesystem")
        );
    }
}
