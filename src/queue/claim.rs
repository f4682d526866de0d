//! Claim: a worker takes a deployment that holds its slot. See decision 0027.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{Queue, WorkerError, locked::Marks, sealed::NoValues};
use crate::{
    model::{
        Caller, Changes, Deployment, DeploymentId, Edges, FailureCause, Identity, LeaseHolder, LeaseSecret, LineLoad,
        Load, ProjectName, Refusal, Slot, Verdict,
        admission::{self, ClaimTerms},
    },
    store::{Claimable, Offers, StoreError},
};

/// A deployment and the proof that it is the worker's.
#[derive(Debug)]
pub struct Claimed {
    /// The deployment, running.
    pub deployment: Deployment,
    /// The secret to send with each call. It is stored nowhere.
    pub secret: LeaseSecret,
    /// The values of its secret inputs.
    pub secret_inputs: BTreeMap<String, String>,
}

/// How many claimable deployments are read first, because mostly the oldest one can be taken. Only where other workers
/// have taken all of these meanwhile, all are read.
const FIRST_LOOK_LIMIT: usize = 4;

/// How long a claim waits for a deployment before it tries the next one beside it.
const GLANCE: Duration = Duration::from_millis(100);
/// How many a claim tries side by side at most.
const TRIES_LIMIT: usize = 8;
/// How long a claim tries in all, and how long the server's own worker tries to have one deployment.
const CLAIM_LIMIT: Duration = Duration::from_secs(2);

impl Queue {
    /// The deployment that `holder` took before and still runs: the answer to its claim was lost.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn claimed_by(&self, holder: &LeaseHolder) -> Result<Option<Claimed>, WorkerError> {
        let held = self.store.held(holder.clone()).await?;
        let Some(deployment) = held else { return Ok(None) };
        self.with_secrets(deployment).await.map(Result::ok)
    }

    /// The oldest deployments that can be claimed, as many as `limit`; behind them those whose project was locked a moment ago.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn claimable(&self, offers: &Arc<Offers>, limit: usize) -> Result<Vec<Claimable>, StoreError> {
        // The locked ones are read in addition, so that they take no other deployment's place in the page.
        let page = self.store.claimable(offers.clone(), limit.saturating_add(self.locked.count())).await?;
        Ok(self.locked.last(page))
    }

    /// Takes the oldest deployment for which one of these pipelines is offered, as `holder`. One holder holds at most
    /// one deployment: if the same claim call has taken one meanwhile, at whichever server, the answer is that one.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn claim_any(
        &self,
        caller: &Caller,
        holder: &LeaseHolder,
        offers: &Offers,
    ) -> Result<Option<Claimed>, WorkerError> {
        let offers = Arc::new(offers.clone());
        let first = self.claimable(&offers, FIRST_LOOK_LIMIT).await?;
        let is_all = first.len() < FIRST_LOOK_LIMIT;
        let tried = self.claim_first(caller, holder, first).await;
        match tried {
            // The obstacle at these is no obstacle at the others.
            Ok(None) | Err(_) if !is_all => {
                let all = self.store.claimable(offers, usize::MAX).await?;
                self.claim_first(caller, holder, all).await
            }
            tried => tried,
        }
    }

    /// Takes the first of these that can be taken. A deployment that cannot be taken soon, because its project is
    /// locked or cannot be read, delays the others little: they are tried beside it, and the next claims try it last.
    /// Where no other can be taken, the answer is the obstacle.
    async fn claim_first(
        &self,
        caller: &Caller,
        holder: &LeaseHolder,
        claimable: Vec<Claimable>,
    ) -> Result<Option<Claimed>, WorkerError> {
        // A claim that waits for a project's lock goes on waiting when this function gives up. It must not take the
        // deployment then, because the holder has had another answer, and would never hear of it. Of the deployments
        // that are tried side by side, one is taken.
        let wanted = WantedClaim::default();
        let mut untried = self.locked.last(claimable).into_iter().peekable();
        let mut tries = FuturesUnordered::new();
        let mut under_way = Marks { locked: &self.locked, projects: BTreeSet::new() };
        let mut end = pin!(sleep(CLAIM_LIMIT));
        let mut next_at = Instant::now();
        let mut in_the_way = None;
        let mut chosen = None;
        loop {
            let is_more = untried.peek().is_some() && chosen.is_none();
            if tries.is_empty() && !is_more {
                break;
            }
            let (project, id, taken) = tokio::select! {
                biased;
                Some(tried) = tries.next() => tried,
                () = sleep_until(next_at), if is_more && tries.len() < TRIES_LIMIT => {
                    if let Some(Claimable { project, id, spec: _ }) = untried.next() {
                        under_way.projects.insert(project.clone());
                        let (holder, decision) = (holder.to_owned(), wanted.decision.clone());
                        let taking = self.take(caller.clone(), project.clone(), id, holder.clone(), Some(holder), decision);
                        tries.push(async move { (project, id, taking.await) });
                    }
                    next_at = Instant::now() + GLANCE;
                    continue;
                }
                () = &mut end, if chosen.is_none() => match wanted.give_up() {
                    // The claim is decided and about to be durable; the store bounds how long that takes.
                    Some(id) => {
                        chosen = Some(id);
                        continue;
                    }
                    None => {
                        let locked = "the project of a deployment that waits for a worker is locked, or slow".to_owned();
                        in_the_way.get_or_insert(StoreError::Unavailable(locked).into());
                        break;
                    }
                },
                else => break,
            };
            under_way.projects.remove(&project);
            self.locked.forget(&project);
            // The next one need not wait for its turn.
            next_at = Instant::now();
            match taken {
                Ok(Ok(claimed)) => return Ok(Some(claimed)),
                Ok(Err(Refusal::Taken)) => return self.claimed_by(holder).await,
                // Another worker has it, or it is final by now, or it is held.
                Ok(Err(
                    Refusal::WrongState
                    | Refusal::Final
                    | Refusal::LeaseLost
                    | Refusal::Alive
                    | Refusal::Held
                    | Refusal::OutputsFull
                    | Refusal::ReportGap { .. },
                )) => {}
                Err(error) => _ = in_the_way.get_or_insert(error),
            }
            if chosen == Some(id) {
                break;
            }
        }
        in_the_way.map_or(Ok(None), Err)
    }

    /// Takes a deployment for `worker`; `None` where another worker has it, or it is final by now.
    ///
    /// # Errors
    /// The store did not do it, or not soon.
    pub async fn claim(
        &self,
        project: ProjectName,
        id: DeploymentId,
        holder: LeaseHolder,
    ) -> Result<Option<Claimed>, WorkerError> {
        let wanted = WantedClaim::default();
        let decision = wanted.decision.clone();
        let mut taking = pin!(self.take(Caller::server(), project.clone(), id, holder, None, decision));
        let taken = match timeout(CLAIM_LIMIT, &mut taking).await {
            Err(_) if wanted.give_up().is_none() => {
                self.locked.mark(project);
                return Err(StoreError::Unavailable("the project is locked, or slow".to_owned()).into());
            }
            // The claim is decided and about to be durable; the store bounds how long that takes.
            Err(_) => taking.await,
            Ok(taken) => taken,
        };
        self.locked.forget(&project);
        Ok(taken?.ok())
    }

    /// Takes it for `worker`, unless the same holder runs another deployment already.
    async fn take(
        &self,
        caller: Caller,
        project: ProjectName,
        id: DeploymentId,
        holder: LeaseHolder,
        held_by: Option<LeaseHolder>,
        decision: Decision,
    ) -> Result<Result<Claimed, Refusal>, WorkerError> {
        let (now, policy) = (self.clock.wall(), self.policy(&project));
        let terms = ClaimTerms { pepper: self.store.pepper(), ttl: self.limits().lease, holder };
        let line = LineLoad::Edges(Edges { is_start: true, above: None });
        let load = Load { deployments: vec![id], line, held_by, ..Load::default() };
        let claimed = self
            .unheard
            .note(
                id,
                self.transact(project, load, move |loaded| {
                    let mut slot = Slot::of(loaded, now, &policy).by(&caller);
                    let claimed = admission::claim(&mut slot, id, terms);
                    if claimed.is_ok() && !decision.settle(id) {
                        return (Changes::default(), Err(Refusal::WrongState));
                    }
                    // The server's own worker takes what it was asked to run: nobody has to be asked who that was.
                    if let Ok(taken) = &claimed
                        && *caller.identity != Identity::Server
                    {
                        let worker =
                            taken.lease().map(|lease| lease.holder.worker_name().to_owned()).unwrap_or_default();
                        slot.audit("claim", Some(id), worker);
                    }
                    (slot.into_changes(), claimed)
                }),
            )
            .await?;
        match claimed {
            Ok(deployment) => self.with_secrets(deployment).await,
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// A deployment that is claimed, with its lease's secret and the values of its secret inputs. Where these are gone, the
    /// deployment has failed.
    async fn with_secrets(&self, deployment: Deployment) -> Result<Result<Claimed, Refusal>, WorkerError> {
        let Some(secret) = self.lease_secret(&deployment) else { return Ok(Err(Refusal::WrongState)) };
        match self.secret_inputs(&deployment).await {
            Ok(secret_inputs) => Ok(Ok(Claimed { deployment, secret, secret_inputs })),
            Err(NoValues::Store(error)) => Err(error.into()),
            Err(NoValues::Gone) => {
                let names: Vec<_> = deployment.spec.secret_inputs.keys().map(String::as_str).collect();
                let message = format!(
                    "the values of its secret inputs are gone ({}); submit it again with them",
                    names.join(", ")
                );
                let verdict = Verdict::Failed { cause: FailureCause::PhaseFailed, message, phase: None };
                self.finish(deployment.project, deployment.id, secret.hash(), verdict).await?;
                Ok(Err(Refusal::Final))
            }
        }
    }
}

/// The deployment that a claim takes, or that the claim is given up: the first call decides. Clones share it.
#[derive(Clone, Default)]
struct Decision(Arc<OnceLock<Option<DeploymentId>>>);

impl Decision {
    /// Whether this deployment is the one.
    fn settle(&self, id: DeploymentId) -> bool {
        self.0.set(Some(id)).is_ok()
    }
}

/// A claim that a caller waits for. It is given up when this is dropped, unless it is decided by then.
#[derive(Default)]
struct WantedClaim {
    decision: Decision,
}

impl WantedClaim {
    /// Gives the claim up, so that it will change nothing. Answers the deployment that it takes, where that is decided
    /// already.
    fn give_up(&self) -> Option<DeploymentId> {
        *self.decision.0.get_or_init(|| None)
    }
}

impl Drop for WantedClaim {
    fn drop(&mut self) {
        self.give_up();
    }
}
