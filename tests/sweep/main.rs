//! The n-th failure: each call of a verb that changes something on a disk fails once, as an error,
//! as a kill and as a loss of power, and the invariants are looked at after each (design section
//! 4). docs/faults.md has the fault model and the counts.

#[path = "../rig/rig.rs"]
mod rig;

mod apart;
mod call;
mod check;
mod controls;
mod deletion;
mod fault;
mod found;
mod older;
mod point;
mod reference;
mod run;
mod seccomp;
mod site;
mod suite;
mod supervisor;
mod tally;
mod verb;
