-- Sessions of browsers stand beside the tokens that they were made from. A session has an end, and leaves some time after it,
-- because the audit log tells of it. Never edit this file: add another.

-- What the session was made from; NULL: the row is a token.
ALTER TABLE tokens ADD COLUMN session TEXT CHECK (session IS NULL OR expires_at IS NOT NULL);

CREATE INDEX tokens_sessions ON tokens (expires_at) WHERE session IS NOT NULL;

DROP TRIGGER IF EXISTS tokens_stay;
CREATE TRIGGER tokens_stay BEFORE DELETE ON tokens WHEN old.session IS NULL
BEGIN SELECT RAISE(ABORT, 'a token stays for the record'); END;

DROP TRIGGER IF EXISTS tokens_never_change;
CREATE TRIGGER tokens_never_change
BEFORE UPDATE OF id, name, sha256, scopes, projects, created_at, created_by, expires_at, session ON tokens
BEGIN SELECT RAISE(ABORT, 'a token never changes'); END;
