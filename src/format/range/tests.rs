//! Tests of reading a range of a member.

use super::super::member::{Kind, Member, MemberPath};
use super::*;
use crate::id::Timestamp;
use proptest::prelude::*;

fn entry(size: u64, extents: Vec<Extent>) -> IndexEntry {
    let kind = Kind::Regular { size, extents };
    let blocks = vec![Crc32c(1); kind.stored_len().div_ceil(BLOCK) as usize];
    let now = Timestamp::default();
    let member = Member {
        path: MemberPath::root(),
        kind,
        mode: 0,
        uid: 0,
        gid: 0,
        mtime: now,
        atime: now,
        ctime: now,
        xattrs: Vec::new(),
        identity: None,
    };
    IndexEntry {
        member,
        header: 1024,
        data: 4096,
        header_crc: Crc32c(1),
        blocks,
        span: super::super::parts::Span::Whole,
    }
}

#[test]
fn a_dense_file_maps_straight() {
    let entry = entry(
        3 * BLOCK + 5,
        vec![Extent {
            offset: 0,
            len: 3 * BLOCK + 5,
        }],
    );
    assert_eq!(entry.blocks_for(0..1), BlockRange { first: 0, end: 1 });
    assert_eq!(
        entry.blocks_for(BLOCK - 1..BLOCK + 1),
        BlockRange { first: 0, end: 2 }
    );
    assert_eq!(
        entry.blocks_for(3 * BLOCK..u64::MAX),
        BlockRange { first: 3, end: 4 }
    );
    assert!(entry.blocks_for(4 * BLOCK..5 * BLOCK).is_empty());
    let last = entry.block(3).unwrap();
    assert_eq!((last.offset_in_object, last.len), (4096 + 3 * BLOCK, 5));
    assert_eq!(entry.block(4), None);
    assert_eq!(entry.block(u64::MAX), None);
    assert_eq!(entry.pieces(4).count(), 0);
}

proptest! {
    #[test]
    fn pieces_and_ranges_agree_with_the_extents(
        runs in proptest::collection::vec((1_u64..5000, 1_u64..5000), 1..12),
        a in 0_u64..40_000_000, len in 0_u64..3_000_000,
    ) {
        let mut at = 0;
        let runs: Vec<_> = runs.into_iter().map(|(gap, len)| {
            let run = Extent { offset: at + gap * 512, len: len * 512 };
            at = run.offset + run.len;
            run
        }).collect();
        let entry = entry(at + 9, runs.clone());
        // Pieces cover each block exactly, in order, and lie in the runs.
        let mut covered = 0;
        for n in 0..entry.block_count() {
            let mut within = 0;
            for piece in entry.pieces(n) {
                prop_assert_eq!(piece.within_block, within);
                within += piece.len;
                covered += piece.len;
                prop_assert!(runs.iter().any(|r| r.offset <= piece.logical
                    && piece.logical + piece.len <= r.offset + r.len));
            }
            prop_assert_eq!(within, entry.block(n).unwrap().len);
        }
        prop_assert_eq!(covered, entry.stored_len());
        // A range needs exactly the blocks that have a piece in it.
        let range = entry.blocks_for(a..a + len);
        let map = entry.data_map();
        prop_assert_eq!(map.blocks_for(a..a + len), range);
        for n in 0..entry.block_count() + 2 {
            prop_assert!(map.pieces(n).eq(entry.pieces(n)));
        }
        for n in 0..entry.block_count() {
            let hit = entry.pieces(n).any(|p| p.logical < a + len && a < p.logical + p.len);
            prop_assert!(!hit || range.iter().contains(&n));
            let edge = n == range.first || n + 1 == range.end;
            prop_assert!(hit || !edge || !range.iter().contains(&n));
        }
    }
}
