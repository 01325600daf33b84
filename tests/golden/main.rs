//! Evidence about bytes at rest: golden files of every format version that was ever released,
//! damaged ones with their verdict, and what the system's `tar` and `bsdtar` make of an aggregate.
//! README.md beside this file says how a version is added.

#[cfg(test)]
mod cartridge;
#[cfg(test)]
mod fuzzed;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod site;
#[cfg(test)]
mod state;
#[cfg(test)]
mod tar;
#[cfg(test)]
mod tree;
#[cfg(test)]
mod v1;
#[cfg(test)]
mod v2;
#[cfg(test)]
mod v3;
