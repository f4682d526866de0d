-- Who did what, from where, and with which request; and acts that concern no project. Never edit this file: add another.
ALTER TABLE audit ALTER COLUMN project DROP NOT NULL;
-- An identity: server, local, token:NAME, oidc:ISSUER:SUBJECT. Older lines have none.
ALTER TABLE audit ADD COLUMN caller text;
ALTER TABLE audit ADD COLUMN address text;
ALTER TABLE audit ADD COLUMN request text;

-- A project's lines, the last one first.
CREATE INDEX audit_by_project ON audit (project, number);
