-- From schema version 1 to 2: what is wrong with stubs, counted and listable; lost files listable.
ALTER TABLE nodes ADD COLUMN trouble INTEGER NOT NULL DEFAULT 0;
CREATE INDEX nodes_troubled ON nodes (trouble, id) WHERE trouble > 0;
CREATE INDEX nodes_lost ON nodes (id) WHERE kind = 0 AND state = 4;
INSERT INTO row_counts VALUES ('foreign', 0), ('conflict', 0);
CREATE TRIGGER node_trouble_changed AFTER UPDATE OF trouble ON nodes
WHEN OLD.trouble <> NEW.trouble BEGIN
    UPDATE row_counts SET rows = rows - 1
    WHERE what = CASE OLD.trouble WHEN 1 THEN 'foreign' WHEN 2 THEN 'conflict' END;
    UPDATE row_counts SET rows = rows + 1
    WHERE what = CASE NEW.trouble WHEN 1 THEN 'foreign' WHEN 2 THEN 'conflict' END;
END;
CREATE TRIGGER node_trouble_removed AFTER DELETE ON nodes WHEN OLD.trouble > 0 BEGIN
    UPDATE row_counts SET rows = rows - 1
    WHERE what = CASE OLD.trouble WHEN 1 THEN 'foreign' WHEN 2 THEN 'conflict' END;
END;
