-- From schema version 5 to 6.
-- What a job holds is let go of at once, however many files it is.
CREATE INDEX IF NOT EXISTS pins_holder ON pins (holder);
