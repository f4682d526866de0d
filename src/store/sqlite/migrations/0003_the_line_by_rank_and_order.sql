-- The place in the order in which the line is served: arrivals are 2^20 apart, and a deployment that is put before older
-- ones stands between its neighbours. Without it, as what no longer waits may be, it is the place of its arrival. Never
-- edit this file: add another.
ALTER TABLE deployments ADD COLUMN line_place INTEGER;
UPDATE deployments SET line_place = ticket * 1048576 WHERE state = 'waiting';

-- The lines, in the order in which they are served.
CREATE UNIQUE INDEX deployments_served ON deployments (project, line_place) WHERE state = 'waiting';

-- The lines by build number: when a build starts, those that go forwards with a lower one end.
CREATE INDEX deployments_waiting_by_order ON deployments (project, spec ->> '$.order') WHERE state = 'waiting';
