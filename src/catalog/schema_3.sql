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
-- Deleting (P8): the inode of each tombstone and its order against scans, the records that scans
-- met, and the lives of aggregates with their sums by tier.
ALTER TABLE tombstones ADD COLUMN handle BLOB;
ALTER TABLE tombstones ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
UPDATE tombstones SET generation = (SELECT generation FROM scan WHERE id = 1);
CREATE TABLE namings (what BLOB PRIMARY KEY, generation INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX namings_generation ON namings (generation);
ALTER TABLE scan ADD COLUMN proof_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE scan ADD COLUMN proof_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE scan ADD COLUMN proof_begun_at INTEGER;
ALTER TABLE aggregates ADD COLUMN life INTEGER NOT NULL DEFAULT 0;
ALTER TABLE aggregates ADD COLUMN since INTEGER;
ALTER TABLE aggregates ADD COLUMN life_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE aggregates ADD COLUMN life_generation INTEGER NOT NULL DEFAULT 0;
ALTER TABLE aggregates ADD COLUMN moved_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE aggregates ADD COLUMN moved_seq INTEGER NOT NULL DEFAULT 0;
CREATE INDEX aggregates_retired ON aggregates (tier, epoch, seq)
    WHERE life = 0 AND (live_members < members OR moved_seq > 0);
CREATE INDEX aggregates_lives ON aggregates (tier, life, epoch, seq) WHERE life > 0;
CREATE INDEX aggregates_moved ON aggregates (tier, moved_epoch, moved_seq) WHERE moved_seq > 0;
CREATE TABLE tier_sums (
    tier INTEGER NOT NULL, life INTEGER NOT NULL, objects INTEGER NOT NULL, len INTEGER NOT NULL,
    bytes INTEGER NOT NULL, live_bytes INTEGER NOT NULL, PRIMARY KEY (tier, life)
) WITHOUT ROWID;
INSERT INTO tier_sums
    SELECT tier, 0, count(*), sum(len), sum(bytes), sum(live_bytes) FROM aggregates GROUP BY tier;
CREATE TRIGGER aggregate_added AFTER INSERT ON aggregates BEGIN
    INSERT INTO tier_sums VALUES (NEW.tier, NEW.life, 1, NEW.len, NEW.bytes, NEW.live_bytes)
    ON CONFLICT DO UPDATE SET objects = objects + 1, len = len + excluded.len,
        bytes = bytes + excluded.bytes, live_bytes = live_bytes + excluded.live_bytes;
END;
CREATE TRIGGER aggregate_removed AFTER DELETE ON aggregates BEGIN
    UPDATE tier_sums SET objects = objects - 1, len = len - OLD.len, bytes = bytes - OLD.bytes,
        live_bytes = live_bytes - OLD.live_bytes WHERE tier = OLD.tier AND life = OLD.life;
END;
CREATE TRIGGER aggregate_changed AFTER UPDATE OF len, bytes, live_bytes, life ON aggregates BEGIN
    UPDATE tier_sums SET objects = objects - 1, len = len - OLD.len, bytes = bytes - OLD.bytes,
        live_bytes = live_bytes - OLD.live_bytes WHERE tier = OLD.tier AND life = OLD.life;
    INSERT INTO tier_sums VALUES (NEW.tier, NEW.life, 1, NEW.len, NEW.bytes, NEW.live_bytes)
    ON CONFLICT DO UPDATE SET objects = objects + 1, len = len + excluded.len,
        bytes = bytes + excluded.bytes, live_bytes = live_bytes + excluded.live_bytes;
END;
-- Rebuilding: how far it came, and what aggregates say of files until their inodes are found.
CREATE TABLE rebuild (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    stubs INTEGER NOT NULL, tiers INTEGER NOT NULL, begun_at INTEGER NOT NULL, finished_at INTEGER,
    -- The incarnation that is the rebuild's own; its sweep's generation, and with which tiers read.
    epoch INTEGER NOT NULL DEFAULT 0, sweep INTEGER NOT NULL DEFAULT 0,
    swept_with BLOB NOT NULL DEFAULT x''
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

-- Proof of copies: those of a tier by the age of their last check; bad ones listable; counted by
-- tier (`copies` and `bytes`: all that are live, the bad ones too).
DROP INDEX copies_age;
CREATE INDEX copies_age ON copies (tier, ifnull(last_verified, proven_at))
    WHERE live = 1 AND state < 2;
CREATE INDEX copies_bad ON copies (tier, epoch, seq, header) WHERE live = 1 AND state = 2;
CREATE TABLE proof (
    tier INTEGER PRIMARY KEY, copies INTEGER NOT NULL, bytes INTEGER NOT NULL,
    bad INTEGER NOT NULL
);
INSERT INTO proof SELECT tier, sum(live_members), sum(live_bytes), 0 FROM aggregates GROUP BY tier;
UPDATE proof SET bad = (SELECT count(*) FROM copies
    WHERE copies.tier = proof.tier AND live = 1 AND state = 2);
CREATE TRIGGER proof_aggregate_added AFTER INSERT ON aggregates BEGIN
    INSERT INTO proof VALUES (NEW.tier, NEW.live_members, NEW.live_bytes, 0)
    ON CONFLICT DO UPDATE SET copies = copies + excluded.copies, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER proof_aggregate_changed AFTER UPDATE OF live_members, live_bytes ON aggregates BEGIN
    UPDATE proof SET copies = copies + NEW.live_members - OLD.live_members,
                     bytes = bytes + NEW.live_bytes - OLD.live_bytes
    WHERE tier = NEW.tier;
END;
CREATE TRIGGER proof_aggregate_removed AFTER DELETE ON aggregates BEGIN
    UPDATE proof SET copies = copies - OLD.live_members, bytes = bytes - OLD.live_bytes
    WHERE tier = OLD.tier;
END;
CREATE TRIGGER copy_bad_added AFTER INSERT ON copies WHEN NEW.live = 1 AND NEW.state = 2 BEGIN
    UPDATE proof SET bad = bad + 1 WHERE tier = NEW.tier;
END;
CREATE TRIGGER copy_bad_changed AFTER UPDATE OF state, live ON copies
WHEN (OLD.live = 1 AND OLD.state = 2) <> (NEW.live = 1 AND NEW.state = 2) BEGIN
    UPDATE proof SET bad = bad + CASE WHEN NEW.live = 1 AND NEW.state = 2 THEN 1 ELSE -1 END
    WHERE tier = NEW.tier;
END;
CREATE TRIGGER copy_bad_removed AFTER DELETE ON copies WHEN OLD.live = 1 AND OLD.state = 2 BEGIN
    UPDATE proof SET bad = bad - 1 WHERE tier = OLD.tier;
END;
