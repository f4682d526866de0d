//! Every statement of the store, with the types of its parameters, so that each can be sent both prepared and
//! unprepared.

use tokio_postgres::types::Type;

use super::outbox;

macro_rules! statements {
    ($($(#[$doc:meta])* $name:ident ( $($type:ident),* ) = $sql:expr;)*) => {
        /// One of the statements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Sql { $($(#[$doc])* $name),* }

        impl Sql {
            /// All of them, in the order of their numbers.
            pub(super) const ALL: &[Sql] = &[$(Sql::$name),*];

            /// Its text.
            pub(super) const fn text(self) -> &'static str {
                match self { $(Sql::$name => $sql),* }
            }

            /// The types of its parameters.
            pub(super) const fn types(self) -> &'static [Type] {
                match self { $(Sql::$name => { const TYPES: &[Type] = &[$(Type::$type),*]; TYPES })* }
            }
        }
    };
}

/// A deployment's columns, in the order that `rows::deployment` reads them.
macro_rules! deployment {
    () => {
        "d.id, d.ticket, d.created_at, d.spec, d.window_ms, d.pulse, d.progress, d.event_count, d.last_heartbeat_at, \
         d.cancel_requested_at, d.cancel_reason, d.cancel_superseded_by, d.log_total_bytes, d.log_head_end_seq, \
         d.log_trimmed_at_bytes, d.message, d.phase, d.outputs, d.revision, d.state, d.started_at, d.ended_at, \
         d.lease_secret, d.fencing_token, d.lease_ttl_ms, d.worker, d.cause, d.cause_message, d.cause_phase, \
         d.superseded_by, d.report_count, \
         nullif(d.line_place, d.ticket * 1048576), d.short_number, d.cancel_superseded_by_named, d.rollbacks, \
         d.cancel_requested_by, d.released_by"
    };
}

/// The columns by which the reaper judges. The spec may be large, so it is read only while something in it matters.
macro_rules! watched {
    () => {
        "p.name, d.id, d.revision, d.pulse, d.state, d.window_ms, d.executor, d.lease_secret, d.fencing_token, \
         d.lease_ttl_ms, d.worker, CASE d.state WHEN 'waiting' THEN d.deadline_seconds END, \
         CASE d.state WHEN 'ready' THEN d.spec END"
    };
}

/// How many columns that is. A query's additional columns come after them.
pub(super) const DEPLOYMENT_COLUMN_COUNT: usize = 37;

/// A project's columns, in the order that `rows::project` reads them.
macro_rules! project {
    () => {
        "p.number, p.revision, p.waiting_count, p.last_started_order, p.last_started, p.preempted_count, \
         p.recent_runs, p.last_outcome, p.deployment_count, p.last_started_named, p.last_success, p.pause, p.set_mark"
    };
}

/// How many columns that is.
pub(super) const PROJECT_COLUMN_COUNT: usize = 13;

/// Deployments of the project whose name is the first parameter.
macro_rules! of_project {
    ($($rest:expr),*) => {
        concat!(
            "SELECT ", deployment!(),
            " FROM deployments AS d WHERE d.project = (SELECT number FROM projects WHERE name = $1) AND ",
            $($rest),*
        )
    };
}

/// The specs of deployments of the project whose name is the first parameter.
macro_rules! specs {
    ($condition:expr) => {
        concat!(
            "SELECT d.id, d.spec FROM deployments AS d \
             WHERE d.project = (SELECT number FROM projects WHERE name = $1) AND ",
            $condition
        )
    };
}

/// A token's columns, in the order that `tokens::token` reads them, and its number.
macro_rules! token {
    ($rest:literal) => {
        concat!(
            "SELECT id, name, sha256, scopes, projects, created_at, created_by, expires_at, last_used_at, revoked_at, \
             revoked_by, session, number FROM tokens ",
            $rest
        )
    };
}

/// The condition of the index `deployments_holding`.
macro_rules! holding {
    () => {
        "d.state IN ('reserved', 'ready', 'running')"
    };
}

/// The holder of the slot of project `p`, and the head of its line.
macro_rules! head {
    () => {
        concat!(
            "SELECT d.* FROM deployments AS d WHERE d.project = p.number AND ",
            holding!(),
            " \
            UNION ALL (SELECT d.* FROM deployments AS d WHERE d.project = p.number AND d.state = 'waiting' \
                ORDER BY d.line_place LIMIT 1)"
        )
    };
}

/// Lines of the audit log that fulfil this, the last one first.
macro_rules! audit {
    ($of:expr) => {
        concat!(
            "SELECT ",
            crate::store::audit::audit_columns!(),
            " FROM audit WHERE number >= $1 AND number < $2 AND ",
            $of,
            " AND ($5 IS NULL OR at >= $5) AND ($6 IS NULL OR at < $6) AND ($7 IS NULL OR action = $7) \
             AND ($8 IS NULL OR caller = $8) ORDER BY number DESC LIMIT $9"
        )
    };
}

statements! {
    /// Independent of the database's defaults: each statement sees what was committed before it began.
    Begin() = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";
    /// All statements see the same snapshot.
    BeginSnapshot() = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    Commit() = "COMMIT";
    Rollback() = "ROLLBACK";

    /// Locks a project, and reads its counters, the schema's version, the transaction's number, and the revision at
    /// which new projects begin. A migration keeps everyone from locking a row of this table, so the version does not
    /// change until the transaction ends.
    Lock(TEXT) = concat!(
        "SELECT ", project!(), ", (SELECT max(version) FROM migrations), pg_current_xact_id()::text::bigint, \
            (SELECT revision FROM revision_floor) \
         FROM projects AS p WHERE p.name = $1 FOR NO KEY UPDATE"
    );
    /// Makes the row that locks a new project.
    NewProject(TEXT, TEXT) = "INSERT INTO projects (name, revision, waiting_count, preempted_count, recent_runs) \
        VALUES ($1, 0, 0, 0, $2) ON CONFLICT (name) DO NOTHING";
    /// Writes the present value again, unless the schema has another version; and answers which rights are missing.
    TryWrite(INT4) = "WITH written AS (UPDATE chores SET done_at = done_at WHERE name = 'retention' \
            AND (SELECT max(version) FROM migrations) = $1 RETURNING name) \
        SELECT (SELECT max(version) FROM migrations), \
            (SELECT string_agg(needed.\"right\" || ' on ' || needed.name, ', ') FROM (VALUES \
                ('projects', 'SELECT'), ('revision_floor', 'SELECT'), ('projects', 'INSERT'), ('projects', 'UPDATE'), \
                ('deployments', 'SELECT'), \
                ('deployments', 'INSERT'), ('deployments', 'UPDATE'), ('events', 'SELECT'), ('events', 'INSERT'), \
                ('events', 'DELETE'), ('idempotency_keys', 'SELECT'), ('idempotency_keys', 'INSERT'), ('audit', 'SELECT'), ('audit', 'INSERT'), \
                ('output_blocks', 'SELECT'), ('output_blocks', 'INSERT'), \
                ('agent_calls', 'SELECT'), ('agent_calls', 'INSERT'), ('artifacts', 'SELECT'), ('artifacts', 'INSERT'), \
                ('artifact_pieces', 'SELECT'), ('artifact_pieces', 'INSERT'), \
                ('tokens', 'SELECT'), ('tokens', 'INSERT'), ('tokens', 'UPDATE'), ('tokens', 'DELETE'), \
                ('notifications', 'SELECT'), ('notifications', 'INSERT'), ('notifications', 'UPDATE'), \
                ('notifications', 'DELETE')) AS needed (name, \"right\") \
                WHERE NOT has_table_privilege(needed.name, needed.\"right\")), \
            (SELECT count(*) FROM written)";
    /// Makes the database allocate a new page, which it frees at the end of the transaction.
    TakeRoom() = "CREATE TEMPORARY TABLE singletrack_room ON COMMIT DROP AS SELECT 1 AS taken";
    /// The number of a transaction that locks no project.
    TransactionNumber() = "SELECT (SELECT max(version) FROM migrations), pg_current_xact_id()::text::bigint";
    /// The outcome of a transaction, and the branch of the database that answers.
    Outcome(TEXT) = "SELECT pg_xact_status($1::xid8), branch FROM lineage";
    /// A write without effect. Once it is committed, every commit before it is also wherever the settings demand it.
    Fence() = "UPDATE lineage SET era = era";

    Holder(TEXT) = of_project!(holding!());
    /// The holder and the head of the line.
    Head(TEXT) = concat!(
        "SELECT ", deployment!(), " FROM projects AS p CROSS JOIN LATERAL (", head!(), ") AS d WHERE p.name = $1"
    );
    /// The same, and two kinds of waiting deployments: if the second parameter is true, those that a start concerns; and
    /// the one with the highest build order above the third parameter, which concerns a newcomer of that order. A
    /// deployment may come more than once.
    Edges(TEXT, BOOL, INT8) = concat!(
        "SELECT ", deployment!(), " FROM projects AS p CROSS JOIN LATERAL (", head!(), " \
            UNION ALL (SELECT d.* FROM deployments AS d WHERE d.project = p.number AND d.state = 'waiting' \
                AND d.build_order > $3 ORDER BY d.build_order DESC LIMIT 1) \
            UNION ALL SELECT o.* FROM deployments AS d JOIN deployments AS o ON o.project = d.project \
                WHERE $2 AND d.project = p.number AND d.state IN ('reserved', 'ready') \
                AND o.state = 'waiting' AND o.build_order < d.build_order \
            UNION ALL SELECT o.* FROM deployments AS d JOIN deployments AS o ON o.project = d.project \
                WHERE $2 AND d.project = p.number AND d.state IN ('reserved', 'ready') \
                AND d.line_place <> d.ticket * 1048576 AND o.state = 'waiting') AS d WHERE p.name = $1"
    );
    Line(TEXT, INT8) = of_project!("d.state = 'waiting' ORDER BY d.line_place LIMIT $2");
    ById(TEXT, UUID) = of_project!("d.id = $2");
    ByShortNumber(TEXT, INT8) = "SELECT d.id FROM deployments AS d \
        WHERE d.project = (SELECT number FROM projects WHERE name = $1) AND d.short_number = $2";
    ByIds(TEXT, UUID_ARRAY) = of_project!("d.id = ANY ($2)");
    /// The columns of the key follow the deployment's.
    Keyed(TEXT, TEXT) = concat!(
        "SELECT ", deployment!(), ", k.fingerprint \
         FROM idempotency_keys AS k JOIN deployments AS d ON d.number = k.deployment \
         WHERE k.project = (SELECT number FROM projects WHERE name = $1) AND k.key = $2"
    );

    /// Makes decisions for the same holder wait for each other, each on another project.
    HolderTurn(TEXT) = "SELECT pg_advisory_xact_lock(hashtextextended($1, 1))";
    /// The name of the project follows the deployment's columns.
    Held(TEXT) = concat!(
        "SELECT ", deployment!(), ", p.name FROM deployments AS d JOIN projects AS p ON p.number = d.project \
         WHERE d.state = 'running' AND d.worker = $1 LIMIT 1"
    );

    UpdateProject(TEXT, INT8, INT8, INT8, INT8, UUID, INT8, TEXT, UUID, INT8, TEXT, UUID, TEXT, TEXT) = "WITH written AS (\
        UPDATE projects SET revision = $3, waiting_count = $4, last_started_order = $5, last_started = $6, \
            preempted_count = $7, recent_runs = $8, last_outcome = $9, deployment_count = $10, \
            last_started_named = $11, last_success = $12, pause = $13, set_mark = $14 \
        WHERE name = $1 AND revision = $2 RETURNING 1) SELECT require_one(count(*)) FROM written";
    InsertDeployment(
        INT8, INT8, INT2, INT8, INT8, INT8, TEXT, UUID, INT8, INT8, INT8, TEXT, TEXT, TEXT, INT8, TEXT, TEXT, TEXT,
        INT8, TEXT, INT8, INT8, BYTEA, INT8, INT8, TEXT, TEXT, TEXT, TEXT, UUID, TEXT,
        UUID, TEXT, INT8, TEXT, INT8, TEXT, INT8, INT8, INT8, INT8
    ) = "INSERT INTO deployments (window_ms, pulse, progress, event_count, last_heartbeat_at, cancel_requested_at, \
        cancel_reason, cancel_superseded_by, log_total_bytes, log_head_end_seq, log_trimmed_at_bytes, message, phase, \
        outputs, report_count, cancel_superseded_by_named, rollbacks, cancel_requested_by, \
        revision, state, started_at, ended_at, lease_secret, fencing_token, lease_ttl_ms, \
        worker, cause, cause_message, cause_phase, superseded_by, released_by, \
        id, project, ticket, executor, created_at, spec, deadline_seconds, build_order, line_place, short_number) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, \
        $23, $24, $25, $26, $27, $28, $29, $30, $31, $32, (SELECT number FROM projects WHERE name = $33), \
        $34, $35, $36, $37, $38, $39, $40, $41)";
    /// Every column that may change, if the deployment is still as it was seen.
    UpdateDeployment(
        INT8, INT8, INT2, INT8, INT8, INT8, TEXT, UUID, INT8, INT8, INT8, TEXT, TEXT, TEXT, INT8, TEXT, TEXT, TEXT,
        INT8, TEXT, INT8, INT8, BYTEA, INT8, INT8, TEXT, TEXT, TEXT, TEXT, UUID, TEXT,
        UUID, INT8, INT8, INT8
    ) = "WITH written AS (\
        UPDATE deployments SET window_ms = $1, pulse = $2, progress = $3, event_count = $4, last_heartbeat_at = $5, \
            cancel_requested_at = $6, cancel_reason = $7, cancel_superseded_by = $8, log_total_bytes = $9, \
            log_head_end_seq = $10, log_trimmed_at_bytes = $11, message = $12, phase = $13, outputs = $14, \
            report_count = $15, cancel_superseded_by_named = $16, rollbacks = $17, cancel_requested_by = $18, \
            revision = $19, state = $20, started_at = $21, ended_at = $22, lease_secret = $23, \
            fencing_token = $24, lease_ttl_ms = $25, worker = $26, cause = $27, cause_message = $28, \
            cause_phase = $29, superseded_by = $30, released_by = $31, \
            sealed_inputs = CASE WHEN $22 IS NULL THEN sealed_inputs END \
        WHERE id = $32 AND revision = $33 AND pulse = $34 AND event_count = $35 RETURNING 1) \
        SELECT require_one(count(*)) FROM written";
    /// The columns that change while the state stays. None of them is in an index, so a heartbeat or a report is cheap.
    UpdateSignsOfLife(
        INT8, INT8, INT2, INT8, INT8, INT8, TEXT, UUID, INT8, INT8, INT8, TEXT, TEXT, TEXT, INT8, TEXT, TEXT, TEXT,
        UUID, INT8, INT8, INT8
    ) = "WITH written AS (\
        UPDATE deployments SET window_ms = $1, pulse = $2, progress = $3, event_count = $4, last_heartbeat_at = $5, \
            cancel_requested_at = $6, cancel_reason = $7, cancel_superseded_by = $8, log_total_bytes = $9, \
            log_head_end_seq = $10, log_trimmed_at_bytes = $11, message = $12, phase = $13, outputs = $14, \
            report_count = $15, cancel_superseded_by_named = $16, rollbacks = $17, cancel_requested_by = $18 \
        WHERE id = $19 AND revision = $20 AND pulse = $21 AND event_count = $22 RETURNING 1) \
        SELECT require_one(count(*)) FROM written";
    /// All events of a decision, each with its deployment.
    InsertEvents(UUID_ARRAY, INT8_ARRAY, INT8_ARRAY, TEXT_ARRAY, INT8_ARRAY, TEXT_ARRAY) =
        "INSERT INTO events (deployment, seq, at, type, log_end_bytes, body) \
         SELECT d.number, e.seq, e.at, e.type, e.log_end_bytes, e.body \
         FROM unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[]) \
                AS e (id, seq, at, type, log_end_bytes, body) \
            JOIN deployments AS d ON d.id = e.id ORDER BY e.seq";
    /// Keeps the sealed values of a deployment's secret inputs. The update that makes the deployment final takes them away.
    Seal(UUID, BYTEA) = "UPDATE deployments SET sealed_inputs = $2 WHERE id = $1";
    SealedInputs(UUID) = "SELECT sealed_inputs FROM deployments WHERE id = $1";
    /// Sets a deployment's place in line.
    PutAhead(UUID, INT8) = "UPDATE deployments SET line_place = $2 WHERE id = $1";
    InsertKey(TEXT, TEXT, BYTEA, UUID) =
        "INSERT INTO idempotency_keys (project, key, fingerprint, deployment) VALUES \
         ((SELECT number FROM projects WHERE name = $1), $2, $3, (SELECT number FROM deployments WHERE id = $4))";
    InsertAudit(INT8, TEXT, TEXT, UUID, TEXT, TEXT, TEXT, TEXT) =
        "INSERT INTO audit (at, project, action, deployment, detail, caller, address, request) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    AppendAudit(INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY, UUID_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY) =
        "INSERT INTO audit (at, project, action, deployment, detail, caller, address, request, count) \
         SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)";
    /// The numbers of audit lines from the first to before the second parameter.
    Audit(INT8, INT8, TEXT, UUID, INT8, INT8, TEXT, TEXT, INT8) = audit!("$3 IS NULL AND $4 IS NULL");
    AuditOfProject(INT8, INT8, TEXT, UUID, INT8, INT8, TEXT, TEXT, INT8) = audit!("project = $3 AND $4 IS NULL");
    AuditOfDeployment(INT8, INT8, TEXT, UUID, INT8, INT8, TEXT, TEXT, INT8) =
        audit!("($3 IS NULL OR project = $3) AND deployment = $4");
    AuditLast() = "SELECT number FROM audit ORDER BY number DESC LIMIT 1";
    AuditOlder(INT8) = "SELECT at FROM audit WHERE number < $1 ORDER BY number DESC LIMIT 1";
    Trim(UUID, INT8, INT8) =
        "DELETE FROM events WHERE deployment = (SELECT number FROM deployments WHERE id = $1) \
         AND seq > $2 AND type = 'log' AND log_end_bytes <= $3";

    Placed(UUID, TEXT) = concat!(
        "SELECT ", deployment!(), ", CASE d.state WHEN 'waiting' THEN (SELECT count(*) FROM deployments AS o \
            WHERE o.project = d.project AND o.state = 'waiting' AND o.line_place <= d.line_place) ELSE 0 END \
         FROM deployments AS d WHERE d.id = $1 AND d.project = (SELECT number FROM projects WHERE name = $2)"
    );
    Events(UUID, INT8, INT8) =
        "SELECT seq, at, body FROM events WHERE deployment = (SELECT number FROM deployments WHERE id = $1) \
         AND seq > $2 ORDER BY seq LIMIT $3";
    Course(UUID, INT8, INT8) =
        "SELECT seq, at, body FROM events WHERE deployment = (SELECT number FROM deployments WHERE id = $1) \
         AND seq > $2 AND type NOT IN ('log', 'progress', 'output') ORDER BY seq LIMIT $3";
    EventsBefore(UUID, INT8, INT8) =
        "SELECT seq, at, body FROM events WHERE deployment = (SELECT number FROM deployments WHERE id = $1) \
         AND seq < $2 ORDER BY seq DESC LIMIT $3";
    ListAll(TEXT, INT8, INT8) = of_project!("d.ticket < $2 ORDER BY d.ticket DESC LIMIT $3");
    ListWaiting(TEXT, INT8, INT8) =
        of_project!("d.state = 'waiting' AND d.ticket < $2 ORDER BY d.ticket DESC LIMIT $3");
    ListEnded(TEXT, INT8, INT8, TEXT) =
        of_project!("d.ended_at IS NOT NULL AND d.state = $4 AND d.ticket < $2 ORDER BY d.ticket DESC LIMIT $3");
    /// A project's row that was only made to be locked does not count.
    Project(TEXT) = concat!("SELECT ", project!(), " FROM projects AS p WHERE p.name = $1 AND p.revision > 0");
    /// The deployment that ended last, and the one that succeeded last: mostly one and the same.
    LastEnds(TEXT) = concat!(
        "SELECT ", deployment!(), " FROM projects AS p \
         JOIN deployments AS d ON d.id = ANY (ARRAY[p.last_outcome, p.last_success]) WHERE p.name = $1"
    );
    /// The name follows the project's columns.
    Projects(TEXT, INT8) = concat!(
        "SELECT ", project!(), ", p.name FROM projects AS p WHERE p.name > $1 AND p.revision > 0 \
         ORDER BY p.name LIMIT $2"
    );
    /// It looks at all projects, and is asked rarely.
    HeldProjects() = concat!(
        "SELECT p.name, p.pause FROM projects AS p WHERE p.pause IS NOT NULL OR (p.waiting_count > 0 AND NOT EXISTS \
            (SELECT FROM deployments AS d WHERE d.project = p.number AND ", holding!(), "))"
    );
    /// The number of the project follows the deployment's columns, here and below.
    ProjectsHolders(INT8_ARRAY) = concat!(
        "SELECT ", deployment!(), ", d.project FROM deployments AS d WHERE d.project = ANY ($1) AND ", holding!()
    );
    ProjectsEnds(INT8_ARRAY) = concat!(
        "SELECT ", deployment!(), ", d.project FROM projects AS p \
         JOIN deployments AS d ON d.id = ANY (ARRAY[p.last_outcome, p.last_success]) WHERE p.number = ANY ($1)"
    );
    /// The specs of the newest deployments, and of those that are not final.
    Specs(TEXT, INT8) = concat!(
        "(", specs!("d.ticket > 0 ORDER BY d.ticket DESC LIMIT $2"), ") UNION ALL (", specs!("d.state = 'waiting'"),
        ") UNION ALL (", specs!(holding!()), ")"
    );
    /// Every holder of a slot, and every waiting deployment that has a client to watch or a deadline.
    Watched() = concat!(
        "SELECT ", watched!(), " FROM deployments AS d JOIN projects AS p ON p.number = d.project WHERE ",
        holding!(),
        " UNION ALL SELECT ", watched!(), " \
         FROM deployments AS d JOIN projects AS p ON p.number = d.project \
         WHERE d.state = 'waiting' AND (d.window_ms IS NOT NULL OR d.deadline_seconds IS NOT NULL)"
    );
    Claimable(TEXT_ARRAY, INT8) =
        "SELECT p.name, d.id, d.spec FROM deployments AS d JOIN projects AS p ON p.number = d.project \
         WHERE d.state = 'ready' AND d.executor = 'server' AND p.name = ANY ($1) ORDER BY d.number LIMIT $2";
    /// Answers for how many of these projects the agent was known before, and for how many it was present. Ended calls
    /// are swept, except rows that another call sweeps.
    AgentCame(TEXT, TEXT_ARRAY, TEXT_ARRAY, UUID, INT8, INT8) = "WITH \
        over AS MATERIALIZED (SELECT project, worker, call FROM agent_calls \
            WHERE project = ANY ($2) AND worker = $1 AND call <> $4 AND due_at <= now() FOR UPDATE SKIP LOCKED), \
        swept AS (DELETE FROM agent_calls AS a USING over AS o \
            WHERE a.project = o.project AND a.worker = o.worker AND a.call = o.call), \
        made AS (INSERT INTO agent_calls (project, worker, call, pipelines, came_at, due_at) \
            SELECT o.project, $1, $4, o.pipelines, now(), now() + $5 * interval '1 millisecond' \
            FROM unnest($2::text[], $3::text[]) AS o (project, pipelines) \
            ON CONFLICT (project, worker, call) DO NOTHING) \
        SELECT count(DISTINCT project), \
            count(DISTINCT project) FILTER (WHERE due_at + $6 * interval '1 millisecond' > now()) \
        FROM agent_calls WHERE project = ANY ($2) AND worker = $1 AND call <> $4";
    /// This may come before the call is noted. Noting the call then changes nothing.
    AgentLeft(TEXT, TEXT_ARRAY, TEXT_ARRAY, UUID) = "INSERT INTO agent_calls AS a \
            (project, worker, call, pipelines, came_at, due_at) \
        SELECT o.project, $1, $4, o.pipelines, now(), now() FROM unnest($2::text[], $3::text[]) AS o (project, pipelines) \
        ON CONFLICT (project, worker, call) DO UPDATE SET due_at = least(a.due_at, now())";
    ForgetAgents(INT8) = "DELETE FROM agent_calls WHERE (project, worker, call) IN \
        (SELECT project, worker, call FROM agent_calls ORDER BY due_at DESC OFFSET $1)";
    /// Each agent once, by its last call.
    Agents(TEXT, INT8) = "SELECT worker, (array_agg(pipelines ORDER BY came_at DESC))[1], \
            (extract(epoch FROM CASE WHEN max(due_at) > now() THEN max(came_at) ELSE max(due_at) END) * 1000)::bigint \
                AS last_seen, \
            max(due_at) > now(), \
            greatest(0, extract(epoch FROM now() - max(due_at)) * 1000)::bigint AS gone \
        FROM agent_calls WHERE project = $1 GROUP BY worker ORDER BY gone, last_seen DESC LIMIT $2";
    /// A holder that has not started has the slot since its last event of that kind.
    HeldSlots() = concat!(
        "SELECT p.name, d.state, coalesce(d.started_at, \
            (SELECT e.at FROM events AS e WHERE e.deployment = d.number AND e.type = 'queue' \
             ORDER BY e.seq DESC LIMIT 1), d.created_at) \
         FROM deployments AS d JOIN projects AS p ON p.number = d.project WHERE ", holding!()
    );
    Lines() = "SELECT p.name, count(*), min(d.created_at) FROM deployments AS d \
        JOIN projects AS p ON p.number = d.project WHERE d.state = 'waiting' GROUP BY p.name";
    /// It looks at all projects, and is asked rarely.
    Pauses() = "SELECT name, pause FROM projects WHERE pause IS NOT NULL";
    /// How many agents of each project are parked, or gone for less than this.
    AgentCounts(INT8) = "SELECT project, count(DISTINCT worker) FROM agent_calls \
        WHERE due_at + $1 * interval '1 millisecond' > now() GROUP BY project";
    /// All tables of the schema with their indexes.
    SchemaSize() = "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class \
        WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'deployments'::regclass) AND relkind = 'r'";
    /// Nobody else makes or revokes a token until the transaction ends.
    LockTokens() = "LOCK TABLE tokens IN SHARE ROW EXCLUSIVE MODE";
    UnrevokedTokens() = token!("WHERE revoked_at IS NULL");
    TokenBySha256(BYTEA) = token!("WHERE sha256 = $1");
    TokenById(UUID) = token!("WHERE id = $1");
    TokenNamed(TEXT) = token!("WHERE name = $1 ORDER BY revoked_at IS NULL DESC, number DESC LIMIT 1");
    Tokens(INT8, INT8) = token!("WHERE number < $1 ORDER BY number DESC LIMIT $2");
    TokensMark() = "SELECT coalesce((SELECT max(change) FROM tokens), 0), \
        (SELECT count(*) FROM tokens WHERE revoked_at IS NULL)";
    InsertToken(UUID, TEXT, BYTEA, TEXT, TEXT, INT8, TEXT, INT8, TEXT) =
        "INSERT INTO tokens (id, name, sha256, scopes, projects, created_at, created_by, expires_at, session, change) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, (SELECT coalesce(max(change), 0) + 1 FROM tokens))";
    RevokeToken(UUID, INT8, TEXT) =
        "UPDATE tokens SET revoked_at = $2, revoked_by = $3, change = (SELECT max(change) + 1 FROM tokens) \
         WHERE id = $1 AND revoked_at IS NULL";
    RemoveSessions(INT8) = "DELETE FROM tokens WHERE session IS NOT NULL AND expires_at <= $1";
    NoteTokenUse(UUID_ARRAY, INT8_ARRAY) =
        "UPDATE tokens AS t SET last_used_at = greatest(t.last_used_at, used.at) \
         FROM unnest($1::uuid[], $2::bigint[]) AS used (id, at) WHERE t.id = used.id";

    InsertNotifications(TEXT, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, UUID_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY, INT8_ARRAY) =
        outbox::INSERT;
    NextDueNotifications(TEXT_ARRAY) = outbox::NEXT_DUE;
    ClaimNotifications(TEXT, INT8, INT8) = outbox::CLAIM;
    NotificationDone(INT8, INT8, TEXT) = outbox::DONE;
    NotificationLater(INT8, INT8, TEXT, INT8, TEXT) = outbox::LATER;
    NotificationDead(INT8, INT8, TEXT, TEXT) = outbox::DEAD;
    GiveUpNotifications(TEXT_ARRAY, INT8, TEXT) = outbox::GIVE_UP;
    PruneNotifications(INT8, INT8) = outbox::PRUNE;
    CountNotifications() = outbox::COUNTS;
    Notifications(INT8, INT8) = outbox::PAGE;
    PendingNotifications(INT8, INT8) = outbox::PAGE_PENDING;
    DeadNotifications(INT8, INT8) = outbox::PAGE_DEAD;
    NotificationById(TEXT) = outbox::BY_ID;
    RetryNotification(TEXT, INT8, TEXT, TEXT, TEXT, TEXT, TEXT) = outbox::RETRY;

    /// Nobody can migrate until the transaction ends.
    HoldSchema() = "LOCK TABLE projects IN ROW SHARE MODE";
    /// Allows the transaction under way more than usual (see the migration of retention).
    Permit(TEXT) = "SELECT set_config('singletrack.permit', $1, true)";
    RewriteEvents(UUID, INT8_ARRAY, TEXT_ARRAY) = "UPDATE events AS e SET body = w.body \
        FROM unnest($2::bigint[], $3::text[]) AS w (seq, body) \
        WHERE e.deployment = (SELECT number FROM deployments WHERE id = $1) AND e.seq = w.seq";
    RewriteBlock(UUID, INT8, INT8, INT8, BYTEA) = "UPDATE output_blocks SET raw_bytes = $4, body = $5 \
        WHERE deployment = (SELECT number FROM deployments WHERE id = $1) AND first_seq = $2 AND last_seq = $3";
    LockTexts(UUID) = "SELECT spec, outputs, rollbacks, message, cause_message, cancel_reason \
        FROM deployments WHERE id = $1 FOR NO KEY UPDATE";
    WriteTexts(UUID, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT) = "UPDATE deployments SET spec = $2, outputs = $3, \
        rollbacks = $4, message = $5, cause_message = $6, cancel_reason = $7 WHERE id = $1";
    /// The first block with an event after this one.
    BlockAfter(UUID, INT8) = "SELECT b.first_seq, b.last_seq, b.body FROM output_blocks AS b \
        WHERE b.deployment = (SELECT number FROM deployments WHERE id = $1) AND b.last_seq > $2 AND b.first_seq >= \
        coalesce((SELECT max(o.first_seq) FROM output_blocks AS o \
            WHERE o.deployment = (SELECT number FROM deployments WHERE id = $1) AND o.first_seq <= $2), 0) \
        ORDER BY b.first_seq LIMIT 1";
    /// The last block with an event before this one.
    BlockBefore(UUID, INT8) = "SELECT b.first_seq, b.last_seq, b.body FROM output_blocks AS b \
        WHERE b.deployment = (SELECT number FROM deployments WHERE id = $1) AND b.first_seq < $2 \
        ORDER BY b.first_seq DESC LIMIT 1";
    UpkeepMark(TEXT) = "SELECT value FROM upkeep WHERE name = $1";
    SetUpkeepMark(TEXT, INT8) = "INSERT INTO upkeep (name, value) VALUES ($1, $2) \
        ON CONFLICT (name) DO UPDATE SET value = $2";
    Newest() = "SELECT number, created_at FROM deployments ORDER BY number DESC LIMIT 1";
    Arrivals(INT8, INT8) = "SELECT d.number, d.ended_at IS NOT NULL, d.ended_at IS NOT NULL AND d.log_total_bytes > 0 \
            AND NOT EXISTS (SELECT 1 FROM packed_outputs WHERE deployment = d.number) \
        FROM deployments AS d WHERE d.number > $1 ORDER BY d.number LIMIT $2";
    /// The first output that is not in blocks, at most so many events, and no more once they hold so many bytes.
    Unpacked(INT8, INT8, INT8) = "SELECT seq, at, body FROM (\
            SELECT *, sum(octet_length(body)) OVER (ORDER BY seq) - octet_length(body) AS bytes_before FROM (\
                SELECT seq, at, body FROM events WHERE deployment = $1 AND type = 'log' ORDER BY seq LIMIT $2) AS first\
            ) AS summed WHERE bytes_before < $3 ORDER BY seq";
    /// Puts a block in place of the rows of its events, if all of them are there and the schema has this version.
    Pack(INT8, INT8, INT8, INT8, BYTEA, INT8, INT4) = "WITH dropped AS (\
            DELETE FROM events WHERE deployment = $1 AND seq BETWEEN $2 AND $3 AND type = 'log' RETURNING 1), \
        written AS (INSERT INTO output_blocks (deployment, first_seq, last_seq, raw_bytes, body) \
            SELECT $1, $2, $3, $4, $5 WHERE (SELECT max(version) FROM migrations) = $7 RETURNING 1) \
        SELECT require_one((SELECT CASE WHEN (SELECT count(*) FROM dropped) = $6 THEN count(*) ELSE 0 END FROM written))";
    FinishPacking(INT8) = "INSERT INTO packed_outputs (deployment, project, ticket, ended_at, raw_bytes, packed_bytes) \
        SELECT d.number, d.project, d.ticket, d.ended_at, sum(b.raw_bytes)::bigint, sum(octet_length(b.body))::bigint \
        FROM output_blocks AS b JOIN deployments AS d ON d.number = b.deployment \
        WHERE b.deployment = $1 AND d.ended_at IS NOT NULL \
            AND NOT EXISTS (SELECT 1 FROM events WHERE deployment = $1 AND type = 'log') \
        GROUP BY d.number ON CONFLICT DO NOTHING";
    ProjectRows() = "SELECT number, name FROM projects WHERE name NOT LIKE '/%' ORDER BY number";
    ForgottenRows() = "SELECT number FROM projects WHERE name < '/~' ORDER BY name";
    /// Removes the row of a forgotten project whose history is removed.
    DropForgotten(INT8) = "DELETE FROM projects WHERE number = $1 AND name < '/~' \
        AND NOT EXISTS (SELECT FROM deployments WHERE project = $1) RETURNING 1";
    /// Waits for whoever decides about the project, and keeps everybody else waiting.
    LockToForget(TEXT) = "SELECT number FROM projects WHERE name = $1 FOR UPDATE";
    /// A row that was only made to be locked is no project.
    LookToForget(TEXT) = concat!(
        "SELECT p.deployment_count, p.waiting_count > 0 OR EXISTS (SELECT FROM deployments AS d \
            WHERE d.project = p.number AND ", holding!(), ") FROM projects AS p WHERE p.name = $1 AND p.revision > 0"
    );
    RaiseFloor(TEXT) = "UPDATE revision_floor AS f SET revision = greatest(f.revision, p.revision) \
        FROM projects AS p WHERE p.name = $1";
    /// Takes the name away. Nothing of the project is live any more, so its whole history may be removed.
    TakeName(TEXT) = "UPDATE projects SET name = '/' || number, last_started_order = NULL, last_started = NULL, \
        last_started_named = NULL, set_mark = NULL, last_outcome = NULL, last_success = NULL, pause = NULL WHERE name = $1";
    NewestFrom(INT8, INT8) = "SELECT ticket FROM deployments WHERE project = $1 ORDER BY ticket DESC LIMIT 1 OFFSET $2";
    /// The last two successes, among the newest ones by arrival, and the deployments that the project itself names.
    Live(INT8) = "(SELECT number, 0::bigint FROM (SELECT number, revision FROM deployments \
            WHERE project = $1 AND ended_at IS NOT NULL AND state = 'succeeded' ORDER BY ticket DESC LIMIT 100) AS recent \
            ORDER BY revision DESC LIMIT 2) \
        UNION ALL SELECT d.number, 1::bigint FROM projects AS p JOIN deployments AS d ON d.id = p.last_started WHERE p.number = $1 \
        UNION ALL SELECT d.number, 2::bigint FROM projects AS p JOIN deployments AS d ON d.id = p.last_outcome WHERE p.number = $1 \
        UNION ALL SELECT d.number, 0::bigint FROM projects AS p JOIN deployments AS d ON d.id = p.last_success WHERE p.number = $1";
    Aged(INT8, INT8, INT8) = "SELECT d.number, d.ticket, d.created_at, d.ended_at, \
            (octet_length(d.spec) + octet_length(d.outputs) + 1500)::bigint, \
            coalesce((SELECT packed_bytes FROM packed_outputs WHERE deployment = d.number), d.log_total_bytes) \
        FROM deployments AS d WHERE d.project = $1 AND d.ticket > $2 ORDER BY d.ticket LIMIT $3";
    AgedOutputs(INT8, INT8, INT8) = "SELECT deployment, ticket, ended_at, ended_at, 0::bigint, packed_bytes \
        FROM packed_outputs WHERE project = $1 AND ticket > $2 ORDER BY ticket LIMIT $3";
    DropBlocks(INT8, INT8) = "DELETE FROM output_blocks WHERE deployment = $1 AND first_seq IN \
        (SELECT first_seq FROM output_blocks WHERE deployment = $1 ORDER BY first_seq LIMIT $2) \
        AND EXISTS (SELECT 1 FROM deployments WHERE number = $1 AND ended_at IS NOT NULL) RETURNING 1";
    DropOutput(INT8, INT8) = "DELETE FROM events WHERE deployment = $1 AND type = 'log' AND seq IN \
        (SELECT seq FROM events WHERE deployment = $1 AND type = 'log' ORDER BY seq LIMIT $2) \
        AND EXISTS (SELECT 1 FROM deployments WHERE number = $1 AND ended_at IS NOT NULL) RETURNING 1";
    DropPacked(INT8) = "DELETE FROM packed_outputs WHERE deployment = $1 \
        AND NOT EXISTS (SELECT 1 FROM output_blocks WHERE deployment = $1)";
    DropKeysOf(INT8_ARRAY) = "DELETE FROM idempotency_keys WHERE deployment = ANY ($1)";
    DropBlocksOf(INT8_ARRAY) = "DELETE FROM output_blocks WHERE deployment = ANY ($1)";
    DropPackedOf(INT8_ARRAY) = "DELETE FROM packed_outputs WHERE deployment = ANY ($1)";
    DropEventsOf(INT8_ARRAY) = "DELETE FROM events WHERE deployment = ANY ($1)";
    DropDeployments(INT8_ARRAY) = "DELETE FROM deployments WHERE number = ANY ($1) RETURNING 1";

    /// Claims a chore that one server does for all, if it was not done within this many milliseconds.
    ClaimChore(TEXT, INT8) = "UPDATE chores SET done_at = now() \
        WHERE name = $1 AND done_at <= now() - $2 * interval '1 millisecond' RETURNING name";

    WantArtifact(TEXT) = "UPDATE artifacts SET wanted_at = now() WHERE sha256 = $1 AND is_whole RETURNING bytes";
    ArtifactOffset(TEXT) = "SELECT bytes FROM artifacts WHERE sha256 = $1 AND NOT is_whole";
    LockArtifact(TEXT) = "SELECT number, is_whole, bytes, coalesce(writer_until > now(), false) \
        FROM artifacts WHERE sha256 = $1 FOR UPDATE";
    /// How many artifacts are unfinished, and how many of them have no present writer.
    UnfinishedCount() = "SELECT count(*), count(*) FILTER (WHERE coalesce(writer_until <= now(), true)) \
        FROM artifacts WHERE NOT is_whole";
    /// Drops the part with the oldest last write, of those without a present writer.
    DropOldestPart() = "DELETE FROM artifacts WHERE number = (SELECT number FROM artifacts \
        WHERE NOT is_whole AND coalesce(writer_until <= now(), true) ORDER BY wanted_at LIMIT 1 FOR UPDATE SKIP LOCKED)";
    NewArtifact(TEXT, UUID, INT8) = "INSERT INTO artifacts (sha256, is_whole, bytes, wanted_at, writer, writer_until) \
        VALUES ($1, false, 0, now(), $2, now() + $3 * interval '1 millisecond') ON CONFLICT (sha256) DO NOTHING \
        RETURNING number";
    TakeArtifact(INT8, UUID, INT8) = "UPDATE artifacts SET wanted_at = now(), writer = $2, \
        writer_until = now() + $3 * interval '1 millisecond' WHERE number = $1 RETURNING number";
    DropArtifact(INT8) = "DELETE FROM artifacts WHERE number = $1 AND NOT is_whole";
    /// Adds a piece, if the part still belongs to this writer and has the expected length.
    AddPiece(INT8, UUID, INT8, BYTEA, INT8, INT4) = "WITH own AS (\
        UPDATE artifacts SET bytes = bytes + octet_length($4), wanted_at = now(), \
            writer_until = now() + $5 * interval '1 millisecond' \
        WHERE number = $1 AND writer = $2 AND bytes = $3 AND (SELECT max(version) FROM migrations) = $6 \
        RETURNING number) \
        INSERT INTO artifact_pieces (artifact, start, content) SELECT number, $3, $4 FROM own RETURNING start";
    HoldArtifact(INT8, UUID, INT8) = "UPDATE artifacts SET writer_until = now() + $3 * interval '1 millisecond' \
        WHERE number = $1 AND writer = $2 RETURNING number";
    LetGoOfArtifact(INT8, UUID) =
        "UPDATE artifacts SET writer = NULL, writer_until = NULL WHERE number = $1 AND writer = $2";
    FinishArtifact(INT8, UUID, INT8, INT4) = "UPDATE artifacts \
        SET is_whole = true, wanted_at = now(), writer = NULL, writer_until = NULL \
        WHERE number = $1 AND writer = $2 AND bytes = $3 AND (SELECT max(version) FROM migrations) = $4 \
        RETURNING number";
    /// Drops other uploads' parts of an artifact that is complete under its own name.
    DropOtherParts(TEXT, INT8) = "DELETE FROM artifacts WHERE sha256 = $1 AND NOT is_whole AND number <> $2";
    /// Gives a finished part its name. Its pieces stay, because it keeps its number.
    FinishArtifactAs(INT8, UUID, INT8, INT4, TEXT) = "WITH own AS (DELETE FROM artifacts         WHERE number = $1 AND writer = $2 AND bytes = $3 AND (SELECT max(version) FROM migrations) = $4         RETURNING number, bytes)         INSERT INTO artifacts (number, sha256, is_whole, bytes, wanted_at) OVERRIDING SYSTEM VALUE         SELECT number, $5, true, bytes, now() FROM own ON CONFLICT (sha256) DO NOTHING RETURNING number";
    ArtifactState(INT8) = "SELECT is_whole, writer, bytes FROM artifacts WHERE number = $1";
    DiscardArtifact(INT8, UUID) = "DELETE FROM artifacts WHERE number = $1 AND writer = $2";
    /// Reads from the piece that contains this byte.
    ReadArtifact(TEXT, INT8, INT4) = "SELECT substr(p.content, (($2 - p.start) + 1)::int, $3) \
        FROM artifact_pieces AS p \
        WHERE p.artifact = (SELECT number FROM artifacts WHERE sha256 = $1 AND is_whole) AND p.start <= $2 \
        ORDER BY p.start DESC LIMIT 1";
    ReadUnfinished(INT8, UUID, INT8, INT4) = "SELECT substr(p.content, (($3 - p.start) + 1)::int, $4) \
        FROM artifact_pieces AS p \
        WHERE p.artifact = (SELECT number FROM artifacts WHERE number = $1 AND writer = $2) AND p.start <= $3 \
        ORDER BY p.start DESC LIMIT 1";
    Artifacts() = "SELECT sha256, is_whole, bytes, \
            greatest(0, extract(epoch FROM now() - wanted_at) * 1000)::bigint, \
            (extract(epoch FROM wanted_at) * 1000000)::bigint \
        FROM artifacts";
    RemoveArtifact(TEXT, INT8) = "DELETE FROM artifacts \
        WHERE sha256 = $1 AND (extract(epoch FROM wanted_at) * 1000000)::bigint = $2 \
            AND coalesce(writer_until <= now(), true) RETURNING number";
    SweepPieces() = "WITH swept AS (DELETE FROM artifact_pieces WHERE (artifact, start) IN \
            (SELECT p.artifact, p.start FROM artifact_pieces AS p \
                WHERE NOT EXISTS (SELECT FROM artifacts AS a WHERE a.number = p.artifact) LIMIT 64) \
        RETURNING 1) SELECT count(*) FROM swept";
    Marks(UUID_ARRAY) = "SELECT id, revision, event_count, cancel_requested_at IS NOT NULL \
        FROM deployments WHERE id = ANY ($1)";
}
