//! Fills a store with years of deployments as fast as the store takes them. The library's own code makes the decisions.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use singletrack::{
    model::{
        Changes, Command, DeploymentId, LeaseHolder, LineLoad, Load, Mention, Policy, Project, ProjectName, RecentRun,
        SecretHash, Slot, Verdict,
        deployment::{Place, RunBy, Spec},
        lifecycle::Entry,
    },
    store::{Store, postgres::PostgresStore, sqlite::SqliteStore, transact},
};
use tokio::task::JoinSet;

/// How many deployments are decided in one transaction.
const CHUNK: usize = 64;
/// How many transactions wait for a commit at once.
const IN_FLIGHT: usize = 32;

/// What a store is filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    pub projects: usize,
    /// Finished ones of each project.
    pub finished: usize,
    /// How many wait in the line of the first project, behind one that runs.
    pub in_line: usize,
}

/// The name of a project of a filled store.
pub fn project(number: usize) -> String {
    format!("seed-{number}")
}

/// Fills the store at this URL; a SQLite file is found in `folder`.
pub async fn fill(url: &str, folder: &Path, seed: Seed, progress: impl Fn(usize)) -> Result<()> {
    let store = open(url, folder).await?;
    let filled = fill_store(&store, seed, progress).await;
    store.shut_down().await;
    filled
}

/// Lets projects remember that their runs of this pipeline took so long, in milliseconds.
pub async fn remember(url: &str, folder: &Path, pipeline: &str, runs: Vec<(ProjectName, Vec<u64>)>) -> Result<()> {
    let store = open(url, folder).await?;
    let mut writing = JoinSet::new();
    for (name, durations) in runs {
        let (store, pipeline): (_, Arc<str>) = (store.clone(), pipeline.into());
        writing.spawn(async move {
            let load = Load { line: LineLoad::Head, ..Load::default() };
            let run = move |duration_ms| RecentRun { pipeline: pipeline.clone(), duration_ms };
            transact(&*store, name, load, move |loaded| {
                let recent_runs = Arc::new(durations.into_iter().map(run).collect());
                (Changes { project: Some(Project { recent_runs, ..loaded.project }), ..Changes::default() }, ())
            })
            .await
        });
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    store.shut_down().await;
    Ok(())
}

pub async fn open(url: &str, folder: &Path) -> Result<Arc<dyn Store>> {
    Ok(match url.strip_prefix("sqlite:") {
        Some(file) => Arc::new(SqliteStore::open(&folder.join(file), Arc::new(|_, _| {}))?),
        None => {
            let url = url.parse().map_err(|error| anyhow::anyhow!("{error}"))?;
            Arc::new(
                PostgresStore::open(
                    &url,
                    16,
                    Arc::new(|_, _| {}),
                    Arc::new(|_| {}),
                    &singletrack::health::Health::default(),
                )
                .await?,
            )
        }
    })
}

async fn fill_store(store: &Arc<dyn Store>, seed: Seed, progress: impl Fn(usize)) -> Result<()> {
    let mut writing: JoinSet<Result<usize>> = JoinSet::new();
    let (mut written, mut first) = (0, 0);
    // In turns, as a fleet deploys: a project's rows lie scattered over the file.
    while first < seed.finished {
        let count = CHUNK.min(seed.finished - first);
        for number in 0..seed.projects {
            while writing.len() >= IN_FLIGHT {
                written += writing.join_next().await.context("one is written")???;
                progress(written);
            }
            let store = store.clone();
            writing.spawn(async move {
                finish(&*store, project(number).parse()?, first, count).await?;
                Ok(count)
            });
        }
        first += count;
    }
    while let Some(done) = writing.join_next().await {
        written += done??;
    }
    if seed.in_line > 0 {
        line_up(&**store, project(0).parse()?, seed.in_line).await?;
    }
    progress(written + seed.in_line);
    Ok(())
}

/// A line, behind one that runs.
async fn line_up(store: &dyn Store, name: ProjectName, count: usize) -> Result<()> {
    let load = Load { line: LineLoad::Head, ..Load::default() };
    let refused = transact(store, name.clone(), load, move |loaded| {
        let mut slot = Slot::of(loaded, Timestamp::now(), &Policy::default());
        let holder = DeploymentId::generate();
        slot.admit(holder, name.clone(), spec(0), Entry::Ready);
        let claim = Command::Claim {
            secret: SecretHash([7; 32]),
            // Nobody renews it, and it must outlive the measurement.
            ttl: Duration::from_secs(3600),
            holder: LeaseHolder::worker("seed"),
        };
        let refused = slot.step(holder, claim).err();
        for number in 1..=count {
            let position = number as u64;
            let blocker = Some(Mention::unnamed(name.clone(), holder));
            let entry =
                Entry::Waiting { place: Place::Queued, position, blocker, rank: None, overtaker: None, hold: None };
            slot.admit(DeploymentId::generate(), name.clone(), spec(number), entry);
        }
        (slot.into_changes(), refused)
    })
    .await?;
    refused.map_or(Ok(()), |refusal| bail!("a store cannot be filled: {refusal:?}"))
}

pub fn spec(number: usize) -> Spec {
    Spec {
        pipeline: "deploy".to_owned(),
        ref_name: Some("main".to_owned()),
        commit: Some(format!("{number:040x}")),
        message: Some("Let the checkout tell what a voucher is worth".to_owned()),
        actor: Some("alice".to_owned()),
        url: Some(format!("https://ci.example/web/runs/{number}")),
        executor: RunBy::Submitter,
        ..Spec::default()
    }
}

async fn finish(store: &dyn Store, name: ProjectName, first: usize, count: usize) -> Result<()> {
    let load = Load { line: LineLoad::Head, ..Load::default() };
    let refused = transact(store, name.clone(), load, move |loaded| {
        let mut slot = Slot::of(loaded, Timestamp::now(), &Policy::default());
        let mut refused = None;
        for number in first..first + count {
            let (id, secret) = (DeploymentId::generate(), SecretHash([7; 32]));
            slot.admit(id, name.clone(), spec(number), Entry::Ready);
            let claim = Command::Claim { secret, ttl: Duration::from_secs(60), holder: LeaseHolder::worker("seed") };
            let finish = Command::Finish { secret, verdict: Verdict::Succeeded { outputs: Default::default() } };
            let steps = [claim, finish].into_iter().try_for_each(|command| slot.step(id, command).map(|_| ()));
            refused = refused.or(steps.err());
        }
        (slot.into_changes(), refused)
    })
    .await?;
    refused.map_or(Ok(()), |refusal| bail!("a store cannot be filled: {refusal:?}"))
}

/// Where a filled SQLite file is kept for the next run: with the builds, under a name that changes with the schema.
pub fn cached(seed: Seed) -> Result<PathBuf> {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut schema = DefaultHasher::new();
    include_str!("../../src/store/sqlite/migrations/0001_projects_deployments_events.sql").hash(&mut schema);
    include_str!("../../src/store/sqlite/migrations/0002_agents_leases.sql").hash(&mut schema);
    let folder = std::env::current_exe()?.parent().context("a program lies in a folder")?.join("loadtests-seeds");
    std::fs::create_dir_all(&folder)?;
    let Seed { projects, finished, in_line } = seed;
    Ok(folder.join(format!("{projects}x{finished}-{in_line}-{:016x}.db", schema.finish())))
}
