//! The lines of `cairn catalog dump` (`cairn.catalog-dump.v1`).
//!
//! Promises: nothing in a line depends on the catalog's own numbers, nor on when it was made; what
//! no rebuild can know stands in lines of kinds of their own (receipts, history, tombstones).

use super::failed;
use crate::catalog::{
    CatalogError, CopyRow, FileKind, FileState, Node, NodeId, TombstoneWhy, Trouble, Unserved,
};
use crate::cli::CliError;
use crate::cli::output::Output;
use crate::id::{NodeHandle, TierId, Timestamp};
use crate::server::wire::{GivenPath, Schema};
use serde_json::{Map, Value, json};

/// Rows read at once.
const PAGE: usize = 2000;

/// A line.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Fact(Map<String, Value>);

impl Schema for Fact {
    const SCHEMA: &'static str = "cairn.catalog-dump.v1";
}

fn put(output: &mut Output, what: &str, fields: Value) -> Result<(), CliError> {
    let mut line = Map::new();
    line.insert("what".to_owned(), json!(what));
    if let Value::Object(fields) = fields {
        // A line says what there is, and nothing about what there is not.
        line.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    }
    output.object(Fact(line))
}

fn handle(handle: &NodeHandle) -> String {
    let mut text = format!("{:x}:", handle.kind);
    for byte in &handle.bytes {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

fn time(at: Timestamp) -> String {
    format!("{}.{:09}", at.sec, at.nsec)
}

fn kind(kind: FileKind) -> &'static str {
    match kind {
        FileKind::Regular => "file",
        FileKind::Directory => "directory",
        FileKind::Symlink => "symlink",
        FileKind::Special => "special",
    }
}

fn state(state: FileState) -> &'static str {
    match state {
        FileState::None => "none",
        FileState::Archived => "archived",
        FileState::Dirty => "dirty",
        FileState::Released => "released",
        FileState::Lost => "lost",
    }
}

pub(super) fn tiers(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    for tier in catalog.tiers().map_err(failed)? {
        let fields = json!({
            "tier": tier.id.to_string(), "name": tier.name, "kind": tier.kind,
            "owner": tier.owner.to_string(),
        });
        put(output, "tiers", fields)?;
    }
    Ok(())
}

fn each_node(
    catalog: &Unserved,
    mut each: impl FnMut(&Node) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut after: Option<NodeHandle> = None;
    loop {
        let page = catalog.nodes(after.as_ref(), PAGE).map_err(failed)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some(last.handle.clone());
        page.iter().try_for_each(&mut each)?;
    }
}

pub(super) fn files(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    each_node(catalog, |node| {
        let a = &node.attributes;
        let is_file = a.kind == FileKind::Regular;
        // Those of a directory change with what is put into it, and only a scan notices.
        let still = a.kind != FileKind::Directory;
        let version = node.version.as_ref();
        let fields = json!({
            "handle": handle(&node.handle), "kind": kind(a.kind), "mode": format!("{:04o}", a.mode),
            "uid": a.uid, "gid": a.gid,
            "size": still.then_some(a.size), "mtime": still.then(|| time(a.mtime)),
            "nlink": still.then_some(a.nlink),
            "state": is_file.then(|| state(node.state)),
            "file": version.map(|v| v.file.to_string()), "version": version.map(|v| v.version.0),
            "crc": version.map(|v| format!("{:08x}", v.crc.0)),
            "blocks_crc": version.map(|v| format!("{:08x}", v.blocks_crc.0)),
            "copies": version.map(|_| node.copies),
            "trouble": node.trouble.map(|t| match t {
                Trouble::Foreign => "foreign",
                Trouble::Conflict => "conflict",
            }),
        });
        put(output, "files", fields)
    })
}

/// A directory on the way down.
struct Level {
    directory: NodeId,
    path: Vec<u8>,
    /// Entries still to be printed, in descending order, and the last one read.
    left: Vec<crate::catalog::Entry>,
    after: Option<Vec<u8>>,
}

pub(super) fn names(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    let level = |directory, path| Level {
        directory,
        path,
        left: Vec::new(),
        after: None,
    };
    let mut stack = vec![level(NodeId::ROOT, Vec::new())];
    while let Some(top) = stack.last_mut() {
        if top.left.is_empty() {
            let page = catalog.children(top.directory, top.after.as_deref(), PAGE);
            top.left = page.map_err(failed)?;
            top.left.reverse();
            top.after = top
                .left
                .first()
                .map(|e| e.name.clone())
                .or(top.after.take());
        }
        let Some(entry) = top.left.pop() else {
            stack.pop();
            continue;
        };
        let mut path = top.path.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(&entry.name);
        let mut fields = json!(GivenPath::new(&path));
        fields["handle"] = json!(handle(&entry.node.handle));
        put(output, "names", fields)?;
        if entry.node.attributes.kind == FileKind::Directory {
            stack.push(level(entry.node.id, path));
        }
    }
    Ok(())
}

fn each_copy(
    catalog: &Unserved,
    mut each: impl FnMut(&CopyRow) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut after = None;
    loop {
        let page = catalog.all_copies(after, PAGE).map_err(failed)?;
        let Some(CopyRow { copy, .. }) = page.last() else {
            return Ok(());
        };
        after = Some((copy.file, copy.version, copy.tier, copy.aggregate));
        page.iter().try_for_each(&mut each)?;
    }
}

fn place(row: &CopyRow) -> Value {
    let copy = &row.copy;
    json!({
        "file": copy.file.to_string(), "version": copy.version.0, "tier": copy.tier.to_string(),
        "aggregate": copy.aggregate.to_string(),
    })
}

pub(super) fn copies(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    each_copy(catalog, |row| {
        if !row.live {
            return Ok(());
        }
        let mut fields = place(row);
        fields["header"] = json!(row.copy.header);
        fields["crc"] = json!(format!("{:08x}", row.copy.crc.0));
        fields["state"] = json!(format!("{:?}", row.copy.state).to_lowercase());
        put(output, "copies", fields)
    })
}

pub(super) fn members(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    each_copy(catalog, |row| {
        let mut fields = place(row);
        fields["stored_len"] = json!(row.copy.stored_len);
        fields["live"] = json!(row.live);
        put(output, "members", fields)
    })
}

fn each_aggregate(
    catalog: &Unserved,
    mut each: impl FnMut(TierId, &crate::catalog::Aggregate) -> Result<(), CliError>,
) -> Result<(), CliError> {
    // Also those of tiers that are not configured any more.
    let known: Vec<TierId> = catalog.tier_numbers().map_err(failed)?;
    for tier in known {
        let mut after = None;
        loop {
            let page: Result<_, CatalogError> = catalog.aggregates(tier, after, PAGE);
            let page = page.map_err(failed)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            page.iter().try_for_each(|a| each(tier, a))?;
        }
    }
    Ok(())
}

pub(super) fn aggregates(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    each_aggregate(catalog, |tier, a| {
        let fields = json!({
            "tier": tier.to_string(), "aggregate": a.id.to_string(), "len": a.len,
            "members": a.members, "bytes": a.bytes,
            "live_members": a.live_members, "live_bytes": a.live_bytes,
        });
        put(output, "aggregates", fields)
    })
}

pub(super) fn receipts(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    each_aggregate(catalog, |tier, a| {
        let fields = json!({
            "tier": tier.to_string(), "aggregate": a.id.to_string(),
            "crc": format!("{:08x}", a.crc.0), "proof": format!("{:?}", a.proof).to_lowercase(),
            "at": time(a.composed_at),
        });
        put(output, "receipts", fields)
    })?;
    each_copy(catalog, |row| {
        let mut fields = place(row);
        fields["proven_at"] = json!(time(row.copy.proven_at));
        fields["verified"] = json!(row.copy.last_verified.map(time));
        put(output, "receipts", fields)
    })
}

pub(super) fn history(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    each_node(catalog, |node| {
        let a = &node.attributes;
        let pins = catalog.pins(node.id).map_err(failed)?;
        let pins: Vec<_> = pins
            .iter()
            .map(|pin| json!({ "holder": pin.holder, "until": time(pin.expires) }))
            .collect();
        let fields = json!({
            "handle": handle(&node.handle), "blocks": a.blocks,
            "ctime": time(a.ctime), "atime": time(a.atime),
            "noarchive": node.noarchive.then_some(true), "norelease": node.norelease.then_some(true),
            "note": node.note, "accessed": node.last_access.map(time),
            "staged": node.staged_at.map(time),
            "proven": node.proven.map(|p| time(p.ctime)),
            "pins": (!pins.is_empty()).then_some(pins),
        });
        put(output, "history", fields)
    })
}

pub(super) fn tombstones(catalog: &Unserved, output: &mut Output) -> Result<(), CliError> {
    let mut after = None;
    loop {
        let page = catalog.tombstones(after, PAGE).map_err(failed)?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        after = Some((last.file, last.version));
        for tomb in &page {
            let mut fields = json!(GivenPath::new(&tomb.path));
            fields["file"] = json!(tomb.file.to_string());
            fields["version"] = json!(tomb.version.0);
            fields["at"] = json!(time(tomb.at));
            fields["uid"] = json!(tomb.uid);
            fields["why"] = json!(match tomb.why {
                TombstoneWhy::Unlink => "unlink",
                TombstoneWhy::Overwrite => "overwrite",
                TombstoneWhy::Truncate => "truncate",
                TombstoneWhy::Remove => "remove",
                TombstoneWhy::Unknown => "unknown",
            });
            put(output, "tombstones", fields)?;
        }
    }
}
