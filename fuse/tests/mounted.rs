//! A real mount, real system calls. Each test mounts its own mirror and leaves nothing behind.
//! Without the right to mount, or without `/dev/fuse`, each says so by name.

#[path = "mounted/basic.rs"]
mod basic;
#[path = "mounted/dirs.rs"]
mod dirs;
#[path = "mounted/names.rs"]
mod names;
#[path = "mounted/rig.rs"]
mod rig;
#[path = "mounted/stubs.rs"]
mod stubs;
#[path = "mounted/waits.rs"]
mod waits;
