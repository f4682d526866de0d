-- Tokens that are made at run time: never the token itself. A revoked or expired one stays for the record. Never edit this
-- file: add another.

CREATE TABLE tokens (
    number       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id           uuid   NOT NULL UNIQUE,
    name         text   COLLATE "C" NOT NULL,
    sha256       bytea  NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    -- Words with a space between them.
    scopes       text   NOT NULL,
    -- Patterns with a space between them; NULL: every project.
    projects     text,
    created_at   bigint NOT NULL,
    -- An identity, as in the audit log.
    created_by   text   NOT NULL,
    expires_at   bigint,
    last_used_at bigint,
    revoked_at   bigint,
    revoked_by   text,
    -- Grows with each creation and each revocation, over all tokens.
    change       bigint NOT NULL UNIQUE,
    CHECK ((revoked_at IS NULL) = (revoked_by IS NULL))
);

CREATE INDEX tokens_by_name ON tokens (name);
CREATE INDEX tokens_unrevoked ON tokens (number) WHERE revoked_at IS NULL;

CREATE TRIGGER tokens_stay BEFORE DELETE ON tokens FOR EACH ROW
EXECUTE FUNCTION refuse('a token stays for the record');
CREATE TRIGGER tokens_are_not_emptied BEFORE TRUNCATE ON tokens
EXECUTE FUNCTION refuse('a token stays for the record');
CREATE TRIGGER tokens_stay_revoked BEFORE UPDATE OF revoked_at ON tokens FOR EACH ROW
WHEN (old.revoked_at IS NOT NULL)
EXECUTE FUNCTION refuse('a revoked token stays revoked');
CREATE TRIGGER tokens_never_change
BEFORE UPDATE OF id, name, sha256, scopes, projects, created_at, created_by, expires_at ON tokens FOR EACH ROW
EXECUTE FUNCTION refuse('a token never changes');
