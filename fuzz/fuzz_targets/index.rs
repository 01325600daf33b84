//! The index, with right sums: what decodes has pieces that cover its blocks.
#![no_main]

use cairn::format::aggregate::find_index;
use cairn_mover::Crc32c;
use libfuzzer_sys::fuzz_target;

const HEAD: usize = 88;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() < HEAD {
        return;
    }
    let mut sealed = bytes.to_vec();
    let body = Crc32c::of(&sealed[HEAD..]).0.to_le_bytes();
    let len = ((sealed.len() - HEAD) as u64).to_le_bytes();
    sealed[72..80].copy_from_slice(&len);
    sealed[80..84].copy_from_slice(&body);
    let head = Crc32c::of(&sealed[..84]).0.to_le_bytes();
    sealed[84..HEAD].copy_from_slice(&head);
    let Ok(index) = find_index(&sealed, 1 << 40) else {
        return;
    };
    for entry in &index.entries {
        assert_eq!(index.by_path(&entry.member.path), Some(entry));
        let covered = (0..entry.block_count()).flat_map(|n| entry.pieces(n)).map(|p| p.len);
        assert_eq!(covered.sum::<u64>(), entry.stored_len());
        let whole = entry.blocks_for(0..u64::MAX);
        assert_eq!(whole.len(), entry.block_count());
        let _ = entry.whole_member(bytes);
    }
});
