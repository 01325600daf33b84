-- Schema version 1. Timestamps are nanoseconds since 1970; sizes are bytes; blocks are 512 bytes.
-- Enumerations are the numbers of `sql.rs`; 0 in a tier column means none.
CREATE TABLE instance (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    instance BLOB NOT NULL, fs BLOB NOT NULL,
    epoch INTEGER NOT NULL, clean INTEGER NOT NULL,
    boot INTEGER NOT NULL, trusted_from INTEGER NOT NULL, begun_at INTEGER NOT NULL
);
CREATE TABLE boots (seq INTEGER PRIMARY KEY, boot BLOB NOT NULL, first_seen INTEGER NOT NULL);
CREATE TABLE tiers (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, url TEXT NOT NULL, kind TEXT NOT NULL,
    owner BLOB NOT NULL
);

CREATE TABLE nodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    handle BLOB NOT NULL UNIQUE,
    kind INTEGER NOT NULL, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    size INTEGER NOT NULL, blocks INTEGER NOT NULL, nlink INTEGER NOT NULL,
    mtime INTEGER NOT NULL, ctime INTEGER NOT NULL, atime INTEGER NOT NULL,
    noarchive INTEGER NOT NULL DEFAULT 0, norelease INTEGER NOT NULL DEFAULT 0,
    state INTEGER NOT NULL DEFAULT 0, note TEXT,
    file BLOB, version INTEGER, crc INTEGER, blocks_crc INTEGER,
    proven_size INTEGER, proven_ctime INTEGER, proven_boot INTEGER,
    last_access INTEGER, staged_at INTEGER,
    copies INTEGER NOT NULL DEFAULT 0, seen INTEGER NOT NULL DEFAULT 0,
    accessed INTEGER NOT NULL GENERATED ALWAYS AS
        (max(atime, mtime, ifnull(last_access, atime))) VIRTUAL
);
CREATE INDEX nodes_file ON nodes (file) WHERE file IS NOT NULL;
CREATE INDEX nodes_to_archive ON nodes (mtime, id)
    WHERE kind = 0 AND noarchive = 0 AND state IN (0, 2);
CREATE INDEX nodes_to_release ON nodes (accessed, id)
    WHERE kind = 0 AND norelease = 0 AND state = 1;
CREATE INDEX nodes_by_copies ON nodes (copies, id) WHERE kind = 0 AND state IN (1, 3);

CREATE TABLE names (
    parent INTEGER NOT NULL, name BLOB NOT NULL, node INTEGER NOT NULL, seen INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) WITHOUT ROWID;
CREATE INDEX names_node ON names (node);

CREATE TABLE copies (
    file BLOB NOT NULL, version INTEGER NOT NULL, tier INTEGER NOT NULL,
    epoch INTEGER NOT NULL, seq INTEGER NOT NULL, header INTEGER NOT NULL,
    stored_len INTEGER NOT NULL, crc INTEGER NOT NULL, state INTEGER NOT NULL,
    proven_at INTEGER NOT NULL, last_verified INTEGER, live INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (file, version, tier, epoch, seq)
) WITHOUT ROWID;
CREATE INDEX copies_place ON copies (tier, epoch, seq, header);
CREATE INDEX copies_age ON copies (ifnull(last_verified, proven_at)) WHERE live = 1 AND state < 2;
CREATE TABLE aggregates (
    tier INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    len INTEGER NOT NULL, crc INTEGER NOT NULL, proof INTEGER NOT NULL,
    composed_at INTEGER NOT NULL,
    members INTEGER NOT NULL, bytes INTEGER NOT NULL,
    live_members INTEGER NOT NULL, live_bytes INTEGER NOT NULL,
    PRIMARY KEY (tier, epoch, seq)
) WITHOUT ROWID;
CREATE INDEX aggregates_age ON aggregates (epoch, seq);
CREATE TABLE tombstones (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    file BLOB NOT NULL, version INTEGER NOT NULL, at INTEGER NOT NULL, why INTEGER NOT NULL,
    epoch INTEGER NOT NULL, path BLOB NOT NULL, uid INTEGER NOT NULL,
    UNIQUE (file, version)
);

CREATE TABLE pins (
    node INTEGER NOT NULL, holder TEXT NOT NULL, expires INTEGER NOT NULL,
    PRIMARY KEY (node, holder)
) WITHOUT ROWID;
CREATE INDEX pins_expiry ON pins (expires);

CREATE TABLE requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    verb INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL, origin INTEGER NOT NULL,
    class INTEGER NOT NULL, key TEXT, tier INTEGER NOT NULL, options TEXT NOT NULL,
    created INTEGER NOT NULL, started INTEGER, finished INTEGER,
    state INTEGER NOT NULL, sealed INTEGER NOT NULL, unsettled INTEGER NOT NULL DEFAULT 0,
    pending INTEGER NOT NULL DEFAULT 0, pending_bytes INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0, taken_bytes INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, running_bytes INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0, waiting_bytes INTEGER NOT NULL DEFAULT 0,
    done INTEGER NOT NULL DEFAULT 0, done_bytes INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0, failed_bytes INTEGER NOT NULL DEFAULT 0,
    cancelled INTEGER NOT NULL DEFAULT 0, cancelled_bytes INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX requests_key ON requests (uid, key) WHERE key IS NOT NULL;
CREATE INDEX requests_uid ON requests (uid, id);
CREATE INDEX requests_open ON requests (class, id) WHERE state < 2;
CREATE INDEX requests_active ON requests (id) WHERE finished IS NULL;
CREATE INDEX requests_active_uid ON requests (uid, id) WHERE finished IS NULL;
CREATE INDEX requests_failed ON requests (id) WHERE failed > 0;
CREATE INDEX requests_failed_uid ON requests (uid, id) WHERE failed > 0;
CREATE INDEX requests_pending ON requests (class, uid, id) WHERE state < 2 AND pending > 0;
CREATE INDEX requests_unsealed ON requests (id) WHERE state < 2 AND sealed = 0;
CREATE INDEX requests_unsettled ON requests (id) WHERE unsettled = 1;
CREATE INDEX requests_finished ON requests (finished) WHERE finished IS NOT NULL;

CREATE TABLE actions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    request INTEGER NOT NULL, node INTEGER NOT NULL, handle BLOB NOT NULL,
    tier INTEGER NOT NULL, state INTEGER NOT NULL, bytes INTEGER NOT NULL,
    epoch INTEGER, seq INTEGER, offset INTEGER, near INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0, not_before INTEGER, started INTEGER, finished INTEGER,
    code TEXT, text TEXT
);
CREATE UNIQUE INDEX actions_node ON actions (node, tier, request);
CREATE INDEX actions_state ON actions (request, state, id);
CREATE INDEX actions_pending ON actions (request, tier, epoch, seq, offset, id) WHERE state = 0;
CREATE INDEX actions_in_hand ON actions (id) WHERE state IN (1, 2);
CREATE INDEX actions_waiting ON actions (not_before) WHERE state = 3;

-- uid -1 is everybody.
CREATE TABLE backlog (
    class INTEGER NOT NULL, uid INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0, pending_bytes INTEGER NOT NULL DEFAULT 0,
    taken INTEGER NOT NULL DEFAULT 0, taken_bytes INTEGER NOT NULL DEFAULT 0,
    running INTEGER NOT NULL DEFAULT 0, running_bytes INTEGER NOT NULL DEFAULT 0,
    waiting INTEGER NOT NULL DEFAULT 0, waiting_bytes INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (class, uid)
) WITHOUT ROWID;
CREATE INDEX backlog_pending ON backlog (class, uid) WHERE pending > 0 AND uid >= 0;

CREATE TABLE failures (
    id INTEGER PRIMARY KEY, at INTEGER NOT NULL, request INTEGER NOT NULL,
    action INTEGER NOT NULL, code TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE failure_causes (
    code TEXT PRIMARY KEY, count INTEGER NOT NULL, last_at INTEGER NOT NULL,
    last_text TEXT NOT NULL, last_request INTEGER
) WITHOUT ROWID;
CREATE INDEX failure_causes_count ON failure_causes (count);

CREATE TABLE scan (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    generation INTEGER NOT NULL, begun_at INTEGER, epoch INTEGER NOT NULL,
    running INTEGER NOT NULL, position BLOB NOT NULL, seen INTEGER NOT NULL,
    finished_generation INTEGER NOT NULL, finished_begun_at INTEGER,
    finished_epoch INTEGER NOT NULL, finished_at INTEGER
);
CREATE TABLE rescans (node INTEGER PRIMARY KEY, since INTEGER NOT NULL, why TEXT NOT NULL);
CREATE INDEX rescans_since ON rescans (since);
CREATE TABLE changelog (
    id INTEGER PRIMARY KEY CHECK (id = 1), position INTEGER NOT NULL, applied INTEGER NOT NULL,
    lost INTEGER NOT NULL, overflows INTEGER NOT NULL
);

-- Counters, kept by triggers so that no path around them exists. (`OR IGNORE` has no effect in a
-- trigger that an upsert fires; `ON CONFLICT` has.)
CREATE TABLE usage (
    uid INTEGER NOT NULL, state INTEGER NOT NULL,
    files INTEGER NOT NULL, bytes INTEGER NOT NULL, blocks INTEGER NOT NULL,
    PRIMARY KEY (uid, state)
) WITHOUT ROWID;
CREATE TABLE copy_counts (copies INTEGER PRIMARY KEY, files INTEGER NOT NULL);
CREATE TABLE row_counts (what TEXT PRIMARY KEY, rows INTEGER NOT NULL) WITHOUT ROWID;

CREATE TRIGGER node_added AFTER INSERT ON nodes WHEN NEW.kind = 0 BEGIN
    INSERT INTO usage VALUES (-1, NEW.state, 1, NEW.size, NEW.blocks),
                             (NEW.uid, NEW.state, 1, NEW.size, NEW.blocks)
    ON CONFLICT DO UPDATE SET files = files + 1, bytes = bytes + excluded.bytes,
                              blocks = blocks + excluded.blocks;
END;
CREATE TRIGGER node_removed AFTER DELETE ON nodes WHEN OLD.kind = 0 BEGIN
    UPDATE usage SET files = files - 1, bytes = bytes - OLD.size, blocks = blocks - OLD.blocks
    WHERE uid IN (-1, OLD.uid) AND state = OLD.state;
END;
CREATE TRIGGER node_changed AFTER UPDATE OF kind, uid, state, size, blocks ON nodes
WHEN (OLD.kind = 0 OR NEW.kind = 0)
     AND (OLD.kind, OLD.uid, OLD.state, OLD.size, OLD.blocks)
         <> (NEW.kind, NEW.uid, NEW.state, NEW.size, NEW.blocks)
BEGIN
    UPDATE usage SET files = files - 1, bytes = bytes - OLD.size, blocks = blocks - OLD.blocks
    WHERE OLD.kind = 0 AND uid IN (-1, OLD.uid) AND state = OLD.state;
    INSERT INTO usage VALUES (-1, NEW.state, 0, 0, 0), (NEW.uid, NEW.state, 0, 0, 0)
    ON CONFLICT DO NOTHING;
    UPDATE usage SET files = files + 1, bytes = bytes + NEW.size, blocks = blocks + NEW.blocks
    WHERE NEW.kind = 0 AND uid IN (-1, NEW.uid) AND state = NEW.state;
END;
CREATE TRIGGER node_copies_changed AFTER UPDATE OF kind, state, copies ON nodes
WHEN (OLD.kind, OLD.state, OLD.copies) <> (NEW.kind, NEW.state, NEW.copies) BEGIN
    UPDATE copy_counts SET files = files - 1
    WHERE OLD.kind = 0 AND OLD.state IN (1, 3) AND copies = OLD.copies;
    INSERT INTO copy_counts VALUES (NEW.copies, 0) ON CONFLICT DO NOTHING;
    UPDATE copy_counts SET files = files + 1
    WHERE NEW.kind = 0 AND NEW.state IN (1, 3) AND copies = NEW.copies;
END;
CREATE TRIGGER node_copies_removed AFTER DELETE ON nodes
WHEN OLD.kind = 0 AND OLD.state IN (1, 3) BEGIN
    UPDATE copy_counts SET files = files - 1 WHERE copies = OLD.copies;
END;
CREATE TRIGGER pin_added AFTER INSERT ON pins BEGIN
    UPDATE row_counts SET rows = rows + 1 WHERE what = 'pins';
END;
CREATE TRIGGER pin_removed AFTER DELETE ON pins BEGIN
    UPDATE row_counts SET rows = rows - 1 WHERE what = 'pins';
END;
CREATE TRIGGER tombstone_added AFTER INSERT ON tombstones BEGIN
    UPDATE row_counts SET rows = rows + 1 WHERE what = 'tombstones';
END;
CREATE TRIGGER tombstone_removed AFTER DELETE ON tombstones BEGIN
    UPDATE row_counts SET rows = rows - 1 WHERE what = 'tombstones';
END;
CREATE TRIGGER rescan_added AFTER INSERT ON rescans BEGIN
    UPDATE row_counts SET rows = rows + 1 WHERE what = 'rescans';
END;
CREATE TRIGGER rescan_removed AFTER DELETE ON rescans BEGIN
    UPDATE row_counts SET rows = rows - 1 WHERE what = 'rescans';
END;
INSERT INTO row_counts VALUES ('pins', 0), ('tombstones', 0), ('rescans', 0);
-- Number 1 is the root's alone.
INSERT INTO sqlite_sequence VALUES ('nodes', 1);
INSERT INTO scan VALUES (1, 0, NULL, 0, 0, x'', 0, 0, NULL, 0, NULL);
INSERT INTO changelog VALUES (1, 0, 0, 0, 0);
