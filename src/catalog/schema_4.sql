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
-- Times of namespace snapshots follow the order of their names, whatever the clock said then.
UPDATE snapshots SET ended_at = ordered.at
FROM (SELECT tier, epoch, seq, max(ended_at) OVER (PARTITION BY tier ORDER BY epoch, seq) AS at
      FROM snapshots) AS ordered
WHERE snapshots.tier = ordered.tier AND snapshots.epoch = ordered.epoch
    AND snapshots.seq = ordered.seq;
UPDATE snapshots SET superseded_at = max(superseded_at, ended_at) WHERE superseded_at IS NOT NULL;
-- Nothing asks for it any more.
DROP INDEX snapshots_superseded;
