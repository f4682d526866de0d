-- Projects, their deployments and what happened to them. The rules live in the program; what is said here again is what
-- must hold whatever the program does. Instants are milliseconds since 1970 UTC. Free text has NUL, which PostgreSQL
-- cannot keep, written as U+001A '0', and U+001A itself as U+001A '1'. Never edit this file: add another.

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION USING MESSAGE = TG_ARGV[0], ERRCODE = 'integrity_constraint_violation'; END $$;

-- Fails a statement that did not write exactly the row it was meant for: what it was decided on has changed.
CREATE FUNCTION require_one(written bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF written IS DISTINCT FROM 1 THEN
        RAISE EXCEPTION 'what was decided on has changed meanwhile' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN true;
END $$;

-- Every change rewrites the row, so there is room for its next version beside it.
CREATE TABLE projects (
    number             bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name               text    COLLATE "C" NOT NULL UNIQUE,
    revision           bigint  NOT NULL CHECK (revision >= 0),
    waiting_count      bigint  NOT NULL CHECK (waiting_count >= 0),
    last_started_order bigint  CHECK (last_started_order >= 0),
    last_started       uuid,
    preempted_count    bigint  NOT NULL CHECK (preempted_count >= 0),
    recent_runs        text    NOT NULL,
    last_outcome       uuid,
    CHECK ((last_started_order IS NULL) = (last_started IS NULL))
) WITH (fillfactor = 50);

CREATE TRIGGER projects_revision_never_falls BEFORE UPDATE ON projects FOR EACH ROW
WHEN (NEW.revision < OLD.revision OR NEW.name IS DISTINCT FROM OLD.name OR NEW.number IS DISTINCT FROM OLD.number)
EXECUTE FUNCTION refuse('a project''s revision never falls and its name never changes');

CREATE TRIGGER projects_stay BEFORE DELETE ON projects FOR EACH ROW
EXECUTE FUNCTION refuse('a project is never deleted');

CREATE TABLE deployments (
    number               bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                   uuid     NOT NULL UNIQUE,
    project              bigint   NOT NULL REFERENCES projects (number),
    ticket               bigint   NOT NULL CHECK (ticket > 0),
    revision             bigint   NOT NULL,
    state                text     NOT NULL CHECK (state IN
        ('waiting', 'reserved', 'ready', 'running', 'succeeded', 'failed', 'cancelled')),
    -- Of one in line as a ticket: how long its client's poll may be parked. Without it, it is queued.
    window_ms            bigint   CHECK (window_ms >= 0),
    executor             text     NOT NULL CHECK (executor IN ('server', 'client')),
    -- How long it may wait in line; stands in `spec`, too, which is only text to the database.
    deadline_seconds     bigint   CHECK (deadline_seconds >= 0),
    pulse                bigint   NOT NULL CHECK (pulse >= 0),
    progress             smallint NOT NULL CHECK (progress BETWEEN 0 AND 100),
    event_count          bigint   NOT NULL CHECK (event_count > 0),
    -- How many of its worker's numbered reports are recorded.
    report_count         bigint   NOT NULL CHECK (report_count >= 0),
    created_at           bigint   NOT NULL,
    started_at           bigint,
    last_heartbeat_at    bigint,
    ended_at             bigint,
    lease_secret         bytea    CHECK (octet_length(lease_secret) = 32),
    fencing_token        bigint,
    lease_ttl_ms         bigint   CHECK (lease_ttl_ms >= 0),
    worker               text,
    -- Why it failed or was cancelled.
    cause                text,
    cause_message        text,
    cause_phase          text,
    superseded_by        uuid,
    cancel_requested_at  bigint,
    cancel_reason        text,
    cancel_superseded_by uuid,
    log_total_bytes      bigint   NOT NULL CHECK (log_total_bytes >= 0),
    log_head_end_seq     bigint   NOT NULL,
    log_trimmed_at_bytes bigint   NOT NULL,
    message              text,
    phase                text,
    spec                 text     NOT NULL,
    outputs              text     NOT NULL,

    CHECK (revision >= ticket),
    CHECK (fencing_token > ticket),
    CHECK (log_head_end_seq BETWEEN 0 AND event_count),
    CHECK (log_trimmed_at_bytes BETWEEN 0 AND log_total_bytes),
    CHECK (window_ms IS NULL OR state = 'waiting'),
    CHECK ((ended_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))),
    CHECK ((cause IS NOT NULL) = (state IN ('failed', 'cancelled'))),
    CHECK ((cause IS NULL) = (cause_message IS NULL)),
    CHECK (cause_phase IS NULL OR state = 'failed'),
    CHECK ((superseded_by IS NOT NULL) = (cause IS NOT DISTINCT FROM 'SUPERSEDED')),
    CHECK (cause IS NULL OR cause = 'RELEASED' OR CASE state
        WHEN 'failed' THEN cause IN
            ('PHASE_FAILED', 'PHASE_TIMEOUT', 'VERIFY_FAILED', 'WORKER_LOST', 'UNCLAIMED', 'TIMED_OUT', 'STALLED')
        ELSE cause IN ('CANCELLED', 'SUPERSEDED', 'ABANDONED', 'EXPIRED') END),
    -- A lease is whole or not at all; who runs or has succeeded has one, who has not started has none.
    CHECK (num_nulls(lease_secret, fencing_token, lease_ttl_ms, worker, started_at) IN (0, 5)),
    CHECK (CASE WHEN state IN ('running', 'succeeded') THEN lease_secret IS NOT NULL
                WHEN state IN ('failed', 'cancelled') THEN true
                ELSE lease_secret IS NULL END),
    CHECK (cancel_requested_at IS NOT NULL OR (cancel_reason IS NULL AND cancel_superseded_by IS NULL))
) WITH (fillfactor = 70);

-- One deployment per ticket; and the history of a project, newest first.
CREATE UNIQUE INDEX deployments_by_ticket ON deployments (project, ticket);

-- At most one deployment of a project holds its slot.
CREATE UNIQUE INDEX deployments_holding ON deployments (project) WHERE state IN ('reserved', 'ready', 'running');

-- The lines.
CREATE UNIQUE INDEX deployments_waiting ON deployments (project, ticket) WHERE state = 'waiting';

-- What waits for a worker of the server, in the order of arrival.
CREATE INDEX deployments_claimable ON deployments (number) WHERE state = 'ready' AND executor = 'server';

-- The history by outcome.
CREATE UNIQUE INDEX deployments_ended ON deployments (project, state, ticket) WHERE ended_at IS NOT NULL;

CREATE TRIGGER deployments_final_is_final BEFORE UPDATE ON deployments FOR EACH ROW
WHEN (OLD.ended_at IS NOT NULL)
EXECUTE FUNCTION refuse('a final deployment never changes');

CREATE TRIGGER deployments_never_go_back BEFORE UPDATE ON deployments FOR EACH ROW
WHEN (NEW.revision < OLD.revision OR NEW.event_count < OLD.event_count OR NEW.progress < OLD.progress
    OR NEW.pulse < OLD.pulse OR NEW.report_count < OLD.report_count
    OR (OLD.lease_secret IS NOT NULL AND NEW.lease_secret IS DISTINCT FROM OLD.lease_secret)
    OR (OLD.state <> 'waiting' AND NEW.state = 'waiting'))
EXECUTE FUNCTION refuse('a deployment never goes back');

CREATE TRIGGER deployments_keep_their_identity
BEFORE UPDATE OF number, id, project, ticket, executor, deadline_seconds, created_at, spec ON deployments FOR EACH ROW
EXECUTE FUNCTION refuse('what a deployment is never changes');

CREATE TRIGGER deployments_stay BEFORE DELETE ON deployments FOR EACH ROW
EXECUTE FUNCTION refuse('a deployment is never deleted');

CREATE TABLE events (
    deployment    bigint NOT NULL REFERENCES deployments (number),
    seq           bigint NOT NULL CHECK (seq > 0),
    at            bigint NOT NULL,
    type          text   NOT NULL,
    -- Of output: how much there was of it, this included, so that its middle can be cut.
    log_end_bytes bigint CHECK ((log_end_bytes IS NOT NULL) = (type = 'log')),
    body          text   NOT NULL,
    PRIMARY KEY (deployment, seq)
);

-- The last event is never cut, being the newest output or none, so it tells what may follow. The first needs no look: it
-- is no output, so it stays for good and the primary key keeps a second one out.
CREATE FUNCTION events_are_appended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last record;
BEGIN
    SELECT seq, type INTO last FROM events WHERE deployment = NEW.deployment ORDER BY seq DESC LIMIT 1;
    IF last.type = 'complete' THEN
        RAISE EXCEPTION 'nothing happens after the last event' USING ERRCODE = 'integrity_constraint_violation';
    ELSIF last.seq IS DISTINCT FROM NEW.seq - 1 THEN
        RAISE EXCEPTION 'events are numbered without a gap' USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER events_are_appended BEFORE INSERT ON events FOR EACH ROW
WHEN (NEW.seq > 1) EXECUTE FUNCTION events_are_appended();

CREATE TRIGGER events_never_change BEFORE UPDATE ON events FOR EACH ROW
EXECUTE FUNCTION refuse('what happened never changes');

CREATE TRIGGER events_cut_output_only BEFORE DELETE ON events FOR EACH ROW
WHEN (OLD.type <> 'log') EXECUTE FUNCTION refuse('only output is ever cut');

CREATE TABLE idempotency_keys (
    project     bigint NOT NULL REFERENCES projects (number),
    key         text   COLLATE "C" NOT NULL,
    fingerprint bytea  NOT NULL CHECK (octet_length(fingerprint) = 32),
    deployment  bigint NOT NULL REFERENCES deployments (number),
    PRIMARY KEY (project, key)
);

CREATE TRIGGER idempotency_keys_never_change BEFORE UPDATE OR DELETE ON idempotency_keys FOR EACH ROW
EXECUTE FUNCTION refuse('an idempotency key names one deployment for ever');

-- By name, since an operator's act may concern a project that never deployed.
CREATE TABLE audit (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         bigint NOT NULL,
    project    text   COLLATE "C" NOT NULL,
    action     text   NOT NULL,
    deployment uuid,
    detail     text   NOT NULL
);

CREATE TRIGGER audit_never_changes BEFORE UPDATE OR DELETE ON audit FOR EACH ROW
EXECUTE FUNCTION refuse('the audit log is appended only');

-- Whoever empties a table at once does not fire the triggers above.
CREATE TRIGGER projects_are_not_emptied BEFORE TRUNCATE ON projects
EXECUTE FUNCTION refuse('a project is never deleted');
CREATE TRIGGER deployments_are_not_emptied BEFORE TRUNCATE ON deployments
EXECUTE FUNCTION refuse('a deployment is never deleted');
CREATE TRIGGER events_are_not_emptied BEFORE TRUNCATE ON events
EXECUTE FUNCTION refuse('only output is ever cut');
CREATE TRIGGER idempotency_keys_are_not_emptied BEFORE TRUNCATE ON idempotency_keys
EXECUTE FUNCTION refuse('an idempotency key names one deployment for ever');
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit
EXECUTE FUNCTION refuse('the audit log is appended only');

-- What this store's servers share and nobody else knows: leases' secrets are made from it.
CREATE TABLE secrets (
    name  text  NOT NULL PRIMARY KEY,
    value bytea NOT NULL CHECK (octet_length(value) = 32)
);
