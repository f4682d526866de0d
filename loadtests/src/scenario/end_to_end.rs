//! `end-to-end`: durable jobs from submit to end. In one part, clients submit deployments, claim them over the lease
//! API and finish them. In the other part, the server's own worker starts a process for each deployment.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use singletrack::{
    model::Status,
    wire::{Accepted, Deployment},
};
use tokio::task::JoinSet;

use crate::{
    history, jobs,
    process::usage,
    report::{Outcome, Times},
    run::{Contender, Run},
    server::{Recipe, Server, StoreKind},
    singletrack::Singletrack,
    subject::{Ability, JobLoad},
};

pub const FULL: &str = "end-to-end, full speed";
pub const PACED: &str = "end-to-end, 50 jobs/s";

/// Projects of the server's own worker, each with a line of its own.
const OWN_PROJECTS: usize = 32;

pub async fn run(run: &Run) -> Result<()> {
    let mut contenders = run.contenders(Ability::Jobs, &jobs::config()).await?;
    if run.peers && run.recipe.store != StoreKind::Postgres {
        // Queues on PostgreSQL are compared with a server on PostgreSQL.
        let recipe = Recipe { store: StoreKind::Postgres, ..run.recipe.clone() };
        let own = Singletrack::start(&recipe, &jobs::config()).await?;
        contenders.insert(1, Contender::new(own.name(), Box::new(own)));
    }
    let full = JobLoad {
        clients: 16,
        outstanding: run.scale(64, 4),
        pause: Duration::ZERO,
        warm_up: run.scale(Duration::from_millis(500), Duration::from_millis(50)),
        duration: run.scale(Duration::from_secs(3), Duration::from_millis(200)),
    };
    let paced = JobLoad { clients: 1, outstanding: 1, pause: Duration::from_millis(20), ..full };
    run.take_turns(FULL, &contenders, async |one| load(one, full).await).await?;
    run.take_turns(PACED, &contenders, async |one| load(one, paced).await).await?;
    drop(contenders);
    let mut config = String::new();
    for project in 0..OWN_PROJECTS {
        writeln!(
            config,
            "[projects.own-{project}]\n[[projects.own-{project}.pipelines.deploy.phases]]\nname = \"nothing\"\nrun = \":\""
        )?;
    }
    let own = run.contenders(Ability::Jobs, &config).await?;
    run.take_turns("end-to-end, the server's worker, a shell for each", &own[..1], async |one| {
        let own = one.subject.own().context("the first one is ours")?;
        embedded(&own.server, run.scale(8, 2)).await
    })
    .await
}

async fn load(contender: &Contender, load: JobLoad) -> Result<Outcome> {
    let processes = contender.subject.processes();
    let before = usage(&processes);
    let done = contender.subject.jobs(load).await?;
    let used = usage(&processes) - before;
    let mut outcome = Outcome::default();
    outcome.figure("jobs/s", done.completed as f64 / load.duration.as_secs_f64(), "/s");
    outcome.figure("server CPU per job", used.cpu.as_secs_f64() * 1e6 / done.ran.max(1) as f64, "µs");
    outcome.figure("median time to start", done.starts.at(0.5) as f64 / 1e3, "ms");
    outcome.times("from enqueued to started", done.starts);
    outcome.check("every job ran, and once", done.ran == done.enqueued, || {
        format!("{} were enqueued, {} ran", done.enqueued, done.ran)
    });
    Ok(outcome)
}

/// Each project's line is filled, and its end waited for.
async fn embedded(server: &Server, each: usize) -> Result<Outcome> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    let usage_before = server.usage();
    let mut known = Vec::new();
    for project in 0..OWN_PROJECTS {
        known.push(server.history(&format!("own-{project}")).await.map_or(0, |history| history.len()));
        let mut http = server.connect().await?;
        tasks.spawn(async move {
            let path = format!("/v1/projects/own-{project}/deployments");
            let mut ids = Vec::new();
            for _ in 0..each {
                let accepted = http.call("POST", &path, "", br#"{"onConflict":"queue"}"#).await?.expect(202)?;
                ids.push(accepted.json::<Accepted>()?.deployment.id);
            }
            let last = ids.last().context("there is one at least")?;
            let path = format!("{path}/{last}/completion?maxWaitSeconds=60");
            let last: Deployment = http.call("GET", &path, "", &[]).await?.expect(200)?.json()?;
            anyhow::Ok((project, last.status))
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let elapsed = begun.elapsed();
    let count = OWN_PROJECTS * each;
    let used = server.usage() - usage_before;
    let mut outcome = Outcome::default();
    outcome.figure("deployments/s", count as f64 / elapsed.as_secs_f64(), "/s");
    outcome.figure("CPU per deployment", used.cpu.as_secs_f64() * 1e3 / count as f64, "ms");
    let (mut wrong, mut overlaps, mut ran, mut runs) = (Vec::new(), Vec::new(), 0, Times::default());
    for (project, known) in known.into_iter().enumerate() {
        let history = server.history(&format!("own-{project}")).await?.split_off(known);
        ran += history.len();
        wrong.extend(history::unfinished(&history));
        let failed = history.iter().filter(|one| one.status.is_final() && one.status != Status::Succeeded);
        wrong.extend(failed.map(|one| format!("{} is {}", one.id, one.status.as_str())));
        overlaps.extend(history::recorded_times_overlap(&history));
        overlaps.extend(history::started_out_of_order(&history));
        for (started_at, ended_at) in history.iter().filter_map(|one| Some((one.started_at?, one.ended_at?))) {
            runs.add(ended_at.duration_since(started_at).unsigned_abs());
        }
    }
    outcome.times("from started to ended, in whole ms", runs);
    outcome.check_none("all succeed", &wrong);
    outcome.check_none("one after the other, in the order of their tickets", &overlaps);
    outcome.check("every submit is one deployment", ran == count, || format!("{ran} of {count}"));
    Ok(outcome)
}
