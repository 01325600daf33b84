//! Cairn: a FUSE archive filesystem and HSM mover.
//!
//! Five nouns carry it. A **backing directory** holds the truth; a **mount** shows it; a **tier**
//! keeps **aggregates** (plain tar with an index behind its end); a **record** (one extended
//! attribute) ties a file to its copies. Levels, each using only what stands below it:
//!
//! ```text
//!  cli  server  client
//!  hsm
//!  catalog   tier   parcel
//!  format
//!  id  error  config
//! ```

pub mod catalog;
pub mod cli;
pub mod client;
pub mod config;
pub mod error;
pub mod format;
pub mod hsm;
pub mod id;
pub mod parcel;
pub mod server;
pub mod tier;
