-- From schema version 2 to 3.
-- Usage: the row of everybody and the owner's are changed one after the other. Asked for with IN, each
-- firing of a trigger made, filled and dropped a table of its own.
DROP TRIGGER node_removed;
CREATE TRIGGER node_removed AFTER DELETE ON nodes WHEN OLD.kind = 0 BEGIN
    UPDATE usage SET files = files - 1, bytes = bytes - OLD.size, blocks = blocks - OLD.blocks
    WHERE uid = -1 AND state = OLD.state;
    UPDATE usage SET files = files - 1, bytes = bytes - OLD.size, blocks = blocks - OLD.blocks
    WHERE uid = OLD.uid AND state = OLD.state;
END;
DROP TRIGGER node_changed;
CREATE TRIGGER node_changed AFTER UPDATE OF kind, uid, state, size, blocks ON nodes
WHEN (OLD.kind = 0 OR NEW.kind = 0)
     AND (OLD.kind, OLD.uid, OLD.state, OLD.size, OLD.blocks)
         <> (NEW.kind, NEW.uid, NEW.state, NEW.size, NEW.blocks)
BEGIN
    UPDATE usage SET files = files - 1, bytes = bytes - OLD.size, blocks = blocks - OLD.blocks
    WHERE OLD.kind = 0 AND uid = -1 AND state = OLD.state;
    UPDATE usage SET files = files - 1, bytes = bytes - OLD.size, blocks = blocks - OLD.blocks
    WHERE OLD.kind = 0 AND uid = OLD.uid AND state = OLD.state;
    INSERT INTO usage VALUES (-1, NEW.state, 0, 0, 0), (NEW.uid, NEW.state, 0, 0, 0)
    ON CONFLICT DO NOTHING;
    UPDATE usage SET files = files + 1, bytes = bytes + NEW.size, blocks = blocks + NEW.blocks
    WHERE NEW.kind = 0 AND uid = -1 AND state = NEW.state;
    UPDATE usage SET files = files + 1, bytes = bytes + NEW.size, blocks = blocks + NEW.blocks
    WHERE NEW.kind = 0 AND uid = NEW.uid AND state = NEW.state;
END;
-- Rebuilding: how far it came, and what aggregates say of files until their inodes are found.
CREATE TABLE rebuild (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    stubs INTEGER NOT NULL, tiers INTEGER NOT NULL, begun_at INTEGER NOT NULL, finished_at INTEGER
);
CREATE TABLE rebuild_tiers (
    tier INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    complete INTEGER NOT NULL, aggregates INTEGER NOT NULL, members INTEGER NOT NULL,
    damaged INTEGER NOT NULL
);
CREATE TABLE rebuild_damaged (
    tier INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (tier, epoch, seq)
) WITHOUT ROWID;
CREATE TABLE rebuild_members (
    path BLOB PRIMARY KEY, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    file BLOB NOT NULL, version INTEGER NOT NULL, crc INTEGER NOT NULL, blocks_crc INTEGER NOT NULL,
    size INTEGER NOT NULL, mtime INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX rebuild_members_looks ON rebuild_members (size, mtime);
