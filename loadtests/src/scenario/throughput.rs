//! `throughput`: a free slot is taken and given back, durably, as fast as it goes; each client has slots of its own.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::{
    locker::Raw,
    process::Process,
    report::{Outcome, Times},
    run::Run,
    server::Server,
    subject::Locker,
};

/// How many slots each client goes round.
const SLOTS: usize = 8;

/// What Singletrack does.
pub async fn singletrack(run: &Run, clients: usize) -> Result<Outcome> {
    let server = Server::start(&run.recipe, "").await?;
    let mut lockers: Vec<Box<dyn Locker>> = Vec::new();
    for _ in 0..clients {
        lockers.push(Box::new(Raw::connect(&server).await?));
    }
    let mut outcome = measure(run, "singletrack", lockers, Some(server.process()?)).await?;
    let acknowledged = outcome.value("pairs").unwrap_or_default();
    let recorded = server.metric("singletrack_deployments_finished_total{status=\"SUCCEEDED\"").await?;
    outcome.check("nothing acknowledged is lost", recorded >= acknowledged, || {
        format!("{acknowledged} were acknowledged, the server counts {recorded}")
    });
    Ok(outcome)
}

/// All of `lockers` at once.
pub async fn measure(
    run: &Run,
    subject: &str,
    lockers: Vec<Box<dyn Locker>>,
    process: Option<&Process>,
) -> Result<Outcome> {
    let clients = lockers.len();
    let warm_up = run.scale(Duration::from_millis(500), Duration::from_millis(50));
    let duration = run.scale(Duration::from_secs(2), Duration::from_millis(250));
    let mut tasks = JoinSet::new();
    let begin = Instant::now() + warm_up;
    for (number, mut locker) in lockers.into_iter().enumerate() {
        tasks.spawn(async move {
            let slots: Vec<String> = (0..SLOTS).map(|slot| format!("t{number}-{slot}")).collect();
            let (mut times, mut all, mut counted) = (Times::default(), 0_u64, 0_u64);
            for slot in slots.iter().cycle() {
                let asked = Instant::now();
                if asked > begin + duration {
                    break;
                }
                locker.take(slot).await?;
                locker.give(slot).await?;
                all += 1;
                if asked >= begin {
                    counted += 1;
                    times.add(asked.elapsed());
                }
            }
            anyhow::Ok((times, all, counted))
        });
    }
    tokio::time::sleep_until(begin.into()).await;
    let used = process.map(Process::usage);
    let (mut times, mut all, mut counted) = (Times::default(), 0, 0);
    while let Some(done) = tasks.join_next().await {
        let (part, made, in_time) = done?.with_context(|| format!("a client of {subject}"))?;
        times.join(&part);
        all += made;
        counted += in_time;
    }
    let elapsed = begin.elapsed();
    let mut outcome = Outcome::new(format!("throughput, {clients} clients"), subject);
    outcome.figure("pairs/s", counted as f64 / elapsed.as_secs_f64(), "/s");
    outcome.figure("pairs", all as f64, "");
    if let (Some(process), Some(before)) = (process, used) {
        let cpu = process.usage().cpu.saturating_sub(before.cpu);
        outcome.figure("server CPU per pair", cpu.as_secs_f64() * 1e6 / counted.max(1) as f64, "µs");
    }
    outcome.spread("take and give", &times);
    Ok(outcome)
}
