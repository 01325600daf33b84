//! Wrong bytes with right sums: what no check of Cairn's can see, so that the harness must.

use anyhow::{Context, Result};
use cairn::format::aggregate::{Index, Trailer, encode_index};
use cairn_mover::Crc32c;
use std::fs;
use std::path::Path;

/// Where the trailer has the index's sum, and its own.
const INDEX_SUM: usize = 64;
const OWN_SUM: usize = 508;

/// Flips a bit of the data of the (dense) member at `header`. The new sums of its content and of its
/// list of block sums.
pub(crate) fn forge(
    path: &Path,
    trailer: &Trailer,
    index: &Index,
    header: u64,
) -> Result<(Crc32c, Crc32c)> {
    let (mut bytes, mut index) = (fs::read(path)?, index.clone());
    let entry = index
        .entries
        .iter_mut()
        .find(|e| e.header == header && crate::site::has_data(e))
        .context("the member")?;
    let (from, len) = (entry.data as usize, entry.stored_len() as usize);
    bytes[from + len / 2] ^= 1;
    let data = &bytes[from..from + len];
    entry.blocks = data.chunks(1 << 20).map(Crc32c::of).collect();
    let content = Crc32c::of(data);
    entry.member.identity.as_mut().context("identity")?.crc = Some(content);
    let blocks = entry.blocks_crc();
    let encoded = encode_index(&index);
    let at = trailer.index_offset as usize;
    bytes[at..at + encoded.len()].copy_from_slice(&encoded);
    let end = bytes.len() - 512;
    let last = &mut bytes[end..];
    last[INDEX_SUM..INDEX_SUM + 4].copy_from_slice(&Crc32c::of(&encoded).0.to_le_bytes());
    let own = Crc32c::of(&last[..OWN_SUM]);
    last[OWN_SUM..].copy_from_slice(&own.0.to_le_bytes());
    fs::write(path, bytes)?;
    Ok((content, blocks))
}
