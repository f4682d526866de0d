//! Who starts, waits, is refused or is superseded: the decisions about a project's slot that involve more than one
//! deployment. Each takes the [`Slot`] under its lock, changes it, and says what became of the wish.

use std::time::Duration;

use thiserror::Error;

use super::{
    command::{Command, Refusal},
    deployment::{CancelCause, Deployment, Outcome, Place, Spec, State},
    ids::{DeploymentId, IdempotencyKey, ProjectName},
    lease::{LeaseSecret, Pepper, SecretHash},
    lifecycle::Entry,
    policy::{LinePolicy, Policy, Preempt},
    project::StartedOrder,
    slot::{KeyRecord, Keyed, Slot, outdated_by},
};

/// A client's wish to deploy.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The id that the deployment gets, should this make one.
    pub id: DeploymentId,
    /// The project.
    pub project: ProjectName,
    /// What is asked for.
    pub spec: Spec,
    /// The client's own name for this wish, and SHA-256 of the request.
    pub key: Option<(IdempotencyKey, [u8; 32])>,
    /// What to do when the slot is held.
    pub on_conflict: OnConflict,
    /// Why nothing new may be made of it now; what was granted before is found all the same.
    pub refusal: Option<Rejection>,
    /// The lease that the client, being the worker itself, wants with the slot.
    pub claim: Option<ClaimTerms>,
}

/// A lease that is wanted together with the slot.
#[derive(Clone, Debug)]
pub struct ClaimTerms {
    /// What the lease's secret is made from.
    pub pepper: Pepper,
    /// How long the lease lasts.
    pub ttl: Duration,
    /// The worker's name.
    pub worker: String,
}

/// What a client wants when the slot is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// To be told.
    Refuse,
    /// A place in line, for which it polls.
    Wait,
    /// A place in line, from which the server starts it.
    Queue,
}

/// What became of a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is in: it holds the slot, or is queued.
    Accepted(DeploymentId),
    /// The same wish was granted before, and this is what it made.
    Replayed(DeploymentId),
    /// The slot is held.
    Conflict {
        /// By whom.
        blocker: Box<Deployment>,
        /// The place in line that is kept.
        ticket: Option<DeploymentId>,
    },
    /// No, and waiting does not help.
    Rejected(Rejection),
}

/// Why a wish is refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A newer build ran already.
    #[error("build {order} is older than build {}, which deployment {} started", newer.order, newer.deployment)]
    Outdated {
        /// The refused build number.
        order: u64,
        /// The newer one.
        newer: StartedOrder,
    },
    /// The place in line was lost to its deadline.
    #[error("its deadline passed while it waited in line")]
    DeadlinePassed,
    /// The project takes no new deployments.
    #[error("the project is paused")]
    Paused,
    /// The line is as long as it may get.
    #[error("{limit} deployments wait in line already, which is the project's limit")]
    LineFull {
        /// The limit.
        limit: u32,
    },
    /// The key names another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The project does not let newcomers cancel what runs.
    #[error("the project's policy lets the running deployment finish")]
    PreemptionRefused,
    /// The successor is not younger than what it wants to supersede.
    #[error("a deployment can only supersede older ones")]
    NotOlder,
    /// The successor is not there, or final.
    #[error("the superseding deployment is not in line")]
    SuccessorGone,
    /// No agent is there that could run it.
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
    /// What is to be deployed is not there.
    #[error("artifact {digest} is not on this server")]
    ArtifactMissing {
        /// Its SHA-256.
        digest: String,
    },
}

/// Decides a submit. Needs the key's deployment and [`super::LineLoad::Head`], or `All` where the line keeps the latest
/// only.
pub fn submit(slot: &mut Slot, keyed: Option<Keyed>, wish: Submission, policy: &Policy) -> Admission {
    let terms = wish.claim.clone();
    let admission = admit(slot, keyed, wish, policy);
    if let (Admission::Accepted(id), Some(ClaimTerms { pepper, ttl, worker })) = (&admission, terms) {
        let secret = LeaseSecret::derive(&pepper, *id).hash();
        // Who is only queued has no slot to work under; every other one that was accepted is ready.
        let _ = slot.step(*id, Command::Claim { secret, ttl, worker });
    }
    admission
}

fn admit(slot: &mut Slot, keyed: Option<Keyed>, wish: Submission, policy: &Policy) -> Admission {
    if let Some(keyed) = keyed {
        return match &wish.key {
            Some((_, fingerprint)) if *fingerprint == keyed.fingerprint => repeat(slot, &keyed.deployment),
            Some(_) | None => Admission::Rejected(Rejection::KeyReused),
        };
    }
    if policy.paused {
        return Admission::Rejected(Rejection::Paused);
    }
    if let Some(refusal) = wish.refusal {
        return Admission::Rejected(refusal);
    }
    if let Some(rejection) = outdated(&wish.spec, slot) {
        return Admission::Rejected(rejection);
    }
    let Some(holder) = slot.holder().cloned() else {
        let id = wish.id;
        enter(slot, id, wish, Entry::Ready);
        return Admission::Accepted(id);
    };
    let place = match wish.on_conflict {
        OnConflict::Refuse => return Admission::Conflict { blocker: Box::new(holder), ticket: None },
        OnConflict::Wait => Place::Ticket { window: Duration::ZERO },
        OnConflict::Queue => Place::Queued,
    };
    let id = wish.id;
    match policy.line {
        LinePolicy::Latest => supersede_waiting(slot, id, None, |_| true),
        LinePolicy::All if slot.project().waiting_count >= u64::from(policy.line_limit) => {
            return Admission::Rejected(Rejection::LineFull { limit: policy.line_limit });
        }
        LinePolicy::All => {}
    }
    let position = slot.project().waiting_count + 1;
    enter(slot, id, wish, Entry::Waiting { place, position, blocker: holder.id });
    match place {
        Place::Ticket { .. } => Admission::Conflict { blocker: Box::new(holder), ticket: Some(id) },
        Place::Queued => Admission::Accepted(id),
    }
}

/// Decides a worker's claim. Needs the deployment and [`super::LineLoad::Head`].
///
/// # Errors
/// The build number was overtaken, in which case the deployment is ended, or it is not there to be claimed; or the call
/// that claims it has taken another one.
pub fn claim(
    slot: &mut Slot,
    id: DeploymentId,
    secret: SecretHash,
    ttl: Duration,
    worker: String,
) -> Result<Deployment, Refusal> {
    let ready = slot.deployment(id).ok_or(Refusal::WrongState)?;
    // Of a call that is made twice, because an answer was lost, both may be at work at once, each at another server.
    if slot.held().is_some() {
        return Err(Refusal::Taken);
    }
    if matches!(ready.state, State::Ready)
        && let Some(newer) = outdated_by(&ready.spec, slot.project())
    {
        slot.step(id, Command::Cancel { reason: None, superseded_by: Some(newer.deployment) })?;
        return Err(Refusal::Final);
    }
    slot.step(id, Command::Claim { secret, ttl, worker }).cloned()
}

/// What became of a cancel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cancellation {
    /// It is cancelled, or its worker is asked to stop it.
    Requested(Box<Deployment>),
    /// It was final, or was asked to stop before.
    Unchanged(Box<Deployment>),
    /// There is no such deployment.
    NotFound,
    /// No.
    Rejected(Rejection),
}

/// Decides a cancel. Needs the deployment, and with a successor also that one and [`super::LineLoad::UpTo`] it; else
/// [`super::LineLoad::Head`].
///
/// With a successor, everything older than it goes: what is in line, and whoever holds the slot. A target that became
/// final a moment ago does not change that, since the next in line may hold the slot by now.
pub fn cancel(
    slot: &mut Slot,
    id: DeploymentId,
    reason: Option<String>,
    successor: Option<DeploymentId>,
    policy: &Policy,
) -> Cancellation {
    let Some(target) = slot.deployment(id).cloned() else { return Cancellation::NotFound };
    let mut ends = vec![id];
    if let Some(successor) = successor {
        let ticket = match slot.deployment(successor) {
            Some(newer) if !newer.is_final() => newer.ticket,
            Some(_) | None => return Cancellation::Rejected(Rejection::SuccessorGone),
        };
        if target.ticket >= ticket {
            return Cancellation::Rejected(Rejection::NotOlder);
        }
        let holder = slot.holder().filter(|holder| holder.ticket < ticket).cloned();
        if holder.as_ref().is_some_and(|holder| !may_preempt(holder, slot, policy)) {
            return Cancellation::Rejected(Rejection::PreemptionRefused);
        }
        supersede_waiting(slot, successor, reason.as_ref(), |older| older.ticket < ticket);
        // Last of all the holder, so that its promotion finds the successor at the head.
        ends.extend(holder.map(|holder| holder.id).filter(|holder| *holder != id));
    }
    for end in ends {
        // A refusal means that it is final or was asked before: both are what was wished for.
        let _ = slot.step(end, Command::Cancel { reason: reason.clone(), superseded_by: successor });
    }
    let after = slot.deployment(id).cloned().unwrap_or_else(|| target.clone());
    if after == target { Cancellation::Unchanged(Box::new(after)) } else { Cancellation::Requested(Box::new(after)) }
}

/// The same request again: what it made, or the slot that was kept for it.
fn repeat(slot: &mut Slot, made: &Deployment) -> Admission {
    match &made.state {
        State::Reserved => {
            if let Some(newer) = outdated_by(&made.spec, slot.project()) {
                let _ = slot.step(made.id, Command::Cancel { reason: None, superseded_by: Some(newer.deployment) });
                let order = made.spec.order.unwrap_or_default();
                return Admission::Rejected(Rejection::Outdated { order, newer });
            }
            match slot.step(made.id, Command::TakeUp) {
                Ok(_) => Admission::Accepted(made.id),
                Err(_) => Admission::Replayed(made.id),
            }
        }
        State::Waiting(Place::Ticket { .. }) => {
            let _ = slot.step(made.id, Command::Attend { window: Duration::ZERO });
            match slot.holder() {
                Some(holder) => Admission::Conflict { blocker: Box::new(holder.clone()), ticket: Some(made.id) },
                None => Admission::Replayed(made.id),
            }
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
    slot.admit(id, wish.project, wish.spec, entry);
    if let Some((key, fingerprint)) = wish.key {
        slot.record_key(KeyRecord { key, fingerprint, deployment: id });
    }
}

fn outdated(spec: &Spec, slot: &Slot) -> Option<Rejection> {
    let newer = outdated_by(spec, slot.project())?;
    Some(Rejection::Outdated { order: spec.order.unwrap_or_default(), newer })
}

fn supersede_waiting(
    slot: &mut Slot,
    successor: DeploymentId,
    reason: Option<&String>,
    goes: impl Fn(&Deployment) -> bool,
) {
    let older: Vec<_> = slot.line().into_iter().filter(|d| d.id != successor && goes(d)).map(|d| d.id).collect();
    for id in older {
        // They wait, so the cancel cannot be refused.
        let _ = slot.step(id, Command::Cancel { reason: reason.cloned(), superseded_by: Some(successor) });
    }
}

fn may_preempt(holder: &Deployment, slot: &Slot, policy: &Policy) -> bool {
    // Only work that runs is protected: a slot that nobody works under costs nothing to take.
    if !matches!(holder.state, State::Running(_)) {
        return true;
    }
    match policy.preempt {
        Preempt::Allow => true,
        Preempt::Never => false,
        Preempt::Times { times } => holder.cancel.is_some() || slot.project().preempted_count < times,
    }
}
