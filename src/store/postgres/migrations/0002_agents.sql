-- Who asks for work, at whichever server. A row is one call of one agent for one project: it is over when it is due,
-- whatever became of the server at which it was parked, and goes with the agent's next one. Never edit this file: add another.

CREATE TABLE agent_calls (
    project   text        COLLATE "C" NOT NULL,
    worker    text        COLLATE "C" NOT NULL,
    call      uuid        NOT NULL,
    pipelines text        NOT NULL,
    came_at   timestamptz NOT NULL,
    due_at    timestamptz NOT NULL,
    PRIMARY KEY (project, worker, call)
);

-- What a claim has taken already, when it is made again.
CREATE INDEX deployments_running ON deployments (worker) WHERE state = 'running';
