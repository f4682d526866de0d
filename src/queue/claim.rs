//! Claim: a worker takes a deployment that holds its slot.

use super::{Queue, WorkerError};
use crate::{
    model::{Deployment, DeploymentId, LeaseSecret, LineLoad, Load, ProjectName, Slot, admission},
    store::transact,
};

/// A deployment and the proof that it is the worker's.
#[derive(Debug)]
pub struct Claimed {
    /// The deployment, running.
    pub deployment: Deployment,
    /// What to show with each call. It is not stored anywhere.
    pub secret: LeaseSecret,
}

impl Queue {
    /// Takes a deployment for `worker`; `None` where somebody else has it, or it is final by now.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn claim(
        &self,
        project: ProjectName,
        id: DeploymentId,
        worker: String,
    ) -> Result<Option<Claimed>, WorkerError> {
        let secret = self.lease_secret(id);
        let (hash, ttl, now) = (secret.hash(), self.limits.lease, self.clock.wall());
        let load = Load { deployments: vec![id], key: None, line: LineLoad::Head };
        let claimed = transact(&*self.store, project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now);
            let claimed = admission::claim(&mut slot, id, hash, ttl, worker);
            (slot.into_changes(), claimed)
        })
        .await?;
        Ok(claimed.ok().map(|deployment| Claimed { deployment, secret }))
    }
}
