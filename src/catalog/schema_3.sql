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
-- What can be undeleted: found by path, and by path for one user; how large it was; undeletes under
-- way (the file id under which the version comes back, and since when).
ALTER TABLE tombstones ADD COLUMN size INTEGER;
ALTER TABLE tombstones ADD COLUMN heir BLOB;
ALTER TABLE tombstones ADD COLUMN heir_since INTEGER;
CREATE INDEX tombstones_path ON tombstones (path, id);
CREATE INDEX tombstones_uid ON tombstones (uid, path, id);
CREATE INDEX tombstones_heir ON tombstones (id) WHERE heir IS NOT NULL;
-- Where a node was whose name a scan found gone: for its tombstone, if it is found gone itself.
CREATE TABLE last_paths (node INTEGER PRIMARY KEY, path BLOB NOT NULL);
