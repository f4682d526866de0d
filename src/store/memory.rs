//! The store that forgets: everything in memory under one mutex, for simulations and trials.
//!
//! It has no thread and no timer, so it works under a paused clock, and the same calls give the same history.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};

use super::{
    AgentCall, AuditRoom, BoxFuture, Claimable, CommitCounter, CommitTimes, Commits, Decide, ForgetRoom, HeldProject,
    KnownAgent, ListQuery, Mark, NotificationRoom, Offers, OnCommit, Placed, ProjectPage, ProjectState, Store,
    StoreError, StoreFigures, Watched,
    agents::Presence,
    audit::{AuditPage, AuditQuery, KeptAudit, NewAuditLine},
    figures::{HeldSlot, ProjectFigures, SlotStage},
    forget::{ForgetOutcome, told},
    notifications::NotificationsInMemory,
    tokens::{TokenRoom, TokensInMemory},
};
use crate::{
    clock::Now,
    model::{
        Changes, Deployment, DeploymentId, Digest, Edges, Event, EventBody, IdempotencyKey, LeaseHolder, LineLoad,
        Load, Loaded, Pepper, Place, Project, ProjectName, Revision, RunBy, State, Step,
        order::ordinary_order,
        slot::{KeyRecord, Keyed},
    },
};

/// A store in memory.
pub struct MemoryStore {
    kept: Mutex<Everything>,
    on_commit: OnCommit,
    commits: CommitCounter,
    pepper: Pepper,
    presence: Presence,
    tokens: TokensInMemory,
    notifications: NotificationsInMemory,
}

#[derive(Default)]
struct Everything {
    projects: BTreeMap<ProjectName, KeptProject>,
    deployments: HashMap<DeploymentId, KeptDeployment>,
    /// The deployments that hold a slot and wait for a worker of the server, by arrival.
    claimable: BTreeMap<u64, DeploymentId>,
    /// How many deployments ever arrived.
    arrived_count: u64,
    audit: KeptAudit,
    /// New projects begin above it.
    floor: Revision,
}

struct KeptProject {
    project: Project,
    holder: Option<DeploymentId>,
    /// By rank.
    line: BTreeMap<i64, DeploymentId>,
    history: BTreeMap<Revision, DeploymentId>,
    /// By number.
    numbers: BTreeMap<u64, DeploymentId>,
    keys: HashMap<IdempotencyKey, ([u8; 32], DeploymentId)>,
}

struct KeptDeployment {
    deployment: Deployment,
    /// Its number in the order of arrival over all projects.
    arrival: u64,
    /// Until it is final.
    sealed: Option<Vec<u8>>,
    /// By `seq`, each with the amount of output at that moment.
    events: BTreeMap<u64, (Event, u64)>,
}

impl KeptProject {
    /// Whether it was ever deployed, or paused.
    fn is_known(&self) -> bool {
        self.project.revision > Revision(0)
    }
}

impl MemoryStore {
    /// An empty store.
    pub fn new(on_commit: OnCommit) -> Self {
        // An id holds 74 random bits, so four ids make a secret; and no call here can fail.
        let ids = [(); 4].map(|()| DeploymentId::generate());
        let hash = ids.iter().fold(Sha256::new(), |hash, id| hash.chain_update(id.as_bytes()));
        let pepper = Pepper::from_bytes(hash.finalize().into());
        let commits = CommitCounter::default();
        MemoryStore {
            kept: Mutex::default(),
            on_commit,
            commits,
            pepper,
            presence: Presence::default(),
            tokens: TokensInMemory::default(),
            notifications: NotificationsInMemory::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Everything> {
        // Decisions are made before anything is recorded, so a panic in one leaves nothing half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn transact_now(&self, name: &ProjectName, load: &Load, decide: Decide) -> Result<(), StoreError> {
        // The lock is held until the waiters are woken, so that they are woken in the order of the commits.
        let mut kept = self.kept();
        let loaded = kept.load(name, load);
        let changes = catch_unwind(AssertUnwindSafe(|| decide(loaded)))
            .map_err(|_| StoreError::Unavailable("the decision failed".to_owned()))?;
        if changes.is_empty() {
            return Ok(());
        }
        kept.check(name, load, &changes)?;
        kept.record(name, &changes);
        changes.notifications.iter().for_each(|new| self.notifications.add(name, new));
        self.commits.count(1, Duration::ZERO);
        (self.on_commit)(name, &changes);
        Ok(())
    }
}

impl AuditRoom for MemoryStore {
    fn append(&self, lines: Vec<NewAuditLine>) -> BoxFuture<'_, Result<(), StoreError>> {
        lines.into_iter().for_each(|line| self.kept().audit.append(line));
        Box::pin(async { Ok(()) })
    }

    fn audit_page(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>> {
        let page = self.kept().audit.page(&query);
        Box::pin(async move { Ok(page) })
    }
}

impl ForgetRoom for MemoryStore {
    fn forget(&self, project: ProjectName, line: NewAuditLine) -> BoxFuture<'_, Result<ForgetOutcome, StoreError>> {
        now(move || {
            // Those who watch are told under the lock, in the order of the commits.
            let mut kept = self.kept();
            let outcome = kept.forget(&project);
            if matches!(outcome, ForgetOutcome::Forgotten { .. }) {
                kept.audit.append(line);
                self.commits.count(1, Duration::ZERO);
                (self.on_commit)(&project, &told(&project));
            }
            outcome
        })
    }
}

impl Everything {
    /// A deployment's events after this one.
    fn later(&self, id: DeploymentId, after: u64) -> impl Iterator<Item = &Event> {
        let events = self.deployments.get(&id).map(|kept| &kept.events);
        events.into_iter().flat_map(move |events| events.range(after.saturating_add(1)..)).map(|(_, (event, _))| event)
    }

    fn forget(&mut self, name: &ProjectName) -> ForgetOutcome {
        let Some(found) = self.projects.get(name).filter(|found| found.is_known()) else {
            return ForgetOutcome::Unknown;
        };
        if found.holder.is_some() || !found.line.is_empty() {
            return ForgetOutcome::InUse;
        }
        let deployment_count = found.project.deployment_count;
        self.floor = self.floor.max(found.project.revision);
        self.projects.remove(name);
        self.deployments.retain(|_, kept| kept.deployment.project != *name);
        ForgetOutcome::Forgotten { deployment_count }
    }

    fn load(&self, name: &ProjectName, load: &Load) -> Loaded {
        let mut loaded = Loaded::nothing(name);
        loaded.held = load.held_by.as_ref().and_then(|holder| self.held(holder)).map(|held| held.id);
        let Some(kept) = self.projects.get(name) else {
            loaded.project.revision = self.floor;
            return loaded;
        };
        loaded.deployments = load.deployments.iter().filter_map(|id| self.find(name, *id)).cloned().collect();
        let key = load.key.as_ref().and_then(|key| kept.keys.get(key));
        loaded.keyed =
            key.map(|(fingerprint, id)| Keyed { fingerprint: *fingerprint, deployment: self.get(*id).clone() });
        let line: Vec<DeploymentId> = match load.line {
            LineLoad::None => return loaded,
            LineLoad::Head => kept.line.values().take(1).copied().collect(),
            LineLoad::Edges(edges) => self.edges(kept, edges),
            LineLoad::All => kept.line.values().copied().collect(),
        };
        loaded.line = line.into_iter().map(|id| self.get(id).clone()).collect();
        loaded.holder = kept.holder.map(|id| self.get(id).clone());
        loaded.project = kept.project.clone();
        loaded
    }

    /// The head of the line, and the part of the line that matters to a deployment that starts or joins its end.
    fn edges(&self, kept: &KeptProject, Edges { is_start, above }: Edges) -> Vec<DeploymentId> {
        let starting = kept.holder.map(|id| self.get(id)).filter(|holder| is_start && holder.started_at.is_none());
        if starting.is_some_and(|starting| starting.line_rank.is_some()) {
            return kept.line.values().copied().collect();
        }
        let mut line: Vec<_> = kept.line.values().take(1).copied().collect();
        let waiting = || kept.line.values().map(|id| self.get(*id));
        let starting_order = starting.and_then(|starting| starting.spec.order);
        line.extend(waiting().filter(|it| it.spec.order < starting_order && it.spec.order.is_some()).map(|it| it.id));
        let ordinary = waiting().filter(|it| above.is_some() && ordinary_order(&it.spec) > above);
        line.extend(ordinary.max_by_key(|it| it.spec.order).map(|it| it.id));
        line
    }

    /// Refuses changes that the schema of the other engines refuses, and those that are mistakes of the program.
    fn check(&self, name: &ProjectName, load: &Load, changes: &Changes) -> Result<(), StoreError> {
        let refuse = |why: &str| Err(StoreError::Unavailable(why.to_owned()));
        if let Some(project) = &changes.project {
            if load.line == LineLoad::None {
                return Err(StoreError::Refused(
                    "a decision changed the counters of a project that it did not load".to_owned(),
                ));
            }
            if self.projects.get(name).is_some_and(|kept| kept.project.revision > project.revision) {
                return refuse("a project's revision never falls");
            }
            if self.projects.get(name).is_some_and(|kept| kept.project.deployment_count > project.deployment_count) {
                return refuse("a deployment's number is never given twice");
            }
        }
        let mut created = BTreeSet::new();
        for step in &changes.steps {
            let id = step.deployment().id;
            match self.deployments.get(&id) {
                None if step.is_creation() && self.is_taken(name, step.deployment().number) => {
                    return refuse("a deployment's number is never given twice");
                }
                None if step.is_creation() => drop(created.insert(id)),
                None if created.contains(&id) => {}
                None => return refuse("a decision changed a deployment that it did not load"),
                Some(_) if step.is_creation() => return refuse("a deployment's id is used only once"),
                Some(kept) if kept.deployment.is_final() => return refuse("a final deployment never changes"),
                Some(_) => {}
            }
        }
        let known = changes
            .key
            .as_ref()
            .is_some_and(|record| self.projects.get(name).is_some_and(|kept| kept.keys.contains_key(&record.key)));
        if known { refuse("an idempotency key names one deployment for ever") } else { Ok(()) }
    }

    fn is_taken(&self, name: &ProjectName, number: u64) -> bool {
        self.projects.get(name).is_some_and(|kept| kept.numbers.contains_key(&number))
    }

    fn record(&mut self, name: &ProjectName, changes: &Changes) {
        let Changes { is_pause_changed: _, project, steps, key, sealed, audit, notifications: _ } = changes;
        for entry in audit {
            self.audit.append(NewAuditLine::of(Some(name.clone()), entry.clone()));
        }
        if let Some(project) = project {
            self.project_mut(name).project = project.clone();
        }
        for step in steps {
            self.record_step(name, step);
        }
        if let Some((id, sealed)) = sealed
            && let Some(kept) = self.deployments.get_mut(id)
        {
            kept.sealed = Some(sealed.clone());
        }
        if let Some(KeyRecord { key, fingerprint, deployment }) = key {
            self.project_mut(name).keys.insert(key.clone(), (*fingerprint, *deployment));
        }
    }

    fn record_step(&mut self, name: &ProjectName, step: &Step) {
        let after = step.deployment();
        self.arrived_count += u64::from(step.is_creation());
        let arrived = self.arrived_count;
        let kept = self.deployments.entry(after.id).or_insert_with(|| KeptDeployment {
            deployment: after.clone(),
            arrival: arrived,
            sealed: None,
            events: BTreeMap::new(),
        });
        let rank_before = kept.deployment.is_waiting().then(|| kept.deployment.rank());
        kept.deployment = after.clone();
        if after.is_final() {
            kept.sealed = None;
        }
        kept.events.extend(step.events_with_log_end().map(|(event, log_end)| (event.seq, (event.clone(), log_end))));
        if let Some(trim) = step.trim() {
            kept.events.retain(|seq, (event, log_end)| {
                *seq <= trim.after_seq || !event.body.is_log() || *log_end > trim.up_to_bytes
            });
        }
        if after.state == State::Ready && after.spec.executor == RunBy::Worker {
            self.claimable.insert(kept.arrival, after.id);
        } else {
            self.claimable.remove(&kept.arrival);
        }
        let project = self.project_mut(name);
        project.history.insert(after.ticket, after.id);
        project.numbers.insert(after.number, after.id);
        if let Some(rank) = rank_before {
            project.line.remove(&rank);
        }
        if after.is_waiting() {
            project.line.insert(after.rank(), after.id);
        }
        if after.holds_slot() {
            project.holder = Some(after.id);
        } else if project.holder == Some(after.id) {
            project.holder = None;
        }
    }

    fn project_mut(&mut self, name: &ProjectName) -> &mut KeptProject {
        self.projects.entry(name.clone()).or_insert_with(|| KeptProject {
            project: Project::new(name.clone()),
            holder: None,
            line: BTreeMap::new(),
            history: BTreeMap::new(),
            numbers: BTreeMap::new(),
            keys: HashMap::new(),
        })
    }

    /// A deployment that is known to be there.
    fn get(&self, id: DeploymentId) -> &Deployment {
        &self.deployments[&id].deployment
    }

    /// A deployment, if it is there and of this project.
    fn find(&self, name: &ProjectName, id: DeploymentId) -> Option<&Deployment> {
        self.deployments.get(&id).map(|kept| &kept.deployment).filter(|deployment| deployment.project == *name)
    }

    /// The deployment that runs under a lease of this holder.
    fn held(&self, holder: &LeaseHolder) -> Option<&Deployment> {
        let holders = self.projects.values().filter_map(|kept| kept.holder).map(|id| self.get(id));
        let mut held = holders.filter(|it| matches!(&it.state, State::Running(lease) if lease.holder == *holder));
        held.next()
    }

    /// How this holder has its slot.
    fn held_slot(&self, id: DeploymentId) -> Option<HeldSlot> {
        let kept = self.deployments.get(&id)?;
        let stage = match kept.deployment.state {
            State::Reserved => SlotStage::Reserved,
            State::Ready => SlotStage::Ready,
            State::Running(_) => SlotStage::Running,
            State::Waiting(_) | State::Finished { .. } => return None,
        };
        let mut events = kept.events.values().rev().map(|(event, _)| event);
        let kept_for_it = || events.find(|event| matches!(event.body, EventBody::Queue { .. })).map(|event| event.at);
        let since = kept.deployment.started_at.or_else(kept_for_it).unwrap_or(kept.deployment.created_at);
        Some(HeldSlot { stage, since })
    }

    fn state(&self, kept: &KeptProject, line: usize) -> ProjectState {
        ProjectState {
            project: kept.project.clone(),
            holder: kept.holder.map(|id| self.get(id).clone()),
            line: kept.line.values().take(line).map(|id| self.get(*id).clone()).collect(),
            last_outcome: kept.project.last_outcome.map(|id| self.get(id).clone()),
            last_success: kept.project.last_success.map(|id| self.get(id).clone()),
        }
    }
}

/// A future that does its work when it is first polled.
fn now<'a, T>(work: impl FnOnce() -> T + Send + 'a) -> BoxFuture<'a, Result<T, StoreError>> {
    Box::pin(async move { Ok(work()) })
}

impl Store for MemoryStore {
    fn pepper(&self) -> Pepper {
        self.pepper
    }

    fn commits(&self) -> Commits {
        self.commits.read()
    }

    fn transact(&self, project: ProjectName, load: Load, decide: Decide) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.transact_now(&project, &load, decide) })
    }

    fn deployment(&self, project: ProjectName, id: DeploymentId) -> BoxFuture<'_, Result<Option<Placed>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let deployment = kept.find(&project, id)?.clone();
            let ahead = || kept.projects[&project].line.range(..=deployment.rank()).count() as u64;
            let position = if deployment.is_waiting() { ahead() } else { 0 };
            Some(Placed { deployment, position })
        })
    }

    fn numbered(&self, project: ProjectName, number: u64) -> BoxFuture<'_, Result<Option<DeploymentId>, StoreError>> {
        now(move || self.kept().projects.get(&project).and_then(|found| found.numbers.get(&number)).copied())
    }

    fn sealed_inputs(&self, id: DeploymentId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        now(move || self.kept().deployments.get(&id).and_then(|kept| kept.sealed.clone()))
    }

    fn events(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        now(move || self.kept().later(id, after).take(limit).cloned().collect())
    }

    fn events_before(
        &self,
        id: DeploymentId,
        before: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let events = kept.deployments.get(&id).map(|kept| &kept.events);
            let earlier = events.into_iter().flat_map(|events| events.range(..before).rev());
            earlier.take(limit).map(|(_, (event, _))| event.clone()).collect()
        })
    }

    fn course(&self, id: DeploymentId, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<Event>, StoreError>> {
        now(move || self.kept().later(id, after).filter(|it| it.body.is_of_course()).take(limit).cloned().collect())
    }

    fn list(&self, project: ProjectName, query: ListQuery) -> BoxFuture<'_, Result<Vec<Deployment>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let Some(found) = kept.projects.get(&project) else { return Vec::new() };
            let older = found.history.range(..query.before.unwrap_or(Revision(u64::MAX))).rev();
            let all = older.map(|(_, id)| kept.get(*id));
            let wanted = all.filter(|it| query.status.is_none_or(|status| it.status() == status));
            wanted.take(query.limit).cloned().collect()
        })
    }

    fn project(&self, name: ProjectName, line: usize) -> BoxFuture<'_, Result<Option<ProjectState>, StoreError>> {
        now(move || {
            let kept = self.kept();
            kept.projects.get(&name).filter(|it| it.is_known()).map(|found| kept.state(found, line))
        })
    }

    fn projects(&self, after: Option<ProjectName>, limit: usize) -> BoxFuture<'_, Result<ProjectPage, StoreError>> {
        now(move || {
            let kept = self.kept();
            let later = kept
                .projects
                .iter()
                .filter(|(name, found)| found.is_known() && after.as_ref().is_none_or(|after| *name > after));
            later.take(limit).map(|(name, found)| (name.clone(), Some(kept.state(found, 0)))).collect()
        })
    }

    fn held_projects(&self) -> BoxFuture<'_, Result<Vec<HeldProject>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let waits = |found: &KeptProject| found.holder.is_none() && !found.line.is_empty();
            let held = kept.projects.iter().filter(|(_, found)| found.project.pause.is_some() || waits(found));
            held.map(|(name, found)| HeldProject { project: name.clone(), pause: found.project.pause.clone() })
                .collect()
        })
    }

    fn figures(&self, at: Now) -> BoxFuture<'_, Result<StoreFigures, StoreError>> {
        now(move || {
            let kept = self.kept();
            let mut figures = StoreFigures::default();
            for (name, found) in &kept.projects {
                let waiting = || found.line.values().map(|id| kept.get(*id));
                let project = ProjectFigures {
                    slot: found.holder.and_then(|id| kept.held_slot(id)),
                    waiting_count: found.line.len() as u64,
                    waiting_since: waiting().map(|one| one.created_at).min(),
                    pause: found.project.pause.clone(),
                    agent_count: 0,
                };
                if project != ProjectFigures::default() {
                    figures.projects.insert(name.clone(), project);
                }
            }
            self.presence.counts(at, &mut figures);
            figures
        })
    }

    fn commit_times(&self) -> CommitTimes {
        self.commits.times()
    }

    fn artifacts_of(&self, project: ProjectName, recent: usize) -> BoxFuture<'_, Result<Vec<Digest>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let Some(found) = kept.projects.get(&project) else { return Vec::new() };
            let newest = found.history.values().rev().map(|id| kept.get(*id)).enumerate();
            let needed = newest.filter(|(at, deployment)| *at < recent || !deployment.is_final());
            needed.filter_map(|(_, deployment)| deployment.spec.artifact.clone()).collect()
        })
    }

    fn watched(&self) -> BoxFuture<'_, Result<Vec<Watched>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let all = kept.projects.values().flat_map(|found| found.holder.iter().chain(found.line.values()));
            let attended = all.map(|id| kept.get(*id)).filter(|deployment| match deployment.state {
                State::Waiting(Place::Queued) => deployment.spec.deadline_seconds.is_some(),
                State::Waiting(Place::Ticket { .. }) | State::Reserved | State::Ready | State::Running(_) => true,
                State::Finished { .. } => false,
            });
            attended.map(watched).collect()
        })
    }

    fn claimable(&self, offers: Arc<Offers>, limit: usize) -> BoxFuture<'_, Result<Vec<Claimable>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let is_offered = |it: &&Deployment| {
                offers.get(&it.project).is_some_and(|pipelines| pipelines.contains(&it.spec.pipeline))
            };
            let oldest = kept.claimable.values().map(|id| kept.get(*id)).filter(is_offered).take(limit);
            oldest.map(|it| Claimable { project: it.project.clone(), id: it.id, spec: it.spec.clone() }).collect()
        })
    }

    fn marks(&self, ids: Vec<DeploymentId>) -> BoxFuture<'_, Result<Vec<(DeploymentId, Mark)>, StoreError>> {
        now(move || {
            let kept = self.kept();
            let known = ids.into_iter().filter_map(|id| kept.deployments.get(&id));
            let marks = known.map(|KeptDeployment { deployment, .. }| {
                let mark = Mark {
                    revision: deployment.revision,
                    event_count: deployment.event_count,
                    is_cancel_requested: deployment.cancel.is_some(),
                };
                (deployment.id, mark)
            });
            marks.collect()
        })
    }

    fn held(&self, holder: LeaseHolder) -> BoxFuture<'_, Result<Option<Deployment>, StoreError>> {
        now(move || self.kept().held(&holder).cloned())
    }

    fn agent_came(&self, call: AgentCall, at: Now) -> BoxFuture<'_, Result<(), StoreError>> {
        now(move || self.presence.came(&call, at))
    }

    fn agent_left(&self, call: AgentCall, at: Now) {
        self.presence.left(&call, at);
    }

    fn agents(&self, project: ProjectName, at: Now) -> BoxFuture<'_, Result<Vec<KnownAgent>, StoreError>> {
        now(move || self.presence.of(&project, at))
    }

    fn ready(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        now(|| ())
    }

    fn audit(&self) -> &dyn AuditRoom {
        self
    }

    fn forget(&self) -> &dyn ForgetRoom {
        self
    }

    fn tokens(&self) -> &dyn TokenRoom {
        &self.tokens
    }

    fn notifications(&self) -> &dyn NotificationRoom {
        &self.notifications
    }

    fn shut_down(self: Arc<Self>) -> BoxFuture<'static, ()> {
        Box::pin(async {})
    }
}

fn watched(deployment: &Deployment) -> Watched {
    let Deployment { id, project, spec, state, .. } = deployment;
    Watched {
        project: project.clone(),
        id: *id,
        vital: deployment.vital(),
        state: state.clone(),
        executor: spec.executor,
        deadline: spec.deadline_seconds.filter(|_| deployment.is_waiting()).map(Duration::from_secs),
        claim_within: spec.claim_within_seconds.filter(|_| *state == State::Ready).map(Duration::from_secs),
    }
}
