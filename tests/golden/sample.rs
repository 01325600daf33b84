//! Members to write: a fixed small set for the golden files, and pieces for others.

use cairn::format::acl;
use cairn::format::aggregate::{AggregateWriter, Index};
use cairn::format::member::{DataIdentity, Extent, Kind, Member, MemberPath};
use cairn::id::{AggregateId, DataVersion, FileId, FsUuid, Timestamp};

pub(crate) const AGGREGATE: AggregateId = AggregateId { epoch: 1, seq: 42 };
pub(crate) const FS: FsUuid = FsUuid(*b"golden-backing-1");
pub(crate) const COMPOSED: Timestamp = at(1_700_000_000, 5);

pub(crate) const fn at(sec: i64, nsec: u32) -> Timestamp {
    Timestamp { sec, nsec }
}

pub(crate) fn path(bytes: impl Into<Vec<u8>>) -> MemberPath {
    MemberPath::new(bytes).unwrap()
}

/// A member with plain attributes; files are told apart by a sum over their path.
pub(crate) fn member(name: impl Into<Vec<u8>>, kind: Kind) -> Member {
    let path = path(name);
    let mut id = [0x11_u8; 16];
    for (n, byte) in path.as_bytes().iter().enumerate() {
        id[n % 16] = id[n % 16].wrapping_mul(31).wrapping_add(*byte);
    }
    let identity = DataIdentity {
        file: FileId(id),
        version: DataVersion(3),
        crc: None,
    };
    Member {
        path,
        identity: matches!(kind, Kind::Regular { .. }).then_some(identity),
        mode: if kind == Kind::Directory {
            0o755
        } else {
            0o644
        },
        kind,
        uid: 1000,
        gid: 100,
        mtime: at(1_600_000_000, 123_456_789),
        atime: at(1_600_000_100, 5),
        ctime: at(1_600_000_200, 0),
        xattrs: Vec::new(),
    }
}

pub(crate) fn sparse(size: u64, runs: &[(u64, u64)]) -> Kind {
    let extent = |(offset, len): &(u64, u64)| Extent {
        offset: *offset,
        len: *len,
    };
    Kind::Regular {
        size,
        extents: runs.iter().map(extent).collect(),
    }
}

pub(crate) fn symlink(target: &[u8]) -> Kind {
    Kind::Symlink {
        target: target.to_vec(),
    }
}

pub(crate) fn hard_link(target: &[u8]) -> Kind {
    Kind::HardLink {
        target: path(target),
    }
}

/// The stored bytes of a member: a pattern that depends on its path.
pub(crate) fn stored(member: &Member) -> Vec<u8> {
    let salt = member
        .path
        .as_bytes()
        .iter()
        .fold(7_u64, |n, b| n * 31 % 65_521 + u64::from(*b));
    let byte = |n: u64| ((n + salt).wrapping_mul(2_654_435_761) >> 13) as u8;
    (0..member.kind.stored_len()).map(byte).collect()
}

pub(crate) fn compose(members: &[Member]) -> (Vec<u8>, Index) {
    let mut writer = AggregateWriter::new(Vec::new(), AGGREGATE, FS, COMPOSED);
    for member in members {
        let data = stored(member);
        writer.add(member, &mut &data[..]).unwrap();
    }
    let (bytes, index, _) = writer.finish().unwrap();
    (bytes, index)
}

pub(crate) fn with_acls(mut member: Member) -> Member {
    let access = b"user::rwx,user:1234:r-x,group::r--,group:2000000000:rw-,mask::rwx,other::---";
    member
        .xattrs
        .push((acl::ACCESS.to_vec(), acl::from_text(access).unwrap()));
    member.mode = 0o770;
    if member.kind == Kind::Directory {
        let default = b"user::rwx,user:77:rwx,group::r-x,mask::rwx,other::r-x";
        member
            .xattrs
            .push((acl::DEFAULT.to_vec(), acl::from_text(default).unwrap()));
    }
    member
}

pub(crate) fn with_xattrs(mut member: Member) -> Member {
    for (name, value) in [
        (&b"trusted.note"[..], &b"for root"[..]),
        (b"user.binary", b"\0\n=\xff"),
        (b"user.empty", b""),
        (b"user.name", b"value"),
    ] {
        member.xattrs.push((name.to_vec(), value.to_vec()));
    }
    member
}

/// What the golden aggregate holds. Frozen: a change here is a change of the golden files.
pub(crate) fn golden() -> Vec<Member> {
    let mut setuid = member("bin/setuid", Kind::dense(700));
    setuid.mode = 0o4755;
    setuid.uid = 3_000_000_000;
    let mut old = member("old", Kind::dense(1));
    old.mtime = at(-1, 500_000_000);
    let long = ["l".repeat(255), "m".repeat(255)].join("/");
    let raw = [&b"raw\xff"[..], &[0xfe; 200]].concat();
    vec![
        member("", Kind::Directory),
        member("bin", Kind::Directory),
        setuid,
        member("bin/again", hard_link(b"bin/setuid")),
        old,
        member("empty", Kind::dense(0)),
        member("hole", sparse(1 << 34, &[])),
        member(
            "sparse",
            sparse((1 << 33) + 5, &[(4096, 1024), (1 << 33, 5)]),
        ),
        with_acls(member("acl", Kind::Directory)),
        with_xattrs(member("acl/file", Kind::dense(2000))),
        member("link", symlink(b"bin/setuid")),
        member("raw\u{e4}\n=", symlink(&raw)),
        member(raw, Kind::dense(10)),
        member(long, Kind::dense(10)),
        member("fifo", Kind::Fifo),
        member("null", Kind::CharDevice { major: 1, minor: 3 }),
        member(
            "disk",
            Kind::BlockDevice {
                major: 253,
                minor: 1_048_575,
            },
        ),
        member("socket", Kind::Socket),
    ]
}

/// What the damaged files were before: some of the above. Frozen likewise.
pub(crate) fn few() -> Vec<Member> {
    vec![
        member("acl", Kind::Directory),
        with_xattrs(member("acl/file", Kind::dense(2000))),
        member("hole", sparse(1 << 34, &[])),
        member("link", symlink(b"acl/file")),
        member(
            "sparse",
            sparse((1 << 33) + 5, &[(4096, 1024), (1 << 33, 5)]),
        ),
    ]
}
