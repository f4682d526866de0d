-- Who did what, from where, and with which request; and acts that concern no project. SQLite cannot take a NOT NULL away, so
-- the table is made anew. Never edit this file: add another.
DROP TRIGGER audit_never_changes;
DROP TRIGGER audit_stays;
ALTER TABLE audit RENAME TO former_audit;

CREATE TABLE audit (
    number     INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,
    project    TEXT,
    action     TEXT    NOT NULL,
    deployment BLOB,
    detail     TEXT    NOT NULL,
    -- An identity: server, local, token:NAME, oidc:ISSUER:SUBJECT. Older lines have none.
    caller     TEXT,
    address    TEXT,
    request    TEXT
) STRICT;

INSERT INTO audit (number, at, project, action, deployment, detail)
SELECT number, at, project, action, deployment, detail FROM former_audit;

DROP TABLE former_audit;

-- A project's lines, the last one first.
CREATE INDEX audit_by_project ON audit (project);

CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is appended only'); END;

CREATE TRIGGER audit_stays BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is appended only'); END;
