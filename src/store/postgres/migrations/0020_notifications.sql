-- The outbox of notifications: a row is written with the changes that it tells of, and removed when it was sent. Never edit
-- this file: add another.

CREATE TABLE notifications (
    number        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- By what a receiver knows it; the same in every attempt.
    id            text   COLLATE "C" NOT NULL,
    -- The name of a rule of the configuration.
    rule          text   COLLATE "C" NOT NULL,
    event         text   NOT NULL CHECK (event IN ('started', 'succeeded', 'failed', 'superseded',
        'cancelled', 'released', 'waiting', 'paused', 'resumed')),
    project       text   COLLATE "C" NOT NULL,
    deployment    uuid,
    -- The rows of one rule, project and lane are sent in their order.
    lane          text   COLLATE "C" NOT NULL,
    -- JSON about a pause.
    detail        text,
    at            bigint NOT NULL,
    state         text   NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'dead')),
    attempt_count bigint NOT NULL DEFAULT 0,
    -- Grows with each claim: only the last one may settle the row.
    claim_number  bigint NOT NULL DEFAULT 0,
    -- By the database's clock, as all servers use it.
    due_at        bigint NOT NULL,
    claimed_until bigint,
    error         text,
    dead_at       bigint,
    CHECK ((state = 'dead') = (dead_at IS NOT NULL))
);

CREATE INDEX notifications_pending ON notifications (rule, project, lane, number) WHERE state = 'pending';
CREATE INDEX notifications_dead ON notifications (number) WHERE state = 'dead';
CREATE INDEX notifications_by_id ON notifications (id);
