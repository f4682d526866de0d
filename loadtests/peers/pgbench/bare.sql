\set project random(1, 1000000000)
WITH slot AS (INSERT INTO deploys VALUES (gen_random_uuid(), :project, 'ready', '{"pipeline":"deploy"}') ON CONFLICT DO NOTHING RETURNING id) INSERT INTO deploy_events SELECT id, 1, '{"type":"status","status":"PENDING"}' FROM slot;
