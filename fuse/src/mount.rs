//! Mounting: the process that mounts on the server's behalf and holds the mount when the server
//! dies, its successor's side, places that must not be, stale mounts.

mod holder;
mod keep;
mod mounter;
mod pins;
mod place;
mod successor;
mod table;

pub use mounter::{Mounter, prepare};
pub(crate) use pins::{LockPin, Pinned, Pins};
pub(crate) use place::{check_places, clean_stale};
pub use place::{is_dead, lies_within};
pub(crate) use successor::listen_at;
pub use successor::{Inheritance, Predecessor, Successor};
pub(crate) use table::{
    COVERED, MountNumber, MountSpec, device_of, device_of_fd, mount_now, unmount_own,
};
