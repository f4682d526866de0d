-- The place in the order in which the line is served: arrivals are 2^20 apart, and a deployment that is put before older
-- ones stands between its neighbours. Without it, as what no longer waits may be, it is the place of its arrival. Never
-- edit this file: add another.
ALTER TABLE deployments ADD COLUMN line_place bigint;
UPDATE deployments SET line_place = ticket * 1048576 WHERE state = 'waiting';

-- The build number of what goes forwards, declared rollbacks aside; stands in `spec`, too, which is only text to the
-- database. Of what ended before this column came, nobody asks for it. Within a text a quote has a backslash before it, so
-- these find the members and nothing else.
ALTER TABLE deployments ADD COLUMN build_order bigint;
UPDATE deployments SET build_order = substring(spec FROM '[{,]"order":([0-9]+)[,}]')::bigint
    WHERE ended_at IS NULL AND position('"rollback":true' IN spec) = 0;

CREATE TRIGGER deployments_keep_their_order BEFORE UPDATE OF build_order ON deployments FOR EACH ROW
EXECUTE FUNCTION refuse('what a deployment is never changes');

-- The lines, in the order in which they are served.
CREATE UNIQUE INDEX deployments_served ON deployments (project, line_place) WHERE state = 'waiting';

-- The lines by build number: when a build starts, those that go forwards with a lower one end.
CREATE INDEX deployments_waiting_by_order ON deployments (project, build_order)
    WHERE state = 'waiting' AND build_order IS NOT NULL;
