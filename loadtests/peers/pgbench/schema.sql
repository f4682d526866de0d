-- The least that could be called a deploy slot: whoever inserts the row has it, and an event says so.
CREATE TABLE deploys (id uuid PRIMARY KEY, project bigint NOT NULL, state text NOT NULL, spec text NOT NULL);
CREATE UNIQUE INDEX deploys_holding ON deploys (project) WHERE state = 'ready';
CREATE TABLE deploy_events (
    deploy uuid NOT NULL REFERENCES deploys, seq bigint NOT NULL, body text NOT NULL, PRIMARY KEY (deploy, seq)
);
