//! A real mount, real system calls. Each test mounts its own mirror and leaves nothing behind.
//! Without the right to mount, or without `/dev/fuse`, each says so by name.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "the rig's functions fail tests by panic, outside of #[test] functions too"
)]

#[path = "mounted/atime.rs"]
mod atime;
#[path = "mounted/basic.rs"]
mod basic;
#[path = "mounted/contended.rs"]
mod contended;
#[path = "mounted/direct.rs"]
mod direct;
#[path = "mounted/dirs.rs"]
mod dirs;
#[path = "mounted/disk.rs"]
mod disk;
#[path = "mounted/failing.rs"]
mod failing;
#[path = "mounted/fake.rs"]
mod fake;
#[path = "mounted/faults.rs"]
mod faults;
#[path = "mounted/locks.rs"]
mod locks;
#[path = "mounted/mapping.rs"]
mod mapping;
#[path = "mounted/model.rs"]
mod model;
#[path = "mounted/names.rs"]
mod names;
#[path = "mounted/parked.rs"]
mod parked;
#[path = "mounted/passed_on.rs"]
mod passed_on;
#[path = "mounted/places.rs"]
mod places;
#[path = "mounted/posix.rs"]
mod posix;
#[path = "mounted/records.rs"]
mod records;
#[path = "mounted/rig.rs"]
mod rig;
#[path = "mounted/steps.rs"]
mod steps;
#[path = "mounted/stubs.rs"]
mod stubs;
#[path = "mounted/sys.rs"]
mod sys;
#[path = "mounted/threads.rs"]
mod threads;
#[path = "mounted/together.rs"]
mod together;
#[path = "mounted/waits.rs"]
mod waits;
