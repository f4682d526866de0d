//! `wrapper`: whole processes that take a slot, run `true` in the slot and give the slot back: first one after the
//! other, then fifty at once.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use singletrack::model::Status;
use tokio::task::JoinSet;

use crate::{
    history,
    report::{Outcome, Times},
    run::{Contender, Run},
    subject::Ability,
};

pub const ONE: &str = "wrapper, one after the other";
pub const MANY: &str = "wrapper, 50 at once";

/// What a process may take.
const LIMIT: Duration = Duration::from_secs(30);

pub async fn run(run: &Run) -> Result<()> {
    let contenders = run.contenders(Ability::Wrap, "").await?;
    run.take_turns(ONE, &contenders, async |one| in_turn(run, one, run.scale(15, 2)).await).await?;
    run.take_turns(MANY, &contenders, async |one| at_once(run, one, run.scale(50, 5)).await).await
}

async fn in_turn(run: &Run, contender: &Contender, count: usize) -> Result<Outcome> {
    let (mut times, mut bare) = (Times::default(), Times::default());
    let slot = run.fresh("wrap");
    contender.subject.prepare(std::slice::from_ref(&slot)).await?;
    for _ in 0..count {
        let mut nothing = Command::new("true");
        nothing.stdin(Stdio::null());
        bare.add(finish(nothing).await?);
        times.add(finish(contender.subject.wrapper(&slot)?).await?);
    }
    let mut outcome = Outcome::default();
    outcome.figure("process", times.at(0.5) as f64 / 1e3, "ms");
    outcome.figure("true alone", bare.at(0.5) as f64 / 1e3, "ms");
    outcome.times("process", times);
    judge(&mut outcome, contender, &slot, count).await?;
    Ok(outcome)
}

async fn at_once(run: &Run, contender: &Contender, count: usize) -> Result<Outcome> {
    let slot = run.fresh("wrap");
    contender.subject.prepare(std::slice::from_ref(&slot)).await?;
    let begun = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..count {
        all.spawn(finish(contender.subject.wrapper(&slot)?));
    }
    let mut times = Times::default();
    while let Some(time) = all.join_next().await {
        times.add(time??);
    }
    let mut outcome = Outcome::default();
    outcome.figure("total", begun.elapsed().as_secs_f64() * 1e3, "ms");
    outcome.times("process", times);
    judge(&mut outcome, contender, &slot, count).await?;
    Ok(outcome)
}

/// Runs it to its end, which must be a good one; how long that took.
async fn finish(command: Command) -> Result<Duration> {
    let mut command = tokio::process::Command::from(command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let begun = Instant::now();
    let child = command.spawn().context("cannot start the wrapper")?;
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.context("it does not end")??;
    let took = begun.elapsed();
    if !output.status.success() {
        bail!("it ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(took)
}

async fn judge(outcome: &mut Outcome, contender: &Contender, slot: &str, count: usize) -> Result<()> {
    let Some(own) = contender.subject.own() else { return Ok(()) };
    let history = own.server.history(slot).await?;
    let succeeded = history.iter().filter(|deployment| deployment.status == Status::Succeeded).count();
    outcome.check("each process is a deployment that succeeded", succeeded == count && history.len() == count, || {
        format!("{succeeded} of {} deployments succeeded, and there were {count} processes", history.len())
    });
    outcome.check_none("no two ran at once by the record", &history::recorded_times_overlap(&history));
    Ok(())
}
