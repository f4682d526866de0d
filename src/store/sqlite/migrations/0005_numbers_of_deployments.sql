-- A deployment's number in its project: 1, 2, 3 … in the order of arrival, never given twice. (`number` is the row's.)
-- Where another deployment is told of, its number, actor and commit are kept beside its id. Never edit this file: add
-- another.
ALTER TABLE projects ADD COLUMN deployment_count INTEGER NOT NULL DEFAULT 0 CHECK (deployment_count >= 0);
ALTER TABLE projects ADD COLUMN last_started_named TEXT;
ALTER TABLE deployments ADD COLUMN short_number INTEGER CHECK (short_number > 0);
ALTER TABLE deployments ADD COLUMN cancel_superseded_by_named TEXT;

-- What is final gets a number, too, this once.
DROP TRIGGER deployments_final_is_final;
DROP TRIGGER deployments_never_go_back;

UPDATE deployments SET short_number = counted.at
FROM (SELECT number, row_number() OVER (PARTITION BY project ORDER BY ticket) AS at FROM deployments) AS counted
WHERE deployments.number = counted.number;

UPDATE deployments SET cancel_superseded_by_named = json_object('number', successor.short_number,
    'actor', successor.spec ->> '$.actor', 'commit', successor.spec ->> '$.commit')
FROM deployments AS successor
WHERE deployments.cancel_superseded_by = successor.id AND deployments.project = successor.project;

UPDATE projects SET deployment_count =
    (SELECT coalesce(max(short_number), 0) FROM deployments WHERE project = projects.number);

UPDATE projects SET last_started_named = (SELECT json_object('number', short_number,
    'actor', spec ->> '$.actor', 'commit', spec ->> '$.commit') FROM deployments WHERE id = projects.last_started)
WHERE last_started IS NOT NULL;

CREATE TRIGGER deployments_final_is_final BEFORE UPDATE ON deployments
WHEN OLD.ended_at IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a final deployment never changes'); END;

CREATE TRIGGER deployments_never_go_back BEFORE UPDATE ON deployments
WHEN NEW.revision < OLD.revision OR NEW.event_count < OLD.event_count OR NEW.progress < OLD.progress
    OR NEW.pulse < OLD.pulse OR NEW.report_count < OLD.report_count
    OR (OLD.lease_secret IS NOT NULL AND NEW.lease_secret IS NOT OLD.lease_secret)
    OR (OLD.state <> 'waiting' AND NEW.state = 'waiting')
BEGIN SELECT RAISE(ABORT, 'a deployment never goes back'); END;

-- One deployment per number.
CREATE UNIQUE INDEX deployments_by_short_number ON deployments (project, short_number);

CREATE TRIGGER deployments_keep_their_number BEFORE UPDATE OF short_number ON deployments
BEGIN SELECT RAISE(ABORT, 'what a deployment is never changes'); END;

CREATE TRIGGER projects_deployment_count_never_falls BEFORE UPDATE OF deployment_count ON projects
WHEN NEW.deployment_count < OLD.deployment_count
BEGIN SELECT RAISE(ABORT, 'a deployment''s number is never given twice'); END;
