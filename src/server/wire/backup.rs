//! What `cairn catalog backup` says at its end.

use serde::{Deserialize, Serialize};

/// A backup of the state that cannot be built anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogBackup {
    /// Of this state directory.
    pub state: String,
    /// Where it lies: a state directory, too.
    pub to: String,
    /// Length of its catalog.
    pub bytes: u64,
}
