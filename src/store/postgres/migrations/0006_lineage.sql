-- Which branch of the database's history these tables are. A standby that is promoted, a restore and a copy each begin
-- another branch, on which commits of the former one may be missing. Whoever connects compares this row with what the
-- database tells of itself. Never edit this file: add another.

CREATE TABLE lineage (
    is_only  boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (is_only),
    -- The same on every branch of one store.
    store    uuid        NOT NULL,
    -- Another one on every branch, also on two of the same age.
    branch   uuid        NOT NULL,
    -- How many branches there were up to this one.
    era      bigint      NOT NULL CHECK (era > 0),
    -- What the database told when the branch began, where it tells it.
    system   text,
    timeline bigint      CHECK (timeline > 0),
    -- The numbers of the database and of the table `projects`.
    tables   text        NOT NULL,
    since    timestamptz NOT NULL DEFAULT now()
);
