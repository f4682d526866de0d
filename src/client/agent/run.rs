//! One deployment that an agent took, from its lease to its end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use super::{
    Agent,
    journal::{JournalFile, Taken},
    pipeline,
};
use crate::{
    client::{
        calls::{Worker, pauses},
        lease::HttpLessor,
    },
    config::{Config, Pipeline},
    exec::{
        Artifact, Job, Stop,
        archive::UnpackLimits,
        lease::{Backlog, Keeper, Lost, Times},
        workspaces::artifact_path,
    },
    model::{FailureCause, Verdict},
    wire::Claimed,
};

/// How long the first heartbeat may take before it is sent again.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often an artifact is asked for.
const DOWNLOAD_ATTEMPTS: usize = 8;

impl Agent {
    /// Runs a deployment to its end by this configuration, whatever is reloaded meanwhile, and reports the end.
    pub(super) async fn run_claimed(self: Arc<Self>, claimed: Claimed, journal: JournalFile, config: Arc<Config>) {
        let taken = taken(&claimed);
        let (id, project) = (taken.deployment, &taken.project);
        tracing::info!(%project, deployment.id = %id, pipeline = %claimed.deployment.pipeline, "taken");
        let (lessor, times) = (self.lessor(&taken), Times::of_length(taken.lease.length()));
        let Ok(keeper) = Keeper::renewed(lessor, self.clock.clone(), id, times, FIRST_ANSWER_LIMIT).await else {
            tracing::warn!(%project, deployment.id = %id, "the lease was lost before anything was started");
            journal.remove();
            return;
        };
        let backlog = Backlog::journalled(journal, 0, Vec::new());
        let work = async {
            let verdict = self.run_under(&keeper, &claimed, &backlog, &config).await;
            backlog.close();
            backlog.with_journal(|journal| journal.end(&verdict));
            let told = keeper.finish(&backlog, verdict.clone()).await;
            backlog.with_journal(|journal| journal.remove());
            (told, verdict)
        };
        let (told, verdict) = tokio::select! {
            ended = work => ended,
            never = keeper.keep() => match never {},
            never = keeper.obey(self.stop.subscribe()) => match never {},
        };
        let status = verdict.status().as_str();
        match told {
            Ok(()) => tracing::info!(%project, deployment.id = %id, deployment.status = status, "finished"),
            Err(Lost) => {
                tracing::warn!(%project, deployment.id = %id, ?verdict, "the lease was lost before the end was reported");
            }
        }
    }

    /// Keeps the lease of a deployment, if only to report its end.
    pub(super) fn keeper<'a>(&'a self, taken: &'a Taken) -> Keeper<HttpLessor<'a>> {
        let times = Times::of_length(taken.lease.length());
        Keeper::new(self.lessor(taken), self.clock.clone(), taken.deployment, times, self.clock.boot())
    }

    fn lessor<'a>(&'a self, Taken { project, deployment, lease }: &'a Taken) -> HttpLessor<'a> {
        HttpLessor::new(&self.connection, Worker { project, id: *deployment, secret: &lease.secret })
    }

    /// Runs the deployment, unless it cannot run, or may no longer run.
    async fn run_under(
        &self,
        keeper: &Keeper<HttpLessor<'_>>,
        claimed: &Claimed,
        backlog: &Backlog<JournalFile>,
        config: &Config,
    ) -> Verdict {
        if *keeper.stop().borrow() == Some(Stop::Cancel) {
            // The stop came first: the child is never started.
            return Verdict::Stopped;
        }
        let Some(pipeline) = pipeline(config, &claimed.deployment) else {
            return failed(format!("this agent has no pipeline '{}'", claimed.deployment.pipeline));
        };
        let artifact = match self.fetch(claimed, keeper).await {
            Ok(artifact) => artifact,
            Err(verdict) => return verdict,
        };
        let job = self.job(claimed, pipeline, artifact.clone(), keeper, config);
        let verdict = keeper.run(job, backlog).await;
        if let Some(artifact) = artifact
            && let Err(error) = tokio::fs::remove_file(&artifact).await
        {
            tracing::warn!(path = %artifact.display(), %error, "an artifact could not be removed");
        }
        verdict.unwrap_or_else(|| lost(*keeper.stop().borrow()))
    }

    /// Downloads the artifact beside the workspace; returns an end if that fails.
    async fn fetch(&self, claimed: &Claimed, keeper: &Keeper<HttpLessor<'_>>) -> Result<Option<PathBuf>, Verdict> {
        let Some(artifact) = &claimed.artifact else { return Ok(None) };
        let gone = |why: String| failed(format!("the artifact cannot be downloaded: {why}"));
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
        let mut stop = keeper.stop();
        tokio::select! {
            fetched = fetching => fetched,
            Ok(stop) = stop.wait_for(Option::is_some) => Err(match *stop {
                Some(Stop::Cancel) => Verdict::Stopped,
                why => lost(why),
            }),
        }
    }

    fn job(
        &self,
        claimed: &Claimed,
        pipeline: Pipeline,
        artifact: Option<PathBuf>,
        keeper: &Keeper<HttpLessor<'_>>,
        config: &Config,
    ) -> Job {
        let deployment = &claimed.deployment;
        let project = config.projects.get(&deployment.project);
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
            secret_inputs: claimed.secret_inputs.clone(),
            workspace: self.workspace(deployment.id),
            artifact: artifact.map(Artifact::File),
            unpack_limits: UnpackLimits { max_bytes: config.artifacts.max_unpacked_bytes },
            grace: config.limits.cancel_grace,
            kill_budget: config.limits.kill_budget.min(keeper.kill_budget()),
            server_url: Some(self.connection.server().to_owned()),
            shim: self.settings.shim.clone(),
            lease_deadline: None,
        }
    }
}

/// What is kept of a claim.
pub fn taken(claimed: &Claimed) -> Taken {
    let Claimed { deployment, lease, .. } = claimed;
    Taken { project: deployment.project.clone(), deployment: deployment.id, lease: lease.clone() }
}

/// The end of a deployment that could not run.
pub fn failed(message: String) -> Verdict {
    Verdict::Failed { cause: FailureCause::PhaseFailed, message, phase: None }
}

/// The end of a deployment that was stopped, but not by a cancel.
fn lost(why: Option<Stop>) -> Verdict {
    let why = match why {
        Some(Stop::Shutdown) => "the agent was shut down while it ran",
        Some(Stop::Cancel | Stop::LeaseLost { .. }) | None => {
            "the agent could not renew its lease in time, and stopped the pipeline"
        }
    };
    Verdict::Failed { cause: FailureCause::WorkerLost, message: why.to_owned(), phase: None }
}

/// How long a deployment may go on after it was told to stop.
pub fn last_words(grace: Duration, kill_budget: Duration) -> Duration {
    const LAST_WORDS: Duration = Duration::from_secs(5);
    grace + kill_budget + LAST_WORDS
}
