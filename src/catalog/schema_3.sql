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
CREATE TRIGGER aggregate_added AFTER INSERT ON aggregates BEGIN
    INSERT INTO proof VALUES (NEW.tier, NEW.live_members, NEW.live_bytes, 0)
    ON CONFLICT DO UPDATE SET copies = copies + excluded.copies, bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER aggregate_changed AFTER UPDATE OF live_members, live_bytes ON aggregates BEGIN
    UPDATE proof SET copies = copies + NEW.live_members - OLD.live_members,
                     bytes = bytes + NEW.live_bytes - OLD.live_bytes
    WHERE tier = NEW.tier;
END;
CREATE TRIGGER aggregate_removed AFTER DELETE ON aggregates BEGIN
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
