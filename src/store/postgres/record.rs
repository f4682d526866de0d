//! The statements inside a transaction: the queries that load what a decision needs, and the statements that record the
//! decision.

use std::collections::BTreeMap;

use tokio_postgres::Row;

use super::{
    fault::DatabaseFault,
    rows::{self, SeenRow},
    session::{BoundStatement, call},
    statements::{DEPLOYMENT_COLUMN_COUNT, PROJECT_COLUMN_COUNT, Sql},
    text,
};
use crate::{
    model::{
        Changes, Deployment, DeploymentId, Edges, LineLoad, Load, Loaded, Project, ProjectName, Revision, Step,
        slot::{AuditEntry, KeyRecord, Keyed},
    },
    store::columns::written_rows,
};

/// The queries of a load, without the lock before them: the deployments asked for by name, the line, and a holder's
/// deployment.
pub(super) fn load(name: &ProjectName, load: &Load) -> Result<Vec<BoundStatement>, DatabaseFault> {
    let text = || name.as_str().to_owned();
    let mut calls = Vec::with_capacity(4);
    match load.deployments.as_slice() {
        [] => {}
        [id] => calls.push(call!(Sql::ById, text(), rows::uuid(*id))),
        ids => calls.push(call!(Sql::ByIds, text(), ids.iter().map(|id| rows::uuid(*id)).collect::<Vec<_>>())),
    }
    if let Some(key) = &load.key {
        calls.push(call!(Sql::Keyed, text(), key.as_str().to_owned()));
    }
    match load.line {
        LineLoad::None => {}
        LineLoad::Head => calls.push(call!(Sql::Head, text())),
        LineLoad::Edges(Edges { is_start, above }) => {
            calls.push(call!(Sql::Edges, text(), is_start, above.map(rows::signed).transpose()?));
        }
        LineLoad::All => calls.extend([call!(Sql::Line, text(), i64::MAX), call!(Sql::Holder, text())]),
    }
    if let Some(holder) = &load.held_by {
        // Last, and after the project's lock: a transaction that waits here already holds every other lock, so no two
        // wait for each other.
        let holder = text::escaped(holder.as_stored());
        calls.extend([call!(Sql::HolderTurn, holder.clone()), call!(Sql::Held, holder)]);
    }
    Ok(calls)
}

/// The contents of the locked row.
pub(super) struct Locked {
    /// The project's counters, if they are readable, and its row's revision.
    pub(super) project: Result<(Project, Revision), DatabaseFault>,
    /// The schema's version.
    pub(super) version: Option<i32>,
    /// The transaction's number.
    pub(super) transaction: i64,
}

impl Locked {
    pub(super) fn of(row: &Row, name: &ProjectName) -> Result<Self, DatabaseFault> {
        Ok(Locked {
            project: rows::project(row, name).and_then(|mut project| {
                let seen = project.revision;
                if seen == Revision(0) {
                    // The row was only made to be locked, so the project begins where new projects do.
                    project.revision = Revision(rows::number(row, PROJECT_COLUMN_COUNT + 2)?);
                }
                Ok((project, seen))
            }),
            version: rows::get(row, PROJECT_COLUMN_COUNT)?,
            transaction: rows::get(row, PROJECT_COLUMN_COUNT + 1)?,
        })
    }
}

/// The loaded rows as they were seen, so that each write checks that they are unchanged.
#[derive(Debug, Default)]
pub(super) struct Sighted {
    project: Option<Revision>,
    deployments: BTreeMap<DeploymentId, SeenRow>,
}

/// Reads the answers to [`load`]'s calls.
pub(super) fn loaded(
    name: &ProjectName,
    load: &Load,
    project: Option<(Project, Revision)>,
    answers: Vec<Vec<Row>>,
) -> Result<(Loaded, Sighted), DatabaseFault> {
    let mut sighted = Sighted::default();
    let mut read = |row: &Row| -> Result<Deployment, DatabaseFault> {
        let deployment = rows::deployment(row, name)?;
        sighted.deployments.insert(deployment.id, SeenRow::of(&deployment));
        Ok(deployment)
    };
    let mut answers = answers.into_iter();
    let mut next = || answers.next().unwrap_or_default();
    let mut loaded = Loaded::nothing(name);
    if !load.deployments.is_empty() {
        let found = next().iter().map(&mut read).collect::<Result<Vec<_>, _>>()?;
        let in_order = load.deployments.iter().filter_map(|id| found.iter().find(|it| it.id == *id));
        loaded.deployments = in_order.cloned().collect();
    }
    if load.key.is_some()
        && let Some(row) = next().first()
    {
        let fingerprint = rows::get::<&[u8]>(row, DEPLOYMENT_COLUMN_COUNT)?;
        let fingerprint =
            fingerprint.try_into().map_err(|_| DatabaseFault::Row("a fingerprint is no SHA-256".to_owned()))?;
        loaded.keyed = Some(Keyed { fingerprint, deployment: read(row)? });
    }
    if load.line != LineLoad::None {
        let mut found = next();
        if load.line == LineLoad::All {
            found.extend(next());
        }
        for row in &found {
            let deployment = read(row)?;
            if deployment.is_waiting() {
                loaded.line.push(deployment);
            } else {
                loaded.holder = Some(deployment);
            }
        }
        if let Some((project, seen)) = project {
            sighted.project = Some(seen);
            loaded.project = project;
        }
    }
    if load.held_by.is_some() {
        // The first of the two answers belongs to the wait.
        let (_, held) = (next(), next());
        loaded.held = held.first().map(|row| rows::id(row, 0)).transpose()?;
    }
    Ok((loaded, sighted))
}

/// The calls that write the decision.
pub(super) fn calls(
    name: &ProjectName,
    sighted: &Sighted,
    changes: &Changes,
) -> Result<Vec<BoundStatement>, DatabaseFault> {
    let Changes { is_pause_changed: _, project, steps, key, sealed, audit, notifications } = changes;
    let mut calls = Vec::new();
    if let Some(project) = project {
        let seen = sighted
            .project
            .ok_or(DatabaseFault::Mistaken("a decision changed the counters of a project that it did not load"))?;
        calls.push(rows::update_project(project, seen)?);
    }
    for (after, is_created) in written_rows(steps) {
        calls.push(if is_created {
            rows::insert_deployment(after)?
        } else {
            let seen = sighted.deployments.get(&after.id);
            let seen = seen.ok_or(DatabaseFault::Mistaken("a decision changed a deployment that it did not load"))?;
            rows::update_deployment(after, *seen)?
        });
    }
    calls.extend(rows::insert_events(steps)?);
    for (step, trim) in steps.iter().filter_map(|step| step.trim().map(|trim| (step, trim))) {
        let (after, up_to) = (rows::signed(trim.after_seq)?, rows::signed(trim.up_to_bytes)?);
        calls.push(call!(Sql::Trim, rows::uuid(step.deployment().id), after, up_to));
    }
    for after in steps.iter().filter(|step| step.is_put_ahead() && !step.is_creation()).map(Step::deployment) {
        calls.push(call!(Sql::PutAhead, rows::uuid(after.id), after.rank()));
    }
    if let Some((id, sealed)) = sealed {
        calls.push(call!(Sql::Seal, rows::uuid(*id), sealed.clone()));
    }
    if let Some(KeyRecord { key, fingerprint, deployment }) = key {
        let (key, fingerprint) = (key.as_str().to_owned(), fingerprint.to_vec());
        calls.push(call!(Sql::InsertKey, name.as_str().to_owned(), key, fingerprint, rows::uuid(*deployment)));
    }
    for AuditEntry { at, action, caller, deployment, detail } in audit {
        let (at, name, deployment) = (at.as_millisecond(), name.as_str().to_owned(), deployment.map(rows::uuid));
        let who = text::escaped(&caller.identity.to_string());
        let address = caller.address.map(|address| address.to_string());
        let (detail, request) = (text::escaped(detail), caller.request.as_ref().map(ToString::to_string));
        calls.push(call!(Sql::InsertAudit, at, name, *action, deployment, detail, who, address, request));
    }
    calls.extend(rows::insert_notifications(name, notifications));
    Ok(calls)
}
