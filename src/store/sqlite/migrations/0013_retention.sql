-- Finished output as compressed blocks, and what retention and redaction may do. Never edit this file: add another.

-- Output of a final deployment: its events from `first_seq` to `last_seq`, without the other events in between. Block and
-- row never hold the same event.
CREATE TABLE output_blocks (
    deployment INTEGER NOT NULL REFERENCES deployments (number),
    first_seq  INTEGER NOT NULL CHECK (first_seq > 0),
    last_seq   INTEGER NOT NULL CHECK (last_seq >= first_seq),
    raw_bytes  INTEGER NOT NULL CHECK (raw_bytes > 0),
    body       BLOB    NOT NULL CHECK (length(body) > 0),
    PRIMARY KEY (deployment, first_seq)
) STRICT;

-- Deployments all of whose output is in blocks. Of a deployment without output there is no row.
CREATE TABLE packed_outputs (
    deployment   INTEGER NOT NULL PRIMARY KEY REFERENCES deployments (number),
    project      INTEGER NOT NULL REFERENCES projects (number),
    ticket       INTEGER NOT NULL,
    ended_at     INTEGER NOT NULL,
    raw_bytes    INTEGER NOT NULL CHECK (raw_bytes >= 0),
    packed_bytes INTEGER NOT NULL CHECK (packed_bytes >= 0)
) STRICT;

CREATE INDEX packed_outputs_by_age ON packed_outputs (project, ticket);

-- How far the upkeep of the store has come.
CREATE TABLE upkeep (
    name  TEXT    NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) STRICT;

-- What the transaction under way is allowed: 'remove' what is old, 'redact', 'forget' a project. Empty in between, because
-- each transaction takes its permit back. (A trigger cannot ask a connection what it intends.)
CREATE TABLE permits (what TEXT NOT NULL PRIMARY KEY) STRICT;

-- Removing a deployment looks for what refers to it.
CREATE INDEX idempotency_keys_of_deployment ON idempotency_keys (deployment);

DROP TRIGGER IF EXISTS deployments_stay;
CREATE TRIGGER deployments_stay BEFORE DELETE ON deployments
WHEN OLD.ended_at IS NULL OR NOT EXISTS (SELECT 1 FROM permits WHERE what = 'forget' OR (what = 'remove' AND NOT EXISTS
    (SELECT 1 FROM projects WHERE number = OLD.project AND (last_started IS OLD.id OR last_outcome IS OLD.id OR last_success IS OLD.id))))
BEGIN SELECT RAISE(ABORT, 'only old final deployments are ever removed'); END;

DROP TRIGGER IF EXISTS events_cut_output_only;
CREATE TRIGGER events_cut_output_only BEFORE DELETE ON events
WHEN OLD.type <> 'log' AND NOT EXISTS (SELECT 1 FROM permits WHERE what = 'remove' OR what = 'forget')
BEGIN SELECT RAISE(ABORT, 'only output is ever cut'); END;

DROP TRIGGER IF EXISTS idempotency_keys_stay;
CREATE TRIGGER idempotency_keys_stay BEFORE DELETE ON idempotency_keys
WHEN NOT EXISTS (SELECT 1 FROM permits WHERE what = 'remove' OR what = 'forget')
BEGIN SELECT RAISE(ABORT, 'an idempotency key names one deployment for as long as that is kept'); END;

CREATE TRIGGER output_blocks_are_of_final_deployments BEFORE INSERT ON output_blocks
WHEN NOT EXISTS (SELECT 1 FROM deployments WHERE number = NEW.deployment AND ended_at IS NOT NULL)
BEGIN SELECT RAISE(ABORT, 'only finished output is compressed'); END;

CREATE TRIGGER output_blocks_stay BEFORE DELETE ON output_blocks
WHEN NOT EXISTS (SELECT 1 FROM permits WHERE what = 'remove' OR what = 'forget')
BEGIN SELECT RAISE(ABORT, 'output is removed by retention only'); END;

CREATE TRIGGER output_blocks_never_change BEFORE UPDATE ON output_blocks
WHEN NEW.deployment IS NOT OLD.deployment OR NEW.first_seq IS NOT OLD.first_seq OR NEW.last_seq IS NOT OLD.last_seq
    OR NOT EXISTS (SELECT 1 FROM permits WHERE what = 'redact')
BEGIN SELECT RAISE(ABORT, 'what happened never changes'); END;

DROP TRIGGER IF EXISTS events_never_change;
CREATE TRIGGER events_never_change BEFORE UPDATE ON events
WHEN NEW.deployment IS NOT OLD.deployment OR NEW.seq IS NOT OLD.seq OR NEW.at IS NOT OLD.at OR NEW.type IS NOT OLD.type
    OR NEW.log_end_bytes IS NOT OLD.log_end_bytes OR NOT EXISTS (SELECT 1 FROM permits WHERE what = 'redact')
BEGIN SELECT RAISE(ABORT, 'what happened never changes'); END;

DROP TRIGGER IF EXISTS deployments_final_is_final;
CREATE TRIGGER deployments_final_is_final BEFORE UPDATE ON deployments
WHEN OLD.ended_at IS NOT NULL AND (NEW.state IS NOT OLD.state OR NOT EXISTS (SELECT 1 FROM permits WHERE what = 'redact'))
BEGIN SELECT RAISE(ABORT, 'a final deployment never changes'); END;

DROP TRIGGER IF EXISTS deployments_keep_their_identity;
CREATE TRIGGER deployments_keep_their_identity
BEFORE UPDATE OF number, id, project, ticket, executor, created_at ON deployments
BEGIN SELECT RAISE(ABORT, 'what a deployment is never changes'); END;

CREATE TRIGGER deployments_keep_their_spec BEFORE UPDATE OF spec ON deployments
WHEN NOT EXISTS (SELECT 1 FROM permits WHERE what = 'redact')
BEGIN SELECT RAISE(ABORT, 'what a deployment is never changes'); END;
