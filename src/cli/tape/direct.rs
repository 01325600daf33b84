//! Which library is meant: a running instance's, or one that nothing uses, which is opened here.

use super::order_of;
use crate::cli::{CliError, Session};
use crate::error::Failure;
use crate::server::control::ControlError;
use crate::server::tapes;
use crate::server::wire::{TapeAct, TapeDone, TapeList, TapeRun, TapeView};
use crate::tier::tape::library::{Library, LibraryError};
use crate::tier::tape::options::POOLS;
use crate::tier::{TierUrl, owner};

/// Where to ask.
pub(super) enum At<'s> {
    /// The running instance, and the tier's name there.
    Instance(&'s Session, Option<String>),
    /// A library, opened: its number, and its URL.
    Library(Box<Library>, String, String),
}

impl<'s> At<'s> {
    /// `tier`: a name, or the URL or directory of a library. `make`: a library that has lost its state
    /// gets a new one; else it is refused, for it would seem empty.
    pub(super) fn new(
        session: &'s Session,
        tier: Option<&str>,
        make: bool,
    ) -> Result<Self, CliError> {
        let url = match tier {
            Some(text) if text.contains(':') => text.to_owned(),
            Some(text) if text.starts_with('/') => format!("tape:{text}"),
            name => return Ok(Self::Instance(session, name.map(str::to_owned))),
        };
        let url: TierUrl = url.parse().map_err(CliError::usage)?;
        let TierUrl::Tape { path, options } = &url else {
            return Err(CliError::usage(format!("{url} is no tape library")));
        };
        let mark = owner::of(&url).map_err(|why| {
            let error = CliError::new(Failure::TierUnavailable, why);
            match options.pool.is_none() && path.join(POOLS).is_dir() {
                true => error.with_hint("it has pools: name one, with pool=NAME in the URL"),
                false => error,
            }
        })?;
        if !make && !Library::is_at(path) {
            let why = format!("there is no library.json in {}", path.display());
            return Err(CliError::new(Failure::TierUnavailable, why).with_hint(
                "start the instance, which makes it again from what lies in cartridges/; or, if all cartridges \
                 lie elsewhere, `cairn tape import --tier URL PATH...`",
            ));
        }
        let opened = Library::open_as_is(path, mark.tier, options).map_err(|why| {
            let busy = matches!(why, LibraryError::InUse);
            let error = CliError::from_control(tapes::told(why));
            match busy {
                true => {
                    error.with_hint("name it as the running instance does, or leave --tier out")
                }
                false => error,
            }
        })?;
        Ok(Self::Library(
            Box::new(opened),
            mark.tier.to_string(),
            url.to_string(),
        ))
    }

    pub(super) fn list(&self) -> Result<TapeList, CliError> {
        match self {
            Self::Instance(session, tier) => Ok(session.client()?.tapes(tier.as_deref())?),
            Self::Library(library, tier, url) => Ok(TapeList {
                libraries: vec![tapes::library(tier.clone(), url.clone(), library)],
            }),
        }
    }

    pub(super) fn show(&self, barcode: &str) -> Result<TapeView, CliError> {
        match self {
            Self::Instance(session, tier) => {
                Ok(session.client()?.tape(tier.as_deref(), barcode)?)
            }
            Self::Library(library, tier, _) => {
                tapes::view(tier.clone(), library, barcode).map_err(CliError::from_control)
            }
        }
    }

    /// Does it, or has it done.
    pub(super) fn order(&self, act: TapeAct) -> Result<TapeDone, CliError> {
        match self {
            Self::Instance(session, tier) => {
                let order = order_of(tier.as_deref(), act);
                Ok(session.client()?.tape_order(&order)?)
            }
            Self::Library(library, tier, _) => {
                let done = tapes::carry_out(library, &act).map_err(CliError::from_control)?;
                Ok(TapeDone {
                    tier: tier.clone(),
                    done,
                    run: None,
                })
            }
        }
    }

    /// Reads a cartridge here.
    pub(super) fn audit(library: &Library, tier: &str, barcode: &str) -> Result<TapeRun, CliError> {
        let parsed = tapes::parse(barcode).map_err(CliError::from_control)?;
        let audit = library.audit(parsed, &|_| false);
        let audit = audit.map_err(|why| CliError::from_control(tapes::told(why)))?;
        Ok(tapes::audit(tier.to_owned(), barcode.to_owned(), &audit))
    }
}

impl CliError {
    /// What an instance would have said.
    fn from_control(error: ControlError) -> Self {
        let hint = error.hint.clone();
        let error = Self::new(error.code, error.message);
        match hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}
