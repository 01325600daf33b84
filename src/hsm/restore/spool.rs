//! The listings of a chain on the target's disk, proven whole, and where each directory's is.
//! Memory grows with directories.

use super::find::{self, Link};
use super::site::Site;
use super::{Order, RestoreError};
use crate::format::namespace::{Directory, Entry, Fold, Head, ListingError, Reader};
use crate::id::{AggregateId, NodeHandle, Timestamp};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};

/// Where the listing of a directory that counts is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Offset in the spool.
    pub(super) at: u64,
    /// In which snapshot of the chain.
    pub(super) link: usize,
    /// Number of its line there.
    pub(super) line: u64,
}

/// See the module.
pub(super) struct Spool {
    pub(super) file: File,
    pub(super) places: HashMap<NodeHandle, Place>,
    pub(super) root: NodeHandle,
    pub(super) snapshots: Vec<AggregateId>,
    pub(super) ended: Timestamp,
    pub(super) gaps: u64,
}

/// Notes where directories are.
struct Places<'a> {
    base: u64,
    link: usize,
    places: &'a mut HashMap<NodeHandle, Place>,
}

impl Fold for Places<'_> {
    type Error = ListingError;
    fn head(&mut self, _: Head) -> Result<(), ListingError> {
        Ok(())
    }
    fn directory(&mut self, at: u64, line: u64, directory: Directory) -> Result<(), ListingError> {
        let place = Place {
            at: self.base + at,
            link: self.link,
            line,
        };
        // The last one counts: within a listing, and along the chain.
        self.places.insert(directory.node, place);
        Ok(())
    }
    fn entry(&mut self, _: u64, _: Entry) -> Result<(), ListingError> {
        Ok(())
    }
}

impl Spool {
    pub(super) fn fill(
        order: &Order<'_>,
        chain: &[Link],
        site: &Site,
    ) -> Result<Self, RestoreError> {
        let file = site.spool()?;
        let fail = || RestoreError::io("write", "the listings on the target's disk");
        let mut out = BufWriter::with_capacity(1 << 20, &file);
        let (mut places, mut written) = (HashMap::new(), 0_u64);
        let (mut ended, mut gaps) = (Timestamp::default(), 0);
        for (at, link) in chain.iter().enumerate() {
            let id = link.found.id;
            let mut reader = Reader::new(id);
            let mut fold = Places {
                base: written,
                link: at,
                places: &mut places,
            };
            for part in link.parts()? {
                for n in 0..part.block_count() {
                    let bytes = find::block(order.tier, id, part, n)?;
                    reader.feed(&bytes, &mut fold)?;
                    out.write_all(&bytes).map_err(fail())?;
                    written += bytes.len() as u64;
                }
            }
            let end = reader.finish()?;
            ended = end.ended;
            gaps += end.gaps;
        }
        out.flush().map_err(fail())?;
        drop(out);
        let root = chain.last().map(|link| link.head.root.clone());
        Ok(Self {
            file,
            places,
            root: root.ok_or(RestoreError::None {
                why: None,
                reach: None,
            })?,
            snapshots: chain.iter().map(|link| link.found.id).collect(),
            ended,
            gaps,
        })
    }
}
