//! Both ends of a transfer over real sockets on the loopback interface.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot set its stage must fail"
)]

mod broken;
mod doors;
mod proxy;
mod resumed;
mod rig;
mod whole;
