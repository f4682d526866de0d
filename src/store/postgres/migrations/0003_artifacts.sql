-- Artifacts, for all servers: each in pieces, as they came in. One that is not whole is nothing but what an upload goes on
-- with. Who writes it holds it for a short while, and renews that. Never edit this file: add another.

CREATE TABLE artifacts (
    number       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256       text        COLLATE "C" NOT NULL UNIQUE CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    is_whole     boolean     NOT NULL,
    bytes        bigint      NOT NULL CHECK (bytes >= 0),
    wanted_at    timestamptz NOT NULL,
    writer       uuid,
    writer_until timestamptz,
    CHECK ((writer IS NULL) = (writer_until IS NULL)),
    CHECK (NOT is_whole OR writer IS NULL)
);

CREATE INDEX artifacts_unfinished ON artifacts (number) WHERE NOT is_whole;

CREATE TRIGGER artifacts_whole_is_whole BEFORE UPDATE ON artifacts FOR EACH ROW
WHEN (OLD.sha256 <> NEW.sha256 OR (OLD.is_whole AND (NOT NEW.is_whole OR NEW.bytes <> OLD.bytes)))
EXECUTE FUNCTION refuse('a whole artifact never changes');

-- Without a reference to the artifact: a large one is gone at once, and its pieces follow a few at a time.
CREATE TABLE artifact_pieces (
    artifact bigint NOT NULL,
    start    bigint NOT NULL CHECK (start >= 0),
    content  bytea  NOT NULL CHECK (octet_length(content) > 0),
    PRIMARY KEY (artifact, start)
);

-- It is compressed already; and a part of a piece can be read without the rest.
ALTER TABLE artifact_pieces ALTER COLUMN content SET STORAGE EXTERNAL;

CREATE TRIGGER artifact_pieces_never_change BEFORE UPDATE ON artifact_pieces FOR EACH ROW
EXECUTE FUNCTION refuse('a piece of an artifact never changes');

-- What one of the servers does for all of them, and when that was done last.
CREATE TABLE chores (
    name    text        NOT NULL PRIMARY KEY,
    done_at timestamptz NOT NULL
);

INSERT INTO chores (name, done_at) VALUES ('retention', '-infinity');
