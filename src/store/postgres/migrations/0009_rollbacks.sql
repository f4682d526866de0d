-- What became of a deployment's rollbacks: a JSON object, and nothing as long as none was begun. Never edit this file: add
-- another.
ALTER TABLE deployments ADD COLUMN rollbacks text;
