-- The values of a deployment's secret inputs, sealed, until the deployment is final. Never edit this file: add another.
ALTER TABLE deployments ADD COLUMN sealed_inputs BLOB CHECK (sealed_inputs IS NULL OR ended_at IS NULL);
