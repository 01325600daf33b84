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
-- Namespace snapshots: which lie on which tier. A chain is a full one and what stands on it.
CREATE TABLE snapshots (
    tier INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    base_epoch INTEGER, base_seq INTEGER, depth INTEGER NOT NULL,
    begun_at INTEGER NOT NULL, ended_at INTEGER NOT NULL, took INTEGER NOT NULL,
    len INTEGER NOT NULL, crc INTEGER NOT NULL, proof INTEGER NOT NULL,
    directories INTEGER NOT NULL, entries INTEGER NOT NULL,
    changelog INTEGER NOT NULL, newest_epoch INTEGER NOT NULL, newest_seq INTEGER NOT NULL,
    superseded_at INTEGER,
    PRIMARY KEY (tier, epoch, seq)
) WITHOUT ROWID;
CREATE INDEX snapshots_superseded ON snapshots (superseded_at) WHERE superseded_at IS NOT NULL;
