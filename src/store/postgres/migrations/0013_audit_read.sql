-- How often a refused attempt came, and the lines about one deployment. Never edit this file: add another.
ALTER TABLE audit ADD COLUMN count bigint;

CREATE INDEX audit_by_deployment ON audit (deployment, number) WHERE deployment IS NOT NULL;
