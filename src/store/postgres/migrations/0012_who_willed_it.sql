-- Who asked for a deployment to be stopped, and who forced its slot free: a JSON object with the identity that the server knew
-- and the name that the client gave. Older deployments have none. Never edit this file: add another.
ALTER TABLE deployments ADD COLUMN cancel_requested_by text;
ALTER TABLE deployments ADD COLUMN released_by text;
