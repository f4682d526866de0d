-- Below or at this revision no new project begins: a store that forgot projects, since it was restored, must not give their
-- fencing tokens again. Never edit this file: add another.
CREATE TABLE revision_floor (
    number   INTEGER PRIMARY KEY CHECK (number = 1),
    revision INTEGER NOT NULL CHECK (revision >= 0)
) STRICT;

-- Each restore so far has raised all revisions by ten millions.
INSERT INTO revision_floor SELECT 1, coalesce(max(revision), 0) / 10000000 * 10000000 FROM projects;

CREATE TRIGGER revision_floor_never_falls BEFORE UPDATE ON revision_floor
WHEN NEW.revision < OLD.revision
BEGIN SELECT RAISE(ABORT, 'the lowest revision of new projects never falls'); END;

CREATE TRIGGER revision_floor_stays BEFORE DELETE ON revision_floor
BEGIN SELECT RAISE(ABORT, 'the lowest revision of new projects never falls'); END;

-- Which copy of the store this file is; beside the file stands the same.
CREATE TABLE lineage (
    number    INTEGER PRIMARY KEY CHECK (number = 1),
    -- Another one after each restore.
    branch    BLOB    NOT NULL CHECK (length(branch) = 16),
    -- How many logs were begun.
    epoch     INTEGER NOT NULL CHECK (epoch > 0),
    is_backup INTEGER NOT NULL CHECK (is_backup BETWEEN 0 AND 1)
) STRICT;
