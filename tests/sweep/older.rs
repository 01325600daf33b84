//! A catalog as the schema version before this program's had it, made of one of its own: what the
//! last step of the migration adds is taken out again.

use anyhow::{Context, Result};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::Path;

/// The steps up to that version.
const STEPS: [&str; 2] = [
    include_str!("../../src/catalog/schema.sql"),
    include_str!("../../src/catalog/schema_2.sql"),
];

/// What a database consists of: its objects by name, with kind and statement.
type Objects = BTreeMap<String, (String, String)>;

fn objects(connection: &Connection) -> Result<Objects> {
    let text = "SELECT name, type, sql FROM sqlite_schema WHERE sql IS NOT NULL";
    let mut statement = connection.prepare(text)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn columns(connection: &Connection, table: &str) -> Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?)")?;
    let rows = statement.query_map([table], |row| row.get(0))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Takes a catalog that nobody has open back by one version.
pub(crate) fn make(path: &Path) -> Result<()> {
    let old = Connection::open_in_memory()?;
    for step in STEPS {
        old.execute_batch(step)?;
    }
    let wanted = objects(&old)?;
    let new = Connection::open(path)?;
    let is = |kind: &str| kind != "table";
    for (name, (kind, text)) in objects(&new)?.iter().filter(|(_, (k, _))| is(k)) {
        if wanted.get(name).is_none_or(|(_, t)| t != text) {
            new.execute_batch(&format!("DROP {kind} {name}"))?;
        }
    }
    for (name, _) in objects(&new)?.iter().filter(|(_, (k, _))| !is(k)) {
        if !wanted.contains_key(name) {
            new.execute_batch(&format!("DROP TABLE {name}"))?;
            continue;
        }
        let kept = columns(&old, name)?;
        for column in columns(&new, name)?.iter().filter(|c| !kept.contains(c)) {
            new.execute_batch(&format!("ALTER TABLE {name} DROP COLUMN {column}"))?;
        }
    }
    let there = objects(&new)?;
    for (_, (_, text)) in wanted.iter().filter(|(name, _)| !there.contains_key(*name)) {
        new.execute_batch(text).with_context(|| text.clone())?;
    }
    new.pragma_update(None, "user_version", STEPS.len() as u32)?;
    new.close().map_err(|(_, why)| why.into())
}
