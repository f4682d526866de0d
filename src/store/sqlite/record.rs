//! The work inside a transaction: loading the data that a decision needs, and recording the decision.

use std::{collections::BTreeMap, sync::Arc};

use rusqlite::{Connection, OptionalExtension, Row, Statement, params};

use super::{
    reads,
    rows::{self, deployment_columns},
};
use crate::{
    model::{
        Changes, Deployment, DeploymentId, Edges, LineLoad, Load, Loaded, Project, ProjectName, RecentRun, Revision,
        Step,
        slot::{AuditEntry, KeyRecord, Keyed},
    },
    store::{columns::written_rows, notifications::after},
};

/// The deployments in line with a lower `order` than this.
pub(super) const LINE_BELOW: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    " FROM deployments AS d WHERE d.project = ?1 AND d.state = 'waiting' AND d.spec ->> '$.order' < ?2"
);

/// The deployment with the highest `order`, if that is higher than this. A declared rollback is not judged by its own.
pub(super) const LINE_ABOVE: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    " FROM deployments AS d WHERE d.project = ?1 AND d.state = 'waiting' AND d.spec ->> '$.order' > ?2 \
     AND d.spec ->> '$.rollback' = 0 ORDER BY d.spec ->> '$.order' DESC LIMIT 1"
);

// The columns of the key stand behind the deployment's.
pub(super) const KEYED: &str = concat!(
    "SELECT ",
    deployment_columns!(),
    ", k.fingerprint FROM idempotency_keys AS k JOIN deployments AS d ON d.number = k.deployment \
     WHERE k.project = ?1 AND k.key = ?2"
);

const INSERT_KEY: &str = "INSERT INTO idempotency_keys (project, key, fingerprint, deployment) VALUES (?1, ?2, ?3, ?4)";

const INSERT_AUDIT: &str = "INSERT INTO audit (at, project, action, deployment, detail, caller, address, request) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

const INSERT_NOTIFICATION: &str = "INSERT INTO notifications (id, rule, event, project, deployment, lane, detail, at, due_at) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

pub(super) const TRIM: &str =
    "DELETE FROM events WHERE deployment = ?1 AND seq > ?2 AND type = 'log' AND log_end_bytes <= ?3";

/// The statements of the writer's connection, prepared once.
pub(super) struct Recorder<'c> {
    project_number: Statement<'c>,
    project: Statement<'c>,
    holder: Statement<'c>,
    line: Statement<'c>,
    line_below: Statement<'c>,
    line_above: Statement<'c>,
    by_id: Statement<'c>,
    keyed: Statement<'c>,
    held: Statement<'c>,
    insert_project: Statement<'c>,
    update_project: Statement<'c>,
    update_counters: Statement<'c>,
    insert_deployment: Statement<'c>,
    update_deployment: Statement<'c>,
    update_signs_of_life: Statement<'c>,
    put_ahead: Statement<'c>,
    seal: Statement<'c>,
    insert_event: Statement<'c>,
    insert_key: Statement<'c>,
    insert_audit: Statement<'c>,
    insert_notification: Statement<'c>,
    trim: Statement<'c>,
    /// New projects begin above it.
    floor: Revision,
}

/// Where the loaded rows are, so that recording need not search them again.
#[derive(Debug, Default)]
pub(super) struct Located {
    project: Option<i64>,
    /// Whether the project's counters were loaded with it.
    counted: bool,
    /// The project's recent runs as they were loaded.
    recent_runs: Option<Arc<Vec<RecentRun>>>,
    deployments: BTreeMap<DeploymentId, LocatedDeployment>,
}

#[derive(Clone, Copy, Debug)]
struct LocatedDeployment {
    number: i64,
    /// Its revision when it was loaded.
    revision: Revision,
}

impl<'c> Recorder<'c> {
    pub(super) fn prepare(db: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Recorder {
            project_number: db.prepare("SELECT number FROM projects WHERE name = ?1")?,
            project: db.prepare(reads::PROJECT)?,
            holder: db.prepare(reads::HOLDER)?,
            line: db.prepare(reads::LINE)?,
            line_below: db.prepare(LINE_BELOW)?,
            line_above: db.prepare(LINE_ABOVE)?,
            by_id: db.prepare(reads::BY_ID)?,
            keyed: db.prepare(KEYED)?,
            held: db.prepare(reads::HELD)?,
            insert_project: db.prepare(rows::INSERT_PROJECT)?,
            update_project: db.prepare(rows::UPDATE_PROJECT)?,
            update_counters: db.prepare(rows::UPDATE_PROJECT_COUNTERS)?,
            insert_deployment: db.prepare(rows::INSERT_DEPLOYMENT)?,
            update_deployment: db.prepare(rows::UPDATE_DEPLOYMENT)?,
            update_signs_of_life: db.prepare(rows::UPDATE_SIGNS_OF_LIFE)?,
            put_ahead: db.prepare(rows::PUT_AHEAD)?,
            seal: db.prepare(rows::SEAL)?,
            insert_event: db.prepare(rows::INSERT_EVENT)?,
            insert_key: db.prepare(INSERT_KEY)?,
            insert_audit: db.prepare(INSERT_AUDIT)?,
            insert_notification: db.prepare(INSERT_NOTIFICATION)?,
            trim: db.prepare(TRIM)?,
            floor: Revision(db.query_row("SELECT revision FROM revision_floor", [], |row| row.get(0))?),
        })
    }

    /// Reads again from which revision on new projects begin. It never falls.
    pub(super) fn look_at_floor(&mut self, db: &Connection) {
        match db.query_row("SELECT revision FROM revision_floor", [], |row| row.get(0)) {
            Ok(revision) => self.floor = Revision(revision),
            Err(error) => tracing::error!(%error, "the store cannot read its lowest revision"),
        }
    }

    /// Exactly what `load` asks for.
    pub(super) fn load(&mut self, name: &ProjectName, load: &Load) -> rusqlite::Result<(Loaded, Located)> {
        let mut loaded = Loaded::nothing(name);
        let mut located = Located { counted: load.line != LineLoad::None, ..Located::default() };
        if let Some(holder) = &load.held_by {
            loaded.held = self.held.query_row([holder.as_stored()], |row| rows::required_id_at(row, 1)).optional()?;
        }
        if located.counted {
            let read = |row: &Row<'_>| Ok((row.get::<_, i64>(0)?, rows::project(row, name)?));
            if let Some((number, project)) = self.project.query_row([name.as_str()], read).optional()? {
                located.project = Some(number);
                located.recent_runs = Some(project.recent_runs.clone());
                loaded.project = project;
            }
        } else {
            located.project = self.project_number.query_row([name.as_str()], |row| row.get(0)).optional()?;
        }
        let Some(project) = located.project else {
            loaded.project.revision = self.floor;
            return Ok((loaded, located));
        };

        if located.counted {
            loaded.holder = self.holder.query_row([project], |row| located.note(row, name)).optional()?;
        }
        for id in &load.deployments {
            // Mostly the holder is the one that is asked for.
            if let Some(holder) = loaded.holder.as_ref().filter(|holder| holder.id == *id) {
                loaded.deployments.push(holder.clone());
                continue;
            }
            let read = |row: &Row<'_>| located.note(row, name);
            loaded.deployments.extend(self.by_id.query_row(params![id.as_bytes(), project], read).optional()?);
        }
        if let Some(key) = &load.key {
            let read = |row: &Row<'_>| {
                let fingerprint = row.get(rows::DEPLOYMENT_COLUMN_COUNT)?;
                Ok(Keyed { fingerprint, deployment: located.note(row, name)? })
            };
            loaded.keyed = self.keyed.query_row(params![project, key.as_str()], read).optional()?;
        }
        // Mostly the line is empty, and the counters say so.
        if loaded.project.waiting_count > 0 {
            loaded.line = match load.line {
                LineLoad::None => Vec::new(),
                LineLoad::Head => self.line(project, 1, name, &mut located)?,
                LineLoad::Edges(edges) => self.edges(project, edges, name, loaded.holder.as_ref(), &mut located)?,
                LineLoad::All => self.line(project, i64::MAX, name, &mut located)?,
            };
        }
        Ok((loaded, located))
    }

    fn line(
        &mut self,
        project: i64,
        limit: i64,
        name: &ProjectName,
        located: &mut Located,
    ) -> rusqlite::Result<Vec<Deployment>> {
        self.line.query_map([project, limit], |row| located.note(row, name))?.collect()
    }

    /// The head of the line, and the part of the line that matters to a deployment that starts or joins its end.
    fn edges(
        &mut self,
        project: i64,
        Edges { is_start, above }: Edges,
        name: &ProjectName,
        holder: Option<&Deployment>,
        located: &mut Located,
    ) -> rusqlite::Result<Vec<Deployment>> {
        let starting = holder.filter(|holder| is_start && holder.started_at.is_none());
        if starting.is_some_and(|starting| starting.line_rank.is_some()) {
            return self.line(project, i64::MAX, name, located);
        }
        let mut line = self.line(project, 1, name, located)?;
        let read = |row: &Row<'_>| located.note(row, name);
        if let Some(order) = starting.and_then(|starting| starting.spec.order) {
            let below = self.line_below.query_map(params![project, order], read)?;
            line.extend(below.collect::<rusqlite::Result<Vec<_>>>()?);
        }
        if let Some(order) = above {
            let read = |row: &Row<'_>| located.note(row, name);
            line.extend(self.line_above.query_row(params![project, order], read).optional()?);
        }
        Ok(line)
    }

    /// Writes the changes that were decided.
    pub(super) fn record(
        &mut self,
        db: &Connection,
        name: &ProjectName,
        located: &mut Located,
        changes: &Changes,
    ) -> rusqlite::Result<()> {
        let Changes { is_pause_changed: _, project, steps, key, sealed, audit, notifications } = changes;
        if let Some(project) = project {
            if !located.counted {
                return Err(mistaken("a decision changed the counters of a project that it did not load"));
            }
            match located.project {
                Some(number) if located.has_same_runs(project) => {
                    rows::write_counters(&mut self.update_counters, project, number)?;
                }
                Some(number) => rows::write_project(&mut self.update_project, project, &number)?,
                None => {
                    rows::write_project(&mut self.insert_project, project, &name.as_str())?;
                    located.project = Some(db.last_insert_rowid());
                }
            }
        }
        for (after, created) in written_rows(steps) {
            self.write_deployment(db, located, after, created)?;
        }
        for step in steps {
            if step.is_put_ahead() && !step.is_creation() {
                let after = step.deployment();
                self.put_ahead.execute(params![after.rank(), located.number(after.id)?])?;
            }
            self.write_events(located.number(step.deployment().id)?, step)?;
        }
        if let Some((id, sealed)) = sealed {
            self.seal.execute(params![sealed, located.number(*id)?])?;
        }
        if let Some(KeyRecord { key, fingerprint, deployment }) = key {
            let (project, number) = (located.project, located.number(*deployment)?);
            self.insert_key.execute(params![project, key.as_str(), fingerprint, number])?;
        }
        for AuditEntry { at, action, caller, deployment, detail } in audit {
            let deployment = deployment.as_ref().map(DeploymentId::as_bytes);
            let (address, at) = (caller.address.map(|address| address.to_string()), at.as_millisecond());
            let (who, request) = (caller.identity.to_string(), caller.request.as_ref().map(ToString::to_string));
            let row = params![at, name.as_str(), action, deployment, detail, who, address, request];
            self.insert_audit.execute(row)?;
        }
        for new in notifications {
            self.insert_notification.execute(params![
                new.id.as_str(),
                new.rule,
                new.event.as_str(),
                name.as_str(),
                new.deployment.as_ref().map(DeploymentId::as_bytes),
                new.lane(),
                new.detail,
                new.at.as_millisecond(),
                after(new.at, new.delay).as_millisecond(),
            ])?;
        }
        Ok(())
    }

    fn write_deployment(
        &mut self,
        db: &Connection,
        located: &mut Located,
        after: &Deployment,
        created: bool,
    ) -> rusqlite::Result<()> {
        if created {
            let project = located.project.ok_or_else(|| mistaken("a deployment of a project that is not there"))?;
            rows::insert_deployment(&mut self.insert_deployment, after, project)?;
            let number = db.last_insert_rowid();
            located.deployments.insert(after.id, LocatedDeployment { number, revision: after.revision });
            return Ok(());
        }
        let before = located.find(after.id)?;
        if before.revision == after.revision {
            rows::update_signs_of_life(&mut self.update_signs_of_life, after, before.number)
        } else {
            rows::update_deployment(&mut self.update_deployment, after, before.number)
        }
    }

    fn write_events(&mut self, deployment: i64, step: &Step) -> rusqlite::Result<()> {
        for (event, log_end) in step.events_with_log_end() {
            let log_end_bytes = event.body.is_log().then_some(log_end);
            rows::insert_event(&mut self.insert_event, deployment, event, log_end_bytes)?;
        }
        if let Some(trim) = step.trim() {
            self.trim.execute(params![deployment, trim.after_seq, trim.up_to_bytes])?;
        }
        Ok(())
    }
}

impl Located {
    /// Reads a deployment and remembers where it is.
    fn note(&mut self, row: &Row<'_>, name: &ProjectName) -> rusqlite::Result<Deployment> {
        let deployment = rows::deployment(row, name)?;
        let located = LocatedDeployment { number: row.get(0)?, revision: deployment.revision };
        self.deployments.insert(deployment.id, located);
        Ok(deployment)
    }

    /// Whether the project's recent runs are the very ones that were loaded.
    fn has_same_runs(&self, project: &Project) -> bool {
        self.recent_runs.as_ref().is_some_and(|loaded| Arc::ptr_eq(loaded, &project.recent_runs))
    }

    fn find(&self, id: DeploymentId) -> rusqlite::Result<LocatedDeployment> {
        let found = self.deployments.get(&id);
        found.copied().ok_or_else(|| mistaken("a decision changed a deployment that it did not load"))
    }

    fn number(&self, id: DeploymentId) -> rusqlite::Result<i64> {
        self.find(id).map(|located| located.number)
    }
}

/// The error for a decision that cannot be recorded because of a mistake in the program.
fn mistaken(what: &'static str) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(what.into())
}
