//! Release: an operator forces the slot free, on the record.

use super::Queue;
use crate::{
    model::{Command, Deployment, DeploymentId, LineLoad, Load, ProjectName, Slot},
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
}

impl Queue {
    /// Frees the slot, if `only` holds it or is not given.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn release(
        &self,
        project: ProjectName,
        reason: String,
        only: Option<DeploymentId>,
    ) -> Result<Released, StoreError> {
        let now = self.clock.wall();
        let load = Load { line: LineLoad::Head, ..Load::default() };
        transact(&*self.store, project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now);
            let released = decide(&mut slot, reason, only);
            (slot.into_changes(), released)
        })
        .await
    }
}

fn decide(slot: &mut Slot, reason: String, only: Option<DeploymentId>) -> Released {
    let Some(holder) = slot.holder().cloned() else { return Released::WasFree };
    if only.is_some_and(|only| only != holder.id) {
        return Released::HolderChanged(Box::new(holder));
    }
    slot.audit("release", Some(holder.id), reason.clone());
    // A holder is never final, so it cannot refuse.
    match slot.step(holder.id, Command::Release { reason }) {
        Ok(ended) => Released::Ended(Box::new(ended.clone())),
        Err(_) => Released::WasFree,
    }
}
