-- From schema version 3 to 4.
-- Namespace snapshots that are to go from their tier: when that was decided, by which epoch, and
-- whether the object is being deleted.
CREATE TABLE snapshot_graves (
    tier INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    since INTEGER NOT NULL, decided_by INTEGER NOT NULL, doomed INTEGER NOT NULL,
    PRIMARY KEY (tier, epoch, seq)
) WITHOUT ROWID;
-- What a snapshot could not look at; NULL: not known.
ALTER TABLE snapshots ADD COLUMN gaps INTEGER;
