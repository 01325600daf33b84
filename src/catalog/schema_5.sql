-- From schema version 4 to 5.
-- Does the aggregate's file go on in parts? NULL: its index was not read yet, and its length may be that of its
-- own object alone. Who wrote 4 wrote none in parts, but may have met one and taken it for another.
ALTER TABLE aggregates ADD COLUMN in_parts INTEGER;
UPDATE aggregates SET in_parts = 0 WHERE proof <> 4;
