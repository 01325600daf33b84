//! A page of the file is damaged while nobody looks, and met in the middle of work.

use super::*;
use std::os::unix::fs::FileExt;

#[test]
fn damage_that_is_met_in_use_is_remembered() {
    let rig = Rig::new();
    let node = rig.file(2, 10);
    rig.archive(node, 1, TIER);
    rig.forget(node, at(50), Durability::Full).unwrap();
    assert!(rig.damage().is_none());
    let rig = rig.damaged("tombstones");
    assert!(rig.damage().is_none(), "nobody has looked there");
    let why = rig.tombstones(None, 10).unwrap_err();
    assert!(why.is_damage(), "{why}");
    let found = rig.damage().expect("what was met");
    assert_eq!(found.to_string(), why.to_string());
}

impl Rig {
    /// Closed, one of its tables overwritten on the disk, and opened again.
    fn damaged(self, table: &str) -> Self {
        let Self { dir, catalog } = self;
        drop(catalog);
        let path = dir.path().join("catalog");
        let connection = rusqlite::Connection::open(&path).unwrap();
        let number = |sql: &str| {
            let row = connection.query_row(sql, [], |row| row.get::<_, i64>(0));
            row.unwrap()
        };
        number("PRAGMA wal_checkpoint(TRUNCATE)");
        let root = number(&format!(
            "SELECT rootpage FROM sqlite_master WHERE name = '{table}'"
        ));
        let size = number("PRAGMA page_size");
        drop(connection);
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        let garbage = vec![0xa5; size as usize];
        file.write_all_at(&garbage, ((root - 1) * size) as u64)
            .unwrap();
        let catalog = Catalog::open(&path, identity()).unwrap();
        Self { dir, catalog }
    }
}
