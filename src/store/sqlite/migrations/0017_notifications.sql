-- The outbox of notifications: a row is written with the changes that it tells of, and removed when it was sent. Never edit
-- this file: add another.

CREATE TABLE notifications (
    number        INTEGER PRIMARY KEY,
    -- By what a receiver knows it; the same in every attempt.
    id            TEXT    NOT NULL,
    -- The name of a rule of the configuration.
    rule          TEXT    NOT NULL,
    event         TEXT    NOT NULL CHECK (event IN ('started', 'succeeded', 'failed', 'superseded',
        'cancelled', 'released', 'waiting', 'paused', 'resumed')),
    project       TEXT    NOT NULL,
    deployment    BLOB CHECK (length(deployment) = 16),
    -- The rows of one rule, project and lane are sent in their order.
    lane          TEXT    NOT NULL,
    -- JSON about a pause.
    detail        TEXT,
    at            INTEGER NOT NULL,
    state         TEXT    NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'dead')),
    attempt_count INTEGER NOT NULL DEFAULT 0,
    -- Grows with each claim: only the last one may settle the row.
    claim_number  INTEGER NOT NULL DEFAULT 0,
    due_at        INTEGER NOT NULL,
    claimed_until INTEGER,
    error         TEXT,
    dead_at       INTEGER,
    CHECK ((state = 'dead') = (dead_at IS NOT NULL))
) STRICT;

CREATE INDEX notifications_pending ON notifications (rule, project, lane, number) WHERE state = 'pending';
CREATE INDEX notifications_dead ON notifications (number) WHERE state = 'dead';
CREATE INDEX notifications_by_id ON notifications (id);
