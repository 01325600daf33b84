//! What can go wrong with the catalog: the step, the object, and the cause.

use std::path::PathBuf;
use std::sync::Arc;

/// An error of the catalog.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// Made by a newer Cairn; nothing was touched.
    #[error(
        "catalog {path} has schema version {found}, newer than this program knows ({known}); \
         start the newer program, or restore the snapshot made before the upgrade"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
    /// Made by an older Cairn, where it is only to be read; nothing was touched.
    #[error(
        "catalog {path} has schema version {found}, older than the one this program reads ({known}); \
         `cairn up` brings it forward"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is read.
        known: u32,
    },
    /// The file is something else; nothing was touched.
    #[error("{path} is not a catalog: {why}")]
    NotACatalog {
        /// The file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// The file or its directory could not be read or made.
    #[error("catalog {path}: {step}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        step: &'static str,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// No room for the catalog's log. Nothing of the call happened; try again when there is room.
    #[error("no room for the catalog ({step}, {object}): {source}")]
    Full {
        /// What was being done.
        step: &'static str,
        /// To what.
        object: String,
        /// What SQLite said.
        source: Arc<rusqlite::Error>,
    },
    /// SQLite failed. Nothing of the call happened.
    #[error("catalog: {step} ({object}): {source}")]
    Sql {
        /// What was being done.
        step: &'static str,
        /// To what.
        object: String,
        /// Why.
        source: Arc<rusqlite::Error>,
    },
    /// There is no such row.
    #[error("catalog: {step}: there is no {object}")]
    Missing {
        /// What was being done.
        step: &'static str,
        /// What was looked for.
        object: String,
    },
    /// A row holds what no Cairn writes.
    #[error("catalog: damaged row ({object}): {why}; run `cairn status --check`")]
    Damaged {
        /// Which.
        object: String,
        /// What is wrong.
        why: String,
    },
    /// The call makes no sense for what is in the catalog (a second class in one request, ...).
    #[error("catalog: {step} ({object}): {why}")]
    Refused {
        /// What was being done.
        step: &'static str,
        /// To what.
        object: String,
        /// Why not.
        why: &'static str,
    },
    /// The writer thread is gone: the catalog was closed, or its thread failed.
    #[error("catalog: {step}: the catalog is closed")]
    Closed {
        /// What was being done.
        step: &'static str,
    },
}

impl CatalogError {
    /// The file itself is damaged, or none of ours: it is to be made anew, not tried again.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::NotACatalog { .. } | Self::Damaged { .. } => true,
            Self::Sql { source, .. } => matches!(
                source.sqlite_error_code(),
                Some(rusqlite::ErrorCode::DatabaseCorrupt | rusqlite::ErrorCode::NotADatabase)
            ),
            _ => false,
        }
    }

    /// From SQLite's error, sorted by what the caller can do.
    pub(super) fn sql(step: &'static str, object: impl ToString, source: rusqlite::Error) -> Self {
        let full = source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull);
        let (object, source) = (object.to_string(), Arc::new(source));
        if full {
            Self::Full {
                step,
                object,
                source,
            }
        } else {
            Self::Sql {
                step,
                object,
                source,
            }
        }
    }

    pub(super) fn io(path: &std::path::Path, step: &'static str, source: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            step,
            source: Arc::new(source),
        }
    }
}

/// Attaches step and object to SQLite's errors, once.
pub(super) trait At<T> {
    /// `step`: what was being done; `object`: to what.
    fn at(self, step: &'static str, object: impl ToString) -> Result<T, CatalogError>;
}

impl<T> At<T> for Result<T, rusqlite::Error> {
    fn at(self, step: &'static str, object: impl ToString) -> Result<T, CatalogError> {
        self.map_err(|source| CatalogError::sql(step, object, source))
    }
}
