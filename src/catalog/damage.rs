//! Damage of the catalog's file that is met while it is used: remembered, so that it can be told.

use super::CatalogError;
use parking_lot::Mutex;

/// The first that was met.
#[derive(Debug, Default)]
pub(super) struct Damage(Mutex<Option<CatalogError>>);

impl Damage {
    pub(super) fn note(&self, why: &CatalogError) {
        if why.is_damage() {
            self.0.lock().get_or_insert_with(|| why.clone());
        }
    }

    pub(super) fn noted<T>(&self, done: Result<T, CatalogError>) -> Result<T, CatalogError> {
        if let Err(why) = &done {
            self.note(why);
        }
        done
    }

    pub(super) fn found(&self) -> Option<CatalogError> {
        self.0.lock().clone()
    }
}
