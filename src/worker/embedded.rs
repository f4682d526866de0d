//! The server's own worker: claims waiting deployments, runs the configured pipelines, and reports. See decision 0009.
//!
//! It holds leases like every worker. The difference: it dies exactly when its server dies. A server that starts again
//! therefore ends the runs of its predecessor, once the predecessor's shims have ended their children. It leaves the
//! runs of the store's other servers alone.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    fetch::InDepot,
    identity::ServerIdentity,
    leased::QueueLessor,
    places::{Places, Postponed, TakenPlace},
};
use crate::{
    artifacts::Depot,
    config::{Config, LiveConfig, Pipeline, ProjectConfig, Tls, format_duration},
    exec::{
        Artifact, Job,
        archive::UnpackLimits,
        lease::Times,
        lock_path,
        process::{leftovers::leftovers_gone, owner::ShimProgram},
        report::Stop,
        workspaces,
    },
    health::{Health, Pulse, Task},
    model::{DeploymentId, Lapse, State},
    private,
    queue::{Queue, claim::Claimed},
    store::{Claimable, Offers, StoreError, Watched},
    watch::Notifier,
};

/// How many deployments that wait for a place are postponed at the same time, so that they share commits.
const POSTPONED_AT_ONCE: usize = 16;
/// How long to rely on wake-ups before looking at the store anyway.
const LOOK_PAUSE: Duration = Duration::from_secs(10);
/// How the claiming loop is supervised.
const CLAIMS: Task = Task::new("worker", Duration::from_secs(60)).with_round_limit(Duration::from_secs(30));
/// How much longer than grace and kill budget a stopped pipeline may take, for its last reports.
pub const STOP_LAST_WORDS: Duration = Duration::from_secs(5);

/// The server's own worker.
pub struct Embedded {
    identity: ServerIdentity,
    queue: Queue,
    notifier: Arc<Notifier>,
    config: LiveConfig,
    runs_dir: PathBuf,
    depot: Depot,
    shim: ShimProgram,
    address: SocketAddr,
    places: Places,
    stop: watch::Sender<Option<Stop>>,
}

impl Embedded {
    /// A worker for the pipelines of the queue's present configuration.
    ///
    /// # Errors
    /// Its directory cannot be made, or another server uses it.
    pub fn new(queue: Queue, notifier: Arc<Notifier>, depot: Depot, shim: ShimProgram) -> io::Result<Self> {
        let live = queue.config().clone();
        let config = live.now();
        let work_dir = std::path::absolute(config.work_dir())?;
        let identity = if queue.store().is_shared() { ServerIdentity::of(&work_dir)? } else { ServerIdentity::only() };
        let runs_dir = work_dir.join("runs");
        private::work_dir(&work_dir)?;
        private::folder(&runs_dir)?;
        for artifacts in ["artifacts", "artifact-copies"].map(|name| work_dir.join(name)) {
            // A former version left this folder open to other users.
            if artifacts.is_dir() {
                private::folder_of_files(&artifacts)?;
            }
        }
        Ok(Embedded {
            identity,
            queue,
            notifier,
            config: live,
            runs_dir,
            depot,
            shim,
            address: config.listen,
            places: Places::new(config.max_running),
            stop: watch::Sender::new(None),
        })
    }

    /// Sets the address of the server for the commands, once it is known.
    pub fn listens_on(&mut self, address: SocketAddr) {
        self.address = address;
    }

    /// Claims and runs until `drain`, then waits for the running pipelines, and stops them when the grace is over, or
    /// at `hurry`.
    pub async fn run(self, health: Health, drain: CancellationToken, hurry: CancellationToken) {
        let this = Arc::new(self);
        let (runs, past) = (TaskTracker::new(), TaskTracker::new());
        past.spawn(this.clone().settle_the_past(drain.clone()));
        past.close();
        let (claiming, claimed, ending) = (this.clone(), runs.clone(), drain.clone());
        let claims = health.supervise(CLAIMS, drain, move |pulse| {
            claiming.clone().claim_until(claimed.clone(), pulse, ending.clone())
        });
        // It does not fail. If it did, the next steps would be the same.
        let _ = claims.await;
        runs.close();
        let config = this.config.now();
        if !runs.is_empty() {
            let grace = format_duration(config.shutdown_grace);
            tracing::info!(run_count = runs.len(), %grace, "pipelines still run and may go on until their grace is over");
        }
        tokio::select! {
            biased;
            ((), ()) = async { tokio::join!(runs.wait(), past.wait()) } => return,
            () = hurry.cancelled() => {}
            () = sleep(config.shutdown_grace) => {}
        }
        tracing::warn!(run_count = runs.len(), "pipelines still run and are stopped, since the server shuts down");
        this.stop.send_replace(Some(Stop::Shutdown));
        let patience = config.limits.cancel_grace + config.limits.kill_budget + STOP_LAST_WORDS;
        if timeout(patience, runs.wait()).await.is_err() {
            tracing::error!(run_count = runs.len(), "pipelines did not stop; their shims end them with this process");
        }
    }

    async fn claim_until(self: Arc<Self>, runs: TaskTracker, pulse: Pulse, shutdown: CancellationToken) {
        let mut changes = self.config.changes();
        let mut postponed = Postponed::default();
        loop {
            let offered = Offered::of(changes.borrow_and_update().clone());
            self.places.set_limit(offered.config.max_running);
            tokio::select! {
                biased;
                // What is cut off by a change of the configuration is a look, or the note that a deployment waits.
                _ = changes.changed() => {}
                () = self.claim_under(&offered, &runs, &mut postponed, &pulse, &shutdown) => return,
            }
        }
    }

    /// Claims under one configuration until `shutdown`.
    async fn claim_under(
        self: &Arc<Self>,
        offered: &Offered,
        runs: &TaskTracker,
        postponed: &mut Postponed,
        pulse: &Pulse,
        shutdown: &CancellationToken,
    ) {
        let mut work = self.notifier.work(offered.offers.keys());
        postponed.set_limit(offered.config.limits.unclaimed);
        loop {
            work.mark_unchanged();
            pulse.beat();
            let took = self.take_work(offered, runs).await;
            match &took {
                Ok(()) => pulse.done(),
                Err(error) => tracing::warn!(%error, "the worker could not look for work"),
            }
            let pause = match took {
                Ok(()) if self.places.free() == 0 => match postponed.rest() {
                    Duration::ZERO => {
                        tokio::select! {
                            biased;
                            () = shutdown.cancelled() => return,
                            () = self.places.freed.notified() => {}
                            () = self.postpone(offered, postponed) => {}
                        }
                        continue;
                    }
                    rest => rest,
                },
                // The reaper looks at every holder of a slot once a second, and wakes this worker for one that waits.
                // This pause covers the deployments that the reaper misses.
                Ok(()) => LOOK_PAUSE,
                Err(_) => offered.config.limits.fallback_poll,
            };
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = self.places.freed.notified() => {}
                _ = timeout(pause, work.changed()) => {}
            }
        }
    }

    /// Starts claimable deployments, the oldest first, as long as there are places.
    async fn take_work(self: &Arc<Self>, offered: &Offered, runs: &TaskTracker) -> Result<(), StoreError> {
        while !offered.offers.is_empty() && self.places.free() > 0 {
            // A deployment that is being claimed at this moment may still look claimable, so asking for only as many as
            // there are free places is not enough.
            let limit = self.places.limit();
            let page = self.queue.claimable(&offered.offers, limit).await?;
            let is_all = page.len() < limit;
            let mut took = false;
            for claimable in page {
                let Some(pipeline) = offered.pipeline(&claimable) else { continue };
                if let Some(place) = self.places.take(claimable.id) {
                    took = true;
                    runs.spawn(self.clone().run_one(claimable, pipeline, offered.config.clone(), place));
                }
            }
            if is_all || !took {
                break;
            }
        }
        Ok(())
    }

    /// Postpones the deployments that have no place, each often enough that its `unclaimed` limit never passes.
    async fn postpone(&self, offered: &Offered, postponed: &mut Postponed) {
        postponed.looked_at = Some(Instant::now());
        let waiting = match self.queue.store().claimable(offered.offers.clone(), usize::MAX).await {
            Ok(waiting) => waiting,
            Err(error) => {
                tracing::warn!(%error, "the worker could not look for those that wait for a place");
                return;
            }
        };
        postponed.told.retain(|id, _| waiting.iter().any(|it| it.id == *id));
        let limit = self.places.limit();
        let why = format!("waits for a free place on the server: {limit} of {limit} pipelines run");
        let due = waiting.into_iter().filter(|it| postponed.is_due(it.id) && !self.places.has(it.id));
        let due: Vec<_> = due.collect();
        let mut telling = stream::iter(due)
            .map(|Claimable { project, id, spec: _ }| {
                let told = self.queue.postpone(project, id, why.clone());
                async move { (id, told.await) }
            })
            .buffer_unordered(POSTPONED_AT_ONCE);
        while let Some((id, told)) = telling.next().await {
            match told {
                Ok(_) => _ = postponed.told.insert(id, Instant::now()),
                Err(error) => {
                    tracing::warn!(deployment.id = %id, %error, "it could not be told that it waits for a place")
                }
            }
        }
    }

    /// Claims a deployment and runs it by this configuration, whatever is reloaded meanwhile.
    async fn run_one(
        self: Arc<Self>,
        claimable: Claimable,
        pipeline: Pipeline,
        config: Arc<Config>,
        place: TakenPlace,
    ) {
        let Claimable { project, id, spec: _ } = claimable;
        let sent_at = self.queue.clock().boot();
        match self.queue.claim(project.clone(), id, self.identity.holder.clone()).await {
            Ok(Some(claimed)) => {
                let (queue, notifier) = (self.queue.clone(), self.notifier.clone());
                let lessor = QueueLessor::new(queue, notifier, project, id, claimed.secret.hash());
                let granted = claimed.deployment.lease().map_or(config.limits.lease, |lease| lease.ttl);
                let times = match granted == config.limits.lease {
                    true => Times::of_limits(&config.limits),
                    // The limits were reloaded just before the claim.
                    false => Times::of_length(granted),
                };
                let job = Job { kill_budget: times.kill_budget, ..self.job(&claimed, pipeline, &config) };
                drop(config);
                self.guard(id, lessor.run(job, times, sent_at, self.stop.subscribe())).await;
            }
            // Cancelled meanwhile, or superseded by a newer build.
            Ok(None) => {}
            Err(error) => tracing::warn!(deployment.id = %id, %error, "a deployment could not be claimed"),
        }
        drop(place);
    }

    /// Runs `running`, the run of a deployment. If it panics, the deployment has failed, and the next one gets the slot
    /// as soon as the commands have ended: the shim ends them when the task is gone.
    async fn guard(&self, id: DeploymentId, running: impl Future<Output = ()>) {
        if AssertUnwindSafe(running).catch_unwind().await.is_ok() {
            return;
        }
        tracing::error!(deployment.id = %id, "the task of a deployment panicked; its commands and the deployment are ended");
        let found = async {
            loop {
                match self.queue.store().watched().await {
                    Ok(watched) => return watched.into_iter().find(|watched| watched.id == id),
                    Err(error) => tracing::warn!(%error, "could not look for a deployment whose task panicked"),
                }
                sleep(self.queue.limits().fallback_poll).await;
            }
        };
        // After that time the lease has run out, and the reaper ends the deployment.
        if let Ok(Some(watched)) = timeout(self.queue.limits().lease, found).await {
            self.end_lost_run(watched).await;
        }
    }

    fn job(&self, claimed: &Claimed, pipeline: Pipeline, config: &Config) -> Job {
        let deployment = &claimed.deployment;
        let spec = &deployment.spec;
        let project = config.projects.get(&deployment.project);
        Job {
            deployment_id: deployment.id.to_string(),
            deployment_number: Some(deployment.number),
            project: deployment.project.to_string(),
            pipeline_name: spec.pipeline.clone(),
            pipeline,
            ref_name: spec.ref_name.clone(),
            commit: spec.commit.clone(),
            fencing_token: deployment.lease().map_or(0, |lease| lease.fencing_token.0),
            pass_env: project.map(|project| project.pass_env.clone()).unwrap_or_default(),
            inputs: spec.inputs.clone().into_iter().chain(claimed.secret_inputs.clone()).collect(),
            secret_inputs: claimed.secret_inputs.keys().cloned().collect(),
            workspace: self.workspace(deployment.id),
            artifact: spec
                .artifact
                .clone()
                .map(|digest| Artifact::Remote(Arc::new(InDepot { depot: self.depot.clone(), digest }))),
            unpack_limits: UnpackLimits { max_bytes: config.artifacts.max_unpacked_bytes },
            grace: config.limits.cancel_grace,
            kill_budget: config.limits.kill_budget,
            server_url: Some(reachable_at(self.address, config.tls.as_ref())),
            shim: self.shim.clone(),
            lease_deadline: None,
        }
    }

    fn workspace(&self, id: DeploymentId) -> PathBuf {
        self.runs_dir.join(id.to_string())
    }

    /// Ends the runs of an earlier server, and then keeps the folder of workspaces free of their remains.
    async fn settle_the_past(self: Arc<Self>, drain: CancellationToken) {
        self.clone().end_former_runs(drain.clone()).await;
        tokio::select! {
            () = drain.cancelled() => {}
            () = workspaces::keep_swept(self.runs_dir.clone(), |id| self.places.has(id)) => {}
        }
    }

    /// Ends the runs of an earlier server on this store that died. Its shims have noticed its death and end their
    /// children. The slot is free only when they are done.
    async fn end_former_runs(self: Arc<Self>, shutdown: CancellationToken) {
        let watched = loop {
            match self.queue.store().watched().await {
                Ok(watched) => break watched,
                Err(error) => tracing::warn!(%error, "could not look for what a former server ran; trying again"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(self.queue.limits().fallback_poll) => {}
            }
        };
        let former = watched.into_iter().filter(|watched| {
            let ours = matches!(&watched.state, State::Running(lease) if lease.holder == self.identity.holder);
            ours && !self.places.has(watched.id)
        });
        let ends = TaskTracker::new();
        for watched in former {
            let this = self.clone();
            ends.spawn(async move { this.end_lost_run(watched).await });
        }
        ends.close();
        ends.wait().await;
    }

    /// Ends a deployment whose worker is gone, once the processes that it started are gone.
    async fn end_lost_run(&self, Watched { project, id, vital, .. }: Watched) {
        let workspace = self.workspace(id);
        let limits = self.queue.limits();
        let patience = limits.kill_budget + limits.lock_delay;
        if !leftovers_gone(&lock_path(&workspace), &id.to_string(), patience).await {
            tracing::error!(deployment.id = %id, "a child of a lost deployment does not end; its lease must run out first");
            return;
        }
        match self.queue.reap(project, id, vital, Lapse::WorkerGone, self.queue.clock().boot()).await {
            Ok(Ok(_)) => tracing::warn!(deployment.id = %id, "ended a deployment that nobody runs any more"),
            Ok(Err(refusal)) => tracing::debug!(deployment.id = %id, %refusal, "it was ended already"),
            Err(error) => {
                tracing::warn!(deployment.id = %id, %error, "could not end a deployment that nobody runs any more")
            }
        }
        workspaces::remove(&workspace).await;
    }
}

/// The address at which commands on this machine reach a server that listens on `address`.
fn reachable_at(mut address: SocketAddr, tls: Option<&Tls>) -> String {
    match address {
        SocketAddr::V4(ipv4) if ipv4.ip().is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        SocketAddr::V6(ipv6) if ipv6.ip().is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        SocketAddr::V4(_) | SocketAddr::V6(_) => {}
    }
    match tls {
        Some(tls) => format!("https://{}", tls.authority(address)),
        None => format!("http://{address}"),
    }
}

/// One configuration, with the pipelines that the worker can run by it: all that are not left to agents.
struct Offered {
    config: Arc<Config>,
    offers: Arc<Offers>,
}

impl Offered {
    fn of(config: Arc<Config>) -> Self {
        let is_own = |project: &ProjectConfig| project.agents.is_none() && !project.pipelines.is_empty();
        let own = config.projects.iter().filter(|(_, project)| is_own(project));
        let offers = own.map(|(name, project)| (name.clone(), project.pipelines.keys().cloned().collect())).collect();
        Offered { config, offers: Arc::new(offers) }
    }

    fn pipeline(&self, claimable: &Claimable) -> Option<Pipeline> {
        self.config.projects.get(&claimable.project)?.pipelines.get(&claimable.spec.pipeline).cloned()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        clock::SystemClock,
        model::{
            Caller, FailureCause, Outcome, ProjectName, Spec,
            admission::{OnConflict, Submission},
        },
        store::memory::MemoryStore,
    };

    #[tokio::test]
    async fn a_deployment_whose_task_panics_has_failed_at_once_and_the_next_one_has_the_slot() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = format!(
            "work_dir = {:?}\n[[projects.web.pipelines.deploy.phases]]\nname = \"only\"\nrun = \"true\"",
            folder.path()
        );
        let config = Config::parse(&config, Path::new("test.toml")).expect("a configuration");
        let store = Arc::new(MemoryStore::new(Arc::new(|_, _| {})));
        let queue = Queue::new(store.clone(), Arc::new(SystemClock), LiveConfig::fixed(config));
        let depot = Depot::new(store, folder.path());
        let shim = ShimProgram(std::env::current_exe().expect("this program"));
        let worker = Embedded::new(queue.clone(), Arc::default(), depot, shim).expect("a worker");
        let project: ProjectName = "web".parse().expect("a name");
        let ids = [(); 2].map(|()| DeploymentId::generate());
        for id in ids {
            let spec = Spec { pipeline: "deploy".to_owned(), ..Spec::default() };
            let wish = Submission {
                id,
                project: project.clone(),
                spec,
                key: None,
                on_conflict: OnConflict::Queue,
                refusal: None,
                sealed: None,
                claim: None,
            };
            queue.submit(&Caller::server(), wish).await.expect("it is taken");
        }
        let name = worker.identity.holder.clone();
        queue.claim(project.clone(), ids[0], name).await.expect("the store answers").expect("it is claimed");

        worker.guard(ids[0], async { panic!("a test") }).await;

        let states = ids.map(|id| queue.store().deployment(project.clone(), id));
        let [ended, next] = futures_util::future::join_all(states).await.try_into().expect("two answers");
        let state = |placed: Result<Option<crate::store::Placed>, StoreError>| {
            placed.expect("the store answers").expect("it is there").deployment.state
        };
        let ended = state(ended);
        let State::Finished { outcome: Outcome::Failed { cause, .. }, .. } = &ended else { panic!("{ended:?}") };
        assert_eq!(*cause, FailureCause::WorkerLost);
        assert_eq!(state(next), State::Ready);
    }
}
