//! Durable jobs by Singletrack: deployments that clients submit, that workers claim over the lease API, and finish.

use std::{
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use singletrack::wire::LEASE_HEADER;
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
};

use crate::{
    http::Http,
    server::Server,
    singletrack::SUCCEEDED,
    subject::{JobLoad, JobsDone},
};

/// How many projects there are: each has one slot, so as many jobs run at once at most.
const PROJECTS: usize = 64;
/// How many workers, each for a part of the projects.
const WORKERS: usize = 16;

/// The configuration of a server that can do this.
pub fn config() -> String {
    let mut config = String::new();
    for project in 0..PROJECTS {
        // Writing to a string cannot fail.
        let _ = writeln!(config, "[projects.jobs-{project}]\nrun_by = \"agents\"");
    }
    config
}

/// What a worker reads of a claim.
#[derive(Deserialize)]
struct Claimed<'a> {
    #[serde(borrow)]
    deployment: Job<'a>,
    #[serde(borrow)]
    lease: Lease<'a>,
}

#[derive(Deserialize)]
struct Job<'a> {
    id: &'a str,
    project: &'a str,
    #[serde(rename = "ref")]
    name: &'a str,
}

#[derive(Deserialize)]
struct Lease<'a> {
    secret: &'a str,
}

/// What clients and workers share.
struct Shared {
    /// When each client's jobs were enqueued.
    enqueued_at: Vec<Mutex<Vec<Instant>>>,
    /// How many more each client may have unfinished.
    room: Vec<Semaphore>,
    enqueued: AtomicU64,
    done: Mutex<JobsDone>,
    one_more: Notify,
    begin: Instant,
    end: Instant,
}

/// Runs this load, and waits until every job has run.
pub async fn run(server: &Server, load: JobLoad) -> Result<JobsDone> {
    let begin = Instant::now() + load.warm_up;
    let shared = Arc::new(Shared {
        enqueued_at: (0..load.clients).map(|_| Mutex::default()).collect(),
        room: (0..load.clients).map(|_| Semaphore::new(load.outstanding)).collect(),
        enqueued: AtomicU64::new(0),
        done: Mutex::default(),
        one_more: Notify::new(),
        begin,
        end: begin + load.duration,
    });
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        workers.spawn(work(server.connect().await?, worker, shared.clone()));
    }
    let mut clients = JoinSet::new();
    for client in 0..load.clients {
        clients.spawn(enqueue(server.connect().await?, client, load, shared.clone()));
    }
    let everything = async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        let wanted = shared.enqueued.load(Ordering::SeqCst);
        loop {
            let one_more = shared.one_more.notified();
            if lock(&shared.done).ran >= wanted {
                return anyhow::Ok(wanted);
            }
            one_more.await;
        }
    };
    let enqueued = tokio::select! {
        wanted = everything => wanted?,
        ended = workers.join_next() => {
            ended.context("there are workers")???;
            bail!("a worker went before everything was done");
        }
    };
    let mut done = std::mem::take(&mut *lock(&shared.done));
    done.enqueued = enqueued;
    Ok(done)
}

async fn enqueue(mut http: Http, client: usize, load: JobLoad, shared: Arc<Shared>) -> Result<()> {
    for number in 0_usize.. {
        shared.room[client].acquire().await?.forget();
        let asked = Instant::now();
        if asked > shared.end {
            break;
        }
        // Each client goes round its own part of the projects.
        let project = (client + number * load.clients) % PROJECTS;
        let body = format!(r#"{{"onConflict":"queue","ref":"{client}-{number}"}}"#);
        let path = format!("/v1/projects/jobs-{project}/deployments");
        lock(&shared.enqueued_at[client]).push(asked);
        http.call("POST", &path, "", body.as_bytes()).await?.expect(202)?;
        shared.enqueued.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(load.pause).await;
    }
    Ok(())
}

/// Claims, does nothing, finishes; for ever.
async fn work(mut http: Http, worker: usize, shared: Arc<Shared>) -> Result<()> {
    let own: Vec<_> =
        (worker..PROJECTS).step_by(WORKERS).map(|project| format!(r#""jobs-{project}":["deploy"]"#)).collect();
    let own = own.join(",");
    for claim in 0_u64.. {
        let wish = format!(r#"{{"worker":"w{worker}","claimId":"c{claim}","projects":{{{own}}}}}"#);
        let reply = http.call("POST", "/v1/claims?maxWaitSeconds=30", "", wish.as_bytes()).await?;
        let started = Instant::now();
        if reply.status == 408 {
            continue;
        }
        let reply = reply.expect(200)?;
        let Claimed { deployment, lease } = reply.json()?;
        let (client, number) = deployment.name.split_once('-').context("its name is ours")?;
        let client: usize = client.parse()?;
        let asked = lock(&shared.enqueued_at[client])[number.parse::<usize>()?];
        let path = format!("/v1/projects/{}/deployments/{}/finish", deployment.project, deployment.id);
        let lease = format!("{LEASE_HEADER}: {}\r\n", lease.secret);
        http.call("POST", &path, &lease, SUCCEEDED).await?.expect(200)?;
        let mut done = lock(&shared.done);
        done.ran += 1;
        if (shared.begin..shared.end).contains(&Instant::now()) {
            done.completed += 1;
        }
        if (shared.begin..shared.end).contains(&asked) {
            done.starts.add(started - asked);
        }
        drop(done);
        shared.room[client].add_permits(1);
        shared.one_more.notify_one();
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
