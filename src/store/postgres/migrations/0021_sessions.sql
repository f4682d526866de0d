-- Sessions of browsers stand beside the tokens that they were made from. A session has an end, and leaves some time after it,
-- because the audit log tells of it. Never edit this file: add another.

-- What the session was made from; NULL: the row is a token.
ALTER TABLE tokens ADD COLUMN session text CHECK (session IS NULL OR expires_at IS NOT NULL);

CREATE INDEX tokens_sessions ON tokens (expires_at) WHERE session IS NOT NULL;

DROP TRIGGER IF EXISTS tokens_stay ON tokens;
CREATE TRIGGER tokens_stay BEFORE DELETE ON tokens FOR EACH ROW WHEN (old.session IS NULL)
EXECUTE FUNCTION refuse('a token stays for the record');

DROP TRIGGER IF EXISTS tokens_never_change ON tokens;
CREATE TRIGGER tokens_never_change
BEFORE UPDATE OF id, name, sha256, scopes, projects, created_at, created_by, expires_at, session ON tokens FOR EACH ROW
EXECUTE FUNCTION refuse('a token never changes');
