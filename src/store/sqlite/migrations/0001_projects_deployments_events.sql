-- Projects, their deployments and what happened to them. The rules live in the program; what is said here again is what
-- must hold whatever the program does. Instants are milliseconds since 1970 UTC. Never edit this file: add another.
--
-- `x IN (…)` with more than two values makes SQLite build a table of them each time it is evaluated, in constraints,
-- triggers and indexes too; `x = … OR x = …` costs a tenth.

CREATE TABLE projects (
    number             INTEGER PRIMARY KEY,
    name               TEXT    NOT NULL UNIQUE,
    revision           INTEGER NOT NULL CHECK (revision >= 0),
    waiting_count      INTEGER NOT NULL CHECK (waiting_count >= 0),
    last_started_order INTEGER CHECK (last_started_order >= 0),
    last_started       BLOB,
    preempted_count    INTEGER NOT NULL CHECK (preempted_count >= 0),
    recent_runs        TEXT    NOT NULL,
    last_outcome       BLOB,
    CHECK ((last_started_order IS NULL) = (last_started IS NULL))
) STRICT;

CREATE TRIGGER projects_revision_never_falls BEFORE UPDATE ON projects
WHEN NEW.revision < OLD.revision OR NEW.name IS NOT OLD.name OR NEW.number IS NOT OLD.number
BEGIN SELECT RAISE(ABORT, 'a project''s revision never falls and its name never changes'); END;

CREATE TRIGGER projects_stay BEFORE DELETE ON projects
BEGIN SELECT RAISE(ABORT, 'a project is never deleted'); END;

CREATE TABLE deployments (
    number               INTEGER PRIMARY KEY,
    id                   BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    project              INTEGER NOT NULL REFERENCES projects (number),
    ticket               INTEGER NOT NULL CHECK (ticket > 0),
    revision             INTEGER NOT NULL CHECK (revision >= ticket),
    state                TEXT    NOT NULL CHECK (state = 'waiting' OR state = 'reserved' OR state = 'ready'
                             OR state = 'running' OR state = 'succeeded' OR state = 'failed' OR state = 'cancelled'),
    -- Of one in line as a ticket: how long its client's poll may be parked. Without it, it is queued.
    window_ms            INTEGER CHECK (window_ms >= 0),
    executor             TEXT    NOT NULL CHECK (executor = 'server' OR executor = 'client'),
    pulse                INTEGER NOT NULL CHECK (pulse >= 0),
    progress             INTEGER NOT NULL CHECK (progress BETWEEN 0 AND 100),
    event_count          INTEGER NOT NULL CHECK (event_count > 0),
    -- How many of its worker's numbered reports are recorded.
    report_count         INTEGER NOT NULL CHECK (report_count >= 0),
    created_at           INTEGER NOT NULL,
    started_at           INTEGER,
    last_heartbeat_at    INTEGER,
    ended_at             INTEGER,
    lease_secret         BLOB    CHECK (length(lease_secret) = 32),
    fencing_token        INTEGER CHECK (fencing_token > ticket),
    lease_ttl_ms         INTEGER CHECK (lease_ttl_ms >= 0),
    worker               TEXT,
    -- Why it failed or was cancelled.
    cause                TEXT,
    cause_message        TEXT,
    cause_phase          TEXT,
    superseded_by        BLOB    CHECK (length(superseded_by) = 16),
    cancel_requested_at  INTEGER,
    cancel_reason        TEXT,
    cancel_superseded_by BLOB    CHECK (length(cancel_superseded_by) = 16),
    log_total_bytes      INTEGER NOT NULL CHECK (log_total_bytes >= 0),
    log_head_end_seq     INTEGER NOT NULL CHECK (log_head_end_seq BETWEEN 0 AND event_count),
    log_trimmed_at_bytes INTEGER NOT NULL CHECK (log_trimmed_at_bytes BETWEEN 0 AND log_total_bytes),
    message              TEXT,
    phase                TEXT,
    spec                 TEXT    NOT NULL,
    outputs              TEXT    NOT NULL,

    CHECK (window_ms IS NULL OR state = 'waiting'),
    CHECK ((ended_at IS NOT NULL) = (state = 'succeeded' OR state = 'failed' OR state = 'cancelled')),
    CHECK ((cause IS NOT NULL) = (state = 'failed' OR state = 'cancelled')),
    CHECK ((cause IS NULL) = (cause_message IS NULL)),
    CHECK (cause_phase IS NULL OR state = 'failed'),
    CHECK ((superseded_by IS NOT NULL) = (cause IS 'SUPERSEDED')),
    CHECK (cause IS NULL OR cause = 'RELEASED' OR CASE state
        WHEN 'failed' THEN cause = 'PHASE_FAILED' OR cause = 'PHASE_TIMEOUT' OR cause = 'VERIFY_FAILED'
            OR cause = 'WORKER_LOST' OR cause = 'UNCLAIMED' OR cause = 'TIMED_OUT' OR cause = 'STALLED'
        ELSE cause = 'CANCELLED' OR cause = 'SUPERSEDED' OR cause = 'ABANDONED' OR cause = 'EXPIRED' END),
    -- A lease is whole or not at all; who runs or has succeeded has one, who has not started has none.
    CHECK ((lease_secret IS NULL) = (fencing_token IS NULL)
        AND (lease_secret IS NULL) = (lease_ttl_ms IS NULL)
        AND (lease_secret IS NULL) = (worker IS NULL)
        AND (lease_secret IS NULL) = (started_at IS NULL)),
    CHECK (CASE state WHEN 'running' THEN lease_secret IS NOT NULL
                      WHEN 'succeeded' THEN lease_secret IS NOT NULL
                      WHEN 'failed' THEN 1
                      WHEN 'cancelled' THEN 1
                      ELSE lease_secret IS NULL END),
    CHECK (cancel_requested_at IS NOT NULL OR (cancel_reason IS NULL AND cancel_superseded_by IS NULL))
) STRICT;

-- One deployment per ticket; and the history of a project, newest first.
CREATE UNIQUE INDEX deployments_by_ticket ON deployments (project, ticket);

-- At most one deployment of a project holds its slot.
CREATE UNIQUE INDEX deployments_holding ON deployments (project)
    WHERE state = 'reserved' OR state = 'ready' OR state = 'running';

-- The lines.
CREATE UNIQUE INDEX deployments_waiting ON deployments (project, ticket) WHERE state = 'waiting';

-- What waits for a worker of the server; in the order of arrival, since an index ends with the row's number.
CREATE INDEX deployments_claimable ON deployments (state) WHERE state = 'ready' AND executor = 'server';

-- The history by outcome.
CREATE UNIQUE INDEX deployments_ended ON deployments (project, state, ticket) WHERE ended_at IS NOT NULL;

CREATE TRIGGER deployments_final_is_final BEFORE UPDATE ON deployments
WHEN OLD.ended_at IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a final deployment never changes'); END;

CREATE TRIGGER deployments_never_go_back BEFORE UPDATE ON deployments
WHEN NEW.revision < OLD.revision OR NEW.event_count < OLD.event_count OR NEW.progress < OLD.progress
    OR NEW.pulse < OLD.pulse OR NEW.report_count < OLD.report_count
    OR (OLD.lease_secret IS NOT NULL AND NEW.lease_secret IS NOT OLD.lease_secret)
    OR (OLD.state <> 'waiting' AND NEW.state = 'waiting')
BEGIN SELECT RAISE(ABORT, 'a deployment never goes back'); END;

CREATE TRIGGER deployments_keep_their_identity
BEFORE UPDATE OF number, id, project, ticket, executor, created_at, spec ON deployments
BEGIN SELECT RAISE(ABORT, 'what a deployment is never changes'); END;

CREATE TRIGGER deployments_stay BEFORE DELETE ON deployments
BEGIN SELECT RAISE(ABORT, 'a deployment is never deleted'); END;

CREATE TABLE events (
    deployment    INTEGER NOT NULL REFERENCES deployments (number),
    seq           INTEGER NOT NULL CHECK (seq > 0),
    at            INTEGER NOT NULL,
    type          TEXT    NOT NULL,
    -- Of output: how much there was of it, this included, so that its middle can be cut.
    log_end_bytes INTEGER CHECK ((log_end_bytes IS NOT NULL) = (type = 'log')),
    body          TEXT    NOT NULL,
    PRIMARY KEY (deployment, seq)
) STRICT, WITHOUT ROWID;

-- The last event is never cut, being the newest output or none, so it tells what may follow. The first needs no look: it
-- is no output, so it stays for good and the primary key keeps a second one out.
CREATE TRIGGER events_are_appended BEFORE INSERT ON events
WHEN NEW.seq > 1
BEGIN
    SELECT CASE
        WHEN last.type = 'complete' THEN RAISE(ABORT, 'nothing happens after the last event')
        WHEN last.seq IS NOT NEW.seq - 1 THEN RAISE(ABORT, 'events are numbered without a gap')
    END FROM (SELECT max(seq) AS seq, type FROM events WHERE deployment = NEW.deployment) AS last;
END;

CREATE TRIGGER events_never_change BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'what happened never changes'); END;

CREATE TRIGGER events_cut_output_only BEFORE DELETE ON events
WHEN OLD.type <> 'log'
BEGIN SELECT RAISE(ABORT, 'only output is ever cut'); END;

CREATE TABLE idempotency_keys (
    project     INTEGER NOT NULL REFERENCES projects (number),
    key         TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 32),
    deployment  INTEGER NOT NULL REFERENCES deployments (number),
    PRIMARY KEY (project, key)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER idempotency_keys_never_change BEFORE UPDATE ON idempotency_keys
BEGIN SELECT RAISE(ABORT, 'an idempotency key names one deployment for ever'); END;

CREATE TRIGGER idempotency_keys_stay BEFORE DELETE ON idempotency_keys
BEGIN SELECT RAISE(ABORT, 'an idempotency key names one deployment for ever'); END;

-- By name, since an operator's act may concern a project that never deployed.
CREATE TABLE audit (
    number     INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    project    TEXT    NOT NULL,
    action     TEXT    NOT NULL,
    deployment BLOB,
    detail     TEXT    NOT NULL
) STRICT;

CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is appended only'); END;

CREATE TRIGGER audit_stays BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is appended only'); END;

-- What this store's servers share and nobody else knows: leases' secrets are made from it.
CREATE TABLE secrets (
    name  TEXT NOT NULL PRIMARY KEY,
    value BLOB NOT NULL CHECK (length(value) = 32)
) STRICT;
