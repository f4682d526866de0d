-- Tokens that are made at run time: never the token itself. A revoked or expired one stays for the record. Never edit this
-- file: add another.

CREATE TABLE tokens (
    number       INTEGER PRIMARY KEY,
    id           BLOB    NOT NULL UNIQUE CHECK (length(id) = 16),
    name         TEXT    NOT NULL,
    sha256       BLOB    NOT NULL UNIQUE CHECK (length(sha256) = 32),
    -- Words with a space between them.
    scopes       TEXT    NOT NULL,
    -- Patterns with a space between them; NULL: every project.
    projects     TEXT,
    created_at   INTEGER NOT NULL,
    -- An identity, as in the audit log.
    created_by   TEXT    NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER,
    revoked_at   INTEGER,
    revoked_by   TEXT,
    -- Grows with each creation and each revocation, over all tokens.
    change       INTEGER NOT NULL UNIQUE,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
) STRICT;

CREATE INDEX tokens_by_name ON tokens (name);
CREATE INDEX tokens_unrevoked ON tokens (number) WHERE revoked_at IS NULL;

CREATE TRIGGER tokens_stay BEFORE DELETE ON tokens
BEGIN SELECT RAISE(ABORT, 'a token stays for the record'); END;

CREATE TRIGGER tokens_stay_revoked BEFORE UPDATE OF revoked_at ON tokens WHEN old.revoked_at IS NOT NULL
BEGIN SELECT RAISE(ABORT, 'a revoked token stays revoked'); END;

CREATE TRIGGER tokens_never_change BEFORE UPDATE OF id, name, sha256, scopes, projects, created_at, created_by, expires_at ON tokens
BEGIN SELECT RAISE(ABORT, 'a token never changes'); END;
