//! Mounting: the process that mounts on the server's behalf, places that must not be, stale mounts.

mod keep;
mod mounter;
mod place;
mod table;

pub use mounter::{Mounter, prepare};
pub(crate) use place::{check_places, clean_stale};
pub use place::{is_dead, lies_within};
pub(crate) use table::{MountSpec, device_of, device_of_fd, mount_id, mount_now, unmount_now};
