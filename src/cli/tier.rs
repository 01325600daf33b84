//! `cairn tier`: what lies on tiers, whether that is what the catalog says, what can go, whose they are, and whether a place is fit to be one.

mod check;
mod owner;
mod probe;
mod test;

use super::output::{Output, table};
use super::{CliError, Session, outcome};
use crate::config::units::shown::{Bytes, counted, grouped};
use crate::server::wire::{Collect, CollectTier, ObjectCount, TierObjects};
use clap::{Args, Subcommand};
use std::time::Duration;

/// How often a run that is waited for is asked after.
const LOOK: Duration = Duration::from_millis(200);

/// Arguments of `tier`.
#[derive(Debug, Args)]
pub(crate) struct Tier {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// List tiers: objects, what of them is needed, what can go and when.
    #[command(after_help = "Example: cairn tier list")]
    List {
        /// Print one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Free tiers of what nobody needs, or say what would go and what keeps the rest.
    #[command(after_help = "Example: cairn tier collect --dry-run")]
    Collect(Run),
    /// Hold a tier's objects against the catalog, both ways; change nothing.
    #[command(after_help = "\
What differs is missing (the catalog has it, the tier does not), unknown (the other way round), \
unlike (another length, or a part of a long file is gone), or unseen (the tier cannot say now).
`cairn verify` finds the files of what is missing or unlike, and has them copied anew from another \
copy; `cairn tier collect` reads what is unknown, and keeps it.

Example: cairn tier check cold")]
    Check(check::Check),
    /// Show whose a tier is, or give it to another instance.
    #[command(after_help = "Example: cairn tier owner dir:/mnt/cold --state /var/lib/cairn/data")]
    Owner(owner::Owner),
    /// Try whether a place is fit to be a tier: the suite that every kind of tier passes.
    #[command(
        after_help = "Example: cairn tier test 'exec:/usr/local/lib/cairn/dir?opt.root=/mnt/empty'"
    )]
    Test(test::Test),
    /// Find out anew what the service of a bucket can do.
    #[command(after_help = "Example: cairn tier probe cold")]
    Probe(probe::Probe),
}

/// Arguments of `tier collect`.
#[derive(Debug, Args)]
struct Run {
    /// Change nothing; say what would be done, and why the rest stays.
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Wait until it is done and say what was done.
    #[arg(short, long)]
    wait: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Tier {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        match &self.what {
            What::List { json } => list(session, *json),
            What::Collect(args) => args.run(session),
            What::Check(args) => args.run(session),
            What::Owner(args) => args.run(session),
            What::Test(args) => args.run(),
            What::Probe(args) => args.run(session),
        }
    }
}

fn list(session: &Session, json: bool) -> Result<u8, CliError> {
    let list = session.client()?.tiers()?;
    let mut output = Output::new(json);
    if json {
        output.object(list)?;
    } else {
        let head = [
            "TIER",
            "OBJECTS",
            "BYTES",
            "NEEDED",
            "DEAD",
            "CONDEMNED",
            "QUARANTINED",
            "CAN GO",
            "MORE AFTER",
        ];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(list.tiers.iter().map(row));
        for line in table(&rows, &[1, 2, 3, 4, 7]) {
            output.line(line)?;
        }
        for tier in &list.tiers {
            for strange in &tier.strange {
                let (object, why) = (&strange.object, &strange.why);
                output.line(format!("{}: {object} is left alone: {why}", tier.tier))?;
            }
            if tier.missing > 0 {
                let missing = counted(tier.missing, "object");
                output.line(format!("{}: {missing} of the catalog missing", tier.tier))?;
            }
        }
    }
    output.finish()?;
    Ok(outcome::OK)
}

fn row(tier: &TierObjects) -> Vec<String> {
    let kind = |count: ObjectCount| match count.objects {
        0 => "-".to_owned(),
        n => format!("{} ({})", grouped(n), Bytes(count.bytes)),
    };
    vec![
        tier.tier.clone(),
        grouped(tier.ordinary.objects),
        Bytes(tier.ordinary.bytes).to_string(),
        Bytes(tier.live_bytes).to_string(),
        Bytes(tier.dead_bytes).to_string(),
        kind(tier.condemned),
        kind(tier.quarantined),
        tier.reclaimable
            .map_or("?".to_owned(), |n| Bytes(n).to_string()),
        tier.next.map_or("-".to_owned(), |at| at.to_string()),
    ]
}

impl Run {
    fn run(&self, session: &Session) -> Result<u8, CliError> {
        let mut client = session.client()?;
        let mut run = client.collect(self.dry_run)?;
        if self.dry_run || self.wait {
            while run.ended.is_none() {
                std::thread::sleep(LOOK);
                run = client.collection(run.number)?;
            }
        }
        let failed = run.tiers.iter().any(|tier| tier.error.is_some());
        let mut output = Output::new(self.json);
        if self.json {
            output.object(run)?;
        } else {
            show(&mut output, &run)?;
        }
        output.finish()?;
        Ok(u8::from(failed))
    }
}

fn show(output: &mut Output, run: &Collect) -> Result<(), CliError> {
    if run.ended.is_none() {
        return output.line(format!("run {} of the collector has begun", run.number));
    }
    for tier in &run.tiers {
        show_tier(output, tier, run.dry_run)?;
    }
    Ok(())
}

fn show_tier(output: &mut Output, tier: &CollectTier, dry: bool) -> Result<(), CliError> {
    let name = &tier.tier;
    if let Some(why) = &tier.error {
        return output.line(format!("{name}: ended early: {why}"));
    }
    let (objects, bytes) = (counted(tier.objects, "object"), Bytes(tier.reclaimable));
    let verb = if dry { "could go" } else { "go or went" };
    output.line(format!("{name}: {objects}, {bytes} {verb}"))?;
    let deeds: Vec<Vec<String>> = tier
        .deeds
        .iter()
        .map(|deed| {
            vec![
                format!("  {}", deed.act),
                deed.object.clone(),
                Bytes(deed.bytes).to_string(),
                deed.why.clone(),
            ]
        })
        .collect();
    for line in table(&deeds, &[2]) {
        output.line(line)?;
    }
    for (condition, members) in &tier.kept {
        let members = counted(*members, "member");
        output.line(format!("  kept: {members}: {}", said(condition)))?;
    }
    if tier.below_share > 0 {
        let objects = counted(tier.below_share, "object");
        output.line(format!("  kept: {objects} of which too little can go"))?;
    }
    match tier.next {
        Some(at) => output.line(format!("  more may go after {at}")),
        None => Ok(()),
    }
}

/// A condition in words.
fn said(condition: &str) -> &str {
    match condition {
        "no-tombstone" => "not deleted, as far as the catalog knows",
        "named-by-file" => "a file has it",
        "keep-deleted" => "deleted, and still kept (keep-deleted)",
        "scan" => "no complete scan began since it was deleted and since the last start",
        "named-by-record" => "a file was found that names it",
        "inode" => "its inode is still there and names it",
        "remount" => "its inode is not known; the backing was not mounted anew since",
        "unclear" => "it could not be looked at",
        "shared" => "an adopted copy of its file shares its bytes",
        "name" => "a link, pipe or device that the namespace still has",
        "only-names" => "nothing in it but names",
        other => other,
    }
}
