-- A deployment's number in its project: 1, 2, 3 … in the order of arrival, never given twice. (`number` is the row's.)
-- Where another deployment is told of, its number, actor and commit are kept beside its id. Never edit this file: add
-- another.
ALTER TABLE projects ADD COLUMN deployment_count bigint NOT NULL DEFAULT 0 CHECK (deployment_count >= 0);
ALTER TABLE projects ADD COLUMN last_started_named text;
ALTER TABLE deployments ADD COLUMN short_number bigint;
ALTER TABLE deployments ADD COLUMN cancel_superseded_by_named text;

-- What people know a deployment by. The members of `spec`, which is only text to the database, as they stand there: its JSON
-- functions take no NUL. Within a text a quote has a backslash before it, and what stands before the inputs is the spec's own.
CREATE FUNCTION named(d deployments) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE own text := split_part(d.spec, ',"inputs":{', 1);
BEGIN
    RETURN '{"number":' || d.short_number
        || coalesce(',"actor":' || substring(own FROM '[{,]"actor":("(?:[^"\\]|\\.)*")'), '')
        || coalesce(',"commit":' || substring(own FROM '[{,]"commit":("(?:[^"\\]|\\.)*")'), '') || '}';
END $$;

-- What is final gets a number, too, this once.
ALTER TABLE deployments DISABLE TRIGGER USER;

UPDATE deployments AS d SET short_number = counted.at
FROM (SELECT number, row_number() OVER (PARTITION BY project ORDER BY ticket) AS at FROM deployments) AS counted
WHERE d.number = counted.number;

UPDATE deployments AS d SET cancel_superseded_by_named = named(s) FROM deployments AS s WHERE d.cancel_superseded_by = s.id AND d.project = s.project;

ALTER TABLE deployments ENABLE TRIGGER USER;
ALTER TABLE deployments ALTER COLUMN short_number SET NOT NULL;

UPDATE projects AS p SET deployment_count =
    (SELECT coalesce(max(short_number), 0) FROM deployments WHERE project = p.number);

UPDATE projects AS p SET last_started_named = named(s) FROM deployments AS s WHERE s.id = p.last_started AND s.project = p.number;

DROP FUNCTION named;

-- One deployment per number.
CREATE UNIQUE INDEX deployments_by_short_number ON deployments (project, short_number);

CREATE TRIGGER deployments_keep_their_number BEFORE UPDATE OF short_number ON deployments FOR EACH ROW
EXECUTE FUNCTION refuse('what a deployment is never changes');

CREATE TRIGGER projects_deployment_count_never_falls BEFORE UPDATE ON projects FOR EACH ROW
WHEN (NEW.deployment_count < OLD.deployment_count)
EXECUTE FUNCTION refuse('a deployment''s number is never given twice');
