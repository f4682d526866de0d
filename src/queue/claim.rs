//! Claim: a worker takes a deployment that holds its slot. See decision 0027.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::timeout;

use super::{Queue, WorkerError};
use crate::{
    model::{
        Changes, Deployment, DeploymentId, Edges, LeaseSecret, LineLoad, Load, ProjectName, Refusal, Slot,
        admission::{self, ClaimTerms},
    },
    store::{Claimable, Offers, StoreError, transact},
};

/// A deployment and the proof that it is the worker's.
#[derive(Debug)]
pub struct Claimed {
    /// The deployment, running.
    pub deployment: Deployment,
    /// What to show with each call. It is not stored anywhere.
    pub secret: LeaseSecret,
}

/// How many claimable deployments are looked at first: mostly the oldest can be had. Only where somebody else has taken all
/// of these meanwhile, all are looked at.
const FIRST_LOOK_LIMIT: usize = 4;

/// How long one of several that can be claimed is tried to be had.
const TAKE_LIMIT: Duration = Duration::from_secs(2);

impl Queue {
    /// What `holder` took before and still runs: the answer that told him was lost.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn claimed_by(&self, holder: &str) -> Result<Option<Claimed>, WorkerError> {
        let held = self.store.held(holder.to_owned()).await?;
        Ok(held.and_then(|deployment| Some(Claimed { secret: self.lease_secret(&deployment)?, deployment })))
    }

    /// Takes the oldest deployment for which one of these pipelines is offered, as `holder`, who holds one at most: what he
    /// has taken meanwhile by the same call, at whichever server, is answered again.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn claim_any(&self, holder: &str, offers: &Offers) -> Result<Option<Claimed>, WorkerError> {
        let offers = Arc::new(offers.clone());
        let first = self.store.claimable(offers.clone(), FIRST_LOOK_LIMIT).await?;
        let is_all = first.len() < FIRST_LOOK_LIMIT;
        match self.claim_first(holder, first).await? {
            None if !is_all => {
                let all = self.store.claimable(offers, usize::MAX).await?;
                self.claim_first(holder, all).await
            }
            claimed => Ok(claimed),
        }
    }

    /// One that cannot be taken soon, since its project is locked or cannot be read, costs the others nothing: it is passed
    /// over. Where nothing else can be had, the answer is what was in the way.
    async fn claim_first(&self, holder: &str, claimable: Vec<Claimable>) -> Result<Option<Claimed>, WorkerError> {
        let mut in_the_way = None;
        for Claimable { project, id, spec: _ } in claimable {
            // What waits for the project's lock goes on waiting when this gives up, and must not take it then: the holder has
            // been told something else, and would never hear of it.
            let wanted = Wanted::default();
            let mut taking =
                pin!(self.take(project, id, holder.to_owned(), Some(holder.to_owned()), wanted.decision.clone()));
            let taken = match timeout(TAKE_LIMIT, &mut taking).await {
                Ok(taken) => taken,
                Err(_) if wanted.give_up() => {
                    let locked = "the project of a deployment that waits for a worker is locked, or slow".to_owned();
                    in_the_way.get_or_insert(StoreError::Unavailable(locked).into());
                    continue;
                }
                // It is decided and about to be durable, which the store bounds.
                Err(_) => taking.await,
            };
            match taken {
                Ok(Ok(claimed)) => return Ok(Some(claimed)),
                Ok(Err(Refusal::Taken)) => return self.claimed_by(holder).await,
                // Somebody else has it, or it is final by now.
                Ok(Err(
                    Refusal::WrongState
                    | Refusal::Final
                    | Refusal::LeaseLost
                    | Refusal::Alive
                    | Refusal::OutputsFull
                    | Refusal::ReportGap { .. },
                )) => {}
                Err(error) => _ = in_the_way.get_or_insert(error),
            }
        }
        in_the_way.map_or(Ok(None), Err)
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
        Ok(self.take(project, id, worker, None, Decision::default()).await?.ok())
    }

    /// Takes it for `worker`, unless something runs already that is held by the same.
    async fn take(
        &self,
        project: ProjectName,
        id: DeploymentId,
        worker: String,
        held_by: Option<String>,
        decision: Decision,
    ) -> Result<Result<Claimed, Refusal>, WorkerError> {
        let now = self.clock.wall();
        let terms = ClaimTerms { pepper: self.store.pepper(), ttl: self.limits.lease, worker };
        let line = LineLoad::Edges(Edges { is_start: true, above: None });
        let load = Load { deployments: vec![id], line, held_by, ..Load::default() };
        let claimed = self
            .unheard
            .note(
                id,
                transact(&*self.store, project, load, move |loaded| {
                    if !decision.settle() {
                        return (Changes::default(), Err(Refusal::WrongState));
                    }
                    let mut slot = Slot::of(loaded, now);
                    let claimed = admission::claim(&mut slot, id, terms);
                    (slot.into_changes(), claimed)
                }),
            )
            .await?;
        Ok(claimed.and_then(|deployment| {
            let secret = self.lease_secret(&deployment).ok_or(Refusal::WrongState)?;
            Ok(Claimed { deployment, secret })
        }))
    }
}

/// Whether a claim is decided or given up: the first of the two counts, and the other one does not happen. Clones share it.
#[derive(Clone, Default)]
struct Decision(Arc<AtomicBool>);

impl Decision {
    /// Whether this is the first.
    fn settle(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }
}

/// A claim that somebody waits for: it is given up when this is dropped, unless it is decided by then.
#[derive(Default)]
struct Wanted {
    decision: Decision,
}

impl Wanted {
    /// Whether it is given up, and will change nothing; else it is decided.
    fn give_up(&self) -> bool {
        self.decision.settle()
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.give_up();
    }
}
