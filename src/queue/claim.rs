//! Claim: a worker takes a deployment that holds its slot.

use std::collections::BTreeMap;

use super::{Queue, WorkerError};
use crate::{
    model::{Deployment, DeploymentId, LeaseSecret, LineLoad, Load, ProjectName, Slot, State, admission},
    store::{Claimable, transact},
};

/// A deployment and the proof that it is the worker's.
#[derive(Debug)]
pub struct Claimed {
    /// The deployment, running.
    pub deployment: Deployment,
    /// What to show with each call. It is not stored anywhere.
    pub secret: LeaseSecret,
}

/// How many claimable deployments are looked at: one a project, so this is the number of projects with work.
const LOOK_LIMIT: usize = 4096;

impl Queue {
    /// What `holder` took before and still runs: the answer that told him was lost.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn claimed_by<'a>(
        &self,
        holder: &str,
        projects: impl Iterator<Item = &'a ProjectName>,
    ) -> Result<Option<Claimed>, WorkerError> {
        for project in projects {
            let state = self.store.project(project.clone(), 0).await?;
            let Some(deployment) = state.and_then(|state| state.holder) else { continue };
            if matches!(&deployment.state, State::Running(lease) if lease.worker == holder) {
                let secret = self.lease_secret(deployment.id);
                return Ok(Some(Claimed { deployment, secret }));
            }
        }
        Ok(None)
    }

    /// What waits for a worker of which one of these pipelines is offered, oldest first.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn claimable(
        &self,
        offers: &BTreeMap<ProjectName, Vec<String>>,
    ) -> Result<Vec<(ProjectName, DeploymentId)>, WorkerError> {
        let is_offered = |claimable: &Claimable| {
            offers.get(&claimable.project).is_some_and(|pipelines| pipelines.contains(&claimable.spec.pipeline))
        };
        let all = self.store.claimable(LOOK_LIMIT).await?;
        Ok(all.into_iter().filter(is_offered).map(|claimable| (claimable.project, claimable.id)).collect())
    }

    /// Takes the first of these that nobody else has taken by now, as `holder`.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn claim_any(
        &self,
        holder: &str,
        claimable: Vec<(ProjectName, DeploymentId)>,
    ) -> Result<Option<Claimed>, WorkerError> {
        for (project, id) in claimable {
            if let Some(claimed) = self.claim(project, id, holder.to_owned()).await? {
                return Ok(Some(claimed));
            }
        }
        Ok(None)
    }

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
