//! Real Slurm, two nodes on this host, and jobs of plain users whose files are on a tier when they are
//! submitted.

#[path = "../rig/rig.rs"]
mod rig;

mod answers;
mod bad_days;
mod economy;
mod prolog;
mod rest;
mod site;
mod staged;
mod stand_in;
mod submitted;
