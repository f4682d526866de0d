-- What an agent's call has taken and still runs. Each such call asks for it, twice; without this, each walked all that hold
-- a slot. What clients run themselves is left out: nobody asks for it by its worker.
CREATE INDEX deployments_by_worker ON deployments (worker) WHERE state = 'running' AND executor = 'server';
