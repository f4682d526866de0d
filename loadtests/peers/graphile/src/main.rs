//! Runs loads of jobs on graphile_worker: `graphile postgres://…`.
//!
//! A load of jobs is read as a line of JSON, enqueued as it says, and what became of it is written as a line of JSON. The
//! load client says what the words mean: `JobLoad` and `JobsDone`.

use std::{
    io::Write as _,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow};
use graphile_worker::{
    IntoTaskHandlerResult, JobComplete, JobSpec, LocalQueueConfig, TaskHandler, WorkerContext, WorkerOptions,
    WorkerUtils,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::Instant,
};

const CONCURRENCY: usize = 16;
const CONNECTIONS: u32 = 36;
/// With this and its local queue it is three times as fast, and starts jobs sooner.
const COMPLETE_DELAY: Duration = Duration::from_millis(1);

/// How jobs are enqueued.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Load {
    clients: usize,
    outstanding: usize,
    pause_ms: u64,
    warm_up_ms: u64,
    duration_ms: u64,
}

/// What became of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    enqueued: u64,
    ran: u64,
    completed: u64,
    starts_micros: Vec<u64>,
}

/// A job, whose work is nothing.
#[derive(Deserialize, Serialize)]
struct Nothing {
    client: usize,
    /// When it was enqueued, in microseconds of the load.
    at: u64,
}

/// The load that runs, if any.
type Current = Arc<Mutex<Option<Arc<Count>>>>;

/// Counts one load while it runs.
#[derive(Debug)]
struct Count {
    load: Load,
    origin: Instant,
    enqueued: AtomicU64,
    ran: AtomicU64,
    completed: AtomicU64,
    finished: AtomicU64,
    starts: Mutex<Vec<u64>>,
    room: Vec<Semaphore>,
    one_finished: Notify,
}

impl Count {
    fn of(load: Load) -> Count {
        Count {
            load,
            origin: Instant::now(),
            enqueued: AtomicU64::new(0),
            ran: AtomicU64::new(0),
            completed: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            starts: Mutex::default(),
            room: (0..load.clients).map(|_| Semaphore::new(load.outstanding)).collect(),
            one_finished: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn end(&self) -> u64 {
        (self.load.warm_up_ms + self.load.duration_ms) * 1000
    }

    fn is_measured(&self, at: u64) -> bool {
        (self.load.warm_up_ms * 1000..self.end()).contains(&at)
    }

    fn started(&self, job: &Nothing) {
        self.ran.fetch_add(1, Ordering::Relaxed);
        if self.is_measured(job.at) {
            lock(&self.starts).push(self.now() - job.at);
        }
    }

    fn completed(&self, job: &Nothing) {
        self.completed.fetch_add(u64::from(self.is_measured(self.now())), Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Relaxed);
        self.room[job.client].add_permits(1);
        self.one_finished.notify_one();
    }

    /// One client: a job when the last one is acknowledged and few enough are unfinished.
    async fn enqueue(&self, client: usize, queue: &WorkerUtils) -> Result<()> {
        while self.now() < self.end() {
            self.room[client].acquire().await?.forget();
            queue.add_job(Nothing { client, at: self.now() }, JobSpec::default()).await?;
            self.enqueued.fetch_add(1, Ordering::Relaxed);
            if self.load.pause_ms > 0 {
                tokio::time::sleep(Duration::from_millis(self.load.pause_ms)).await;
            }
        }
        Ok(())
    }

    async fn run(self: &Arc<Count>, queue: &Arc<WorkerUtils>) -> Result<Done> {
        let mut clients = JoinSet::new();
        for client in 0..self.load.clients {
            let (count, queue) = (Arc::clone(self), Arc::clone(queue));
            clients.spawn(async move { count.enqueue(client, &queue).await });
        }
        while let Some(client) = clients.join_next().await {
            client??;
        }
        let enqueued = self.enqueued.load(Ordering::Relaxed);
        while self.finished.load(Ordering::Relaxed) < enqueued {
            self.one_finished.notified().await;
        }
        Ok(Done {
            enqueued,
            ran: self.ran.load(Ordering::Relaxed),
            completed: self.completed.load(Ordering::Relaxed),
            starts_micros: std::mem::take(&mut *lock(&self.starts)),
        })
    }
}

impl TaskHandler for Nothing {
    const IDENTIFIER: &'static str = "nothing";

    async fn run(self, context: WorkerContext) -> impl IntoTaskHandlerResult {
        if let Some(count) = context.get_ext::<Current>().and_then(|current| lock(current).clone()) {
            count.started(&self);
        }
        Ok::<(), String>(())
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

fn say(message: &serde_json::Value) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{message}")?;
    Ok(out.flush()?)
}

#[tokio::main]
async fn main() -> Result<()> {
    let url = std::env::args().nth(1).ok_or_else(|| anyhow!("usage: graphile postgres://…"))?;
    let current = Current::default();
    let completed = Arc::clone(&current);
    let worker = WorkerOptions::default()
        .database_url(&url)
        .max_pg_conn(CONNECTIONS)
        .concurrency(CONCURRENCY)
        .local_queue(LocalQueueConfig::default())
        .complete_job_batch_delay(COMPLETE_DELAY)
        .listen_os_shutdown_signals(false)
        .define_job::<Nothing>()
        .add_extension(Arc::clone(&current))
        .on(JobComplete, move |context| {
            let count = lock(&completed).clone();
            async move {
                if let (Some(count), Ok(job)) = (count, Nothing::deserialize(context.job.payload())) {
                    count.completed(&job);
                }
            }
        })
        .init()
        .await?;
    let queue = Arc::new(worker.create_utils());
    let serving = tokio::spawn(async move { worker.run().await });
    say(&serde_json::json!({"about": "graphile_worker 0.14.1"}))?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let count = Arc::new(Count::of(serde_json::from_str(&line)?));
        *lock(&current) = Some(Arc::clone(&count));
        say(&serde_json::to_value(count.run(&queue).await?)?)?;
    }
    serving.abort();
    Ok(())
}
