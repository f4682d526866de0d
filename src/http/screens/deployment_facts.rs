//! All that a deployment's screen tells, read from the store: the deployment, its course, its neighbours in the slot, and for
//! what it waited.

use jiff::Timestamp;

use super::{
    deployment_course::{COURSE_LIMIT, Course},
    deployment_wait::{self, KnownHold, Occupation, WaitPart, WaitReason},
    row::held,
    words::{escaped, plain},
};
use crate::{
    http::{App, answer, error::ErrorAnswer, line::StandingInLine},
    model::{CancelCause, Deployment, DeploymentId, Hold, Outcome, ProjectName, Revision, State},
    store::{AuditQuery, ListQuery, Placed, StoreError},
    wire::Liveness,
};

/// How many of the deployments that came after this one are looked at, and how many in all, for whoever had the slot.
const LATER_LIMIT: u64 = 30;
const NEIGHBOURS_LIMIT: usize = 130;
/// Of how many of them the course is read, at most.
const COURSES_LIMIT: usize = 60;
/// How many lines of the audit log are looked at for pauses, and how long before the wait they may have begun.
const AUDIT_LIMIT: usize = 200;
const PAUSES_BEFORE_HOURS: i64 = 7 * 24;
/// How many freeze windows are looked at.
const FREEZES_LIMIT: usize = 20;

/// What is known of a deployment.
pub struct DeploymentFacts {
    /// The deployment.
    pub deployment: Deployment,
    /// How many are served before it, itself included.
    pub position: u64,
    /// How it stands in line.
    pub standing: StandingInLine,
    /// Whether its worker lives.
    pub liveness: Liveness,
    /// What it waits for although it has the slot.
    pub absence: Option<String>,
    /// Whether agents run its project's pipelines.
    pub is_by_agents: bool,
    /// What happened to it.
    pub course: Course,
    /// Other deployments of the project, which came shortly before or after it.
    pub neighbours: Vec<Deployment>,
    /// The parts of its wait.
    pub wait: Vec<WaitPart>,
    /// What is live.
    pub live: Option<Deployment>,
    /// Who has the slot.
    pub holder: Option<Deployment>,
    /// When this was read.
    pub now: Timestamp,
}

impl DeploymentFacts {
    /// Reads all of it.
    ///
    /// # Errors
    /// There is no such deployment, or the store does not answer.
    pub async fn read(app: &App, project: &ProjectName, id: DeploymentId) -> Result<DeploymentFacts, ErrorAnswer> {
        let store = app.queue.store();
        let Placed { deployment, position } = app.watch.read(project, id).await?;
        let state = match store.project(project.clone(), 0).await {
            Err(StoreError::Unusable(_)) => None,
            read => read?,
        };
        let (live, holder) = state.map(|state| (state.last_success, state.holder)).unwrap_or_default();
        let placed = Placed { deployment, position };
        let standing = app.standing(&placed).await?;
        let deployment = placed.deployment;
        let absence = if deployment.holds_slot() { app.holder_wait(&deployment).await? } else { None };
        let now = app.now();
        let mut facts = DeploymentFacts {
            position,
            standing,
            liveness: answer::liveness(&deployment, now),
            absence,
            is_by_agents: app.by_agents(project).is_some(),
            course: course(app, &deployment).await?,
            neighbours: neighbours(app, &deployment).await?,
            wait: Vec::new(),
            live,
            holder,
            now,
            deployment,
        };
        facts.wait = facts.wait_of(app).await?;
        Ok(facts)
    }

    /// When its wait ended, or now.
    pub fn wait_end(&self) -> Timestamp {
        let Deployment { started_at, created_at, .. } = &self.deployment;
        let end = started_at.or(self.deployment.ended_at()).unwrap_or(self.now);
        end.max(*created_at)
    }

    /// The deployments that ended because this one started.
    pub fn superseded(&self) -> impl Iterator<Item = &Deployment> {
        let id = self.deployment.id;
        self.neighbours.iter().filter(move |it| match &it.state {
            State::Finished { outcome: Outcome::Cancelled { cause: CancelCause::Superseded { by }, .. }, .. } => {
                *by == id
            }
            State::Finished { .. } | State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) => false,
        })
    }

    /// The one that ran before it in the slot.
    pub fn previous(&self) -> Option<&Deployment> {
        let (from, _) = *self.course.slot_times().last()?;
        let ran = |it: &&Deployment| it.started_at.is_some() && it.ended_at().is_some_and(|ended| ended <= from);
        self.neighbours.iter().filter(ran).max_by_key(|it| it.ended_at())
    }

    /// The one that had the slot after it.
    pub fn next(&self) -> Option<&Deployment> {
        let ended = self.deployment.ended_at()?;
        self.course.slot_times().last()?;
        let ran = |it: &&Deployment| it.started_at.is_some_and(|started| started >= ended);
        let next = self.neighbours.iter().filter(ran).min_by_key(|it| it.started_at);
        next.or(self.holder.as_ref().filter(|holder| holder.created_at <= ended))
    }

    async fn wait_of(&mut self, app: &App) -> Result<Vec<WaitPart>, ErrorAnswer> {
        let span = (self.deployment.created_at, self.wait_end());
        let occupations = self.occupations(app, span).await?;
        let parts = deployment_wait::parts(span, &self.course.stands, &occupations, &[]);
        let unknown: Vec<_> = parts
            .iter()
            .filter(|part| part.reason == WaitReason::NotKnown)
            .map(|part| (part.from, part.until))
            .collect();
        if unknown.is_empty() {
            return Ok(parts);
        }
        let mut holds = pauses(app, &self.deployment.project, span).await?;
        let policy = app.queue.policy(&self.deployment.project);
        for (mut from, until) in unknown {
            for _ in 0..FREEZES_LIMIT {
                // As the present configuration has them.
                let Some(hold) = Hold::of(&policy, None, from) else { break };
                let end = hold.until.unwrap_or(until).min(until);
                holds.push(KnownHold { from, until: Some(end), words: held(&hold) });
                if end >= until || end <= from {
                    break;
                }
                from = end;
            }
        }
        Ok(deployment_wait::parts(span, &self.course.stands, &occupations, &holds))
    }

    /// Who had the slot while it waited.
    async fn occupations(
        &mut self,
        app: &App,
        (begin, end): (Timestamp, Timestamp),
    ) -> Result<Vec<Occupation>, ErrorAnswer> {
        if self.course.stands.iter().all(|stand| stand.position == 0) {
            return Ok(Vec::new());
        }
        // The one that had it then may have come long before.
        let first = self.course.stands.iter().find_map(|stand| stand.blocker.as_ref());
        if let Some(first) = first.filter(|first| !self.neighbours.iter().any(|it| it.id == first.id))
            && let Some(placed) = app.queue.store().deployment(first.project.clone(), first.id).await?
        {
            self.neighbours.push(placed.deployment);
        }
        let had_slot = |it: &Deployment| {
            !it.is_waiting() && it.created_at < end && it.ended_at().is_none_or(|ended| ended > begin)
        };
        let mut occupations = Vec::new();
        let others = self.neighbours.iter().enumerate().filter(|(_, it)| it.id != self.deployment.id && had_slot(it));
        for (of, other) in others.take(COURSES_LIMIT) {
            let times = course(app, other).await?.slot_times();
            let last = times.len().saturating_sub(1);
            occupations.extend(times.into_iter().enumerate().map(|(nth, (from, until))| {
                // What is taken back was not started.
                Occupation { of, from, started_at: other.started_at.filter(|_| nth == last), until }
            }));
        }
        Ok(occupations)
    }
}

async fn course(app: &App, deployment: &Deployment) -> Result<Course, ErrorAnswer> {
    let events = app.queue.store().course(deployment.id, 0, COURSE_LIMIT).await?;
    Ok(Course::of(&deployment.project, &events))
}

async fn neighbours(app: &App, deployment: &Deployment) -> Result<Vec<Deployment>, ErrorAnswer> {
    let (store, project) = (app.queue.store(), &deployment.project);
    let mut before = None;
    if let Some(id) = store.numbered(project.clone(), deployment.number + LATER_LIMIT).await? {
        let later = store.deployment(project.clone(), id).await?;
        before = later.map(|later| Revision(later.deployment.ticket.0));
    }
    match store.list(project.clone(), ListQuery { status: None, before, limit: NEIGHBOURS_LIMIT }).await {
        Err(StoreError::Unusable(_)) => Ok(Vec::new()),
        read => Ok(read?.into_iter().filter(|it| it.id != deployment.id).collect()),
    }
}

/// The pauses of a project within this time, as the audit log tells them.
async fn pauses(
    app: &App,
    project: &ProjectName,
    (begin, end): (Timestamp, Timestamp),
) -> Result<Vec<KnownHold>, ErrorAnswer> {
    let since = begin.checked_sub(jiff::Span::new().hours(PAUSES_BEFORE_HOURS)).unwrap_or(begin);
    let query = AuditQuery {
        project: Some(project.clone()),
        since: Some(since),
        until: Some(end),
        limit: AUDIT_LIMIT,
        ..AuditQuery::default()
    };
    let page = app.queue.store().audit().audit_page(query).await?;
    let mut holds: Vec<KnownHold> = Vec::new();
    for line in page.lines.iter().rev() {
        let is_begin = line.action == "pause";
        if is_begin || matches!(&*line.action, "resume" | "pause_end") {
            holds.iter_mut().filter(|hold| hold.until.is_none()).for_each(|hold| hold.until = Some(line.at));
        }
        if is_begin {
            let by = line.caller.as_deref().unwrap_or("somebody");
            let words = format!("paused by {}: “{}”", escaped(&plain(by)), escaped(&plain(&line.detail)));
            holds.push(KnownHold { from: line.at, until: None, words });
        }
    }
    Ok(holds)
}
