//! The schema: how its first version is made, and how an older one is brought forward, a new one
//! too.
//!
//! Invariant: a file that a newer Cairn made, or that is no catalog, keeps every byte: the file's
//! header is read as plain bytes first, then a read-only connection looks once more (the header
//! may lag behind the log). Only then is anything written.

use super::error::At;
use super::{CatalogError, Identity};
use crate::id::{FsUuid, InstanceId};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The schema version that this program writes.
pub(super) const VERSION: u32 = 7;
/// `application_id` of a catalog: "cAiR".
const APPLICATION: u32 = 0x6341_6952;

/// One step forward: from the version at its place in [`STEPS`] (counted from 1) to the next.
type Step = fn(&Connection) -> rusqlite::Result<()>;
/// Migrations.
const STEPS: &[Step] = &[
    |connection| connection.execute_batch(include_str!("schema_2.sql")),
    |connection| connection.execute_batch(include_str!("schema_3.sql")),
    |connection| connection.execute_batch(include_str!("schema_4.sql")),
    |connection| connection.execute_batch(include_str!("schema_5.sql")),
    |connection| connection.execute_batch(include_str!("schema_6.sql")),
    |connection| connection.execute_batch(include_str!("schema_7.sql")),
];
const _: () = assert!(
    STEPS.len() + 1 == VERSION as usize,
    "one migration step per version after the first"
);

/// Makes the catalog, or checks and migrates the one that is there; gives its identity.
pub(super) fn prepare(path: &Path, fresh: Identity) -> Result<Identity, CatalogError> {
    let found = look(path)?;
    let connection = connect(path)?;
    match found {
        None => create(&connection, fresh)?,
        Some(version) if version < VERSION => migrate(&connection, path, version)?,
        Some(_) => {}
    }
    identity(&connection)
}

/// Is there a catalog at `path`, of the version that this program reads? Writes no byte.
pub(super) fn is_present(path: &Path) -> Result<bool, CatalogError> {
    match look(path)? {
        Some(found) if found < VERSION => Err(CatalogError::Older {
            path: path.to_owned(),
            found,
            known: VERSION,
        }),
        found => Ok(found.is_some()),
    }
}

/// Is there a catalog at `path`, of whatever version? Writes no byte.
pub(super) fn is_there(path: &Path) -> Result<bool, CatalogError> {
    Ok(look(path)?.is_some())
}

/// What is at `path`; reads all of it. SQLite may fold the log that it finds.
pub(super) fn condition(path: &Path) -> Result<Condition, CatalogError> {
    let damaged = |why: String| Ok(Condition::Damaged(why));
    // Only who may write can roll back what a crash left half done, as while a file is being made.
    let looked = match look(path) {
        Err(CatalogError::Sql { .. }) => connect(path).and_then(|_| look(path)),
        looked => looked,
    };
    match looked {
        Ok(None) => return Ok(Condition::Absent),
        Ok(Some(_)) => {}
        Err(CatalogError::NotACatalog { why, .. }) => return damaged(why),
        Err(why) if why.is_damage() => return damaged(why.to_string()),
        Err(why) => return Err(why),
    }
    let checked = connect(path).and_then(|connection| {
        let step = "check";
        let said: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .at(step, path.display())?;
        identity(&connection)?;
        Ok(said)
    });
    match checked {
        Ok(said) if said == "ok" => Ok(Condition::Whole),
        Ok(said) => damaged(said),
        // No room, no right, another that has it: nothing is known of it.
        Err(why) if why.is_damage() => damaged(why.to_string()),
        Err(why) => Err(why),
    }
}

/// What is at a catalog's path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing, or an empty file.
    Absent,
    /// A catalog that can be read to its end.
    Whole,
    /// Something else, or a catalog that cannot be read; with why.
    Damaged(String),
}

/// The version of the catalog at `path`, without writing a byte; `None`: there is none yet.
pub(super) fn look(path: &Path) -> Result<Option<u32>, CatalogError> {
    let not = |why: &str| CatalogError::NotACatalog {
        path: path.to_owned(),
        why: why.to_owned(),
    };
    let mut file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CatalogError::io(path, "open", e)),
    };
    let mut header = Vec::with_capacity(100);
    file.by_ref()
        .take(100)
        .read_to_end(&mut header)
        .map_err(|e| CatalogError::io(path, "read header", e))?;
    drop(file);
    let Some(header) = header.first_chunk::<100>() else {
        // Creation is one transaction: a crash within it leaves an empty file (and a log).
        return if header.is_empty() {
            Ok(None)
        } else {
            Err(not("too short"))
        };
    };
    if !header.starts_with(b"SQLite format 3\0") {
        return Err(not("no SQLite database"));
    }
    let word = |at: usize| {
        u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    refuse_newer(path, word(60), word(68))?;
    if journal_of_nothing(path)? {
        return Ok(None);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let readonly = Connection::open_with_flags(path, flags).at("open read-only", path.display())?;
    let pragma = |name: &'static str| -> Result<u32, CatalogError> {
        readonly
            .query_row(&format!("PRAGMA {name}"), [], |row| row.get(0))
            .at("read version", path.display())
    };
    let (version, application) = (pragma("user_version")?, pragma("application_id")?);
    refuse_newer(path, version, application)?;
    let tables: i64 = readonly
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .at("read schema", path.display())?;
    match (tables, application, version) {
        (0, _, _) => Ok(None),
        (_, APPLICATION, 1..) => Ok(Some(version)),
        _ => Err(not("a database of another program")),
    }
}

/// Is there a rollback journal beside it, of a transaction that found an empty file? The first one that
/// a catalog sees is, and makes it a database with a log; the journal's removal is not durable, so a
/// power loss brings it back. A read-only connection cannot look behind it; what is behind it is
/// nothing.
fn journal_of_nothing(path: &Path) -> Result<bool, CatalogError> {
    const MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
    let mut name = path.as_os_str().to_owned();
    name.push("-journal");
    let name = PathBuf::from(name);
    let mut file = match std::fs::File::open(&name) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(CatalogError::io(&name, "open", e)),
    };
    let mut header = Vec::with_capacity(28);
    file.by_ref()
        .take(28)
        .read_to_end(&mut header)
        .map_err(|e| CatalogError::io(&name, "read header", e))?;
    // Its pages before the transaction.
    Ok(header.starts_with(&MAGIC) && header.get(16..20) == Some(&[0; 4]))
}

fn refuse_newer(path: &Path, version: u32, application: u32) -> Result<(), CatalogError> {
    if application == APPLICATION && version > VERSION {
        return Err(CatalogError::Newer {
            path: path.to_owned(),
            found: version,
            known: VERSION,
        });
    }
    Ok(())
}

/// Plans never depend on what is bound to a statement. Without this a statement that could use a partial
/// index is prepared anew for each new value of a parameter, which takes longer than running it [m].
pub(super) fn plan_once(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)
        .map(drop)
}

/// A read-write connection, set up as every write needs it.
pub(super) fn connect(path: &Path) -> Result<Connection, CatalogError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).at("open", path.display())?;
    connection
        .busy_timeout(std::time::Duration::from_secs(30))
        .at("set up", path.display())?;
    // temp_store = FILE: the journals of savepoints begin in memory and move to a file at 64 KiB. Kept in
    // memory they are a list that SQLite walks from its head at the end of every statement: groups
    // of some thousand changes then take thirty times as long [m].
    connection
        .execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 4000; PRAGMA journal_size_limit = 67108864;
             PRAGMA cache_size = -65536; PRAGMA temp_store = FILE;
             PRAGMA cell_size_check = ON;",
        )
        .at("set up", path.display())?;
    plan_once(&connection).at("set up", path.display())?;
    connection.set_prepared_statement_cache_capacity(256);
    Ok(connection)
}

fn create(connection: &Connection, fresh: Identity) -> Result<(), CatalogError> {
    let make = || -> rusqlite::Result<()> {
        connection.execute_batch("BEGIN EXCLUSIVE")?;
        connection.execute_batch(include_str!("schema.sql"))?;
        connection.execute(
            "INSERT INTO instance VALUES (1, ?, ?, 0, 1, 0, 1, 0)",
            params![fresh.instance.0, fresh.fs.0],
        )?;
        STEPS.iter().try_for_each(|step| step(connection))?;
        connection.execute_batch(&format!(
            "PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT"
        ))
    };
    make().at("create", "schema")
}

/// Brings an older catalog forward, one version and one transaction at a time, after a snapshot
/// `NAME.v<version>.snapshot` beside it.
fn migrate(connection: &Connection, path: &Path, from: u32) -> Result<(), CatalogError> {
    snapshot(connection, path, from)?;
    for (step, version) in STEPS.iter().zip(2_u32..).skip(from as usize - 1) {
        let forward = || -> rusqlite::Result<()> {
            connection.execute_batch("BEGIN EXCLUSIVE")?;
            step(connection)?;
            connection.execute_batch(&format!("PRAGMA user_version = {version}; COMMIT"))
        };
        forward().at("migrate", format!("to version {version}"))?;
    }
    Ok(())
}

/// Keeps the catalog as it is in a file of its own. The file has its name only when it is complete
/// and durable; it replaces one of an earlier migration, after which the older program went on.
fn snapshot(connection: &Connection, path: &Path, version: u32) -> Result<(), CatalogError> {
    let beside = |ending: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".v{version}.snapshot{ending}"));
        PathBuf::from(name)
    };
    let (whole, partial) = (beside(""), beside(".new"));
    match std::fs::remove_file(&partial) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            return Err(CatalogError::io(&partial, "remove", why));
        }
        _ => {}
    }
    // It holds users' names: made with its mode, before anything is in it.
    std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(|why| CatalogError::io(&partial, "create", why))?;
    connection
        .execute("VACUUM INTO ?", [partial.to_string_lossy()])
        .at("snapshot before migration", partial.display())?;
    let sync = |at: &Path| std::fs::File::open(at).and_then(|file| file.sync_all());
    sync(&partial).map_err(|why| CatalogError::io(&partial, "sync", why))?;
    std::fs::rename(&partial, &whole).map_err(|why| CatalogError::io(&whole, "rename to", why))?;
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    sync(directory).map_err(|why| CatalogError::io(directory, "sync", why))
}

pub(super) fn identity(connection: &Connection) -> Result<Identity, CatalogError> {
    connection
        .query_row(
            "SELECT instance, fs FROM instance WHERE id = 1",
            [],
            |row| {
                Ok(Identity {
                    instance: InstanceId(row.get(0)?),
                    fs: FsUuid(row.get(1)?),
                })
            },
        )
        .at("read identity", "instance")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_of_this_migration_and_not_of_an_earlier_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("catalog");
        let kept = dir.path().join("catalog.v1.snapshot");
        std::fs::write(&kept, "of an earlier migration").unwrap();
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (n); INSERT INTO t VALUES (7)")
            .unwrap();
        snapshot(&connection, &path, 1).unwrap();
        let kept = Connection::open(&kept).unwrap();
        let found = kept.query_row("SELECT n FROM t", [], |row| row.get(0));
        assert_eq!(found, Ok(7));
    }
}
