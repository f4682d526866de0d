//! `growth`: what an operation costs when there are a million finished deployments, a hundred thousand projects, or ten
//! thousand in one line; and after two years under retention.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use singletrack::{model::Status, wire::Accepted};
use tokio::task::JoinSet;

use crate::{
    report::{Outcome, Times},
    run::{Contender, Run},
    seed::{self, Seed},
    server::{Server, StoreKind},
    singletrack::{Raw, Singletrack},
    subject::Locker,
};

pub const FINISHED: &str = "growth, finished deployments";
pub const PROJECTS: &str = "growth, projects";
pub const LINE: &str = "growth, one line";

/// Few enough that the commits are not what is measured.
pub(super) const CLIENTS: usize = 4;
/// How many projects the clients go round: others are only there.
const ROUND: usize = 100;

pub async fn run(run: &Run) -> Result<()> {
    let seed = |projects, finished, in_line| Seed { projects, finished, in_line };
    let (few, many) = (run.scale(10, 1), run.scale(10_000, 20));
    let pair = stores(run, seed(ROUND, few, 0), seed(ROUND, many, 0), |seed| seed.projects * seed.finished).await?;
    run.take_turns(FINISHED, &pair, async |one| operations(run, server(one)?).await).await?;
    drop(pair);
    let (few, many) = (ROUND, run.scale(100_000, 1000));
    let pair = stores(run, seed(few, 1, 0), seed(many, 1, 0), |seed| seed.projects).await?;
    run.take_turns(PROJECTS, &pair, async |one| operations(run, server(one)?).await).await?;
    drop(pair);
    let (few, many) = (10, run.scale(10_000, 200));
    let pair = stores(run, seed(1, 1, few), seed(1, 1, many), |seed| seed.in_line).await?;
    run.take_turns(LINE, &pair, async |one| in_line(run, server(one)?).await).await
}

pub(super) fn server(contender: &Contender) -> Result<&Server> {
    Ok(&contender.subject.own().context("both are ours")?.server)
}

/// Two servers, one on a small store, the other on a large one.
async fn stores(run: &Run, small: Seed, large: Seed, count: fn(Seed) -> usize) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for seed in [small, large] {
        contenders.push(filled(run, seed, &crate::report::table::number(count(seed) as f64)).await?);
    }
    Ok(contenders)
}

/// A server on a store that is filled so.
pub(super) async fn filled(run: &Run, seed: Seed, name: &str) -> Result<Contender> {
    let mut server = Server::prepare(&run.recipe, &config(seed))?;
    match run.recipe.store {
        StoreKind::Postgres => seed::fill(&server.store_url(), Path::new("."), seed, |done| told(run, done)).await?,
        StoreKind::Sqlite => {
            let kept = seed::cached(seed)?;
            if !kept.exists() {
                let fresh = tempfile::tempdir_in(kept.parent().context("it lies in a folder")?)?;
                seed::fill("sqlite:load.db", fresh.path(), seed, |done| told(run, done)).await?;
                std::fs::rename(fresh.path().join("load.db"), &kept)?;
            }
            let copy = server.path("load.db");
            std::fs::copy(&kept, &copy)?;
            // Else the kernel writes it out while the server's commits are measured, which wait for that.
            std::fs::File::open(&copy)?.sync_all()?;
        }
    }
    run.say("starting");
    server.boot()?;
    Ok(Contender::new(name, Box::new(Singletrack { server })))
}

/// The longest line is as long as a line may be by default, and others come to its end.
fn config(Seed { in_line, .. }: Seed) -> String {
    format!("[projects.{}]\nline_limit = {}\n", seed::project(0), in_line + 10)
}

fn told(run: &Run, done: usize) {
    if done.is_multiple_of(1024) {
        run.say(format!("growth: filling a store, {done}"));
    }
}

/// Submits and finishes on the seeded projects, and reads of them.
pub(super) async fn operations(run: &Run, server: &Server) -> Result<Outcome> {
    let duration = run.scale(Duration::from_millis(1500), Duration::from_millis(100));
    let begin = Instant::now() + duration / 5;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (mut locker, mut http) = (Raw::connect(server).await?, server.connect().await?);
        clients.spawn(async move {
            let (mut submits, mut finishes, mut reads) = (Times::default(), Times::default(), Times::default());
            for number in (client..ROUND).step_by(CLIENTS).cycle() {
                let asked = Instant::now();
                // Once at least, however busy the machine is.
                if asked > begin + duration && submits.count() > 0 {
                    break;
                }
                let slot = seed::project(number);
                locker.take(&slot).await?;
                let taken = Instant::now();
                locker.give(&slot).await?;
                let given = Instant::now();
                http.call("GET", &format!("/v1/projects/{slot}"), "", &[]).await?.expect(200)?;
                if asked >= begin {
                    submits.add(taken - asked);
                    finishes.add(given - taken);
                    reads.add(given.elapsed());
                }
            }
            anyhow::Ok((submits, finishes, reads))
        });
    }
    let (mut submits, mut finishes, mut reads) = (Times::default(), Times::default(), Times::default());
    while let Some(done) = clients.join_next().await {
        let (submit, finish, read) = done??;
        submits.join(&submit);
        finishes.join(&finish);
        reads.join(&read);
    }
    let mut outcome = Outcome::default();
    outcome.figure("submit, median", submits.at(0.5) as f64, "µs");
    outcome.figure("submit, p99", submits.at(0.99) as f64, "µs");
    outcome.figure("finish, median", finishes.at(0.5) as f64, "µs");
    outcome.figure("read of a project, median", reads.at(0.5) as f64, "µs");
    outcome.figure("ready after", server.ready_after.as_secs_f64() * 1e3, "ms");
    outcome.figure("memory", server.resident()? as f64 / f64::from(1 << 20), "MiB");
    outcome.times("submit", submits);
    outcome.times("finish", finishes);
    outcome.times("read of a project", reads);
    Ok(outcome)
}

/// Joins the end of a line and leaves it again.
async fn in_line(run: &Run, server: &Server) -> Result<Outcome> {
    let (mut joins, mut looks, mut leaves) = (Times::default(), Times::default(), Times::default());
    let mut http = server.connect().await?;
    let path = format!("/v1/projects/{}/deployments", seed::project(0));
    let mut positions = Vec::new();
    for _ in 0..run.scale(300, 20) {
        let asked = Instant::now();
        let body = br#"{"executor":"client","claim":true,"onConflict":"wait"}"#;
        let key = format!("idempotency-key: {}\r\n", uuid::Uuid::now_v7().simple());
        let held: serde_json::Value = http.call("POST", &path, &key, body).await?.expect(409)?.json()?;
        joins.add(asked.elapsed());
        let ticket = held["ticket"].as_str().context("it has a ticket")?.to_owned();
        positions.push(held["queuePosition"].as_u64().unwrap_or_default());
        let asked = Instant::now();
        http.call("GET", &format!("{path}/{ticket}"), "", &[]).await?.expect(200)?;
        looks.add(asked.elapsed());
        let asked = Instant::now();
        let left: Accepted = http.call("POST", &format!("{path}/{ticket}/cancel"), "", &[]).await?.json()?;
        leaves.add(asked.elapsed());
        if left.deployment.status != Status::Cancelled {
            bail!("a cancelled ticket is {}", left.deployment.status.as_str());
        }
    }
    let mut outcome = Outcome::default();
    outcome.figure("joining it, median", joins.at(0.5) as f64, "µs");
    outcome.figure("looking at one in it, median", looks.at(0.5) as f64, "µs");
    outcome.figure("leaving it, median", leaves.at(0.5) as f64, "µs");
    outcome.times("joining it", joins);
    outcome.times("looking at one in it", looks);
    outcome.times("leaving it", leaves);
    positions.dedup();
    outcome.check("whoever joins stands at its end", positions.len() == 1, || format!("the places were {positions:?}"));
    Ok(outcome)
}
