-- The pause of a project: a JSON object, and nothing as long as there is none. A pause takes the slot back from a deployment
-- that no worker has taken yet, which then waits again. Never edit this file: add another.
ALTER TABLE projects ADD COLUMN pause text;

DROP TRIGGER deployments_never_go_back ON deployments;

CREATE TRIGGER deployments_never_go_back BEFORE UPDATE ON deployments FOR EACH ROW
WHEN (NEW.revision < OLD.revision OR NEW.event_count < OLD.event_count OR NEW.progress < OLD.progress
    OR NEW.pulse < OLD.pulse OR NEW.report_count < OLD.report_count
    OR (OLD.lease_secret IS NOT NULL AND NEW.lease_secret IS DISTINCT FROM OLD.lease_secret)
    OR (OLD.state <> 'waiting' AND NEW.state = 'waiting'
        AND (OLD.started_at IS NOT NULL OR NEW.revision = OLD.revision)))
EXECUTE FUNCTION refuse('a deployment never goes back');
