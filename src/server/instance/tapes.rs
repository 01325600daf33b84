//! Tape libraries of the running instance, as doors show them.

use super::views::when;
use crate::error::Failure;
use crate::hsm::engine::{Engine, Slot, TapeDeed};
use crate::server::control::ControlError;
use crate::server::tapes as shown;
use crate::server::wire::{
    TapeAct, TapeDone, TapeLibrary, TapeList, TapeOrder, TapeRun, TapeTrouble, TapeView,
};
use crate::tier::tape::library::Library;
use std::sync::Arc;

/// All libraries, or one tier's.
pub(super) fn list(engine: &Engine, tier: Option<&str>) -> Result<TapeList, ControlError> {
    let slots = slots(engine, tier)?;
    let one = |slot: &&Slot| {
        let (name, url) = (slot.name.clone(), slot.url.clone());
        match open(slot) {
            Ok(library) => shown::library(name, url, &library),
            Err(why) => TapeLibrary {
                tier: name,
                url,
                error: Some(why.message),
                ..TapeLibrary::default()
            },
        }
    };
    Ok(TapeList {
        libraries: slots.iter().map(one).collect(),
    })
}

/// One cartridge.
pub(super) fn show(
    engine: &Engine,
    tier: Option<&str>,
    barcode: &str,
) -> Result<TapeView, ControlError> {
    let (slot, library) = with(engine, tier, Some(barcode))?;
    shown::view(slot.name.clone(), &library, barcode)
}

/// Does what is asked, or has it done.
pub(super) fn order(engine: &Engine, order: &TapeOrder) -> Result<TapeDone, ControlError> {
    let barcode = match &order.act {
        TapeAct::Verify { barcode }
        | TapeAct::Repack { barcode }
        | TapeAct::Export { barcode, .. }
        | TapeAct::Retire {
            barcode: Some(barcode),
            ..
        } => Some(barcode.as_str()),
        TapeAct::Label { .. } | TapeAct::Retire { .. } | TapeAct::Import { .. } => None,
    };
    let (slot, library) = with(engine, order.tier.as_deref(), barcode)?;
    let mut done = TapeDone {
        tier: slot.name.clone(),
        ..TapeDone::default()
    };
    let deed = match &order.act {
        TapeAct::Verify { .. } => TapeDeed::Verify,
        TapeAct::Repack { .. } => TapeDeed::Repack,
        act => {
            done.done = shown::carry_out(&library, act)?;
            if matches!(act, TapeAct::Import { .. }) {
                // What is on it is looked through, and what the catalog does not know is told to it.
                engine.collect_soon();
            }
            return Ok(done);
        }
    };
    let barcode = shown::parse(barcode.unwrap_or_default())?;
    let run = engine.tape_deed(&slot.name, barcode, deed);
    done.run = Some(run.map_err(|why| crate::server::instance::told::error(why, true))?);
    Ok(done)
}

/// A run, as doors show it.
pub(super) fn run(run: crate::hsm::engine::TapeRun) -> TapeRun {
    let trouble = run.trouble.into_iter();
    TapeRun {
        number: run.number,
        act: match run.deed {
            TapeDeed::Verify => "verify",
            TapeDeed::Repack => "repack",
        }
        .to_owned(),
        tier: run.tier,
        barcode: run.barcode.to_string(),
        ended: run.ended.map(when),
        files: run.files,
        bytes: run.bytes,
        trouble: trouble
            .map(|(id, why)| TapeTrouble {
                object: id.to_string(),
                why,
            })
            .collect(),
        bad_copies: run.bad_copies,
        waiting: run.waiting,
        error: run.error,
    }
}

/// The tape tiers, or the one of that name.
fn slots<'e>(engine: &'e Engine, tier: Option<&str>) -> Result<Vec<&'e Slot>, ControlError> {
    let all = engine.tiers().iter().filter(|s| s.tier.tape().is_some());
    let named: Vec<&Slot> = all.filter(|s| tier.is_none_or(|t| t == s.name)).collect();
    match tier {
        Some(tier) if named.is_empty() => {
            let why = format!("the running instance has no tape library {tier:?}");
            Err(ControlError::new(Failure::Usage, why))
        }
        _ => Ok(named),
    }
}

/// The library that is meant: by name, by the cartridge, or because there is no other.
fn with<'e>(
    engine: &'e Engine,
    tier: Option<&str>,
    barcode: Option<&str>,
) -> Result<(&'e Slot, Arc<Library>), ControlError> {
    let slots = slots(engine, tier)?;
    if let [only] = slots.as_slice() {
        return Ok((only, open(only)?));
    }
    let barcode = barcode.map(shown::parse).transpose()?;
    for slot in &slots {
        if let (Some(barcode), Ok(library)) = (barcode, open(slot))
            && library.cartridge(barcode).is_ok()
        {
            return Ok((slot, library));
        }
    }
    let why = match (slots.is_empty(), barcode) {
        (true, _) => "the running instance has no tape library".to_owned(),
        (false, Some(barcode)) => format!("no tape library has cartridge {barcode}"),
        (false, None) => "there are several tape libraries".to_owned(),
    };
    Err(ControlError::new(Failure::Usage, why).hint("name one with --tier"))
}

fn open(slot: &Slot) -> Result<Arc<Library>, ControlError> {
    let tape = slot.tier.tape().ok_or_else(|| {
        let why = format!("tier {} is no tape library", slot.name);
        ControlError::new(Failure::Usage, why)
    })?;
    let away = |why| ControlError::new(Failure::TierUnavailable, why);
    tape.library().map_err(away)
}
