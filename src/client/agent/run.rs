//! One deployment that an agent took, from its lease to its end.

use std::{collections::BTreeMap, convert::Infallible, path::PathBuf, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::{
    Agent,
    calls::Calls,
    delivery::{Delivery, Lost},
    journal::{Journal, Taken},
};
use crate::{
    client::{
        calls::{Fault, Worker, pauses},
        lease::Keeper,
    },
    clock::BootInstant,
    config::Pipeline,
    exec::{self, Job, Stop, artifact::Artifact, workspaces::artifact_path},
    model::{FailureCause, Report, Status, Verdict, bounds},
    wire::{Claimed, ErrorCode, FinishError, FinishRequest},
};

/// How many reports may wait to be journalled; that is faster than any command prints.
const REPORT_QUEUE_LIMIT: usize = 64;
/// How long the first heartbeat may take before it is sent again.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often an artifact is asked for.
const DOWNLOAD_ATTEMPTS: usize = 8;

impl Agent {
    /// Runs a deployment to its end, and tells it.
    pub(super) async fn run_claimed(self: Arc<Self>, claimed: Claimed, journal: Journal) {
        let taken = taken(&claimed);
        let (id, project) = (taken.deployment, taken.project.clone());
        tracing::info!(%project, deployment.id = %id, pipeline = %claimed.deployment.pipeline, "taken");
        let worker = Worker { project: &project, id, secret: &claimed.lease.secret };
        let Some((renewed_at, cancelled)) = self.renew(worker).await else {
            tracing::warn!(%project, deployment.id = %id, "the lease was lost before anything was started");
            journal.remove();
            return;
        };
        let keeper = Keeper::new(&self.connection, self.clock.clone(), &project, id, claimed.lease.clone(), renewed_at);
        let delivery = Delivery::new(Calls::new(self.connection.clone(), taken), journal, 0, Vec::new());
        let work = async {
            // A cancel that came before: the child is never started.
            let finish = if cancelled {
                FinishRequest { status: Status::Cancelled, outputs: BTreeMap::new(), error: None }
            } else {
                let run = self.run_under(&keeper, &claimed, &delivery);
                tokio::pin!(run);
                tokio::select! {
                    finish = &mut run => finish,
                    // The heartbeat learns of it, too, and stops the pipeline.
                    Lost = delivery.send() => run.await,
                }
            };
            (delivery.finish(&finish, false).await, finish)
        };
        let (told, finish) = tokio::select! {
            ended = work => ended,
            never = keeper.keep() => match never {},
        };
        let status = finish.status.as_str();
        match told {
            Ok(()) => tracing::info!(%project, deployment.id = %id, deployment.status = status, "finished"),
            Err(Lost) => {
                tracing::warn!(%project, deployment.id = %id, ?finish, "the lease was lost before the end was told");
            }
        }
    }

    /// Renews a lease for the first time: the call that brought it may have been parked for longer than it lasts. Answers
    /// when that was sent, and whether the deployment was cancelled meanwhile; `None` if the lease is lost.
    async fn renew(&self, worker: Worker<'_>) -> Option<(BootInstant, bool)> {
        let mut pauses = pauses();
        loop {
            let sent_at = self.clock.boot();
            match self.connection.heartbeat(worker, Duration::ZERO, FIRST_ANSWER_LIMIT).await {
                Ok(answer) => return Some((sent_at, answer.cancel_requested)),
                Err(Fault::Refused(refusal))
                    if matches!(refusal.code, Some(ErrorCode::LeaseLost | ErrorCode::NotFound)) =>
                {
                    return None;
                }
                Err(_) => tokio::time::sleep(pauses.next().unwrap_or(super::LONGEST_PAUSE)).await,
            }
        }
    }

    async fn run_under(&self, keeper: &Keeper<'_>, claimed: &Claimed, delivery: &Delivery) -> FinishRequest {
        let Some(pipeline) = self.pipeline(&claimed.deployment) else {
            let message = format!("this agent has no pipeline '{}'", claimed.deployment.pipeline);
            return failed(FailureCause::PhaseFailed, message, None);
        };
        let artifact = match self.fetch(claimed, keeper).await {
            Ok(artifact) => artifact,
            Err(finish) => return finish,
        };
        let (stop, stopping) = watch::channel(None);
        let passing_on = pass_on(keeper.stop(), self.stop.subscribe(), &stop);
        let (reports, reported) = mpsc::channel(REPORT_QUEUE_LIMIT);
        let job = self.job(claimed, pipeline, artifact.clone(), keeper);
        let running = exec::run(job, stopping, reports);
        let taking = take(reported, delivery);
        let verdict = tokio::select! {
            (verdict, ()) = async { tokio::join!(running, taking) } => verdict,
            never = passing_on => match never {},
        };
        if let Some(artifact) = artifact
            && let Err(error) = tokio::fs::remove_file(&artifact).await
        {
            tracing::warn!(path = %artifact.display(), %error, "an artifact could not be removed");
        }
        let was_shut_down = *stop.borrow() == Some(Stop::Shutdown);
        finish_request(verdict, was_shut_down)
    }

    /// Fetches what is deployed, beside the workspace; an end where that cannot be.
    async fn fetch(&self, claimed: &Claimed, keeper: &Keeper<'_>) -> Result<Option<PathBuf>, FinishRequest> {
        let Some(artifact) = &claimed.artifact else { return Ok(None) };
        let gone = |why: String| failed(FailureCause::PhaseFailed, format!("the artifact cannot be had: {why}"), None);
        let digest = artifact.sha256.parse().map_err(|error| gone(format!("{error}")))?;
        let path = artifact_path(&self.workspace(claimed.deployment.id));
        let fetching = async {
            let mut why = String::new();
            for pause in pauses().take(DOWNLOAD_ATTEMPTS) {
                match self.connection.download(&digest, &path).await {
                    Ok(()) => return Ok(Some(path.clone())),
                    Err(error) => why = error,
                }
                tokio::time::sleep(pause).await;
            }
            Err(gone(why))
        };
        let (mut by_lease, mut by_agent) = (keeper.stop(), self.stop.subscribe());
        tokio::select! {
            fetched = fetching => fetched,
            Ok(stop) = by_lease.wait_for(Option::is_some) => {
                Err(finish_request((*stop == Some(Stop::Cancel)).then_some(Verdict::Stopped), false))
            }
            Ok(_) = by_agent.wait_for(Option::is_some) => Err(finish_request(None, true)),
        }
    }

    fn job(&self, claimed: &Claimed, pipeline: Pipeline, artifact: Option<PathBuf>, keeper: &Keeper<'_>) -> Job {
        let deployment = &claimed.deployment;
        let project = self.settings.projects.get(&deployment.project);
        Job {
            deployment_id: deployment.id.to_string(),
            deployment_number: deployment.number,
            project: deployment.project.to_string(),
            pipeline_name: deployment.pipeline.clone(),
            pipeline,
            ref_name: deployment.ref_name.clone(),
            commit: deployment.commit.clone(),
            fencing_token: claimed.lease.fencing_token.0,
            pass_env: project.map(|project| project.pass_env.clone()).unwrap_or_default(),
            inputs: claimed.inputs.clone(),
            workspace: self.workspace(deployment.id),
            artifact: artifact.map(Artifact::File),
            unpack_limits: self.settings.unpack_limits,
            grace: self.settings.limits.cancel_grace,
            kill_budget: self.settings.limits.kill_budget.min(keeper.kill_budget()),
            server_url: Some(self.connection.server().to_owned()),
            shim: self.settings.shim.clone(),
            lease_deadline: Some(keeper.deadline()),
        }
    }
}

/// What is kept of a claim.
pub fn taken(claimed: &Claimed) -> Taken {
    let Claimed { deployment, lease, .. } = claimed;
    Taken { project: deployment.project.clone(), deployment: deployment.id, lease: lease.clone() }
}

/// An end that is a failure.
pub fn failed(cause: FailureCause, message: String, phase: Option<String>) -> FinishRequest {
    let error = Some(FinishError { code: cause.code().to_owned(), message, phase });
    FinishRequest { status: Status::Failed, outputs: BTreeMap::new(), error }
}

async fn take(mut reported: mpsc::Receiver<Report>, delivery: &Delivery) {
    while let Some(report) = reported.recv().await {
        delivery.push(report);
    }
}

/// Makes `stop` what the lease or the agent's own end asks for, the lease first. Never returns.
async fn pass_on(
    mut lease: watch::Receiver<Option<Stop>>,
    mut agent: watch::Receiver<Option<Stop>>,
    stop: &watch::Sender<Option<Stop>>,
) -> Infallible {
    loop {
        let wanted = (*lease.borrow_and_update()).max(*agent.borrow_and_update());
        stop.send_if_modified(|current| std::mem::replace(current, wanted) != wanted);
        tokio::select! {
            changed = lease.changed() => if changed.is_err() { std::future::pending::<()>().await },
            changed = agent.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}

fn finish_request(verdict: Option<Verdict>, was_shut_down: bool) -> FinishRequest {
    match verdict {
        Some(Verdict::Succeeded { outputs }) => FinishRequest { status: Status::Succeeded, outputs, error: None },
        Some(Verdict::Stopped) => FinishRequest { status: Status::Cancelled, outputs: BTreeMap::new(), error: None },
        Some(Verdict::Failed { cause, message, phase }) => {
            failed(cause, bounds::cut(message, bounds::REPORT_TEXT), phase)
        }
        None => {
            let why = if was_shut_down {
                "the agent was shut down while it ran"
            } else {
                "the agent could not renew its lease in time, and stopped the pipeline"
            };
            failed(FailureCause::WorkerLost, why.to_owned(), None)
        }
    }
}

/// How long what was taken may go on after it was told to stop.
pub fn last_words(grace: Duration, kill_budget: Duration) -> Duration {
    const LAST_WORDS: Duration = Duration::from_secs(5);
    grace + kill_budget + LAST_WORDS
}
