//! Moves byte ranges between two endpoints, every byte under a checksum.
//!
//! It knows offsets, bytes and checksums; nothing of files' meaning, catalogs or tiers.
//! Today it holds the two nouns that everything else stands on: [`Crc32c`], the checksum of a
//! byte string, and [`Checked`], bytes that were compared with their checksum before anybody
//! could look at them.
//!
//! ```
//! use cairn_mover::{Checked, Crc32c};
//! let sum = Crc32c::of(b"hello");
//! let good = Checked::verify(bytes::Bytes::from_static(b"hello"), sum).expect("same bytes");
//! assert_eq!(good.as_slice(), b"hello");
//! assert!(Checked::verify(bytes::Bytes::from_static(b"hallo"), sum).is_err());
//! ```

mod checked;
mod checksum;

pub use checked::{Checked, Mismatch};
pub use checksum::{Crc32c, Crc32cHasher};
