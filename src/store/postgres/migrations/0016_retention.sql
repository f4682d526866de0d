-- Finished output as compressed blocks, and what retention and redaction may do. A transaction says what it is allowed by
-- the setting `singletrack.permit`, for itself alone: 'remove' what is old, 'redact', 'forget' a project. Never edit this
-- file: add another.

-- Output of a final deployment: its events from `first_seq` to `last_seq`, without the other events in between. Block and
-- row never hold the same event.
CREATE TABLE output_blocks (
    deployment bigint NOT NULL REFERENCES deployments (number),
    first_seq  bigint NOT NULL CHECK (first_seq > 0),
    last_seq   bigint NOT NULL CHECK (last_seq >= first_seq),
    raw_bytes  bigint NOT NULL CHECK (raw_bytes > 0),
    body       bytea  NOT NULL CHECK (octet_length(body) > 0),
    PRIMARY KEY (deployment, first_seq)
);

-- It is compressed already.
ALTER TABLE output_blocks ALTER COLUMN body SET STORAGE EXTERNAL;

-- Deployments all of whose output is in blocks. Of a deployment without output there is no row.
CREATE TABLE packed_outputs (
    deployment   bigint NOT NULL PRIMARY KEY REFERENCES deployments (number),
    project      bigint NOT NULL REFERENCES projects (number),
    ticket       bigint NOT NULL,
    ended_at     bigint NOT NULL,
    raw_bytes    bigint NOT NULL CHECK (raw_bytes >= 0),
    packed_bytes bigint NOT NULL CHECK (packed_bytes >= 0)
);

CREATE INDEX packed_outputs_by_age ON packed_outputs (project, ticket);

-- How far the upkeep of the store has come.
CREATE TABLE upkeep (
    name  text   NOT NULL PRIMARY KEY,
    value bigint NOT NULL
);

INSERT INTO chores (name, done_at) VALUES ('upkeep', '-infinity');

-- Removing a deployment looks for what refers to it.
CREATE INDEX idempotency_keys_of_deployment ON idempotency_keys (deployment);

-- Null where nothing is allowed, as a setting that was once made in the session is empty.
CREATE FUNCTION permit() RETURNS text LANGUAGE sql STABLE AS $$ SELECT nullif(current_setting('singletrack.permit', true), '') $$;

CREATE FUNCTION deployments_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL AND (permit() = 'forget' OR (permit() = 'remove' AND NOT EXISTS
        (SELECT 1 FROM projects WHERE number = OLD.project AND (last_started = OLD.id OR last_outcome = OLD.id OR last_success = OLD.id))))
    THEN RETURN OLD; END IF;
    RAISE EXCEPTION 'only old final deployments are ever removed' USING ERRCODE = 'integrity_constraint_violation';
END $$;

DROP TRIGGER IF EXISTS deployments_stay ON deployments;
CREATE TRIGGER deployments_stay BEFORE DELETE ON deployments FOR EACH ROW EXECUTE FUNCTION deployments_stay();

DROP TRIGGER IF EXISTS events_cut_output_only ON events;
CREATE TRIGGER events_cut_output_only BEFORE DELETE ON events FOR EACH ROW
WHEN (OLD.type <> 'log' AND coalesce(permit(), '') NOT IN ('remove', 'forget'))
EXECUTE FUNCTION refuse('only output is ever cut');

DROP TRIGGER IF EXISTS idempotency_keys_never_change ON idempotency_keys;
CREATE TRIGGER idempotency_keys_never_change BEFORE UPDATE ON idempotency_keys FOR EACH ROW
EXECUTE FUNCTION refuse('an idempotency key names one deployment for as long as that is kept');
CREATE TRIGGER idempotency_keys_stay BEFORE DELETE ON idempotency_keys FOR EACH ROW
WHEN (coalesce(permit(), '') NOT IN ('remove', 'forget'))
EXECUTE FUNCTION refuse('an idempotency key names one deployment for as long as that is kept');

CREATE FUNCTION output_blocks_are_of_final_deployments() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM deployments WHERE number = NEW.deployment AND ended_at IS NOT NULL) THEN RETURN NEW; END IF;
    RAISE EXCEPTION 'only finished output is compressed' USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE TRIGGER output_blocks_are_of_final_deployments BEFORE INSERT ON output_blocks FOR EACH ROW
EXECUTE FUNCTION output_blocks_are_of_final_deployments();

CREATE TRIGGER output_blocks_stay BEFORE DELETE ON output_blocks FOR EACH ROW
WHEN (coalesce(permit(), '') NOT IN ('remove', 'forget'))
EXECUTE FUNCTION refuse('output is removed by retention only');

CREATE TRIGGER output_blocks_never_change BEFORE UPDATE ON output_blocks FOR EACH ROW
WHEN (NEW.deployment <> OLD.deployment OR NEW.first_seq <> OLD.first_seq OR NEW.last_seq <> OLD.last_seq
    OR permit() IS DISTINCT FROM 'redact')
EXECUTE FUNCTION refuse('what happened never changes');

CREATE TRIGGER output_blocks_are_not_emptied BEFORE TRUNCATE ON output_blocks
EXECUTE FUNCTION refuse('output is removed by retention only');

DROP TRIGGER IF EXISTS events_never_change ON events;
CREATE TRIGGER events_never_change BEFORE UPDATE ON events FOR EACH ROW
WHEN (NEW.deployment <> OLD.deployment OR NEW.seq <> OLD.seq OR NEW.at <> OLD.at OR NEW.type <> OLD.type
    OR NEW.log_end_bytes IS DISTINCT FROM OLD.log_end_bytes OR permit() IS DISTINCT FROM 'redact')
EXECUTE FUNCTION refuse('what happened never changes');

DROP TRIGGER IF EXISTS deployments_final_is_final ON deployments;
CREATE TRIGGER deployments_final_is_final BEFORE UPDATE ON deployments FOR EACH ROW
WHEN (OLD.ended_at IS NOT NULL AND (NEW.state <> OLD.state OR permit() IS DISTINCT FROM 'redact'))
EXECUTE FUNCTION refuse('a final deployment never changes');

DROP TRIGGER IF EXISTS deployments_keep_their_identity ON deployments;
CREATE TRIGGER deployments_keep_their_identity
BEFORE UPDATE OF number, id, project, ticket, executor, deadline_seconds, created_at ON deployments FOR EACH ROW
EXECUTE FUNCTION refuse('what a deployment is never changes');

CREATE TRIGGER deployments_keep_their_spec BEFORE UPDATE OF spec ON deployments FOR EACH ROW
WHEN (permit() IS DISTINCT FROM 'redact')
EXECUTE FUNCTION refuse('what a deployment is never changes');
