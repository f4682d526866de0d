//! Decisions about a project's slot that involve more than one deployment: which one starts, waits, is refused or is
//! superseded. Each decision takes the [`Slot`] under its lock, changes it, and returns the outcome. See decision 0002.

use std::time::Duration;

use thiserror::Error;

use super::{
    command::{Command, Refusal},
    deployment::{CancelCause, Deployment, Outcome, Place, Spec, State},
    digest::Digest,
    hold::Hold,
    ids::{DeploymentId, IdempotencyKey, ProjectName},
    lease::{LeaseHolder, LeaseSecret, Pepper},
    lifecycle::Entry,
    mark::BuildMark,
    mention::Mention,
    order::{self, Age, outdated_by},
    policy::{LinePolicy, Policy, Preempt},
    slot::{KeyRecord, Keyed, Slot},
};

/// A client's wish to deploy.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The id that the deployment gets, if this submit makes one.
    pub id: DeploymentId,
    /// The project.
    pub project: ProjectName,
    /// The spec of the deployment.
    pub spec: Spec,
    /// The client's own name for this wish, and SHA-256 of the request.
    pub key: Option<(IdempotencyKey, [u8; 32])>,
    /// What to do when the slot is held.
    pub on_conflict: OnConflict,
    /// Why no new deployment may be made now. A deployment that the same key made before is found all the same.
    pub refusal: Option<Rejection>,
    /// The lease that the client wants with the slot, because the client is the worker itself.
    pub claim: Option<ClaimTerms>,
    /// The values of its secret inputs, sealed, for the worker.
    pub sealed: Option<Vec<u8>>,
}

/// A lease that is wanted together with the slot.
#[derive(Clone, Debug)]
pub struct ClaimTerms {
    /// The pepper from which the lease's secret is made.
    pub pepper: Pepper,
    /// How long the lease lasts.
    pub ttl: Duration,
    /// The holder of the lease.
    pub holder: LeaseHolder,
}

/// The wish of a client for the case that the slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// A refusal that names the holder.
    Refuse,
    /// A place in line, for which it polls.
    Wait,
    /// A place in line, from which the server starts it.
    Queue,
}

/// The outcome of a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is in: it holds the slot, or is queued.
    Accepted(DeploymentId),
    /// The same submit was accepted before, and made this deployment.
    Replayed(DeploymentId),
    /// The slot is held, or the project is.
    Conflict {
        /// The deployment that holds the slot. `None` where the slot is free and given to nobody, because the project is
        /// held; then a place in line is kept.
        blocker: Option<Box<Deployment>>,
        /// The place in line that is kept.
        ticket: Option<DeploymentId>,
    },
    /// Refused, and waiting does not help.
    Rejected(Rejection),
}

/// Why a wish is refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The mark is above the build number.
    #[error("build {order} is older than {newer}")]
    Outdated {
        /// The refused build number.
        order: u64,
        /// The mark.
        newer: Box<BuildMark>,
    },
    /// Another deployment, which has the slot or waits, is newer than the successor, or as new as it.
    #[error("{successor}{} is not newer than {}{}, which {}", build(*order), newer, build(*newer_order), standing(*newer_waits))]
    NotTheNewest {
        /// The deployment that wants to take over.
        successor: Box<Mention>,
        /// Its build number.
        order: Option<u64>,
        /// The deployment that is not older.
        newer: Box<Mention>,
        /// The build number of `newer`.
        newer_order: Option<u64>,
        /// Whether `newer` waits in line.
        newer_waits: bool,
    },
    /// The place in line was lost to its deadline.
    #[error("its deadline passed while it waited in line")]
    DeadlinePassed,
    /// The project is held, and the client does not wait.
    #[error("the project is {0}")]
    Paused(Box<Hold>),
    /// The project is held, so that the successor would not get the slot.
    #[error("the project is {0}; what runs goes on")]
    SuccessorHeld(Box<Hold>),
    /// The request itself cannot be granted, whatever the slot's state.
    #[error("nothing can be made of the request")]
    Unmade,
    /// The line is as long as it may get.
    #[error("{limit} deployments wait in line already, which is the project's limit")]
    LineFull {
        /// The limit.
        limit: u32,
    },
    /// The key names another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The project does not let newcomers cancel a running deployment.
    #[error("the project's policy lets the running deployment finish")]
    PreemptionRefused,
    /// The successor is the very deployment that it wants to supersede.
    #[error("a deployment can only supersede older ones, not itself")]
    NotOlder,
    /// The successor does not exist, or is final.
    #[error("the superseding deployment is not in line")]
    SuccessorGone,
    /// No connected agent could run it.
    #[error("no agent that runs pipeline {pipeline} of this project is connected; {known}")]
    NoAgent {
        /// The pipeline.
        pipeline: String,
        /// Which agents are known, for people.
        known: String,
    },
    /// The server that was asked is about to end.
    #[error("the server is about to end and takes no new work")]
    Draining,
    /// The artifact that is to be deployed is not there.
    #[error("artifact {digest} is not on this server")]
    ArtifactMissing {
        /// Its SHA-256.
        digest: Digest,
    },
}

impl Rejection {
    fn not_the_newest(successor: &Deployment, newer: &Deployment) -> Self {
        Rejection::NotTheNewest {
            successor: Box::new(successor.mention()),
            order: successor.spec.order,
            newer: Box::new(newer.mention()),
            newer_order: newer.spec.order,
            newer_waits: newer.is_waiting(),
        }
    }
}

fn build(order: Option<u64>) -> String {
    order.map(|order| format!(" (build {order})")).unwrap_or_default()
}

fn standing(waits: bool) -> &'static str {
    if waits { "waits in line" } else { "has the slot" }
}

/// Decides a submit. Needs the key's deployment, and a part of the line: its [`super::Edges`], or the whole line where
/// the policy is `LinePolicy::Latest`.
pub fn submit(slot: &mut Slot, keyed: Option<Keyed>, wish: Submission, policy: &Policy) -> Admission {
    let terms = wish.claim.clone();
    let admission = admit(slot, keyed, wish, policy);
    if let (Admission::Accepted(id), Some(ClaimTerms { pepper, ttl, holder })) = (&admission, terms) {
        let secret = LeaseSecret::derive(&pepper, *id, slot.next_revision()).hash();
        // A queued deployment holds no slot, so it refuses this claim. Every other accepted deployment is `Ready`.
        let _ = slot.step(*id, Command::Claim { secret, ttl, holder });
    }
    admission
}

fn admit(slot: &mut Slot, keyed: Option<Keyed>, wish: Submission, policy: &Policy) -> Admission {
    // No newcomer goes before those in line.
    slot.serve();
    if let Some(keyed) = keyed {
        return match &wish.key {
            Some((_, fingerprint)) if *fingerprint == keyed.fingerprint => {
                let made = slot.deployment(keyed.deployment.id).cloned().unwrap_or(keyed.deployment);
                repeat(slot, &made)
            }
            Some(_) | None => Admission::Rejected(Rejection::KeyReused),
        };
    }
    let hold = slot.hold_of(&wish.spec);
    if let (Some(hold), OnConflict::Refuse) = (&hold, wish.on_conflict) {
        return Admission::Rejected(Rejection::Paused(Box::new(hold.clone())));
    }
    if let Some(refusal) = wish.refusal {
        return Admission::Rejected(refusal);
    }
    if let Some(rejection) = outdated(&wish.spec, slot) {
        return Admission::Rejected(rejection);
    }
    let holder = slot.holder().cloned().map(Box::new);
    if holder.is_none() && hold.is_none() {
        let id = wish.id;
        enter(slot, id, wish, Entry::Ready);
        return Admission::Accepted(id);
    }
    let place = match wish.on_conflict {
        OnConflict::Refuse => return Admission::Conflict { blocker: holder, ticket: None },
        OnConflict::Wait => Place::Ticket { window: Duration::ZERO },
        OnConflict::Queue => Place::Queued,
    };
    if slot.project().waiting_count >= u64::from(policy.line_limit) {
        return Admission::Rejected(Rejection::LineFull { limit: policy.line_limit });
    }
    let id = wish.id;
    join(slot, wish, place, hold, policy.line);
    match place {
        Place::Ticket { .. } => Admission::Conflict { blocker: holder, ticket: Some(id) },
        Place::Queued => Admission::Accepted(id),
    }
}

/// Lets a newcomer into the line: at its end, or, with `LinePolicy::Latest`, before the deployments that are older; or, if
/// it passes the present hold, before all who are held.
fn join(slot: &mut Slot, wish: Submission, place: Place, hold: Option<Hold>, line: LinePolicy) {
    let age = slot.age_of_newcomer(&wish.spec);
    let passes = wish.spec.override_pause && slot.hold().is_some();
    let ahead = match line {
        _ if passes => {
            let at = slot.line().into_iter().take_while(|one| order::is_overriding(one.rank())).count();
            Some((at, order::overriding_rank(age.ticket)))
        }
        LinePolicy::All => None,
        LinePolicy::Latest => order::place_before_older(age, &slot.line(), slot.kept_rank()),
    };
    let blocker = slot.holder().map(Deployment::mention);
    let (position, rank) = match ahead {
        Some((at, rank)) => (at as u64 + 1, Some(rank)),
        None => (slot.project().waiting_count + 1, None),
    };
    let overtaker = slot.overtaker(age, rank.unwrap_or(i64::MAX));
    let overtaken = rank.map_or_else(Vec::new, |rank| not_yet_overtaken(slot, age, rank));
    let id = wish.id;
    enter(slot, id, wish, Entry::Waiting { place, position, blocker, rank, overtaker, hold });
    if let Some(by) = slot.deployment(id).map(Deployment::mention) {
        tell_overtaken(slot, &overtaken, &by);
    }
}

/// The deployments in line that a newcomer at `rank` supersedes when it starts, and that no other deployment supersedes
/// until then: a deployment that was told already is not told again.
fn not_yet_overtaken(slot: &Slot, newcomer: Age<'_>, rank: i64) -> Vec<DeploymentId> {
    let line = slot.line();
    let behind = line.iter().filter(|waiting| waiting.rank() > rank && waiting.ticket != newcomer.ticket);
    let older = behind.filter(|waiting| order::ends(newcomer, Some(rank), waiting.age()));
    older.filter(|older| slot.overtaker(older.age(), older.rank()).is_none()).map(|older| older.id).collect()
}

fn tell_overtaken(slot: &mut Slot, overtaken: &[DeploymentId], by: &Mention) {
    let blocker = slot.holder().map(Deployment::mention);
    let line: Vec<_> = slot.line().into_iter().map(|waiting| waiting.id).collect();
    for (position, id) in (1..).zip(line) {
        if overtaken.contains(&id) {
            // It waits, so this cannot be refused.
            let _ = slot.step(id, Command::Overtaken { position, blocker: blocker.clone(), by: by.clone() });
        }
    }
}

/// Decides a worker's claim. Needs the deployment, and the deployments that its start may end:
/// [`super::Edges::is_start`].
///
/// # Errors
/// The build number was overtaken, in which case the deployment is ended; or the deployment cannot be claimed; or the
/// same claim call has already taken another deployment.
pub fn claim(slot: &mut Slot, id: DeploymentId, terms: ClaimTerms) -> Result<Deployment, Refusal> {
    let ClaimTerms { pepper, ttl, holder } = terms;
    let ready = slot.deployment(id).ok_or(Refusal::WrongState)?;
    // A call is made twice when its answer was lost. Both may be at work at once, each at another server.
    if slot.held().is_some() {
        return Err(Refusal::Taken);
    }
    if matches!(ready.state, State::Ready)
        && let Some(newer) = outdated_by(&ready.spec, slot.project())
    {
        slot.step(id, end_of_outdated(&ready.spec, newer))?;
        return Err(Refusal::Final);
    }
    if slot.holder().is_some_and(|holder| holder.id == id) && slot.take_back() {
        // The hold began after the deployment had got the slot.
        return Err(Refusal::Held);
    }
    let secret = LeaseSecret::derive(&pepper, id, slot.next_revision()).hash();
    slot.step(id, Command::Claim { secret, ttl, holder }).cloned()
}

/// The outcome of a cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// It is cancelled, or its worker is asked to stop it.
    Requested(Box<Deployment>),
    /// It was final, or was asked to stop before.
    Unchanged(Box<Deployment>),
    /// There is no such deployment.
    NotFound,
    /// Refused.
    Rejected(Rejection),
}

/// Decides a cancel. Needs the deployment and [`super::LineLoad::Head`]; with a successor also the successor and the
/// whole line.
///
/// With a successor, the deployment that holds the slot is cancelled, and the successor is put before the older ones in
/// line. Those end when the successor starts, and go on if the successor leaves. The successor must be newer than the
/// target, than the present holder of the slot, and than every waiting deployment.
pub fn cancel(
    slot: &mut Slot,
    id: DeploymentId,
    reason: Option<String>,
    successor: Option<DeploymentId>,
    policy: &Policy,
) -> Cancellation {
    let Some(target) = slot.deployment(id).cloned() else { return Cancellation::NotFound };
    let told = reason.clone().unwrap_or_default();
    let changed = match successor {
        // A refusal means that the deployment is final, or that a cancel was requested before: both are what the caller
        // wished for.
        None => {
            let by = slot.party();
            slot.step(id, Command::Cancel { reason, superseded_by: None, by }).is_ok()
        }
        Some(successor) => match preempt(slot, &target, reason, successor, policy) {
            Ok(changed) => changed,
            Err(rejection) => return Cancellation::Rejected(rejection),
        },
    };
    if changed {
        slot.audit("cancel", Some(id), told);
    }
    let after = Box::new(slot.deployment(id).cloned().unwrap_or(target));
    if changed { Cancellation::Requested(after) } else { Cancellation::Unchanged(after) }
}

/// Makes way for `successor`. Answers whether that changed anything.
fn preempt(
    slot: &mut Slot,
    target: &Deployment,
    reason: Option<String>,
    successor: DeploymentId,
    policy: &Policy,
) -> Result<bool, Rejection> {
    let newcomer = slot.deployment(successor).filter(|newcomer| !newcomer.is_final()).cloned();
    let newcomer = newcomer.ok_or(Rejection::SuccessorGone)?;
    if target.id == successor {
        return Err(Rejection::NotOlder);
    }
    let holder = slot.holder().filter(|holder| holder.id != successor).cloned();
    let newer = slot.line().into_iter().rfind(|waiting| order::is_newer(waiting.age(), newcomer.age())).cloned();
    let in_the_way = [Some(target).filter(|target| !target.is_final()), holder.as_ref()];
    let not_older = in_the_way.into_iter().flatten().find(|it| !order::is_newer(newcomer.age(), it.age()));
    if let Some(newer) = newer.as_ref().or(not_older) {
        return Err(Rejection::not_the_newest(&newcomer, newer));
    }
    if let Some(hold) = slot.hold_of(&newcomer.spec).filter(|_| newcomer.is_waiting()) {
        return Err(Rejection::SuccessorHeld(Box::new(hold)));
    }
    if holder.as_ref().is_some_and(|holder| !may_preempt(holder, slot, policy)) {
        return Err(Rejection::PreemptionRefused);
    }
    let mut changed = put_ahead(slot, &newcomer);
    // The holder comes last, so that its end finds the line in its final order.
    if let Some(holder) = holder {
        let (superseded_by, by) = (Some(newcomer.mention()), slot.party());
        changed |= slot.step(holder.id, Command::Cancel { reason, superseded_by, by }).is_ok();
    }
    Ok(changed)
}

/// Puts a newcomer before the older deployments in line, and tells those of them that were not told yet that it will
/// end them.
pub(super) fn put_ahead(slot: &mut Slot, newcomer: &Deployment) -> bool {
    if newcomer.started_at.is_some() {
        // The newcomer has started, so there is nothing to wait for.
        let before = Deployment { started_at: None, line_rank: Some(newcomer.rank()), ..newcomer.clone() };
        let waited = slot.project().waiting_count;
        slot.supersede_older(&before);
        return slot.project().waiting_count < waited;
    }
    if order::is_overriding(newcomer.rank()) {
        // It stands before all who are held already, and ends none of them.
        return false;
    }
    let others: Vec<_> = slot.line().into_iter().filter(|waiting| waiting.id != newcomer.id).collect();
    let Some((at, rank)) = order::place_before_older(newcomer.age(), &others, slot.kept_rank()) else { return false };
    // A newcomer that holds the slot, or that stands before all of them already, keeps its place: it ends them by its
    // rank or by its `order`.
    if others.get(at).is_some_and(|older| !newcomer.is_waiting() || newcomer.rank() < older.rank()) {
        return false;
    }
    let ahead = others.iter().take_while(|other| other.rank() < rank).count() as u64;
    let position = if newcomer.is_waiting() { ahead + 1 } else { 0 };
    let blocker = slot.holder().filter(|holder| holder.id != newcomer.id).map(Deployment::mention);
    let overtaken = not_yet_overtaken(slot, newcomer.age(), rank);
    let changed = slot.step(newcomer.id, Command::PutAhead { rank, position, blocker }).is_ok();
    tell_overtaken(slot, &overtaken, &newcomer.mention());
    changed
}

/// The same request again: the deployment that it made, or the slot that was kept for it.
fn repeat(slot: &mut Slot, made: &Deployment) -> Admission {
    match &made.state {
        State::Reserved => {
            if let Some(newer) = outdated_by(&made.spec, slot.project()) {
                let _ = slot.step(made.id, end_of_outdated(&made.spec, newer.clone()));
                let order = made.spec.order.unwrap_or_default();
                return Admission::Rejected(Rejection::Outdated { order, newer: Box::new(newer) });
            }
            if slot.take_back() {
                return Admission::Conflict { blocker: slot.holder().cloned().map(Box::new), ticket: Some(made.id) };
            }
            match slot.step(made.id, Command::TakeUp) {
                Ok(_) => Admission::Accepted(made.id),
                Err(_) => Admission::Replayed(made.id),
            }
        }
        State::Waiting(Place::Ticket { .. }) => {
            let _ = slot.step(made.id, Command::Attend { window: Duration::ZERO });
            Admission::Conflict { blocker: slot.holder().cloned().map(Box::new), ticket: Some(made.id) }
        }
        State::Finished { outcome: Outcome::Cancelled { cause: CancelCause::Expired, .. }, .. } => {
            Admission::Rejected(Rejection::DeadlinePassed)
        }
        State::Waiting(Place::Queued) | State::Ready | State::Running(_) | State::Finished { .. } => {
            Admission::Replayed(made.id)
        }
    }
}

fn enter(slot: &mut Slot, id: DeploymentId, wish: Submission, entry: Entry) {
    // A rollback passes the pause that it sets itself; nobody's wish is passed by that.
    if let Some(hold) = slot.hold_before().filter(|_| wish.spec.override_pause) {
        slot.audit("override_pause", Some(id), format!("it passes: the project is {hold}"));
    }
    slot.admit(id, wish.project, wish.spec, entry);
    if let Some(sealed) = wish.sealed {
        slot.seal(id, sealed);
    }
    slot.audit("submit", Some(id), String::new());
    if let Some((key, fingerprint)) = wish.key {
        slot.record_key(KeyRecord { key, fingerprint, deployment: id });
    }
}

/// Ends a deployment whose turn has come and that the mark does not let start: superseded by the deployment that set the
/// mark as it started, or cancelled by the person who set it.
fn end_of_outdated(spec: &Spec, mark: BuildMark) -> Command {
    match mark {
        BuildMark::Started(started) => {
            Command::Cancel { reason: None, superseded_by: Some(started.deployment), by: None }
        }
        BuildMark::Set(set) => {
            let (order, by) = (spec.order.unwrap_or_default(), Some(set.by.clone()));
            let reason = Some(format!("build {order} is older than {}", BuildMark::Set(set)));
            Command::Cancel { reason, superseded_by: None, by }
        }
    }
}

fn outdated(spec: &Spec, slot: &Slot) -> Option<Rejection> {
    let newer = Box::new(outdated_by(spec, slot.project())?);
    Some(Rejection::Outdated { order: spec.order.unwrap_or_default(), newer })
}

pub(super) fn may_preempt(holder: &Deployment, slot: &Slot, policy: &Policy) -> bool {
    // Only running work is protected, because taking a slot under which no worker runs costs nothing.
    if !matches!(holder.state, State::Running(_)) {
        return true;
    }
    match policy.preempt {
        Preempt::Allow => true,
        Preempt::Never => false,
        Preempt::Times { times } => holder.cancel.is_some() || slot.project().preempted_count < times,
    }
}
