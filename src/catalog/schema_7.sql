-- From schema version 6 to 7.
-- What was asked for a job before it was released is asked for nothing afterwards.
CREATE TABLE IF NOT EXISTS jobs (
    uid INTEGER NOT NULL, name TEXT NOT NULL, released INTEGER NOT NULL,
    PRIMARY KEY (uid, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS jobs_released ON jobs (released);
