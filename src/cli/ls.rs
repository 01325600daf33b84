//! `cairn ls`: ls, with state and size on disk.

mod long;

use super::names::Names;
use super::output::Output;
use super::{CliError, Session, outcome};
use crate::client::Client;
use crate::config::units::shown::Bytes;
use crate::server::wire::{NodeState, NodeType, Problem, StateFlag, Walk};
use clap::Args;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Arguments of `ls`.
#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Files and directories.
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<OsString>,
    /// Long: ls -l's columns, then state and bytes on disk, then the name.
    #[arg(short)]
    long: bool,
    /// Directories below too.
    #[arg(short = 'R')]
    recursive: bool,
    /// Also names that begin with a dot.
    #[arg(short)]
    all: bool,
    /// Only what can be read without a recall: what is not a file, and files with their data on disk.
    #[arg(long)]
    on_disk: bool,
    /// Only what is no directory.
    #[arg(long)]
    files: bool,
    /// Print names alone, whole, each with a NUL behind it, for tar -T, rsync --files-from and the like.
    #[arg(short = '0', long = "null", conflicts_with_all = ["long", "json"])]
    null: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl Ls {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let paths: Vec<Vec<u8>> = self.paths.iter().cloned().map(OsString::into_vec).collect();
        let first = paths.first().cloned().unwrap_or_else(|| b".".to_vec());
        let mut client = session.client_at(&first)?;
        let mut listing = Listing {
            ls: self,
            output: Output::new(self.json),
            names: Names::default(),
            codes: Vec::new(),
            printed: false,
            headings: paths.len() > 1 || self.recursive,
        };
        let directories = listing.files(&mut client, paths)?;
        for directory in directories {
            listing.directory(&mut client, directory)?;
        }
        let Listing {
            output,
            codes,
            printed,
            ..
        } = listing;
        output.finish()?;
        Ok(outcome::of_problems(
            codes.iter().map(String::as_str),
            printed,
        ))
    }
}

/// What has been listed so far.
struct Listing<'a> {
    ls: &'a Ls,
    output: Output,
    names: Names,
    codes: Vec<String>,
    printed: bool,
    headings: bool,
}

impl Listing<'_> {
    fn problem(&mut self, problem: Problem) -> Result<(), CliError> {
        self.codes.push(problem.code.clone());
        self.output.problem(problem)
    }

    /// Lists those that are no directories; returns the others.
    fn files(
        &mut self,
        client: &mut Client,
        paths: Vec<Vec<u8>>,
    ) -> Result<Vec<Vec<u8>>, CliError> {
        let mut files = Vec::new();
        let mut directories = Vec::new();
        client.state(&mut paths.into_iter(), Walk::Itself, |node| match node {
            Ok(node) if node.kind == NodeType::Directory => {
                directories.push(node.path.bytes());
                Ok::<(), CliError>(())
            }
            Ok(node) => {
                files.push(node);
                Ok(())
            }
            Err(problem) => self.problem(problem),
        })?;
        self.group(files, true)?;
        Ok(directories)
    }

    fn directory(&mut self, client: &mut Client, top: Vec<u8>) -> Result<(), CliError> {
        let walk = if self.ls.recursive {
            Walk::Tree
        } else {
            Walk::Children
        };
        if self.ls.null && !self.ls.files {
            self.output.name_and_nul(&top)?;
        }
        let mut parent = top.clone();
        let mut group: Vec<NodeState> = Vec::new();
        client.state(&mut std::iter::once(top.clone()), walk, |node| {
            let node = match node {
                Ok(node) => node,
                Err(problem) => return self.problem(problem),
            };
            let path = node.path.bytes();
            if path == top || (!self.ls.all && is_hidden(&path, &top)) {
                return Ok(());
            }
            let above = split(&path).0;
            if above != parent {
                let whole = std::mem::take(&mut group);
                self.heading_and_group(&parent, whole)?;
                parent = above.to_vec();
            }
            group.push(node);
            Ok(())
        })?;
        self.heading_and_group(&parent, group)
    }

    fn heading_and_group(
        &mut self,
        directory: &[u8],
        group: Vec<NodeState>,
    ) -> Result<(), CliError> {
        if self.headings && !self.output.json && !self.ls.null {
            let gap = if self.printed { "\n" } else { "" };
            self.output.path_line(gap, directory, ":")?;
            self.printed = true;
        }
        self.group(group, false)
    }

    /// Sorted by name; whole paths for what was named, names for what lies in a directory.
    fn group(&mut self, mut group: Vec<NodeState>, whole: bool) -> Result<(), CliError> {
        if self.ls.on_disk {
            group.retain(is_on_disk);
        }
        if self.ls.files {
            group.retain(|node| node.kind != NodeType::Directory);
        }
        group.sort_by_cached_key(|node| node.path.bytes());
        self.printed |= !group.is_empty();
        if self.ls.null {
            return group
                .iter()
                .try_for_each(|node| self.output.name_and_nul(&node.path.bytes()));
        }
        if self.output.json {
            return group
                .into_iter()
                .try_for_each(|node| self.output.object(node));
        }
        let lines = if self.ls.long {
            long::lines(&group, &mut self.names)
        } else {
            group
                .iter()
                .map(|n| format!("{:<8}  {:>8}  ", word(n), Bytes(n.on_disk)))
                .collect()
        };
        for (node, before) in group.iter().zip(lines) {
            let path = node.path.bytes();
            let name = if whole { &path } else { split(&path).1 };
            let after = match &node.target {
                Some(target) if self.ls.long => format!(" -> {target}"),
                Some(_) | None => String::new(),
            };
            self.output.path_line(&before, name, &after)?;
        }
        Ok(())
    }
}

/// Directory and name. The path of what lies in `d/` is `d/name`, in `/` it is `/name`.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(0) => (
            path.get(..1).unwrap_or_default(),
            path.get(1..).unwrap_or_default(),
        ),
        Some(at) => (
            path.get(..at).unwrap_or_default(),
            path.get(at + 1..).unwrap_or_default(),
        ),
        None => (b".", path),
    }
}

/// Whether a name between `top` and the end of `path` begins with a dot.
fn is_hidden(path: &[u8], top: &[u8]) -> bool {
    let below = path.strip_prefix(top).unwrap_or(path);
    below
        .split(|b| *b == b'/')
        .any(|name| name.first() == Some(&b'.'))
}

/// Reading it asks no tier for anything.
fn is_on_disk(node: &NodeState) -> bool {
    use StateFlag::{Conflict, Foreign, Lost, Released};
    let away = [Lost, Foreign, Conflict, Released];
    node.kind != NodeType::File || !away.into_iter().any(|flag| node.is(flag))
}

/// The state in one word, for a column.
fn word(node: &NodeState) -> &'static str {
    if node.kind != NodeType::File {
        return "-";
    }
    let order = [
        StateFlag::Lost,
        StateFlag::Foreign,
        StateFlag::Conflict,
        StateFlag::Released,
        StateFlag::Dirty,
        StateFlag::Archived,
    ];
    let worst = order.into_iter().find(|flag| node.is(*flag));
    worst.map_or("resident", StateFlag::as_str)
}
