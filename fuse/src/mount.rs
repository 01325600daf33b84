//! Mounting: the process that mounts on the server's behalf, places that must not be, stale mounts.

mod mounter;
mod place;
mod table;

pub use mounter::{Mounter, prepare};
pub use place::lies_within;
pub(crate) use place::{check_places, clean_stale};
pub(crate) use table::{MountSpec, device_of, device_of_fd, mount_id, mount_now, unmount_now};
