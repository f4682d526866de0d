//! A project's slot and line under its lock: the loaded data, and the changes that a decision makes to it.
//!
//! The step that ends a deployment promotes the head of the line in the same transaction, so the slot is free exactly
//! when the line is empty or its head is held. [`Slot`] keeps that by itself: any step that frees the slot is followed by
//! the promotion. While the project is held, only a deployment that passes holds is promoted, and such a deployment is put
//! before all others. See decision 0069.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    command::{Command, Refusal},
    deployment::{CancelCause, Deployment, Outcome, Spec, State},
    hold::{Hold, Pause},
    identity::{Caller, Identity, Party},
    ids::{DeploymentId, IdempotencyKey, ProjectName, Revision},
    lease::LeaseHolder,
    lifecycle::{Entry, Moment, Step, create},
    mark::{BuildMark, SetMark, StartedOrder},
    mention::Mention,
    notification::NewNotification,
    order::{self, Age},
    policy::Policy,
    project::Project,
};

/// The part of a project that a decision needs to see. A store loads exactly this, under the project's lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// These deployments of the project, where they exist.
    pub deployments: Vec<DeploymentId>,
    /// The deployment that was submitted under this key.
    pub key: Option<IdempotencyKey>,
    /// How much of slot and line.
    pub line: LineLoad,
    /// The holder whose running deployment is wanted, in whichever project. Until the decision is recorded, no other
    /// decision that asks for the same holder is made.
    pub held_by: Option<LeaseHolder>,
}

/// How much of slot and line a decision needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LineLoad {
    /// Nothing: the decision changes no slot. Not even the project's counters are loaded.
    #[default]
    None,
    /// The holder of the slot and the head of the line.
    Head,
    /// The same, and the part of the line that matters to a deployment that starts, or that joins the line's end.
    Edges(Edges),
    /// The holder and the whole line.
    All,
}

/// Which part of the line a decision needs beside its head. A store may bring more of the line than that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edges {
    /// The deployments that may end when the holder starts: those with a lower `order` than the holder's, and all where
    /// the holder was put before others. None where the holder has started already.
    pub is_start: bool,
    /// The deployment with the highest `order`, if that is higher than this.
    pub above: Option<u64>,
}

/// The data that a store loaded. `line` is in no certain order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The project's counters; new ones where the project is not known yet.
    pub project: Project,
    /// The deployment that holds the slot.
    pub holder: Option<Deployment>,
    /// The part of the line that was asked for; its head is always there.
    pub line: Vec<Deployment>,
    /// The deployments that were asked for by id and exist in this project.
    pub deployments: Vec<Deployment>,
    /// The deployment that was submitted under the key.
    pub keyed: Option<Keyed>,
    /// The deployment that runs under a lease of the holder that was asked for.
    pub held: Option<DeploymentId>,
}

impl Loaded {
    /// The data of a project of which nothing is known yet.
    pub fn nothing(name: &ProjectName) -> Self {
        Loaded {
            project: Project::new(name.clone()),
            holder: None,
            line: Vec::new(),
            deployments: Vec::new(),
            keyed: None,
            held: None,
        }
    }
}

/// A deployment that was submitted under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed {
    /// SHA-256 of the request that made it.
    pub fingerprint: [u8; 32],
    /// The deployment.
    pub deployment: Deployment,
}

/// An idempotency key to be recorded with the deployment that it made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The key.
    pub key: IdempotencyKey,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// The deployment.
    pub deployment: DeploymentId,
}

/// An act of an operator or a worker that the deployment's own history does not contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When.
    pub at: Timestamp,
    /// Which act: `submit`, `cancel`, `release`, `late_result` …
    pub action: &'static str,
    /// Who did it.
    pub caller: Caller,
    /// To which deployment.
    pub deployment: Option<DeploymentId>,
    /// More about it.
    pub detail: String,
}

/// Everything that one decision changes: recorded whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "changes that are not recorded did not happen"]
pub struct Changes {
    /// The project's counters, where they changed.
    pub project: Option<Project>,
    /// The deployments' steps, in order. One deployment may occur more than once.
    pub steps: Vec<Step>,
    /// A new idempotency key.
    pub key: Option<KeyRecord>,
    /// The sealed values of a new deployment's secret inputs. A store keeps them until the deployment is final.
    pub sealed: Option<(DeploymentId, Vec<u8>)>,
    /// Lines for the audit log.
    pub audit: Vec<AuditEntry>,
    /// Whether the project's pause was set, changed or removed: the timers of all servers must hear of it.
    pub is_pause_changed: bool,
    /// What is told to targets outside. Never the only change.
    pub notifications: Vec<NewNotification>,
}

impl Changes {
    /// Whether there is nothing to record.
    pub fn is_empty(&self) -> bool {
        self.project.is_none() && self.steps.is_empty() && self.key.is_none() && self.audit.is_empty()
    }
}

/// An instant as it is stored.
fn whole(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// The slot and the line while a decision is made.
pub struct Slot {
    now: Timestamp,
    policy: Policy,
    project: Project,
    project_before: Project,
    holder: Option<DeploymentId>,
    held: Option<DeploymentId>,
    known: BTreeMap<DeploymentId, Deployment>,
    changes: Changes,
    is_plan: bool,
    caller: Option<Caller>,
    actor: Option<String>,
}

impl Slot {
    /// Begins a decision at `now` that will not be recorded: a deployment that it admits gets no number.
    pub fn planning(loaded: Loaded, now: Timestamp, policy: &Policy) -> Self {
        Slot { is_plan: true, ..Slot::of(loaded, now, policy) }
    }

    /// Begins a decision at `now`, under the project's rules.
    pub fn of(loaded: Loaded, now: Timestamp, policy: &Policy) -> Self {
        let Loaded { project, holder, line, deployments, keyed, held } = loaded;
        let holder_id = holder.as_ref().map(|holder| holder.id);
        let known = line
            .into_iter()
            .chain(deployments)
            .chain(keyed.map(|keyed| keyed.deployment))
            .chain(holder)
            .map(|deployment| (deployment.id, deployment))
            .collect();
        let (project_before, changes, policy) = (project.clone(), Changes::default(), policy.clone());
        Slot {
            now,
            policy,
            project_before,
            project,
            holder: holder_id,
            held,
            known,
            changes,
            is_plan: false,
            caller: None,
            actor: None,
        }
    }

    /// The same decision, on behalf of somebody. Without this the server decides by itself.
    #[must_use]
    pub fn by(mut self, caller: &Caller) -> Self {
        self.caller = Some(caller.clone());
        self
    }

    /// The same decision; the caller gives this name.
    #[must_use]
    pub fn claiming(self, actor: Option<String>) -> Self {
        Slot { actor, ..self }
    }

    /// On whose behalf it is decided; nobody where the server decides by itself.
    pub fn party(&self) -> Option<Party> {
        let caller = self.caller.as_ref()?;
        Some(Party { identity: (*caller.identity).clone(), actor: self.actor.clone() })
    }

    /// The project's counters as they stand.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The deployment that holds the slot.
    pub fn holder(&self) -> Option<&Deployment> {
        self.holder.and_then(|id| self.known.get(&id))
    }

    /// What holds the project now. Until the end of the hold, the slot is given to nobody who does not pass it.
    pub fn hold(&self) -> Option<Hold> {
        Hold::of(&self.policy, self.project.pause.as_ref(), self.now)
    }

    /// What held the project before this decision.
    pub fn hold_before(&self) -> Option<Hold> {
        Hold::of(&self.policy, self.project_before.pause.as_ref(), self.now)
    }

    /// What holds a deployment with this spec now.
    pub fn hold_of(&self, spec: &Spec) -> Option<Hold> {
        if spec.override_pause { None } else { self.hold() }
    }

    /// Holds the project, and takes the slot back from a deployment that no worker has taken yet. Answers the pause before
    /// this one, if that still lasted. Needs the whole line.
    pub fn pause(&mut self, pause: Pause) -> Option<Pause> {
        let pause = Pause { at: whole(pause.at), until: pause.until.map(whole), ..pause };
        let until = pause.until.map(|until| format!("until {until:.0}: ")).unwrap_or_default();
        self.audit("pause", None, format!("{until}{}", pause.reason));
        let before = self.project.pause.replace(pause).filter(|before| before.lasts(self.now));
        self.project.revision = self.next_revision();
        self.settle();
        before
    }

    /// Ends the pause, so that the head of the line has the slot, unless something else holds the project. Answers the
    /// pause that was ended, if there was one that still lasted. Needs the whole line.
    pub fn resume(&mut self, reason: Option<String>) -> Option<Pause> {
        let before = self.project.pause.take();
        if before.is_some() {
            self.audit("resume", None, reason.unwrap_or_default());
            self.project.revision = self.next_revision();
        }
        self.settle();
        before.filter(|before| before.lasts(self.now))
    }

    /// Sets the mark of the project, or removes it. What runs goes on; a waiting deployment with a lower build number ends
    /// when its turn comes. Answers the mark until then, and whether that changed anything.
    pub fn set_mark(&mut self, order: Option<u64>, reason: Option<String>) -> (Option<BuildMark>, bool) {
        let before = self.project.mark();
        let told = |mark: Option<u64>| mark.map_or_else(|| "none".to_owned(), |order| order.to_string());
        let by = self.party().unwrap_or(Party { identity: Identity::Server, actor: None });
        let mark = order.map(|order| SetMark { order, at: whole(self.now), by, reason: reason.clone() });
        let is_same = |set: &SetMark| before.as_ref().is_some_and(|before| before.order() == set.order);
        if mark.as_ref().map_or(before.is_none(), |set| is_same(set) && reason.is_none()) {
            return (before, false);
        }
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let from = told(before.as_ref().map(BuildMark::order));
        self.audit("order", None, format!("from {from} to {}{why}", told(order)));
        self.project.last_started = None;
        self.project.set_mark = mark;
        self.project.revision = self.next_revision();
        (before, true)
    }

    /// Brings slot and line to where the present hold, or its end, wants them; changes nothing where they are there
    /// already. Answers the pause whose end has come, which is removed. Needs the whole line.
    pub fn settle(&mut self) -> Option<Pause> {
        let over = self.project.pause.take_if(|pause| !pause.lasts(self.now));
        if let Some(over) = &over {
            let detail = over.until.map(|until| format!("its end came at {until:.0}")).unwrap_or_default();
            self.audit("pause_end", None, detail);
            self.project.revision = self.next_revision();
        }
        if self.hold().is_some() {
            self.let_pass();
            self.take_back();
        }
        self.serve();
        over
    }

    /// Puts the waiting deployments that pass holds before all others.
    fn let_pass(&mut self) {
        let passing: Vec<_> = self.line().into_iter().filter(|one| one.spec.override_pause).cloned().collect();
        for (position, one) in (1..).zip(passing) {
            let (rank, blocker) = (order::overriding_rank(one.ticket), self.holder().map(Deployment::mention));
            if one.rank() != rank {
                // It waits, so this cannot be refused.
                let _ = self.step(one.id, Command::PutAhead { rank, position, blocker });
            }
        }
    }

    /// If the slot is kept for a deployment that is held and that no worker has taken yet, the deployment waits again.
    /// Answers whether that was so.
    pub(super) fn take_back(&mut self) -> bool {
        let Some(holder) = self.holder().filter(|holder| !matches!(holder.state, State::Running(_))) else {
            return false;
        };
        let Some(hold) = self.hold_of(&holder.spec) else { return false };
        let (id, rank) = (holder.id, holder.rank());
        let position = self.line().into_iter().take_while(|ahead| ahead.rank() < rank).count() as u64 + 1;
        // It holds the slot without a worker, so this cannot be refused.
        self.step(id, Command::TakeBack { position, hold }).is_ok()
    }

    /// Gives a free slot to the head of the line, unless the head is held. At the end of a hold, the next decision may come
    /// before the one that serves the line.
    pub(super) fn serve(&mut self) {
        if self.holder.is_none() {
            self.promote_head();
        }
    }

    /// The rank of a holder that has not started yet.
    pub(super) fn kept_rank(&self) -> Option<i64> {
        self.holder().filter(|holder| holder.started_at.is_none()).map(Deployment::rank)
    }

    /// The deployment that ran under a lease of the holder that was asked for, at the time of loading.
    pub fn held(&self) -> Option<DeploymentId> {
        self.held
    }

    /// A loaded deployment as it stands.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.known.get(&id)
    }

    /// The loaded part of the line, in the order in which it is served.
    pub fn line(&self) -> Vec<&Deployment> {
        let mut line: Vec<_> = self.known.values().filter(|deployment| deployment.is_waiting()).collect();
        line.sort_by_key(|deployment| deployment.rank());
        line
    }

    /// The age of a deployment that is admitted next.
    pub fn age_of_newcomer<'a>(&self, spec: &'a Spec) -> Age<'a> {
        Age { spec, ticket: self.project.revision.next() }
    }

    /// The newer deployment that supersedes `waiting` when the newer one starts, among those that are served before
    /// `rank`.
    pub fn overtaker(&self, waiting: Age<'_>, rank: i64) -> Option<Mention> {
        let line = self.line().into_iter().take_while(|ahead| ahead.rank() < rank);
        order::overtaker(waiting, self.holder().into_iter().chain(line))
    }

    /// Lets a new deployment in.
    pub fn admit(&mut self, id: DeploymentId, project: ProjectName, spec: Spec, entry: Entry) -> &Deployment {
        let number = if self.is_plan { 0 } else { self.project.deployment_count + 1 };
        let submitted_by = self.caller.as_ref().map(|caller| (*caller.identity).clone());
        let spec = Spec { submitted_by, ..spec };
        let step = create(id, project, number, spec, entry, self.moment());
        self.record(step);
        &self.known[&id]
    }

    /// Changes a loaded deployment. If that frees the slot, the head of the line gets it in the same step.
    ///
    /// # Errors
    /// The refusal of [`Deployment::step`]; [`Refusal::WrongState`] for a deployment that was not loaded.
    pub fn step(&mut self, id: DeploymentId, command: Command) -> Result<&Deployment, Refusal> {
        let before = self.known.get(&id).ok_or(Refusal::WrongState)?;
        let step = before.step(command, self.moment())?;
        let was_held = self.holder.is_some();
        let is_start = before.started_at.is_none() && step.deployment().started_at.is_some();
        let starting = is_start.then(|| before.clone());
        self.record(step);
        if let Some(starting) = starting {
            self.supersede_older(&starting);
        }
        // Only then, because the slot looks free where the line was not loaded, and is not.
        if was_held && self.holder.is_none() {
            self.promote_head();
        }
        Ok(&self.known[&id])
    }

    /// Ends every waiting deployment that is older than the one that starts, which is given as it stood before.
    pub(super) fn supersede_older(&mut self, starting: &Deployment) {
        let older: Vec<_> =
            self.line().into_iter().filter(|waiting| starting.will_supersede(waiting.age())).map(|it| it.id).collect();
        for id in older {
            // They wait, so the cancel cannot be refused.
            let _ = self.step(id, Command::Cancel { reason: None, superseded_by: Some(starting.mention()), by: None });
        }
    }

    /// Records an idempotency key.
    pub fn record_key(&mut self, key: KeyRecord) {
        self.changes.key = Some(key);
    }

    /// Keeps the sealed values of a deployment's secret inputs, for its worker.
    pub fn seal(&mut self, deployment: DeploymentId, sealed: Vec<u8>) {
        self.changes.sealed = Some((deployment, sealed));
    }

    /// Records a line for the audit log.
    pub fn audit(&mut self, action: &'static str, deployment: Option<DeploymentId>, detail: String) {
        let caller = self.caller.clone().unwrap_or_else(Caller::server);
        self.changes.audit.push(AuditEntry { at: self.now, action, caller, deployment, detail });
    }

    /// The changes that were decided.
    pub fn into_changes(self) -> Changes {
        let is_pause_changed = self.project.pause != self.project_before.pause;
        let project = (self.project != self.project_before).then_some(self.project);
        Changes { project, is_pause_changed, ..self.changes }
    }

    /// The revision of the next slot change. A claim takes it as its fencing token.
    pub fn next_revision(&self) -> Revision {
        self.project.revision.next()
    }

    fn moment(&self) -> Moment {
        Moment { now: self.now, revision: self.next_revision() }
    }

    fn record(&mut self, step: Step) {
        let after = step.deployment().clone();
        let before = self.known.get(&after.id);
        let was_waiting = before.is_some_and(Deployment::is_waiting);
        let was_started = before.is_some_and(|before| before.started_at.is_some());
        let was_final = before.is_some_and(Deployment::is_final);
        if step.is_state_change() && after.revision == self.project.revision.next() {
            self.project.revision = after.revision;
        }
        if step.is_creation() {
            // The count is recorded in the same transaction as the deployment, and never goes down.
            self.project.deployment_count = self.project.deployment_count.max(after.number);
        }
        match (was_waiting, after.is_waiting()) {
            (false, true) => self.project.waiting_count += 1,
            (true, false) => self.project.waiting_count = self.project.waiting_count.saturating_sub(1),
            (true, true) | (false, false) => {}
        }
        if after.holds_slot() {
            self.holder = Some(after.id);
        } else if self.holder == Some(after.id) {
            self.holder = None;
        }
        if after.started_at.is_some() && !was_started {
            self.note_start(&after);
        }
        if after.is_final() && !was_final {
            self.note_end(&after);
        }
        self.changes.steps.push(step);
        self.known.insert(after.id, after);
    }

    fn note_start(&mut self, started: &Deployment) {
        // A declared rollback leaves the mark, because the deployment behind which it went back stays the newest that
        // was started.
        let Some(order) = order::ordinary_order(&started.spec) else { return };
        if self.project.mark_order().is_none_or(|mark| mark <= order) {
            self.project.set_mark = None;
            self.project.last_started = Some(StartedOrder { order, deployment: started.mention() });
        }
    }

    fn note_end(&mut self, ended: &Deployment) {
        let State::Finished { outcome, at, .. } = &ended.state else { return };
        let Some(started_at) = ended.started_at else { return };
        self.project.last_outcome = Some(ended.id);
        match outcome {
            Outcome::Succeeded => {
                self.project.preempted_count = 0;
                self.project.last_success = Some(ended.id);
                self.project.remember_success(&ended.spec.pipeline, started_at, *at);
            }
            Outcome::Cancelled { cause: CancelCause::Superseded { .. }, .. } => self.project.preempted_count += 1,
            // A failure counts as landed too, because it must not hold up a newcomer that fixes it.
            Outcome::Failed { .. } => self.project.preempted_count = 0,
            Outcome::Cancelled { .. } => {}
        }
    }

    fn promote_head(&mut self) {
        let Some(head) = self.line().first().map(|head| (*head).clone()) else { return };
        if self.hold_of(&head.spec).is_some() {
            return;
        }
        // The head waits, so its promotion cannot be refused.
        if let Ok(step) = head.step(Command::Promote, self.moment()) {
            self.record(step);
        }
    }
}
