//! Rows to the model and back. Every field of the model has its column here, by full destructuring, so that a new field
//! cannot be forgotten.

use std::{collections::BTreeMap, error::Error, time::Duration};

use jiff::Timestamp;
use rusqlite::{
    Row, Statement, ToSql, params,
    types::{FromSql, Type, ValueRef},
};
use serde::de::DeserializeOwned;

use crate::{
    model::{
        CancelCause, CancelRequest, Deployment, DeploymentId, Event, FailureCause, Lease, LeaseHolder, LogAccount,
        Mention, Outcome, Place, Project, ProjectName, RecentRun, Revision, SecretHash, Spec, StartedOrder, State,
        Vital,
    },
    store::{
        Watched,
        columns::{self, JudgedSpec, Written, millis},
    },
};

/// A deployment's columns, in the order that [`deployment`] reads them.
macro_rules! deployment_columns {
    () => {
        "d.number, d.id, d.ticket, d.created_at, d.spec, \
         d.window_ms, d.pulse, d.progress, d.event_count, d.last_heartbeat_at, d.cancel_requested_at, \
         d.cancel_reason, d.cancel_superseded_by, d.log_total_bytes, d.log_head_end_seq, d.log_trimmed_at_bytes, \
         d.message, d.phase, d.outputs, \
         d.revision, d.state, d.started_at, d.ended_at, d.lease_secret, d.fencing_token, d.lease_ttl_ms, d.worker, \
         d.cause, d.cause_message, d.cause_phase, d.superseded_by, d.report_count, \
         nullif(d.line_place, d.ticket * 1048576), d.short_number, d.cancel_superseded_by_named, d.rollbacks, \
         d.cancel_requested_by, d.released_by"
    };
}
pub(super) use deployment_columns;

/// The number of these columns: columns that a query adds stand behind them.
pub(super) const DEPLOYMENT_COLUMN_COUNT: usize = 38;

/// A project's columns, in the order that [`project`] reads them.
macro_rules! project_columns {
    () => {
        "p.number, p.revision, p.waiting_count, p.last_started_order, p.last_started, p.preempted_count, \
         p.recent_runs, p.last_outcome, p.deployment_count, p.last_started_named, p.last_success, p.pause, p.set_mark"
    };
}
pub(super) use project_columns;

/// How many columns that is.
pub(super) const PROJECT_COLUMN_COUNT: usize = 13;

pub(super) const INSERT_PROJECT: &str = "INSERT INTO projects (revision, waiting_count, last_started_order, \
     last_started, preempted_count, recent_runs, last_outcome, deployment_count, \
     last_started_named, last_success, pause, set_mark, name) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";

pub(super) const UPDATE_PROJECT: &str = "UPDATE projects SET revision = ?1, waiting_count = ?2, \
     last_started_order = ?3, last_started = ?4, preempted_count = ?5, recent_runs = ?6, last_outcome = ?7, \
     deployment_count = ?8, last_started_named = ?9, last_success = ?10, pause = ?11, set_mark = ?12 \
     WHERE number = ?13";

/// All columns but the recent runs and the last success, which only a success changes.
pub(super) const UPDATE_PROJECT_COUNTERS: &str = "UPDATE projects SET revision = ?1, waiting_count = ?2, \
     last_started_order = ?3, last_started = ?4, preempted_count = ?5, last_outcome = ?6, deployment_count = ?7, \
     last_started_named = ?8, pause = ?9, set_mark = ?10 WHERE number = ?11";

pub(super) const INSERT_DEPLOYMENT: &str = "INSERT INTO deployments (window_ms, pulse, progress, event_count, \
     last_heartbeat_at, cancel_requested_at, cancel_reason, cancel_superseded_by, log_total_bytes, log_head_end_seq, \
     log_trimmed_at_bytes, message, phase, outputs, report_count, cancel_superseded_by_named, rollbacks, \
     cancel_requested_by, revision, state, started_at, ended_at, lease_secret, \
     fencing_token, lease_ttl_ms, worker, cause, cause_message, cause_phase, superseded_by, released_by, \
     id, project, ticket, executor, created_at, spec, line_place, short_number) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, \
     ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, \
     ?31, ?32, ?33, ?34, ?35, ?36, ?37, ?38, ?39)";

/// All columns that may change.
pub(super) const UPDATE_DEPLOYMENT: &str = "UPDATE deployments SET window_ms = ?1, pulse = ?2, progress = ?3, \
     event_count = ?4, last_heartbeat_at = ?5, cancel_requested_at = ?6, cancel_reason = ?7, \
     cancel_superseded_by = ?8, log_total_bytes = ?9, log_head_end_seq = ?10, log_trimmed_at_bytes = ?11, \
     message = ?12, phase = ?13, outputs = ?14, report_count = ?15, cancel_superseded_by_named = ?16, \
     rollbacks = ?17, cancel_requested_by = ?18, revision = ?19, state = ?20, started_at = ?21, ended_at = ?22, \
     lease_secret = ?23, fencing_token = ?24, lease_ttl_ms = ?25, worker = ?26, cause = ?27, cause_message = ?28, \
     cause_phase = ?29, superseded_by = ?30, released_by = ?31, \
     sealed_inputs = iif(?22 IS NULL, sealed_inputs, NULL) WHERE number = ?32";

/// The columns that change while the state stays; none of them is in an index, so a heartbeat or a report is cheap.
pub(super) const UPDATE_SIGNS_OF_LIFE: &str = "UPDATE deployments SET window_ms = ?1, pulse = ?2, progress = ?3, \
     event_count = ?4, last_heartbeat_at = ?5, cancel_requested_at = ?6, cancel_reason = ?7, \
     cancel_superseded_by = ?8, log_total_bytes = ?9, log_head_end_seq = ?10, log_trimmed_at_bytes = ?11, \
     message = ?12, phase = ?13, outputs = ?14, report_count = ?15, cancel_superseded_by_named = ?16, \
     rollbacks = ?17, cancel_requested_by = ?18 WHERE number = ?19";

/// Keeps the sealed values of a deployment's secret inputs. The update that makes the deployment final takes them away.
pub(super) const SEAL: &str = "UPDATE deployments SET sealed_inputs = ?1 WHERE number = ?2";

/// Sets a deployment's place in line.
pub(super) const PUT_AHEAD: &str = "UPDATE deployments SET line_place = ?1 WHERE number = ?2";

pub(super) const INSERT_EVENT: &str =
    "INSERT INTO events (deployment, seq, at, type, log_end_bytes, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";

/// Reads [`project_columns`].
pub(super) fn project(row: &Row<'_>, name: &ProjectName) -> rusqlite::Result<Project> {
    let last_started = match (row.get(3)?, id_at(row, 4)?) {
        (Some(order), Some(id)) => {
            let deployment = Mention { project: name.clone(), id, named: json_or_none(row, 9)? };
            Some(StartedOrder { order, deployment })
        }
        (None, _) | (_, None) => None,
    };
    Ok(Project {
        name: name.clone(),
        revision: Revision(row.get(1)?),
        deployment_count: row.get(8)?,
        waiting_count: row.get(2)?,
        last_started,
        preempted_count: row.get(5)?,
        recent_runs: recent_runs_at(row, 6)?.into(),
        last_outcome: id_at(row, 7)?,
        last_success: id_at(row, 10)?,
        pause: json_or_none(row, 11)?,
        set_mark: json_or_none(row, 12)?,
    })
}

/// Runs [`INSERT_PROJECT`] with the project's name, or [`UPDATE_PROJECT`] with its number.
pub(super) fn write_project(
    statement: &mut Statement<'_>,
    project: &Project,
    last_param: &dyn ToSql,
) -> rusqlite::Result<()> {
    #[rustfmt::skip]
    let Project {
        name: _, revision, deployment_count, waiting_count, last_started, preempted_count, recent_runs, last_outcome,
        last_success, pause, set_mark,
    } = project;
    statement.execute(params![
        revision.0,
        waiting_count,
        last_started.as_ref().map(|last| last.order),
        last_started.as_ref().map(|last| last.deployment.id.as_bytes()),
        preempted_count,
        columns::recent_runs_to_json(recent_runs).map_err(unwritable)?,
        last_outcome.as_ref().map(DeploymentId::as_bytes),
        deployment_count,
        last_started.as_ref().and_then(|last| last.deployment.named.as_ref()).map(to_json).transpose()?,
        last_success.as_ref().map(DeploymentId::as_bytes),
        pause.as_ref().map(to_json).transpose()?,
        set_mark.as_ref().map(to_json).transpose()?,
        last_param,
    ])?;
    Ok(())
}

/// Runs [`UPDATE_PROJECT_COUNTERS`].
pub(super) fn write_counters(statement: &mut Statement<'_>, project: &Project, number: i64) -> rusqlite::Result<()> {
    #[rustfmt::skip]
    let Project {
        name: _, revision, deployment_count, waiting_count, last_started, preempted_count, recent_runs: _, last_outcome,
        last_success: _, pause, set_mark,
    } = project;
    statement.execute(params![
        revision.0,
        waiting_count,
        last_started.as_ref().map(|last| last.order),
        last_started.as_ref().map(|last| last.deployment.id.as_bytes()),
        preempted_count,
        last_outcome.as_ref().map(DeploymentId::as_bytes),
        deployment_count,
        last_started.as_ref().and_then(|last| last.deployment.named.as_ref()).map(to_json).transpose()?,
        pause.as_ref().map(to_json).transpose()?,
        set_mark.as_ref().map(to_json).transpose()?,
        number,
    ])?;
    Ok(())
}

fn recent_runs_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<RecentRun>> {
    let text = row.get_ref(column)?.as_str().map_err(|error| broken(column, error))?;
    columns::recent_runs_from_json(text).map_err(|error| broken(column, error))
}

/// Reads [`deployment_columns`].
pub(super) fn deployment(row: &Row<'_>, project: &ProjectName) -> rusqlite::Result<Deployment> {
    let cancel = match instant_at(row, 10)? {
        Some(at) => {
            let named = json_or_none(row, 34)?;
            let superseded_by = id_at(row, 12)?.map(|id| Mention { project: project.clone(), id, named });
            Some(CancelRequest { at, reason: row.get(11)?, superseded_by, by: json_or_none(row, 36)? })
        }
        None => None,
    };
    let outputs = match row.get_ref(18)?.as_str() {
        Ok("{}") => BTreeMap::new(),
        _ => json_at(row, 18)?,
    };
    Ok(Deployment {
        id: required_id_at(row, 1)?,
        project: project.clone(),
        number: row.get(33)?,
        spec: json_at::<Spec>(row, 4)?,
        state: state(row)?,
        ticket: Revision(row.get(2)?),
        line_rank: row.get(32)?,
        revision: Revision(row.get(19)?),
        pulse: row.get(6)?,
        progress: row.get(7)?,
        message: row.get(16)?,
        phase: row.get(17)?,
        outputs,
        rollbacks: json_or_none(row, 35)?,
        cancel,
        released_by: json_or_none(row, 37)?,
        event_count: row.get(8)?,
        report_count: row.get(31)?,
        logs: LogAccount { total_bytes: row.get(13)?, head_end_seq: row.get(14)?, trimmed_at_bytes: row.get(15)? },
        created_at: required_instant_at(row, 3)?,
        started_at: instant_at(row, 21)?,
        last_heartbeat_at: instant_at(row, 9)?,
    })
}

fn state(row: &Row<'_>) -> rusqlite::Result<State> {
    let name = row.get_ref(20)?.as_str().map_err(|error| broken(20, error))?;
    Ok(match name {
        "waiting" => State::Waiting(match row.get(5)? {
            Some(window_ms) => Place::Ticket { window: Duration::from_millis(window_ms) },
            None => Place::Queued,
        }),
        "reserved" => State::Reserved,
        "ready" => State::Ready,
        "running" => State::Running(lease(row)?.ok_or_else(|| broken(23, "a running deployment without a lease"))?),
        "succeeded" => finished(row, Outcome::Succeeded)?,
        "failed" => {
            finished(row, Outcome::Failed { cause: failure_cause(row)?, message: row.get(28)?, phase: row.get(29)? })?
        }
        "cancelled" => finished(row, Outcome::Cancelled { cause: cancel_cause(row)?, message: row.get(28)? })?,
        unknown => return Err(broken(20, format!("unknown state {unknown:?}"))),
    })
}

fn finished(row: &Row<'_>, outcome: Outcome) -> rusqlite::Result<State> {
    Ok(State::Finished { outcome, at: required_instant_at(row, 22)?, lease: lease(row)? })
}

fn lease(row: &Row<'_>) -> rusqlite::Result<Option<Lease>> {
    let Some(secret) = row.get(23)? else { return Ok(None) };
    Ok(Some(Lease {
        secret: SecretHash(secret),
        fencing_token: Revision(row.get(24)?),
        ttl: Duration::from_millis(row.get(25)?),
        holder: LeaseHolder::from_stored(row.get(26)?),
    }))
}

fn failure_cause(row: &Row<'_>) -> rusqlite::Result<FailureCause> {
    let code: String = row.get(27)?;
    columns::failure_cause(&code).ok_or_else(|| broken(27, format!("unknown cause {code:?}")))
}

fn cancel_cause(row: &Row<'_>) -> rusqlite::Result<CancelCause> {
    let code: String = row.get(27)?;
    columns::cancel_cause(&code, id_at(row, 30)?).ok_or_else(|| broken(27, format!("unknown cause {code:?}")))
}

impl Written<'_> {
    fn bind_signs_of_life(&self, statement: &mut Statement<'_>) -> rusqlite::Result<()> {
        #[rustfmt::skip]
        let Deployment {
            pulse, progress, message, phase, cancel, event_count, report_count, logs, last_heartbeat_at, ..
        } = self.deployment;
        let LogAccount { total_bytes, head_end_seq, trimmed_at_bytes } = logs;
        statement.raw_bind_parameter(1, self.window_ms)?;
        statement.raw_bind_parameter(2, pulse)?;
        statement.raw_bind_parameter(3, progress)?;
        statement.raw_bind_parameter(4, event_count)?;
        statement.raw_bind_parameter(5, last_heartbeat_at.map(Timestamp::as_millisecond))?;
        statement.raw_bind_parameter(6, cancel.as_ref().map(|cancel| cancel.at.as_millisecond()))?;
        statement.raw_bind_parameter(7, cancel.as_ref().and_then(|cancel| cancel.reason.as_deref()))?;
        let superseded_by = cancel.as_ref().and_then(|cancel| cancel.superseded_by.as_ref());
        statement.raw_bind_parameter(8, superseded_by.map(|by| by.id.as_bytes()))?;
        statement.raw_bind_parameter(9, total_bytes)?;
        statement.raw_bind_parameter(10, head_end_seq)?;
        statement.raw_bind_parameter(11, trimmed_at_bytes)?;
        statement.raw_bind_parameter(12, message.as_deref())?;
        statement.raw_bind_parameter(13, phase.as_deref())?;
        statement.raw_bind_parameter(14, &self.outputs)?;
        statement.raw_bind_parameter(15, report_count)?;
        let named = superseded_by.and_then(|by| by.named.as_ref());
        statement.raw_bind_parameter(16, named.map(to_json).transpose()?)?;
        statement.raw_bind_parameter(17, self.rollbacks.as_deref())?;
        let by = cancel.as_ref().and_then(|cancel| cancel.by.as_ref());
        statement.raw_bind_parameter(18, by.map(to_json).transpose()?)
    }

    fn bind_slot(&self, statement: &mut Statement<'_>) -> rusqlite::Result<()> {
        statement.raw_bind_parameter(19, self.deployment.revision.0)?;
        statement.raw_bind_parameter(20, self.state)?;
        statement.raw_bind_parameter(21, self.deployment.started_at.map(Timestamp::as_millisecond))?;
        statement.raw_bind_parameter(22, self.ended_at)?;
        statement.raw_bind_parameter(23, self.lease.map(|lease| lease.secret.0))?;
        statement.raw_bind_parameter(24, self.lease.map(|lease| lease.fencing_token.0))?;
        statement.raw_bind_parameter(25, self.lease.map(|lease| millis(lease.ttl)))?;
        statement.raw_bind_parameter(26, self.lease.map(|lease| lease.holder.as_stored()))?;
        statement.raw_bind_parameter(27, self.cause)?;
        statement.raw_bind_parameter(28, self.cause_message)?;
        statement.raw_bind_parameter(29, self.cause_phase)?;
        statement.raw_bind_parameter(30, self.superseded_by.as_ref().map(DeploymentId::as_bytes))?;
        statement.raw_bind_parameter(31, self.deployment.released_by.as_ref().map(to_json).transpose()?)
    }
}

/// Runs [`INSERT_DEPLOYMENT`].
pub(super) fn insert_deployment(
    statement: &mut Statement<'_>,
    deployment: &Deployment,
    project: i64,
) -> rusqlite::Result<()> {
    let written = Written::of(deployment).map_err(unwritable)?;
    #[rustfmt::skip]
    let Deployment {
        id, project: _, number, spec, ticket, created_at,
        // These are bound by `Written`.
        state: _, revision: _, pulse: _, progress: _, message: _, phase: _, outputs: _, rollbacks: _, cancel: _, released_by: _,
        event_count: _, report_count: _, logs: _, started_at: _, last_heartbeat_at: _,
        // This is bound by its rank.
        line_rank: _,
    } = deployment;
    written.bind_signs_of_life(statement)?;
    written.bind_slot(statement)?;
    statement.raw_bind_parameter(32, id.as_bytes())?;
    statement.raw_bind_parameter(33, project)?;
    statement.raw_bind_parameter(34, ticket.0)?;
    statement.raw_bind_parameter(35, columns::executor_word(spec.executor))?;
    statement.raw_bind_parameter(36, created_at.as_millisecond())?;
    statement.raw_bind_parameter(37, to_json(spec)?)?;
    statement.raw_bind_parameter(38, deployment.rank())?;
    statement.raw_bind_parameter(39, number)?;
    statement.raw_execute().map(|_| ())
}

/// Runs [`UPDATE_DEPLOYMENT`].
pub(super) fn update_deployment(
    statement: &mut Statement<'_>,
    deployment: &Deployment,
    number: i64,
) -> rusqlite::Result<()> {
    let written = Written::of(deployment).map_err(unwritable)?;
    written.bind_signs_of_life(statement)?;
    written.bind_slot(statement)?;
    statement.raw_bind_parameter(32, number)?;
    statement.raw_execute().map(|_| ())
}

/// Runs [`UPDATE_SIGNS_OF_LIFE`].
pub(super) fn update_signs_of_life(
    statement: &mut Statement<'_>,
    deployment: &Deployment,
    number: i64,
) -> rusqlite::Result<()> {
    Written::of(deployment).map_err(unwritable)?.bind_signs_of_life(statement)?;
    statement.raw_bind_parameter(19, number)?;
    statement.raw_execute().map(|_| ())
}

/// Runs [`INSERT_EVENT`].
pub(super) fn insert_event(
    statement: &mut Statement<'_>,
    deployment: i64,
    event: &Event,
    log_end_bytes: Option<u64>,
) -> rusqlite::Result<()> {
    let Event { seq, at, body } = event;
    // The type has a column of its own, too, so that the schema can tell output from other events.
    let kind = body.kind();
    statement.execute(params![deployment, seq, at.as_millisecond(), kind, log_end_bytes, to_json(body)?])?;
    Ok(())
}

/// Reads the columns by which the reaper judges.
pub(super) fn watched(row: &Row<'_>) -> rusqlite::Result<Watched> {
    let spec = match row.get_ref(11)? {
        ValueRef::Null => JudgedSpec::default(),
        _ => json_at(row, 11)?,
    };
    let executor: String = row.get(6)?;
    let state = match row.get_ref(4)?.as_str().map_err(|error| broken(4, error))? {
        "waiting" => State::Waiting(match row.get(5)? {
            Some(window_ms) => Place::Ticket { window: Duration::from_millis(window_ms) },
            None => Place::Queued,
        }),
        "reserved" => State::Reserved,
        "ready" => State::Ready,
        "running" => State::Running(Lease {
            secret: SecretHash(row.get(7)?),
            fencing_token: Revision(row.get(8)?),
            ttl: Duration::from_millis(row.get(9)?),
            holder: LeaseHolder::from_stored(row.get(10)?),
        }),
        unknown => return Err(broken(4, format!("unknown state {unknown:?}"))),
    };
    Ok(Watched {
        project: name_at(row, 0)?,
        id: required_id_at(row, 1)?,
        vital: Vital { revision: Revision(row.get(2)?), pulse: row.get(3)? },
        executor: columns::executor(&executor).ok_or_else(|| broken(6, format!("unknown executor {executor:?}")))?,
        deadline: spec.deadline().filter(|_| matches!(state, State::Waiting(_))),
        claim_within: spec.claim_within().filter(|_| state == State::Ready),
        state,
    })
}

/// The name of a row that cannot be read, by the id in this column.
pub(super) fn row_of(row: &Row<'_>, id_column: usize) -> String {
    match required_id_at(row, id_column) {
        Ok(id) => format!("deployment {id}"),
        Err(_) => "a deployment without an id".to_owned(),
    }
}

/// Reads `seq, at, body`.
pub(super) fn event(row: &Row<'_>) -> rusqlite::Result<Event> {
    Ok(Event { seq: row.get(0)?, at: required_instant_at(row, 1)?, body: json_at(row, 2)? })
}

pub(super) fn name_at(row: &Row<'_>, column: usize) -> rusqlite::Result<ProjectName> {
    row.get_ref(column)?.as_str().map_err(|error| broken(column, error))?.parse().map_err(|error| broken(column, error))
}

pub(super) fn required_id_at(row: &Row<'_>, column: usize) -> rusqlite::Result<DeploymentId> {
    row.get(column).map(DeploymentId::from_bytes)
}

pub(super) fn json_at<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(|error| broken(column, error))?;
    serde_json::from_str(text).map_err(|error| broken(column, error))
}

pub(super) fn id_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<DeploymentId>> {
    Ok(row.get::<_, Option<[u8; 16]>>(column)?.map(DeploymentId::from_bytes))
}

pub(super) fn json_or_none<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    match row.get_ref(column)? {
        ValueRef::Null => Ok(None),
        _ => json_at(row, column).map(Some),
    }
}

pub(super) fn required_instant_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_millisecond(row.get(column)?).map_err(|error| broken(column, error))
}

pub(super) fn instant_at(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    match Option::<i64>::column_result(row.get_ref(column)?)? {
        Some(millisecond) => Timestamp::from_millisecond(millisecond).map(Some).map_err(|error| broken(column, error)),
        None => Ok(None),
    }
}

fn to_json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(unwritable)
}

fn unwritable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// The error for a column whose value is not one that this version writes there.
pub(super) fn broken(column: usize, error: impl Into<Box<dyn Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, error.into())
}
