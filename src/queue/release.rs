//! Release: an operator forces the slot free, on the record.

use std::time::Duration;

use jiff::Timestamp;

use super::Queue;
use crate::{
    model::{Caller, Command, Deployment, DeploymentId, LineLoad, Load, ProjectName, Slot, State},
    store::StoreError,
};

/// What an operator wants.
#[derive(Clone, Debug)]
pub struct Release {
    /// The reason, which is recorded.
    pub reason: String,
    /// The operator's name, as the client says.
    pub actor: Option<String>,
    /// Only where this deployment holds the slot.
    pub only: Option<DeploymentId>,
    /// Also from a worker that gave a sign of life within its lease.
    pub even_if_alive: bool,
}

/// The outcome of a release.
#[derive(Clone, Debug)]
pub enum Released {
    /// This deployment held the slot, and is final now.
    Ended(Box<Deployment>),
    /// The slot was free.
    WasFree,
    /// The slot is held by another deployment than the operator meant.
    HolderChanged(Box<Deployment>),
    /// The holder's worker gave a sign of life within its lease, and may still be at work.
    Alive(Box<Deployment>),
}

impl Queue {
    /// Frees the slot, whatever its worker does; if `only` is given, only where that deployment holds it.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn release(
        &self,
        caller: &Caller,
        project: ProjectName,
        reason: String,
        only: Option<DeploymentId>,
    ) -> Result<Released, StoreError> {
        self.release_if(caller, project, Release { reason, actor: None, only, even_if_alive: true }).await
    }

    /// Frees the slot as the operator wants it.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn release_if(
        &self,
        caller: &Caller,
        project: ProjectName,
        Release { reason, actor, only, even_if_alive }: Release,
    ) -> Result<Released, StoreError> {
        let (now, policy, caller) = (self.clock.wall(), self.policy(&project), caller.clone());
        let load = Load { line: LineLoad::Head, ..Load::default() };
        self.transact(project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &policy).by(&caller).claiming(actor);
            let released = decide(&mut slot, reason, only, |holder| even_if_alive || !is_alive(holder, now));
            (slot.into_changes(), released)
        })
        .await
    }
}

/// Whether a worker runs it that gave a sign of life within its lease. The times that people see decide here, because
/// this check only keeps an operator from a mistake, and takes nothing from anybody.
fn is_alive(holder: &Deployment, now: Timestamp) -> bool {
    let State::Running(lease) = &holder.state else { return false };
    let silent_ms = holder.last_heartbeat_at.map_or(0, |at| now.as_millisecond() - at.as_millisecond());
    Duration::from_millis(u64::try_from(silent_ms).unwrap_or(0)) < lease.ttl
}

fn decide(
    slot: &mut Slot,
    reason: String,
    only: Option<DeploymentId>,
    may: impl FnOnce(&Deployment) -> bool,
) -> Released {
    let Some(holder) = slot.holder().cloned() else { return Released::WasFree };
    if only.is_some_and(|only| only != holder.id) {
        return Released::HolderChanged(Box::new(holder));
    }
    if !may(&holder) {
        return Released::Alive(Box::new(holder));
    }
    slot.audit("release", Some(holder.id), reason.clone());
    // A holder is never final, so it cannot refuse.
    let by = slot.party();
    match slot.step(holder.id, Command::Release { reason, by }) {
        Ok(ended) => Released::Ended(Box::new(ended.clone())),
        Err(_) => Released::WasFree,
    }
}
