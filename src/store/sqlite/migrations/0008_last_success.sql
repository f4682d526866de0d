-- The deployment that succeeded last: what is live. Never edit this file: add another.
ALTER TABLE projects ADD COLUMN last_success BLOB CHECK (length(last_success) = 16);

UPDATE projects SET last_success = (SELECT id FROM deployments
    WHERE project = projects.number AND state = 'succeeded' ORDER BY revision DESC LIMIT 1);
