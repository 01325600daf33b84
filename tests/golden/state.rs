//! State directories of versions that were released: what a newer Cairn makes of them.
//!
//! `v1/state` was left by version 1 after a clean stop: one file each released, archived (pinned,
//! norelease), changed since, and new (noarchive), and one deleted.

use anyhow::{Context, Result, ensure};
use cairn::catalog::{Catalog, CatalogError, FileState, Identity, NodeId};
use cairn::hsm::state_dir::StateDir;
use cairn::id::Timestamp;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

fn copied() -> Result<tempfile::TempDir> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1/state");
    let dir = tempfile::tempdir()?;
    for name in ["instance.json", "catalog.sqlite"] {
        fs::copy(from.join(name), dir.path().join(name)).context(name)?;
    }
    Ok(dir)
}

fn open(dir: &Path) -> Result<(StateDir, Result<Catalog, CatalogError>)> {
    let state = StateDir::open(dir, None)?;
    let fresh = Identity {
        instance: state.instance,
        fs: state.fs,
    };
    let catalog = Catalog::open(&state.catalog(), fresh);
    Ok((state, catalog))
}

fn named(catalog: &Catalog, directory: NodeId, name: &[u8]) -> Result<cairn::catalog::Node> {
    let id = catalog.lookup(directory, name)?.context("no such name")?;
    catalog.node(id)?.context("no such node")
}

#[test]
fn a_state_directory_of_version_1_is_brought_forward_with_all_that_is_in_it() -> Result<()> {
    let dir = copied()?;
    let before = fs::read(dir.path().join("catalog.sqlite"))?;
    let (state, catalog) = open(dir.path())?;
    let catalog = catalog?;
    ensure!(catalog.identity().instance == state.instance);
    let d = named(&catalog, NodeId::ROOT, b"d")?;
    let released = named(&catalog, d.id, b"released")?;
    let archived = named(&catalog, d.id, b"archived")?;
    let changed = named(&catalog, NodeId::ROOT, b"dirty")?;
    let new = named(&catalog, NodeId::ROOT, b"new")?;
    ensure!(released.state == FileState::Released && released.attributes.size == 200_000);
    ensure!(archived.state == FileState::Archived && archived.norelease);
    ensure!(changed.state == FileState::Dirty && new.state == FileState::None && new.noarchive);
    for node in [&released, &archived, &changed, &new] {
        ensure!(node.trouble.is_none());
    }
    let version = released.version.context("never archived")?;
    let copies = catalog.copies(version.file, version.version)?;
    ensure!(copies.len() == 1 && copies[0].crc == version.crc);
    let now = Timestamp {
        sec: 1_800_000_000,
        nsec: 0,
    };
    ensure!(catalog.pinned_until(archived.id, now)?.is_some());
    let tombs = catalog.tombstones(None, 10)?;
    ensure!(tombs.iter().any(|t| t.path == b"gone"), "{tombs:?}");
    let status = catalog.status(1)?;
    ensure!((status.foreign, status.conflict, status.pins) == (0, 0, 1));
    ensure!(catalog.check()?.is_empty(), "{:?}", catalog.check());
    ensure!(status.scan.finished_generation > 0);

    // The way back: the catalog as it was, readable by its owner alone.
    let kept = dir.path().join("catalog.sqlite.v1.snapshot");
    ensure!(fs::metadata(&kept)?.permissions().mode() & 0o777 == 0o600);
    ensure!(!PathBuf::from(format!("{}.new", kept.display())).exists());
    ensure!(before[60..64] == 1_u32.to_be_bytes());
    ensure!(fs::read(&kept)?[60..64] == 1_u32.to_be_bytes());
    drop((catalog, state));

    let (_state, again) = open(dir.path())?;
    ensure!(again?.status(1)?.pins == 1, "the second opening");
    Ok(())
}

/// What version 1 did with a version 2, this one does with a version 8.
#[test]
fn a_catalog_of_a_newer_version_is_refused_and_keeps_every_byte() -> Result<()> {
    let dir = copied()?;
    let path = dir.path().join("catalog.sqlite");
    let mut bytes = fs::read(&path)?;
    bytes[60..64].copy_from_slice(&8_u32.to_be_bytes());
    fs::write(&path, &bytes)?;
    let (_state, refused) = open(dir.path())?;
    let Err(CatalogError::Newer {
        found: 8, known: 7, ..
    }) = refused
    else {
        anyhow::bail!("not refused as newer: {:?}", refused.err());
    };
    ensure!(fs::read(&path)? == bytes);
    ensure!(!dir.path().join("catalog.sqlite.v1.snapshot").exists());
    Ok(())
}

/// A snapshot that was cut short by a crash is none.
#[test]
fn a_snapshot_that_was_cut_short_is_made_again() -> Result<()> {
    let dir = copied()?;
    let kept = dir.path().join("catalog.sqlite.v1.snapshot");
    let partial = dir.path().join("catalog.sqlite.v1.snapshot.new");
    fs::write(&partial, "half of it")?;
    let (_state, catalog) = open(dir.path())?;
    drop(catalog?);
    ensure!(!partial.exists() && fs::read(&kept)?.starts_with(b"SQLite format 3\0"));
    Ok(())
}
