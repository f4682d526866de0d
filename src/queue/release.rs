//! Release: an operator forces the slot free, on the record.

use std::time::Duration;

use jiff::Timestamp;

use super::Queue;
use crate::{
    model::{Command, Deployment, DeploymentId, LineLoad, Load, ProjectName, Slot, State},
    store::{StoreError, transact},
};

/// What became of a release.
#[derive(Clone, Debug)]
pub enum Released {
    /// This deployment held the slot, and is final now.
    Ended(Box<Deployment>),
    /// The slot was free.
    WasFree,
    /// Another deployment holds the slot than the operator meant.
    HolderChanged(Box<Deployment>),
    /// The holder's worker was heard of within its lease, and may still be at work.
    Alive(Box<Deployment>),
}

impl Queue {
    /// Frees the slot, if `only` holds it or is not given, whatever its worker does.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn release(
        &self,
        project: ProjectName,
        reason: String,
        only: Option<DeploymentId>,
    ) -> Result<Released, StoreError> {
        self.release_if(project, reason, only, true).await
    }

    /// The same, but where it is not to be released `even_if_alive`, not from a worker that was heard of within its lease.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn release_if(
        &self,
        project: ProjectName,
        reason: String,
        only: Option<DeploymentId>,
        even_if_alive: bool,
    ) -> Result<Released, StoreError> {
        let now = self.clock.wall();
        let load = Load { line: LineLoad::Head, ..Load::default() };
        transact(&*self.store, project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now);
            let released = decide(&mut slot, reason, only, |holder| even_if_alive || !is_alive(holder, now));
            (slot.into_changes(), released)
        })
        .await
    }
}

/// Whether a worker runs it that was heard of within its lease. What people are shown is what counts here: this keeps an operator
/// from a slip, and takes nothing from anybody.
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
    match slot.step(holder.id, Command::Release { reason }) {
        Ok(ended) => Released::Ended(Box::new(ended.clone())),
        Err(_) => Released::WasFree,
    }
}
