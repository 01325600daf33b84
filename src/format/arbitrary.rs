//! Members of every shape, for property tests.

use super::aggregate::{AggregateWriter, Index, Trailer};
use super::member::{DataIdentity, Extent, Kind, Member, MemberPath, Xattr};
use super::places::Places;
use crate::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};
use proptest::collection::vec;
use proptest::prelude::*;

/// The aggregate that [`compose`] writes.
pub(super) const AGGREGATE: AggregateId = AggregateId { epoch: 2, seq: 77 };
/// Its backing filesystem.
pub(super) const FS: FsUuid = FsUuid([0xf5; 16]);
/// When it was composed.
pub(super) const COMPOSED: Timestamp = Timestamp {
    sec: 1_700_000_000,
    nsec: 5,
};

pub(super) fn timestamp() -> impl Strategy<Value = Timestamp> {
    let sec = prop_oneof![-3_i64..3, any::<i64>(), 0..0o77_777_777_777_i64];
    let nsec = prop_oneof![Just(0), 0..1_000_000_000_u32];
    (sec, nsec).prop_map(|(sec, nsec)| Timestamp { sec, nsec })
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let bytes = vec(prop_oneof![1..=0x2e_u8, 0x30..=0xff_u8], 1..256);
    let bytes = prop_oneof![
        bytes,
        "[a-z]{1,120}".prop_map(String::into_bytes),
        "[aé\n =%]{1,9}".prop_map(String::into_bytes),
        r"[c\\][:\\]?[a-z]?".prop_map(String::into_bytes),
    ];
    bytes.prop_filter("no dots", |n| n != b"." && n != b"..")
}

pub(super) fn path() -> impl Strategy<Value = MemberPath> {
    let components = prop_oneof![vec(name(), 1..4), vec(name(), 20..40)];
    components.prop_map(|parts| MemberPath::new(parts.join(&b'/')).expect("good components"))
}

fn runs() -> impl Strategy<Value = Kind> {
    let runs = vec((0_u64..4, 1_u64..4), 0..6);
    let far = prop_oneof![Just(1_u64), Just(1 << 33)];
    (runs, far, 0..2000_u64, 0..600_u64).prop_map(|(runs, far, tail, cut)| {
        let mut end = 0;
        let mut extents: Vec<Extent> = Vec::new();
        for (n, (gap, len)) in runs.into_iter().enumerate() {
            let gap = if n == 0 { gap } else { gap + 1 };
            let run = Extent {
                offset: end + gap * 512 * far,
                len: len * 512,
            };
            end = run.offset + run.len;
            extents.push(run);
        }
        if let (Some(last), true) = (extents.last_mut(), cut < last_len(end)) {
            last.len -= cut;
            end -= cut;
        }
        Kind::Regular {
            size: end + tail,
            extents,
        }
    })
}

/// Whether cutting so much leaves something: runs are 512 bytes at least.
fn last_len(end: u64) -> u64 {
    end.min(512)
}

pub(super) fn kind() -> impl Strategy<Value = Kind> {
    let target = prop_oneof![
        vec(1_u8.., 1..60),
        vec(1_u8.., 101..4000),
        vec(b'a'..=b'z', 101..300)
    ];
    prop_oneof![
        4 => runs(),
        2 => (0..5000_u64).prop_map(Kind::dense),
        2 => target.prop_map(|target| Kind::Symlink { target }),
        2 => Just(Kind::Directory),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Socket),
        1 => (0..1_u32 << 20, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::CharDevice { major, minor }),
        1 => (0..1_u32 << 20, 0..1_u32 << 20).prop_map(|(major, minor)| Kind::BlockDevice { major, minor }),
    ]
}

fn xattrs() -> impl Strategy<Value = Vec<Xattr>> {
    let name = prop_oneof![
        "(user|trusted|security)[.][a-z=%é]{1,9}".prop_map(String::into_bytes),
        Just(super::acl::ACCESS.to_vec()),
    ];
    vec((name, vec(any::<u8>(), 0..40)), 0..4).prop_map(|mut list| {
        for (name, value) in &mut list {
            if name == super::acl::ACCESS && value.len() % 2 == 0 {
                *value =
                    super::acl::from_text(b"user::rw-,user:7:r--,group::r--,mask::r--,other::---")
                        .expect("an ACL");
            }
        }
        list.sort();
        list.dedup_by(|a, b| a.0 == b.0);
        list
    })
}

prop_compose! {
    pub(super) fn member()(
        path in path(), kind in kind(), mode in 0..=0o7777_u32, uid: u32, gid: u32,
        mtime in timestamp(), atime in timestamp(), ctime in timestamp(), xattrs in xattrs(),
        file: [u8; 16], version in 1_u64..,
    ) -> Member {
        let identity = matches!(kind, Kind::Regular { .. }).then_some(DataIdentity {
            file: FileId(file), version: DataVersion(version), crc: None,
        });
        Member { path, kind, mode, uid, gid, mtime, atime, ctime, xattrs, identity }
    }
}

/// Members that fit beside each other; every third is followed by a hard link to it.
pub(super) fn members() -> impl Strategy<Value = Vec<Member>> {
    vec((member(), path()), 0..12).prop_map(|list| {
        let mut places = Places::default();
        let mut out: Vec<Member> = Vec::new();
        for (n, (member, link)) in list.into_iter().enumerate() {
            let place = super::index::place_of(&member.kind);
            if places.take(&member.path, place).is_err() {
                continue;
            }
            let target = member.path.clone();
            out.push(member);
            if n % 3 == 0
                && places.can_be_linked(&target)
                && places.take(&link, super::places::Place::Other).is_ok()
            {
                let of = out[out.len() - 1].clone();
                out.push(Member {
                    path: link,
                    kind: Kind::HardLink { target },
                    identity: None,
                    ..of
                });
            }
        }
        out
    })
}

/// The stored bytes of the n-th member.
pub(super) fn stored(n: usize, member: &Member) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(31) >> 3) as u8 ^ n as u8;
    (0..member.kind.stored_len()).map(byte).collect()
}

/// An aggregate of these members.
pub(super) fn compose(members: &[Member]) -> (Vec<u8>, Index, Trailer) {
    let mut writer = AggregateWriter::new(Vec::new(), AGGREGATE, FS, COMPOSED);
    for (n, member) in members.iter().enumerate() {
        let data = stored(n, member);
        writer.add(member, &mut &data[..]).expect("a good member");
    }
    writer.finish().expect("memory")
}
