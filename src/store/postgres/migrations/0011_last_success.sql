-- The deployment that succeeded last: what is live. Never edit this file: add another.
ALTER TABLE projects ADD COLUMN last_success uuid;

UPDATE projects AS p SET last_success = (SELECT id FROM deployments
    WHERE project = p.number AND state = 'succeeded' ORDER BY revision DESC LIMIT 1);
