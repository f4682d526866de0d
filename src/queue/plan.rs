//! What a submit would do now. It is decided as a submit is, by the same function on the same data, but nothing is
//! recorded. See decision 0048.

use jiff::Timestamp;

use super::Queue;
use crate::{
    model::{
        Changes, Deployment, Eta, Hold, LineLoad, Load, Loaded, Mention, Policy, Project, Slot,
        admission::{self, Admission, Cancellation, OnConflict, Rejection, Submission},
        forecast::{Forecast, StartUnknown},
    },
    store::{StoreError, transact},
};

/// The outcome that a submit would have.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The decision.
    pub admission: Admission,
    /// The deployment that holds the slot now.
    pub holder: Option<Deployment>,
    /// The deployment that would be made, or was made before under the same key.
    pub own: Option<Deployment>,
    /// The place in line of `own`. Where the submit does not wait, the place that it would get if it did.
    pub position: u64,
    /// The holder in its state after the cancel, where it would be cancelled.
    pub cancelled: Option<Box<Deployment>>,
    /// Why it would not be cancelled, although that is asked for.
    pub cancel_refusal: Option<Rejection>,
    /// The project's counters as they stand now.
    pub project: Project,
    /// The deployments in line that `own` would supersede when it starts.
    pub superseded: Vec<Deployment>,
    /// The newer deployment that would supersede `own` when the newer one starts.
    pub overtaker: Option<Mention>,
    /// What would hold it.
    pub hold: Option<Hold>,
    /// How long until it would have the slot; `None` where it would not wait.
    pub start: Option<Result<Eta, StartUnknown>>,
}

impl Queue {
    /// Decides a submit, and with `cancels` the wish to cancel the holder that follows it, and records nothing.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn plan(&self, wish: Submission, cancels: bool) -> Result<Planned, StoreError> {
        let policy = self.policy(&wish.project);
        let now = self.clock.wall();
        let key = wish.key.as_ref().map(|(key, _)| key.clone());
        let load = Load { key, line: LineLoad::All, ..Load::default() };
        let project = wish.project.clone();
        transact(&*self.store, project, load, move |loaded| {
            (Changes::default(), decide(&loaded, now, &wish, cancels, &policy))
        })
        .await
    }
}

fn decide(loaded: &Loaded, now: Timestamp, wish: &Submission, cancels: bool, policy: &Policy) -> Planned {
    let mut slot = Slot::planning(loaded.clone(), now, policy);
    let admission = admission::submit(&mut slot, loaded.keyed.clone(), wish.clone(), policy);
    let is_blocked =
        matches!(admission, Admission::Conflict { ticket: None, .. } | Admission::Rejected(Rejection::Paused(_)));
    if is_blocked && wish.on_conflict == OnConflict::Refuse {
        // A client that is told that the slot is held wants to know how long the line is.
        let queued = Submission { on_conflict: OnConflict::Queue, ..wish.clone() };
        let planned = decide(loaded, now, &queued, false, policy);
        return Planned { admission, own: None, superseded: Vec::new(), ..planned };
    }
    let (mut cancelled, mut cancel_refusal) = (None, None);
    let own = match &admission {
        Admission::Accepted(id) | Admission::Replayed(id) => Some(*id),
        Admission::Conflict { ticket, .. } => *ticket,
        Admission::Rejected(_) => None,
    };
    if let (true, Admission::Conflict { blocker: Some(blocker), ticket: Some(ticket) }) = (cancels, &admission) {
        match admission::cancel(&mut slot, blocker.id, None, Some(*ticket), policy) {
            Cancellation::Requested(deployment) => cancelled = Some(deployment),
            Cancellation::Rejected(rejection) => cancel_refusal = Some(rejection),
            Cancellation::Unchanged(_) | Cancellation::NotFound => {}
        }
    }
    let own = own.and_then(|id| slot.deployment(id)).cloned();
    let waiting = own.as_ref().filter(|own| own.is_waiting());
    let line = slot.line();
    let position = waiting.map_or(0, |own| line.iter().take_while(|other| other.id != own.id).count() as u64 + 1);
    let hold = own.as_ref().map_or_else(|| slot.hold_of(&wish.spec), |own| slot.hold_of(&own.spec));
    let start = waiting.filter(|_| hold.is_some() || slot.holder().is_some()).map(|own| {
        let forecast = Forecast { project: slot.project(), policy, holder: slot.holder(), now };
        forecast.start(own, position, line.iter().copied())
    });
    let superseded = own.as_ref().map_or_else(Vec::new, |own| {
        let behind = line.iter().filter(|other| other.id != own.id && other.rank() > own.rank());
        behind.filter(|other| own.will_supersede(other.age())).map(|other| (*other).clone()).collect()
    });
    Planned {
        holder: loaded.holder.clone(),
        project: loaded.project.clone(),
        position,
        hold,
        start,
        overtaker: waiting.and_then(|own| slot.overtaker(own.age(), own.rank())),
        own,
        cancelled,
        cancel_refusal,
        superseded,
        admission,
    }
}
