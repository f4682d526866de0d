//! Converts rows to the model and back. Every field of the model has its column here. Full destructuring makes the
//! compiler report a forgotten new field.

use std::{collections::BTreeMap, fmt::Display, time::Duration};

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use tokio_postgres::{Row, types::FromSql};
use uuid::Uuid;

use super::{
    fault::DatabaseFault,
    session::{BoundStatement, Param, call},
    statements::Sql,
    text::{escaped, unescaped},
};
use crate::{
    model::{
        CancelRequest, Deployment, DeploymentId, Event, Lease, LeaseHolder, LogAccount, Mention, NewNotification,
        Outcome, Party, Place, Project, ProjectName, Revision, SecretHash, Spec, StartedOrder, State, Step, Vital,
        order::ordinary_order,
    },
    store::{
        Watched,
        blocks::StoredBlock,
        columns::{self, JudgedSpec, Written, millis},
    },
};

/// Reads a project's columns.
pub(super) fn project(row: &Row, name: &ProjectName) -> Result<Project, DatabaseFault> {
    let last_started = match (number_or_none(row, 3)?, id_or_none(row, 4)?) {
        (Some(order), Some(id)) => {
            let deployment = Mention { project: name.clone(), id, named: json_or_none(row, 9)? };
            Some(StartedOrder { order, deployment })
        }
        (None, _) | (_, None) => None,
    };
    Ok(Project {
        name: name.clone(),
        revision: Revision(number(row, 1)?),
        deployment_count: number(row, 8)?,
        waiting_count: number(row, 2)?,
        last_started,
        preempted_count: narrow(number(row, 5)?, 5)?,
        recent_runs: columns::recent_runs_from_json(get(row, 6)?).map_err(|error| broken(6, error))?.into(),
        last_outcome: id_or_none(row, 7)?,
        last_success: id_or_none(row, 10)?,
        pause: json_or_none(row, 11)?,
        set_mark: json_or_none(row, 12)?,
    })
}

/// Writes a project's counters, if its revision is still `seen`.
pub(super) fn update_project(project: &Project, seen: Revision) -> Result<BoundStatement, DatabaseFault> {
    #[rustfmt::skip]
    let Project {
        name, revision, deployment_count, waiting_count, last_started, preempted_count, recent_runs, last_outcome,
        last_success, pause, set_mark,
    } = project;
    let last_started = last_started.as_ref();
    Ok(call!(
        Sql::UpdateProject,
        name.as_str().to_owned(),
        signed(seen.0)?,
        signed(revision.0)?,
        signed(*waiting_count)?,
        last_started.map(|last| signed(last.order)).transpose()?,
        last_started.map(|last| uuid(last.deployment.id)),
        i64::from(*preempted_count),
        columns::recent_runs_to_json(recent_runs).map_err(unwritable)?,
        last_outcome.map(uuid),
        signed(*deployment_count)?,
        named_text(last_started.map(|last| &last.deployment))?,
        last_success.map(uuid),
        pause.as_ref().map(serde_json::to_string).transpose().map_err(unwritable)?,
        set_mark.as_ref().map(serde_json::to_string).transpose().map_err(unwritable)?,
    ))
}

/// Reads a deployment's columns.
pub(super) fn deployment(row: &Row, project: &ProjectName) -> Result<Deployment, DatabaseFault> {
    let cancel = match instant_or_none(row, 9)? {
        Some(at) => {
            let named = json_or_none(row, 33)?;
            let superseded_by = id_or_none(row, 11)?.map(|id| Mention { project: project.clone(), id, named });
            Some(CancelRequest { at, reason: text_or_none(row, 10)?, superseded_by, by: json_or_none(row, 35)? })
        }
        None => None,
    };
    let outputs = match get::<&str>(row, 17)? {
        "{}" => BTreeMap::new(),
        _ => json(row, 17)?,
    };
    Ok(Deployment {
        id: id(row, 0)?,
        project: project.clone(),
        number: number(row, 32)?,
        spec: json::<Spec>(row, 3)?,
        state: state(row)?,
        ticket: Revision(number(row, 1)?),
        line_rank: get(row, 31)?,
        revision: Revision(number(row, 18)?),
        pulse: number(row, 5)?,
        progress: narrow(get::<i16>(row, 6)?, 6)?,
        message: text_or_none(row, 15)?,
        phase: text_or_none(row, 16)?,
        outputs,
        rollbacks: json_or_none(row, 34)?,
        cancel,
        released_by: json_or_none(row, 36)?,
        event_count: number(row, 7)?,
        report_count: number(row, 30)?,
        logs: LogAccount {
            total_bytes: number(row, 12)?,
            head_end_seq: number(row, 13)?,
            trimmed_at_bytes: number(row, 14)?,
        },
        created_at: instant(row, 2)?,
        started_at: instant_or_none(row, 20)?,
        last_heartbeat_at: instant_or_none(row, 8)?,
    })
}

fn state(row: &Row) -> Result<State, DatabaseFault> {
    Ok(match get::<&str>(row, 19)? {
        "waiting" => State::Waiting(match number_or_none(row, 4)? {
            Some(window_ms) => Place::Ticket { window: Duration::from_millis(window_ms) },
            None => Place::Queued,
        }),
        "reserved" => State::Reserved,
        "ready" => State::Ready,
        "running" => State::Running(lease(row)?.ok_or_else(|| broken(22, "a running deployment without a lease"))?),
        "succeeded" => finished(row, Outcome::Succeeded)?,
        "failed" => {
            let code = get(row, 26)?;
            let cause = columns::failure_cause(code).ok_or_else(|| broken(26, format!("unknown cause {code:?}")))?;
            finished(row, Outcome::Failed { cause, message: text(row, 27)?, phase: text_or_none(row, 28)? })?
        }
        "cancelled" => {
            let code = get(row, 26)?;
            let cause = columns::cancel_cause(code, id_or_none(row, 29)?);
            let cause = cause.ok_or_else(|| broken(26, format!("unknown cause {code:?}")))?;
            finished(row, Outcome::Cancelled { cause, message: text(row, 27)? })?
        }
        unknown => return Err(broken(19, format!("unknown state {unknown:?}"))),
    })
}

fn finished(row: &Row, outcome: Outcome) -> Result<State, DatabaseFault> {
    Ok(State::Finished { outcome, at: instant(row, 21)?, lease: lease(row)? })
}

fn lease(row: &Row) -> Result<Option<Lease>, DatabaseFault> {
    let Some(secret) = get::<Option<&[u8]>>(row, 22)? else { return Ok(None) };
    Ok(Some(Lease {
        secret: SecretHash(secret.try_into().map_err(|error| broken(22, error))?),
        fencing_token: Revision(number(row, 23)?),
        ttl: Duration::from_millis(number(row, 24)?),
        holder: LeaseHolder::from_stored(text(row, 25)?),
    }))
}

/// Reads the columns by which the reaper judges.
pub(super) fn watched(row: &Row) -> Result<Watched, DatabaseFault> {
    let spec = match get::<Option<&str>>(row, 12)? {
        None => JudgedSpec::default(),
        Some(_) => json(row, 12)?,
    };
    let executor = get(row, 6)?;
    let state = match get::<&str>(row, 4)? {
        "waiting" => State::Waiting(match number_or_none(row, 5)? {
            Some(window_ms) => Place::Ticket { window: Duration::from_millis(window_ms) },
            None => Place::Queued,
        }),
        "reserved" => State::Reserved,
        "ready" => State::Ready,
        "running" => State::Running(Lease {
            secret: SecretHash(get::<&[u8]>(row, 7)?.try_into().map_err(|error| broken(7, error))?),
            fencing_token: Revision(number(row, 8)?),
            ttl: Duration::from_millis(number(row, 9)?),
            holder: LeaseHolder::from_stored(text(row, 10)?),
        }),
        unknown => return Err(broken(4, format!("unknown state {unknown:?}"))),
    };
    Ok(Watched {
        project: name(row, 0)?,
        id: id(row, 1)?,
        vital: Vital { revision: Revision(number(row, 2)?), pulse: number(row, 3)? },
        state,
        executor: columns::executor(executor).ok_or_else(|| broken(6, format!("unknown executor {executor:?}")))?,
        deadline: number_or_none(row, 11)?.map(Duration::from_secs),
        claim_within: spec.claim_within(),
    })
}

/// The name of an unreadable row, by the id in this column.
pub(super) fn row_of(row: &Row, id_column: usize) -> String {
    match id(row, id_column) {
        Ok(id) => format!("deployment {id}"),
        Err(_) => "a deployment without an id".to_owned(),
    }
}

/// Makes a deployment's row.
pub(super) fn insert_deployment(deployment: &Deployment) -> Result<BoundStatement, DatabaseFault> {
    let written = Written::of(deployment).map_err(unwritable)?;
    #[rustfmt::skip]
    let Deployment {
        id, project, number, spec, ticket, created_at,
        // The two functions below write these.
        state: _, revision: _, pulse: _, progress: _, message: _, phase: _, outputs: _, rollbacks: _, cancel: _, released_by: _,
        event_count: _, report_count: _, logs: _, started_at: _, last_heartbeat_at: _,
        // This is its place in line.
        line_rank: _,
    } = deployment;
    let mut params = signs_of_life(&written)?;
    params.extend(slot(&written)?);
    let identity: [Param; 10] = [
        Box::new(uuid(*id)),
        Box::new(project.as_str().to_owned()),
        Box::new(signed(ticket.0)?),
        Box::new(columns::executor_word(spec.executor)),
        Box::new(created_at.as_millisecond()),
        Box::new(serde_json::to_string(spec).map_err(unwritable)?),
        Box::new(spec.deadline_seconds.map(signed).transpose()?),
        Box::new(ordinary_order(spec).map(signed).transpose()?),
        Box::new(deployment.rank()),
        Box::new(signed(*number)?),
    ];
    params.extend(identity);
    Ok(BoundStatement { sql: Sql::InsertDeployment, params })
}

/// The values of a row that are compared again when it is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeenRow {
    pub(super) revision: Revision,
    pub(super) pulse: u64,
    pub(super) event_count: u64,
}

impl SeenRow {
    pub(super) fn of(deployment: &Deployment) -> Self {
        SeenRow { revision: deployment.revision, pulse: deployment.pulse, event_count: deployment.event_count }
    }
}

/// Writes the changes of a deployment, if it is still as it was seen.
pub(super) fn update_deployment(deployment: &Deployment, seen: SeenRow) -> Result<BoundStatement, DatabaseFault> {
    let written = Written::of(deployment).map_err(unwritable)?;
    let mut params = signs_of_life(&written)?;
    let sql = if seen.revision == deployment.revision {
        Sql::UpdateSignsOfLife
    } else {
        params.extend(slot(&written)?);
        Sql::UpdateDeployment
    };
    let SeenRow { revision, pulse, event_count } = seen;
    let guard: [Param; 4] = [
        Box::new(uuid(deployment.id)),
        Box::new(signed(revision.0)?),
        Box::new(signed(pulse)?),
        Box::new(signed(event_count)?),
    ];
    params.extend(guard);
    Ok(BoundStatement { sql, params })
}

fn signs_of_life(written: &Written<'_>) -> Result<Vec<Param>, DatabaseFault> {
    #[rustfmt::skip]
    let Deployment {
        pulse, progress, message, phase, cancel, event_count, report_count, logs, last_heartbeat_at, ..
    } = written.deployment;
    let LogAccount { total_bytes, head_end_seq, trimmed_at_bytes } = logs;
    let (cancelled_at, reason, superseded_by) = match cancel {
        Some(CancelRequest { at, reason, superseded_by, by: _ }) => {
            (Some(at), reason.as_deref(), superseded_by.as_ref())
        }
        None => (None, None, None),
    };
    Ok(vec![
        Box::new(written.window_ms.map(signed).transpose()?),
        Box::new(signed(*pulse)?),
        Box::new(i16::from(*progress)),
        Box::new(signed(*event_count)?),
        Box::new(last_heartbeat_at.map(Timestamp::as_millisecond)),
        Box::new(cancelled_at.map(|at| at.as_millisecond())),
        Box::new(reason.map(escaped)),
        Box::new(superseded_by.map(|by| uuid(by.id))),
        Box::new(signed(*total_bytes)?),
        Box::new(signed(*head_end_seq)?),
        Box::new(signed(*trimmed_at_bytes)?),
        Box::new(message.as_deref().map(escaped)),
        Box::new(phase.as_deref().map(escaped)),
        Box::new(written.outputs.clone()),
        Box::new(signed(*report_count)?),
        Box::new(named_text(superseded_by)?),
        Box::new(written.rollbacks.clone()),
        Box::new(party_text(cancel.as_ref().and_then(|cancel| cancel.by.as_ref()))?),
    ])
}

fn slot(written: &Written<'_>) -> Result<[Param; 13], DatabaseFault> {
    let lease = written.lease;
    Ok([
        Box::new(signed(written.deployment.revision.0)?),
        Box::new(written.state),
        Box::new(written.deployment.started_at.map(Timestamp::as_millisecond)),
        Box::new(written.ended_at),
        Box::new(lease.map(|lease| lease.secret.0.to_vec())),
        Box::new(lease.map(|lease| signed(lease.fencing_token.0)).transpose()?),
        Box::new(lease.map(|lease| signed(millis(lease.ttl))).transpose()?),
        Box::new(lease.map(|lease| escaped(lease.holder.as_stored()))),
        Box::new(written.cause),
        Box::new(written.cause_message.map(escaped)),
        Box::new(written.cause_phase.map(escaped)),
        Box::new(written.superseded_by.map(uuid)),
        Box::new(party_text(written.deployment.released_by.as_ref())?),
    ])
}

/// Writes the events of these steps, if there are any.
pub(super) fn insert_events(steps: &[Step]) -> Result<Option<BoundStatement>, DatabaseFault> {
    let (mut deployments, mut seqs, mut instants, mut kinds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut log_ends, mut bodies) = (Vec::new(), Vec::new());
    for step in steps {
        let id = uuid(step.deployment().id);
        for (Event { seq, at, body }, log_end) in step.events_with_log_end() {
            deployments.push(id);
            seqs.push(signed(*seq)?);
            instants.push(at.as_millisecond());
            // The type has a column of its own, so that the schema can tell output from other events.
            kinds.push(body.kind());
            log_ends.push(body.is_log().then(|| signed(log_end)).transpose()?);
            bodies.push(serde_json::to_string(body).map_err(unwritable)?);
        }
    }
    if bodies.is_empty() {
        return Ok(None);
    }
    Ok(Some(call!(Sql::InsertEvents, deployments, seqs, instants, kinds, log_ends, bodies)))
}

/// Reads `seq, at, body`.
/// The statement that adds these rows, if there are any.
pub(super) fn insert_notifications(project: &ProjectName, new: &[NewNotification]) -> Option<BoundStatement> {
    fn column<T>(new: &[NewNotification], value: impl FnMut(&NewNotification) -> T) -> Vec<T> {
        new.iter().map(value).collect()
    }
    if new.is_empty() {
        return None;
    }
    Some(call!(
        Sql::InsertNotifications,
        project.as_str().to_owned(),
        column(new, |new| new.id.to_string()),
        column(new, |new| new.rule.to_string()),
        column(new, |new| new.event.as_str()),
        column(new, |new| new.deployment.map(uuid)),
        column(new, NewNotification::lane),
        column(new, |new| new.detail.as_deref().map(escaped)),
        column(new, |new| new.at.as_millisecond()),
        column(new, |new| bigint_millis(new.delay)),
    ))
}

/// As it is written.
pub(super) fn bigint_millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn event(row: &Row) -> Result<Event, DatabaseFault> {
    Ok(Event { seq: number(row, 0)?, at: instant(row, 1)?, body: json(row, 2)? })
}

/// Reads `first_seq, last_seq, body`.
pub(super) fn block(row: &Row) -> Result<StoredBlock, DatabaseFault> {
    Ok(StoredBlock { first_seq: number(row, 0)?, last_seq: number(row, 1)?, body: get(row, 2)? })
}

pub(super) fn name(row: &Row, column: usize) -> Result<ProjectName, DatabaseFault> {
    get::<&str>(row, column)?.parse().map_err(|error| broken(column, error))
}

pub(super) fn id(row: &Row, column: usize) -> Result<DeploymentId, DatabaseFault> {
    get::<Uuid>(row, column).map(|uuid| DeploymentId::from_bytes(uuid.into_bytes()))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row, column: usize) -> Result<T, DatabaseFault> {
    serde_json::from_str(get(row, column)?).map_err(|error| broken(column, error))
}

pub(super) fn number(row: &Row, column: usize) -> Result<u64, DatabaseFault> {
    get::<i64>(row, column)?.try_into().map_err(|error| broken(column, error))
}

pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, DatabaseFault> {
    row.try_get(column).map_err(|error| broken(column, super::fault::told(&error)))
}

fn number_or_none(row: &Row, column: usize) -> Result<Option<u64>, DatabaseFault> {
    let number = get::<Option<i64>>(row, column)?;
    number.map(u64::try_from).transpose().map_err(|error| broken(column, error))
}

/// A value that people know a deployment by, if it was recorded beside its id.
pub(super) fn json_or_none<T: DeserializeOwned>(row: &Row, column: usize) -> Result<Option<T>, DatabaseFault> {
    match get::<Option<&str>>(row, column)? {
        Some(_) => json(row, column).map(Some),
        None => Ok(None),
    }
}

fn named_text(mention: Option<&Mention>) -> Result<Option<String>, DatabaseFault> {
    mention.and_then(|mention| mention.named.as_ref()).map(serde_json::to_string).transpose().map_err(unwritable)
}

fn party_text(party: Option<&Party>) -> Result<Option<String>, DatabaseFault> {
    party.map(serde_json::to_string).transpose().map_err(unwritable)
}

fn narrow<N, W: TryFrom<N>>(number: N, column: usize) -> Result<W, DatabaseFault>
where
    W::Error: Display,
{
    number.try_into().map_err(|error| broken(column, error))
}

pub(super) fn id_or_none(row: &Row, column: usize) -> Result<Option<DeploymentId>, DatabaseFault> {
    let uuid = get::<Option<Uuid>>(row, column)?;
    Ok(uuid.map(|uuid| DeploymentId::from_bytes(uuid.into_bytes())))
}

pub(super) fn instant(row: &Row, column: usize) -> Result<Timestamp, DatabaseFault> {
    Timestamp::from_millisecond(get(row, column)?).map_err(|error| broken(column, error))
}

pub(super) fn instant_or_none(row: &Row, column: usize) -> Result<Option<Timestamp>, DatabaseFault> {
    let millisecond = get::<Option<i64>>(row, column)?;
    millisecond.map(Timestamp::from_millisecond).transpose().map_err(|error| broken(column, error))
}

pub(super) fn text(row: &Row, column: usize) -> Result<String, DatabaseFault> {
    get(row, column).map(unescaped)
}

pub(super) fn text_or_none(row: &Row, column: usize) -> Result<Option<String>, DatabaseFault> {
    Ok(get::<Option<&str>>(row, column)?.map(unescaped))
}

pub(super) fn uuid(id: DeploymentId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// A number in the database's type. Our numbers never grow too large for it.
pub(super) fn signed(number: u64) -> Result<i64, DatabaseFault> {
    number.try_into().map_err(|_| DatabaseFault::Mistaken("a number is too large to be kept"))
}

fn unwritable(_: serde_json::Error) -> DatabaseFault {
    DatabaseFault::Mistaken("what was decided has no JSON form")
}

/// The fault for a column that does not contain the values that this version writes.
pub(super) fn broken(column: usize, error: impl Display) -> DatabaseFault {
    DatabaseFault::Row(format!("column {column}: {error}"))
}
