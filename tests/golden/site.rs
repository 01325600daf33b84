//! State directories and tiers of released versions, each pair left by one instance: what a newer Cairn
//! makes of them.
//!
//! `site-2` has a catalog of schema version 2 and a tier of format version 1: in `d` a released file with
//! a second name, an archived one (pinned, norelease), a symbolic link and an odd name; a file changed
//! since, a new one (noarchive), and a deleted one.

use anyhow::{Context, Result, ensure};
use cairn::catalog::{Catalog, FileState, Identity, Node, NodeId};
use cairn::format::aggregate::IndexEntry;
use cairn::hsm::state_dir::StateDir;
use cairn::hsm::verify::{read_index, verify_member};
use cairn::tier::{OpenHow, Tier, TierUrl, open};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// A copy of a pair, opened as an instance would.
struct Site {
    dir: tempfile::TempDir,
    catalog: Catalog,
    tier: Arc<dyn Tier>,
    /// Held as long as the catalog is used.
    _state: StateDir,
}

fn site(name: &str) -> Result<Site> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let dir = tempfile::tempdir()?;
    let copied = Command::new("cp")
        .arg("-r")
        .args([from.join("state"), from.join("tier"), dir.path().to_owned()])
        .status()?;
    ensure!(copied.success());
    let state = StateDir::open(&dir.path().join("state"), None)?;
    let fresh = Identity {
        instance: state.instance,
        fs: state.fs,
    };
    let catalog = Catalog::open(&state.catalog(), fresh)?;
    let known = catalog.tiers()?.into_iter().next().context("no tier")?;
    let url: TierUrl = format!("dir:{}", dir.path().join("tier").display()).parse()?;
    let tier = open(&url, OpenHow::known(state.instance, known.id))?;
    ensure!(tier.mark().tier == known.id && tier.mark().owner == known.owner);
    Ok(Site {
        dir,
        catalog,
        tier,
        _state: state,
    })
}

impl Site {
    fn named(&self, directory: NodeId, name: &[u8]) -> Result<Node> {
        let id = self
            .catalog
            .lookup(directory, name)?
            .context("no such name")?;
        self.catalog.node(id)?.context("no such node")
    }

    /// The member that the catalog's copy of a file points at.
    fn member(&self, node: &Node) -> Result<(cairn::id::AggregateId, IndexEntry)> {
        let version = node.version.as_ref().context("never archived")?;
        let copies = self.catalog.copies(version.file, version.version)?;
        ensure!(copies.len() == 1 && copies[0].crc == version.crc);
        let (_, index) = read_index(&*self.tier, copies[0].aggregate)?;
        let entry = index
            .entries
            .into_iter()
            .find(|e| e.header == copies[0].header);
        Ok((copies[0].aggregate, entry.context("no member there")?))
    }

    /// Its bytes, verified.
    fn bytes(&self, node: &Node) -> Result<Vec<u8>> {
        let (aggregate, entry) = self.member(node)?;
        let verdict = verify_member(&*self.tier, aggregate, &entry, &|| false)?;
        ensure!(verdict.is_good(), "{verdict:?}");
        let bytes = self.tier.read(aggregate, entry.data, entry.stored_len())?;
        Ok(bytes.to_vec())
    }
}

#[test]
fn a_site_of_schema_version_2_is_opened_with_all_that_its_catalog_and_tier_hold() -> Result<()> {
    let site = site("site-2")?;
    let d = site.named(NodeId::ROOT, b"d")?;
    let released = site.named(d.id, b"released")?;
    ensure!(released.state == FileState::Released && released.attributes.nlink == 2);
    let expected: Vec<u8> = (0..70_000_u64)
        .map(|i| (i * i * 7 + i / 251) as u8)
        .collect();
    ensure!(site.bytes(&released)? == expected);
    ensure!(site.named(d.id, b"link")?.id == released.id);
    let archived = site.named(d.id, b"archived")?;
    ensure!(archived.state == FileState::Archived && archived.norelease);
    ensure!(site.bytes(&archived)? == b"archived and here\n".repeat(40));
    site.named(d.id, b"odd\nname")?;
    ensure!(site.named(NodeId::ROOT, b"dirty")?.state == FileState::Dirty);
    let new = site.named(NodeId::ROOT, b"new")?;
    ensure!(new.state == FileState::None && new.noarchive);
    let tombs = site.catalog.tombstones(None, 10)?;
    ensure!(tombs.iter().any(|t| t.path == b"deleted"), "{tombs:?}");
    ensure!(site.catalog.status(1)?.pins == 1);
    ensure!(
        site.catalog.check()?.is_empty(),
        "{:?}",
        site.catalog.check()
    );
    let kept = site.dir.path().join("state/catalog.sqlite.v2.snapshot");
    ensure!(fs::read(&kept)?[60..64] == 2_u32.to_be_bytes());
    Ok(())
}
