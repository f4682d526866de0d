//! One deployment that the server's own worker has claimed. Its lessor is the queue in this process.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    clock::BootInstant,
    exec::{
        Job, Stop,
        lease::{Backlog, Keeper, Lessor, Lost, Renewed, Reply, Times, Until},
    },
    model::{DeploymentId, FailureCause, ProjectName, Report, SecretHash, Verdict},
    queue::{Queue, WorkerError},
    store::StoreError,
    watch::{Notifier, Topic},
};

/// The queue, for calls under one lease.
pub struct QueueLessor {
    queue: Queue,
    notifier: Arc<Notifier>,
    project: ProjectName,
    id: DeploymentId,
    secret: SecretHash,
}

impl QueueLessor {
    /// For calls under this lease.
    pub fn new(
        queue: Queue,
        notifier: Arc<Notifier>,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
    ) -> Self {
        QueueLessor { queue, notifier, project, id, secret }
    }

    /// Runs the job to its end and reports it. `claimed_at` is when the claim was sent. `server_stop` tells when the
    /// whole server wants its pipelines to stop.
    pub async fn run(
        self,
        job: Job,
        times: Times,
        claimed_at: BootInstant,
        server_stop: watch::Receiver<Option<Stop>>,
    ) {
        let (project, id) = (self.project.clone(), self.id);
        let clock = self.queue.clock().clone();
        let keeper = Keeper::new(self, clock, id, times, claimed_at);
        let backlog = Backlog::default();
        let working = async {
            let verdict = keeper.run(job, &backlog).await;
            // If the lease is lost, the lessor records nothing more, and the rest is dropped.
            let _ = keeper.tell(&backlog).await;
            verdict
        };
        let verdict = tokio::select! {
            verdict = working => verdict,
            never = keeper.keep() => match never {},
            never = keeper.obey(server_stop) => match never {},
        };
        let was_shut_down = *keeper.stop().borrow() == Some(Stop::Shutdown);
        let Some(verdict) = verdict.or_else(|| was_shut_down.then(shut_down)) else { return };
        match keeper.tell_end(verdict.clone(), Until::Answered).await {
            Ok(()) => {
                tracing::info!(%project, deployment.id = %id, deployment.status = verdict.status().as_str(), "finished")
            }
            Err(Lost) => {
                tracing::warn!(%project, deployment.id = %id, ?verdict, "finished too late: the lease was lost")
            }
        }
    }

    async fn renew(&self, limit: Duration) -> Reply<Renewed> {
        let renewed = timeout(limit, self.queue.heartbeat(self.project.clone(), self.id, self.secret)).await;
        let Ok(renewed) = renewed else { return Reply::Unknown("the store did not answer in time".to_owned()) };
        reply(renewed.map(|cancel| Renewed {
            is_cancelled: cancel.is_some(),
            reason: cancel.and_then(|cancel| cancel.reason),
            is_token_revoked: false,
        }))
    }
}

impl Lessor for QueueLessor {
    async fn heartbeat(&self, park: Duration, limit: Duration) -> Reply<Renewed> {
        let parked_until = Instant::now() + park;
        loop {
            let mut stirred = self.notifier.subscribe(Topic::State(self.id));
            let renewed = self.renew(limit).await;
            // A cancel is a change of state: it comes at once, not with the next heartbeat.
            let may_wait = renewed == Reply::Done(Renewed::default());
            if !may_wait || timeout_at(parked_until, stirred.changed()).await.is_err() {
                return renewed;
            }
        }
    }

    async fn report(&self, first: u64, reports: &[Report]) -> Reply<u64> {
        reply(self.queue.report(self.project.clone(), self.id, self.secret, Some(first), reports.to_vec()).await)
    }

    async fn finish(&self, verdict: &Verdict) -> Reply<()> {
        reply(self.queue.finish(self.project.clone(), self.id, self.secret, verdict.clone()).await.map(|_| ()))
    }
}

/// The meaning of the queue's answer for the holder of a lease.
fn reply<T>(answer: Result<T, WorkerError>) -> Reply<T> {
    match answer {
        Ok(value) => Reply::Done(value),
        Err(WorkerError::NotFound | WorkerError::LeaseLost) => Reply::Lost,
        Err(WorkerError::ReportGap { last }) => Reply::Gap { last },
        Err(WorkerError::Store(StoreError::Full)) => Reply::Full,
        Err(why @ (WorkerError::OutputsFull | WorkerError::Store(StoreError::Refused(_)))) => {
            Reply::Refused(why.to_string())
        }
        Err(
            why @ WorkerError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Unusable(_)),
        ) => Reply::Unknown(why.to_string()),
    }
}

fn shut_down() -> Verdict {
    Verdict::Failed {
        cause: FailureCause::WorkerLost,
        message: "the server was shut down while it ran".to_owned(),
        phase: None,
    }
}
