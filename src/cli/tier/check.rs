//! `cairn tier check`: what lies on a tier, held against the catalog.

use super::LOOK;
use crate::cli::output::{Output, table};
use crate::cli::{CliError, Session, outcome};
use crate::config::units::shown::counted;
use crate::server::wire::TierCheck;
use clap::Args;

/// Arguments of `tier check`.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// The tier's name.
    tier: String,
    /// Ask the tier for each object: lengths, and parts of long files. In a bucket that is a request each.
    #[arg(long)]
    closely: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mut client = session.client()?;
        let mut check = client.check_tier(&self.tier, self.closely)?;
        while check.ended.is_none() {
            std::thread::sleep(LOOK);
            check = client.tier_check(check.number)?;
        }
        let alike = check.error.is_none() && check.counts.is_empty();
        let mut output = Output::new(self.json);
        if self.json {
            output.object(check)?;
        } else {
            show(&mut output, &check)?;
        }
        output.finish()?;
        Ok(if alike { outcome::OK } else { 1 })
    }
}

fn show(output: &mut Output, check: &TierCheck) -> Result<(), CliError> {
    let name = &check.tier;
    if let Some(why) = &check.error {
        return output.line(format!("{name}: ended early: {why}"));
    }
    let mut said = vec![format!("{} as the catalog has them", check.alike)];
    let more = [
        (check.snapshots, "of the namespace"),
        (check.young, "just written"),
        (check.leaving, "on their way out"),
    ];
    let more = more.into_iter().filter(|(count, _)| *count > 0);
    said.extend(more.map(|(count, what)| format!("{count} {what}")));
    let (objects, said) = (counted(check.objects, "object"), said.join(", "));
    output.line(format!("{name}: {objects}: {said}"))?;
    let rows: Vec<Vec<String>> = check
        .differences
        .iter()
        .map(|one| {
            vec![
                format!("  {}", one.differs),
                one.object.clone(),
                one.why.clone(),
            ]
        })
        .collect();
    for line in table(&rows, &[]) {
        output.line(line)?;
    }
    let all: u64 = check.counts.values().sum();
    let unsaid = all.saturating_sub(check.differences.len() as u64);
    if unsaid > 0 {
        output.line(format!("  and {unsaid} more"))?;
    }
    let counts = check
        .counts
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"));
    let counts: Vec<String> = counts.collect();
    output.line(match counts.is_empty() {
        true => format!("{name}: nothing differs"),
        false => format!("{name}: {}", counts.join(", ")),
    })
}
