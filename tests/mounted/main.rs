//! A real mount, real processes: what a user does and sees.

#[path = "../rig/rig.rs"]
mod rig;

mod adoption;
mod archives;
mod attributes;
mod backups;
#[cfg(feature = "s3")]
mod buckets;
mod capability;
mod cartridges;
mod changes;
mod contained;
mod containers;
mod elsewhere;
mod full;
mod hold;
mod indexes;
mod lost;
mod movers;
mod network;
mod parts;
mod pipes;
mod pools;
mod programs;
mod proof;
mod rebuild;
mod rebuild_again;
mod released;
mod remote;
mod repacked;
mod repair;
mod restore;
mod rights;
mod round_trip;
mod scans;
mod shared;
mod stops;
mod strangers;
mod supervised;
mod tape;
mod tier_away;
mod tiers;
mod touched;
mod truncated;
mod undelete;
mod unprivileged;
mod waiting;
mod walkers;
