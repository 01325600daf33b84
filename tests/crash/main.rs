//! Stops at random instants: kill -9 and loss of power during a running workload, and what each
//! restart must find (design section 4). docs/faults.md has the fault model.

#[path = "../rig/rig.rs"]
mod rig;

mod check;
mod model;
mod named;
mod random;
mod site;
mod stops;
mod sys;
mod tally;
mod traffic;
mod writer;
