//! One claimed deployment on its way: heartbeats keep the lease, reports tell how far it is, and `finish` ends it.
//!
//! The lease is trusted until its deadline: boot time when the last heartbeat that was answered was *sent*, plus the
//! lease's length. The server waits longer than that before it frees the slot.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use crate::{
    clock::BootInstant,
    exec::{
        pipeline::{self, Job},
        report::{Stop, Verdict},
    },
    model::{DeploymentId, FailureCause, ProjectName, Report, SecretHash},
    queue::{Queue, WorkerError},
    store::StoreError,
    watch::{Notifier, Topic},
};

/// How many reports may wait for the store; the executor cuts output beyond, and never a child's pace.
const REPORT_QUEUE_LIMIT: usize = 64;
/// How long to wait before a store that did not answer is asked again.
const STORE_PAUSE: Duration = Duration::from_millis(500);

/// A claimed deployment.
pub struct Leased {
    queue: Queue,
    notifier: Arc<Notifier>,
    project: ProjectName,
    id: DeploymentId,
    secret: SecretHash,
    server_stop: watch::Receiver<Option<Stop>>,
}

impl Leased {
    /// Takes over a claim. `server_stop` tells when the whole server wants its pipelines to stop.
    pub fn new(
        queue: Queue,
        notifier: Arc<Notifier>,
        project: ProjectName,
        id: DeploymentId,
        secret: SecretHash,
        server_stop: watch::Receiver<Option<Stop>>,
    ) -> Self {
        Leased { queue, notifier, project, id, secret, server_stop }
    }

    /// Runs the job to its end and reports it. `claimed_at` is when the claim was sent.
    pub async fn run(self, mut job: Job, claimed_at: BootInstant) {
        let limits = *self.queue.limits();
        let (stop, stopping) = watch::channel(*self.server_stop.borrow());
        let (deadline, deadlines) = watch::channel(claimed_at.after(limits.lease));
        let (reports, mut reported) = mpsc::channel(REPORT_QUEUE_LIMIT);
        job.lease_deadline = Some(deadlines);
        let running = pipeline::run(job, stopping, reports);
        let telling = self.tell(&mut reported);
        let beating = self.beat(&stop, &deadline);
        let ran = async { tokio::join!(running, telling).0 };
        let verdict = tokio::select! {
            verdict = ran => verdict,
            () = beating => None,
        };
        let was_shut_down = *stop.borrow() == Some(Stop::Shutdown);
        if let Some(verdict) = final_verdict(verdict, was_shut_down) {
            self.finish(verdict).await;
        }
    }

    /// Renews the lease, and passes on what asks the pipeline to stop. Never returns: a lost lease is told to the pipeline,
    /// which then ends by itself.
    async fn beat(&self, stop: &watch::Sender<Option<Stop>>, deadline: &watch::Sender<BootInstant>) {
        let limits = *self.queue.limits();
        let mut server_stop = self.server_stop.clone();
        // A cancel is a change of state: it comes at once, not with the next heartbeat.
        let mut stirred = self.notifier.subscribe(Topic::State(self.id));
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                _ = timeout(pause, stirred.changed()) => {}
                Ok(()) = server_stop.changed() => if let Some(asked) = *server_stop.borrow() { asked.ask(stop) },
            }
            let sent_at = self.queue.clock().boot();
            let answer = self.queue.heartbeat(self.project.clone(), self.id, self.secret);
            pause = match timeout(limits.heartbeat, answer).await {
                Ok(Ok(cancel)) => {
                    deadline.send_replace(sent_at.after(limits.lease));
                    if cancel.is_some() {
                        Stop::Cancel.ask(stop);
                    }
                    limits.heartbeat
                }
                Ok(Err(
                    WorkerError::NotFound
                    | WorkerError::LeaseLost
                    | WorkerError::OutputsFull
                    | WorkerError::ReportGap { .. },
                )) => {
                    Stop::LeaseLost { deadline: self.queue.clock().boot().after(limits.kill_budget) }.ask(stop);
                    std::future::pending().await
                }
                Ok(Err(WorkerError::Store(_))) | Err(_) => STORE_PAUSE,
            };
            let deadline = *deadline.borrow();
            if self.queue.clock().boot().after(limits.kill_budget) >= deadline {
                tracing::error!(deployment.id = %self.id, "the lease could not be renewed in time");
                Stop::LeaseLost { deadline }.ask(stop);
            }
        }
    }

    /// Records what the pipeline tells, as many reports as are there in one commit. No report holds up the end: one that the
    /// store refuses for good is told without its text, or not at all.
    async fn tell(&self, reported: &mut mpsc::Receiver<Report>) {
        let mut batch = Vec::with_capacity(REPORT_QUEUE_LIMIT);
        while reported.recv_many(&mut batch, REPORT_QUEUE_LIMIT).await > 0 {
            let mut reports: VecDeque<Report> = batch.drain(..).collect();
            let mut count = reports.len();
            while !reports.is_empty() {
                let together: Vec<_> = reports.iter().take(count).cloned().collect();
                let is_alone = together.len() == 1;
                match self.queue.report(self.project.clone(), self.id, self.secret, None, together).await {
                    Ok(_) => {
                        reports.drain(..count.min(reports.len()));
                        count = reports.len();
                    }
                    // The heartbeat learns of a lost lease, too, and stops the pipeline; what it still tells is dropped.
                    Err(WorkerError::NotFound | WorkerError::LeaseLost | WorkerError::ReportGap { .. }) => break,
                    Err(WorkerError::Store(StoreError::Full)) => {
                        // Output gives way to control.
                        reports.retain(|report| !matches!(report, Report::Log { .. }));
                        count = reports.len();
                        if !reports.is_empty() {
                            sleep(STORE_PAUSE).await;
                        }
                    }
                    Err(why @ (WorkerError::OutputsFull | WorkerError::Store(StoreError::Refused(_)))) => {
                        if is_alone && let Some(report) = reports.pop_front() {
                            tracing::error!(deployment.id = %self.id, error = %why, "the store refuses a report");
                            if let Some(bare) = report.bare() {
                                reports.push_front(bare);
                            }
                        }
                        // Which of them it is, is found out one by one.
                        count = 1;
                    }
                    Err(WorkerError::Store(
                        StoreError::Unavailable(_) | StoreError::Unknown(_) | StoreError::Unusable(_),
                    )) => {
                        sleep(STORE_PAUSE).await;
                    }
                }
            }
        }
    }

    async fn finish(&self, mut verdict: Verdict) {
        loop {
            match self.queue.finish(self.project.clone(), self.id, self.secret, verdict.clone()).await {
                Ok(ended) => {
                    let (status, project) = (ended.status().as_str(), &self.project);
                    tracing::info!(%project, deployment.id = %self.id, deployment.status = status, "finished");
                    return;
                }
                Err(WorkerError::NotFound | WorkerError::LeaseLost | WorkerError::ReportGap { .. }) => {
                    tracing::warn!(deployment.id = %self.id, ?verdict, "finished too late: the lease was lost");
                    return;
                }
                Err(why @ (WorkerError::OutputsFull | WorkerError::Store(StoreError::Refused(_)))) => {
                    let bare = verdict.clone().bare();
                    if bare == verdict {
                        tracing::error!(deployment.id = %self.id, error = %why, "the store refuses the end; the lease must run out");
                        return;
                    }
                    tracing::error!(deployment.id = %self.id, error = %why, "the store refuses the end; it is told without its text");
                    verdict = bare;
                }
                // The store may come back while the lease lasts; once it is over, this ends with `LeaseLost`.
                Err(WorkerError::Store(error)) => {
                    tracing::warn!(deployment.id = %self.id, %error, "the end could not be recorded yet");
                    sleep(STORE_PAUSE).await;
                }
            }
        }
    }
}

fn final_verdict(verdict: Option<Verdict>, was_shut_down: bool) -> Option<Verdict> {
    verdict.or_else(|| {
        was_shut_down.then(|| Verdict::Failed {
            cause: FailureCause::WorkerLost,
            message: "the server was shut down while it ran".to_owned(),
            phase: None,
        })
    })
}
