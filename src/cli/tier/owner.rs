//! `cairn tier owner`: the mark of a tier names the instance that may write there, and no other
//! does (P8). It changes hands only by the word of somebody who saw whose it was.

use crate::cli::output::Output;
use crate::cli::{CliError, Session, outcome};
use crate::client::{Client, Place, mounts};
use crate::error::Failure;
use crate::hsm::state_dir;
use crate::id::InstanceId;
use crate::server::wire::TierOwner;
use crate::tier::{Mark, TierUrl, owner};
use clap::Args;
use std::path::PathBuf;
use std::time::Duration;

/// A mount that says nothing for so long is asked no further.
const SILENCE: Duration = Duration::from_secs(10);

/// Arguments of `tier owner`.
#[derive(Debug, Args)]
pub(crate) struct Owner {
    /// A tier's URL or directory, or its name at the running instance.
    tier: String,
    /// State directory of the instance that asks; needed to take a tier.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Give the tier to the instance of --state. OWNER is who has it now, as shown without this:
    /// saying it says that it will never write there again.
    #[arg(long, value_name = "OWNER", requires = "state")]
    take: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Owner {
    pub(crate) fn run(&self, session: &Session) -> Result<u8, CliError> {
        let url = url_of(&self.tier, session)?;
        let mark = owner::of(&url).map_err(|why| CliError::new(Failure::TierUnavailable, why))?;
        let ours = self.ours()?;
        let mark = match (&self.take, ours) {
            (Some(word), Some(ours)) => take(&url, mark, ours, word)?,
            _ => mark,
        };
        let mut output = Output::new(self.json);
        if self.json {
            output.object(TierOwner {
                url: url.to_string(),
                tier: mark.tier.to_string(),
                owner: mark.owner.to_string(),
                own: ours.map(|ours| ours == mark.owner),
            })?;
        } else {
            let whose = match ours {
                Some(ours) if ours == mark.owner => ", which is this one",
                Some(_) => ", which is another one",
                None => "",
            };
            let (tier, owner) = (mark.tier, mark.owner);
            output.line(format!("tier {tier} at {url}: instance {owner}{whose}"))?;
        }
        output.finish()?;
        Ok(outcome::OK)
    }

    fn ours(&self) -> Result<Option<InstanceId>, CliError> {
        let Some(state) = &self.state else {
            return Ok(None);
        };
        let found = state_dir::owner(state).map_err(|why| CliError::new(Failure::Internal, why))?;
        let none = || {
            let message = format!("{} is no state directory of an instance", state.display());
            CliError::usage(message).with_hint("start the instance once, without the tier")
        };
        found.map(Some).ok_or_else(none)
    }
}

/// The URL of a tier that is named by it, by its directory, or by its name at the running instance.
pub(super) fn url_of(text: &str, session: &Session) -> Result<TierUrl, CliError> {
    let text = if text.contains(':') {
        text.to_owned()
    } else if text.starts_with('/') {
        format!("dir:{text}")
    } else {
        let list = session.client()?.tiers()?;
        let found = list.tiers.into_iter().find(|tier| tier.tier == *text);
        found.map(|tier| tier.url).ok_or_else(|| {
            CliError::usage(format!("the running instance has no tier {text:?}"))
                .with_hint("name it by its URL, as in dir:/mnt/cold")
        })?
    };
    text.parse().map_err(CliError::usage)
}

fn take(url: &TierUrl, mark: Mark, ours: InstanceId, word: &str) -> Result<Mark, CliError> {
    if mark.owner == ours {
        return Ok(mark);
    }
    if word != mark.owner.to_string() {
        let message = format!("{url} belongs to instance {}, not to {word}", mark.owner);
        return Err(CliError::usage(message).with_hint(format!(
            "if that instance will never write there again: --take {}",
            mark.owner
        )));
    }
    if let Some(mount) = alive(&mark.owner.to_string()) {
        let message = format!("instance {} serves {} here", mark.owner, mount.display());
        return Err(CliError::new(Failure::Busy, message)
            .with_hint(format!("stop it first: cairn down {}", mount.display())));
    }
    owner::take(url, mark.owner, ours).map_err(|why| CliError::new(Failure::Busy, why))
}

/// Where an instance is mounted on this host, if it answers.
fn alive(instance: &str) -> Option<PathBuf> {
    mounts().into_iter().find(|mount| {
        let place = Place {
            socket: None,
            path: Some(mount),
        };
        let client = Client::find_within(&place, SILENCE);
        client
            .and_then(|mut client| client.status())
            .is_ok_and(|status| status.instance == instance)
    })
}
