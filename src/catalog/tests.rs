//! Tests of the catalog: what the parts share.

use super::*;
use crate::id::{
    AggregateId, DataVersion, FileId, FsUuid, InstanceId, NodeHandle, TierId, Timestamp,
};
use cairn_mover::Crc32c;
use std::path::PathBuf;

mod archive;
mod backups;
mod behind;
mod damage;
mod durability;
mod model;
mod nodes;
mod plans;
mod proof;
mod rebuild;
mod reclaim;
mod requests;
mod snapshots;

const TIER: TierId = TierId(7);

fn at(sec: i64) -> Timestamp {
    Timestamp { sec, nsec: 5 }
}

struct Rig {
    dir: tempfile::TempDir,
    catalog: Catalog,
}

impl std::ops::Deref for Rig {
    type Target = Catalog;
    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}

fn identity() -> Identity {
    Identity {
        instance: InstanceId([1; 16]),
        fs: FsUuid([2; 16]),
    }
}

fn start(boot: u8) -> Start {
    Start {
        boot: BootId([boot; 16]),
        epoch_above: 0,
        now: at(1),
    }
}

impl Rig {
    /// A begun catalog with a root.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&dir.path().join("catalog"), identity()).unwrap();
        catalog.begin_incarnation(start(1)).unwrap();
        let root = attributes(FileKind::Directory, 0);
        catalog.set_root(&handle(1), root).unwrap();
        Self { dir, catalog }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("catalog")
    }

    /// A file of `size` bytes in the root, last changed at second `size`.
    fn file(&self, number: u64, size: u64) -> NodeId {
        let name = format!("file{number}").into_bytes();
        self.file_at(number, size, NodeId::ROOT, name)
    }

    fn file_at(&self, number: u64, size: u64, parent: NodeId, name: Vec<u8>) -> NodeId {
        let sighting = Sighting {
            handle: handle(number),
            attributes: attributes(FileKind::Regular, size),
            place: Some((parent, name)),
        };
        self.note(vec![sighting], Durability::Relaxed).unwrap()[0]
    }

    fn directory(&self, number: u64, parent: NodeId, name: &[u8]) -> NodeId {
        let sighting = Sighting {
            handle: handle(number),
            attributes: attributes(FileKind::Directory, 0),
            place: Some((parent, name.to_vec())),
        };
        self.note(vec![sighting], Durability::Relaxed).unwrap()[0]
    }

    /// Archives version `version` of a node in an aggregate of its own.
    fn archive(&self, node: NodeId, version: u64, tier: TierId) -> NewAggregate {
        self.archive_begun(self.plan(node), node, version, tier)
    }

    /// What an archive of the node that begins now is planned under.
    fn plan(&self, node: NodeId) -> Planned {
        let nothing = Planned {
            state: FileState::None,
            version: None,
        };
        self.node(node).unwrap().map_or(nothing, |n| n.planned())
    }

    /// The end of an archive that began earlier, at which nothing had changed yet.
    fn archive_begun(
        &self,
        planned: Planned,
        node: NodeId,
        version: u64,
        tier: TierId,
    ) -> NewAggregate {
        let seen = self.node(node).unwrap().map(|n| n.attributes.ctime);
        let seen = seen.filter(|_| planned == self.plan(node));
        let point = Proven {
            ctime: seen.map_or(at(9), |ctime| ctime.max(at(9))),
            ..proven(1)
        };
        let aggregate = NewAggregate {
            tier,
            id: self.next_aggregate().unwrap(),
            len: 4096,
            in_parts: false,
            crc: Crc32c(9),
            proof: ProofKind::ReadBack,
        };
        let archived = Archived {
            node,
            planned,
            version: version_of(node, version),
            proven: point,
            header: 512,
            stored_len: 100,
        };
        self.archived(aggregate, vec![archived], at(50)).unwrap();
        aggregate
    }

    fn row(&self, node: NodeId) -> Node {
        self.node(node).unwrap().unwrap()
    }

    fn connection(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.path()).unwrap()
    }
}

fn handle(number: u64) -> NodeHandle {
    NodeHandle {
        kind: 1,
        bytes: number.to_be_bytes().to_vec(),
    }
}

fn attributes(kind: FileKind, size: u64) -> Attributes {
    let time = at(i64::try_from(size).unwrap());
    Attributes {
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 100,
        size,
        blocks: size.div_ceil(512),
        nlink: 1,
        mtime: time,
        ctime: time,
        atime: time,
    }
}

fn file_id(node: NodeId) -> FileId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&node.0.to_be_bytes());
    FileId(id)
}

fn version_of(node: NodeId, version: u64) -> Version {
    Version {
        file: file_id(node),
        version: DataVersion(version),
        crc: Crc32c(11),
        blocks_crc: Crc32c(12),
    }
}

fn proven(boot: u32) -> Proven {
    Proven {
        size: 5,
        ctime: at(9),
        boot: BootSeq(boot),
    }
}

fn action(node: NodeId, bytes: u64) -> NewAction {
    NewAction {
        node,
        handle: handle(node.0 as u64),
        tier: Some(TIER),
        bytes,
        place: Some(Place {
            aggregate: AggregateId { epoch: 1, seq: 1 },
            offset: bytes,
        }),
        near: NodeId::ROOT,
        refused: None,
    }
}

fn request(verb: Verb, uid: u32, key: Option<&str>) -> NewRequest {
    NewRequest {
        verb,
        uid,
        gid: 100,
        origin: Origin::User,
        key: key.map(str::to_owned),
        tier: None,
        options: "{}".to_owned(),
        sealed: true,
    }
}

fn failure(code: &str) -> Failure {
    Failure {
        code: code.to_owned(),
        text: "because".to_owned(),
    }
}
