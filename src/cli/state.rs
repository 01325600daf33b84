//! `cairn state`: flags, copies, pins and request of files.

use super::output::Output;
use super::subjects::Subjects;
use super::{CliError, Session, outcome};
use crate::server::wire::{NodeState, NodeType, Walk};
use clap::Args;

/// Arguments of `state`.
#[derive(Debug, Args)]
pub(crate) struct State {
    #[command(flatten)]
    subjects: Subjects,
    /// Everything below directories too.
    #[arg(short, long)]
    recursive: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

impl State {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mut output = Output::new(self.json);
        let mut paths = self.subjects.paths()?;
        let Some(first) = paths.next() else {
            return match paths.failed {
                Some(error) => Err(CliError::system("read the list of files", &error)),
                None => Ok(outcome::OK),
            };
        };
        let mut client = session.client_at(&first)?;
        let walk = if self.recursive {
            Walk::Tree
        } else {
            Walk::Itself
        };
        let mut codes = Vec::new();
        let mut shown = false;
        let mut all = std::iter::once(first).chain(paths.by_ref());
        client.state(&mut all, walk, |node| match node {
            Ok(node) => {
                shown = true;
                show(&mut output, node)
            }
            Err(problem) => {
                codes.push(problem.code.clone());
                output.problem(problem)
            }
        })?;
        drop(all);
        output.finish()?;
        if let Some(error) = paths.failed {
            return Err(CliError::system("read the list of files", &error));
        }
        Ok(outcome::of_problems(
            codes.iter().map(String::as_str),
            shown,
        ))
    }
}

fn show(output: &mut Output, node: NodeState) -> Result<(), CliError> {
    if output.json {
        return output.object(node);
    }
    output.path_line("", &node.path.bytes(), &format!(": {}", words(&node)))
}

/// `exists archived released copies=1 pins=0`.
fn words(node: &NodeState) -> String {
    let mut words: Vec<String> = node.flags.iter().map(|f| f.as_str().to_owned()).collect();
    match node.kind {
        NodeType::File => {
            if words.is_empty() {
                words.push("resident".to_owned());
            }
            words.push(format!("copies={}", node.copies.len()));
            words.push(format!("pins={}", node.pins.len()));
        }
        NodeType::Directory => words.insert(0, "directory".to_owned()),
        NodeType::Symlink => words.insert(0, "symlink".to_owned()),
        NodeType::Special => words.insert(0, "special".to_owned()),
    }
    words.extend(node.request.map(|request| format!("request={request}")));
    words.join(" ")
}
