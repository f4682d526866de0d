-- Below or at this revision no new project begins: a store that forgot projects, since it was restored or fell over, must not
-- give their fencing tokens again. The row of a project that never got beyond its lock has revision 0. Never edit this file:
-- add another.
CREATE TABLE revision_floor (
    number   bigint NOT NULL PRIMARY KEY CHECK (number = 1),
    revision bigint NOT NULL CHECK (revision >= 0)
);

-- Each restore so far has raised all revisions by ten millions.
INSERT INTO revision_floor SELECT 1, coalesce(max(revision), 0) / 10000000 * 10000000 FROM projects;
