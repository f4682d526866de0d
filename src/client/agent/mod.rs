//! `agent`: runs pipelines on the machine that is deployed to.
//!
//! An agent asks a server for work on its projects and runs the pipelines of its *own* configuration: the server passes
//! inputs, never commands. The agent writes each deployment into a journal before it starts the deployment. So the end is
//! reported once and nothing runs twice, whatever happens to the agent, the connection or the server.

mod download;
mod former;
mod journal;
mod run;
mod work;

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use reqwest::Url;
use rustix::fs::{FlockOperation, flock};
use thiserror::Error;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    calls::{Connection, Credentials, Fault, Patience, ServerRefusal, pauses},
    error::SetupError,
};
use crate::{
    clock::{Clock, SystemClock},
    config::{Config, LiveConfig, Pipeline, ProjectConfig},
    exec::{ShimProgram, Stop, lease::Until, workspaces},
    health::{Health, Pulse, Task},
    model::{DeploymentId, Limits, ProjectName},
    private,
    wire::{ClaimRequest, Claimed, Deployment},
};
use journal::{JournalFile, Taken};

/// How long a call for work is parked at the server.
const WINDOW: Duration = Duration::from_secs(30);
/// The longest pause between two attempts if the server does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How the loop that takes work is supervised: no call takes so long.
const CLAIMS: Task = Task::new("claims", Duration::from_secs(180));

/// What an agent is told at its start.
pub struct Settings {
    /// Its name, for people.
    pub name: String,
    /// The projects that it works for, each with the pipelines that it runs, and the limits.
    pub config: LiveConfig,
    /// How many deployments the agent runs at once.
    pub max_concurrent: u32,
    /// The folder in which pipelines run and journals are kept, an absolute path.
    pub work_dir: PathBuf,
    /// The shim between the agent and each command.
    pub shim: ShimProgram,
    /// The server.
    pub server: Url,
    /// What the agent shows.
    pub credentials: Credentials,
    /// An additional certificate authority.
    pub ca_cert: Option<PathBuf>,
}

/// Why an agent does not work.
#[derive(Debug, Error)]
pub enum AgentError {
    /// The settings cannot be used.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// The server does not accept the agent.
    #[error("{}", .0.message)]
    Refused(Box<ServerRefusal>),
    /// Its folder cannot be used.
    #[error("the folder {folder} cannot be used: {error}", folder = folder.display())]
    Folder {
        /// Which.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its folder is another agent's.
    #[error("another agent works in {}", .0.display())]
    NotAlone(PathBuf),
}

/// A remote worker.
pub struct Agent {
    settings: Settings,
    connection: Arc<Connection>,
    clock: Arc<dyn Clock>,
    /// What all runs are asked to do when the agent ends.
    stop: watch::Sender<Option<Stop>>,
    /// A lock that is held as long as this agent lives: two agents in one folder would end each other's work.
    _lock: File,
}

impl Agent {
    /// An agent that has not started.
    ///
    /// # Errors
    /// Its folder is another agent's or cannot be made, or the token or the certificate cannot be used.
    pub fn new(mut settings: Settings) -> Result<Arc<Agent>, AgentError> {
        let lock = own(&settings.work_dir)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let credentials = std::mem::take(&mut settings.credentials);
        let Settings { server, ca_cert, .. } = &settings;
        // Every call is made once: the caller decides how long it is retried.
        let notice = Box::new(|text: &str| tracing::warn!("{text}"));
        let connection = Connection::new(
            server.clone(),
            credentials,
            ca_cert.as_deref(),
            Patience::DEADLINE,
            notice,
            Arc::clone(&clock),
        )?;
        if connection.exposes_token() {
            tracing::warn!(server = connection.server(), "the token goes unencrypted; use https://");
        }
        let stop = watch::Sender::new(None);
        Ok(Arc::new(Agent { settings, connection: Arc::new(connection), clock, stop, _lock: lock }))
    }

    /// Takes work until `drain`, then waits for the running pipelines, and stops them when the grace is over. `ready` is
    /// called once, when the server has answered.
    ///
    /// # Errors
    /// The server does not accept the agent.
    pub async fn run(self: Arc<Self>, drain: CancellationToken, ready: impl FnOnce(&str)) -> Result<(), AgentError> {
        let runs = TaskTracker::new();
        let left = journal::left_behind(&self.journals()).map_err(|error| unusable(&self.settings.work_dir, error))?;
        for (journal, record) in left {
            runs.spawn(self.clone().end_former(journal, record));
        }
        let (this, swept) = (self.clone(), drain.clone());
        let sweeping = tokio::spawn(async move {
            let runs = this.settings.work_dir.join("runs");
            tokio::select! {
                () = swept.cancelled() => {}
                // As long as there is a journal, the run of that journal removes the workspace.
                () = workspaces::keep_swept(runs, |id| journal::exists(&this.journals(), id)) => {}
            }
        });
        let ended = match self.introduce(&drain).await {
            Ok(true) => {
                ready(&self.introduction());
                let free = Arc::new(Semaphore::new(usize::try_from(self.settings.max_concurrent).unwrap_or(1)));
                let (this, taken, ending) = (self.clone(), runs.clone(), drain.clone());
                let health = Health::default();
                let taking = health.supervise(CLAIMS, drain.clone(), move |pulse| {
                    let (this, taken, free, ending) = (this.clone(), taken.clone(), free.clone(), ending.clone());
                    async move { this.take_work(&taken, &free, &ending, &pulse).await }
                });
                // It does not fail; and if it did, what follows is the same.
                let _ = taking.await;
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(failure) => Err(failure),
        };
        sweeping.abort();
        runs.close();
        let config = self.settings.config.now();
        if timeout(config.shutdown_grace, runs.wait()).await.is_err() {
            tracing::warn!(run_count = runs.len(), "pipelines still run and are stopped, since the agent ends");
            self.stop.send_replace(Some(Stop::Shutdown));
            let Limits { cancel_grace, kill_budget, .. } = config.limits;
            if timeout(run::last_words(cancel_grace, kill_budget), runs.wait()).await.is_err() {
                tracing::error!(
                    run_count = runs.len(),
                    "some ends were not reported to the server; the next start reports them"
                );
            }
        }
        ended
    }

    /// Asks the server whether it accepts this agent, until it answers. `false`: the agent was told to end first.
    async fn introduce(&self, drain: &CancellationToken) -> Result<bool, AgentError> {
        let mut pauses = pauses();
        let mut was_told = false;
        loop {
            let wish = self.wish(&self.settings.config.now());
            let answer = tokio::select! {
                () = drain.cancelled() => return Ok(false),
                answer = self.connection.claim(&wish, Duration::ZERO) => answer,
            };
            match answer {
                // Without capacity there is never work.
                Ok(_) => return Ok(true),
                Err(Fault::Refused(refusal)) if refusal.status < 500 && refusal.status != 429 => {
                    return Err(AgentError::Refused(refusal));
                }
                Err(fault) => {
                    if !was_told {
                        tracing::warn!("{fault}; trying again");
                        was_told = true;
                    }
                    sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
                }
            }
        }
    }

    fn introduction(&self) -> String {
        let config = self.settings.config.now();
        let projects = offered(&config).map(|(name, project)| {
            let pipelines: Vec<_> = project.pipelines.keys().map(String::as_str).collect();
            format!("{name} ({})", pipelines.join(", "))
        });
        let projects = projects.collect::<Vec<_>>().join(", ");
        format!("agent {} takes work from {} for {projects}", self.settings.name, self.connection.server())
    }

    /// Takes and runs what there is, until `drain`.
    async fn take_work(
        self: &Arc<Self>,
        runs: &TaskTracker,
        free: &Arc<Semaphore>,
        drain: &CancellationToken,
        pulse: &Pulse,
    ) {
        let mut pauses = pauses();
        let mut is_well = true;
        let mut changes = self.settings.config.changes();
        let mut config = changes.borrow_and_update().clone();
        let mut wish = self.wish(&config);
        let mut journals_are_well = false;
        while !drain.is_cancelled() {
            pulse.beat();
            if !journals_are_well {
                journals_are_well = self.journals_can_be_written(drain, pulse).await;
                continue;
            }
            let capacity = u32::try_from(free.available_permits()).unwrap_or(u32::MAX);
            wish.capacity = capacity;
            // An earlier call of an outdated wish may have taken a deployment, so this wish is settled first.
            let is_outdated = !Arc::ptr_eq(&config, &self.settings.config.now());
            let window = if is_outdated { Duration::ZERO } else { WINDOW };
            let answer = tokio::select! {
                answer = self.connection.claim(&wish, window) => answer,
                Ok(()) = changes.changed() => continue,
                // A deployment that the server handed out meanwhile still runs.
                () = drain.cancelled() => {
                    wish.capacity = 0;
                    self.connection.claim(&wish, Duration::ZERO).await
                }
                _ = free.acquire(), if capacity == 0 => continue,
            };
            match answer {
                Ok(claimed) => {
                    (pauses, is_well) = (crate::client::calls::pauses(), true);
                    if let Some(claimed) = claimed {
                        journals_are_well = self.take(claimed, config.clone(), runs, free).await;
                    }
                    config = changes.borrow_and_update().clone();
                    wish = self.wish(&config);
                }
                // The same call once more: if the answer was lost, this answers with the same deployment.
                Err(fault) => {
                    if std::mem::replace(&mut is_well, false) {
                        tracing::warn!("{fault}; trying again");
                    }
                    tokio::select! {
                        () = drain.cancelled() => {}
                        () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
                    }
                }
            }
        }
    }

    /// Waits until journals can be written, or for `drain`. No work is taken meanwhile, so other agents can take it. Returns
    /// whether journals can be written.
    async fn journals_can_be_written(&self, drain: &CancellationToken, pulse: &Pulse) -> bool {
        let mut pauses = pauses();
        let mut was_told = false;
        while !drain.is_cancelled() {
            pulse.beat();
            match journal::try_to_write(&self.journals()) {
                Ok(()) if was_told => {
                    tracing::info!("journals can be written again; taking work");
                    return true;
                }
                Ok(()) => return true,
                Err(error) => {
                    if !std::mem::replace(&mut was_told, true) {
                        let path = self.journals();
                        tracing::error!(path = %path.display(), %error, "journals cannot be written; taking no work until they can");
                    }
                }
            }
            tokio::select! {
                () = drain.cancelled() => {}
                () = sleep(pauses.next().unwrap_or(LONGEST_PAUSE)) => {}
            }
        }
        false
    }

    /// Runs a deployment that was handed out, by the present configuration; or by the one under which it was asked for,
    /// where a reload has taken its pipeline away meanwhile. Returns whether its journal could be written.
    async fn take(
        self: &Arc<Self>,
        claimed: Claimed,
        config: Arc<Config>,
        runs: &TaskTracker,
        free: &Arc<Semaphore>,
    ) -> bool {
        let present = self.settings.config.now();
        let config = if pipeline(&present, &claimed.deployment).is_some() { present } else { config };
        let id = claimed.deployment.id;
        match JournalFile::begin(&self.journals(), &run::taken(&claimed)) {
            Ok(Some(journal)) => {
                let permit = free.clone().acquire_owned().await;
                let running = self.clone().run_claimed(claimed, journal, config);
                runs.spawn(async move {
                    running.await;
                    drop(permit);
                });
            }
            // The deployment runs here already, or did: it must not run twice.
            Ok(None) => {
                tracing::warn!(deployment.id = %id, "the server handed this deployment out twice; the first time counts")
            }
            Err(error) => {
                tracing::error!(deployment.id = %id, %error, "cannot be journalled and is not started");
                let why =
                    format!("the agent {} cannot write its journal ({error}), and started nothing", self.settings.name);
                runs.spawn(self.clone().give_up(run::taken(&claimed), why));
                return false;
            }
        }
        true
    }

    /// Reports the end of a deployment that was never started, for as long as its lease may last.
    async fn give_up(self: Arc<Self>, taken: Taken, why: String) {
        let keeper = self.keeper(&taken);
        if keeper.tell_end(run::failed(why), Until::LeaseOver).await.is_err() {
            tracing::warn!(deployment.id = %taken.deployment, "the server did not hear that nothing was started; the lease runs out");
        }
    }

    /// A claim of its own, without capacity for now.
    fn wish(&self, config: &Config) -> ClaimRequest {
        let offer = |(name, project): (&ProjectName, &ProjectConfig)| {
            (name.clone(), project.pipelines.keys().cloned().collect())
        };
        ClaimRequest {
            worker: self.settings.name.clone(),
            claim_id: Uuid::now_v7().simple().to_string(),
            projects: offered(config).map(offer).collect(),
            capacity: 0,
        }
    }

    fn journals(&self) -> PathBuf {
        self.settings.work_dir.join("journals")
    }

    fn workspace(&self, id: DeploymentId) -> PathBuf {
        self.settings.work_dir.join("runs").join(id.to_string())
    }
}

/// The projects for which an agent works with this configuration.
fn offered(config: &Config) -> impl Iterator<Item = (&ProjectName, &ProjectConfig)> {
    config.projects.iter().filter(|(_, project)| !project.pipelines.is_empty())
}

fn pipeline(config: &Config, deployment: &Deployment) -> Option<Pipeline> {
    config.projects.get(&deployment.project)?.pipelines.get(&deployment.pipeline).cloned()
}

/// Locks the folder for this agent.
fn own(dir: &Path) -> Result<File, AgentError> {
    let made = private::work_dir(dir)
        .and_then(|()| private::folder_of_files(&dir.join("journals")))
        .and_then(|()| private::folder(&dir.join("runs")));
    made.map_err(|error| unusable(dir, error))?;
    let lock = private::file().write(true).create(true).truncate(false).open(dir.join("agent.lock"));
    let lock = lock.map_err(|error| unusable(dir, error))?;
    private::close_file(&dir.join("agent.lock"));
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| AgentError::NotAlone(dir.to_owned()))?;
    Ok(lock)
}

fn unusable(dir: &Path, error: io::Error) -> AgentError {
    AgentError::Folder { folder: dir.to_owned(), error }
}
