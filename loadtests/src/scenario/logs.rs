//! `logs`: a flood of output to a thousand watchers, and its effect on the submits of other clients.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::{sync::watch, task::JoinSet};

use super::fan_out::{IN_ORDER, Read, collect};
use crate::{
    report::{Outcome, Times},
    run::Run,
    server::Server,
    singletrack::Raw,
    stream::{Message, Watcher},
    subject::{Ability, Locker, Subject},
};

/// Lines a second, in so many reports.
const LINES: usize = 1000;
const REPORTS: usize = 10;
/// Clients that submit and finish meanwhile, each so often a second.
const CLIENTS: usize = 16;
const PAUSE: Duration = Duration::from_millis(40);

pub const NAME: &str = "logs, 1,000 lines/s to 1,000 watchers";

pub async fn run(run: &Run) -> Result<()> {
    let contenders = run.contenders(Ability::Streams, "").await?;
    run.take_turns(NAME, &contenders[..1], async |one| {
        let own = one.subject.own().context("the first one is ours")?;
        flood(run, own, &own.server).await
    })
    .await
}

async fn flood(run: &Run, subject: &dyn Subject, server: &Server) -> Result<Outcome> {
    let watchers = run.scale(1000, 20);
    let seconds = run.scale(3, 1);
    let quiet = submits(server, Duration::from_secs(seconds)).await?;
    let mut topics = subject.topics(1).await?;
    let (address, get) = (topics[0].address(), topics[0].stream());
    let reports = usize::try_from(seconds)? * REPORTS;
    let mut watching = JoinSet::new();
    for _ in 0..watchers {
        let mut watcher = Watcher::open(address, &get).await?;
        watching.spawn(async move {
            watcher.read_until(reports as u64).await?;
            anyhow::Ok(watcher)
        });
    }
    // Reads nothing at all: it must cost nobody anything but itself.
    let mut slow = server.connect().await?;
    slow.send("GET", &get.path, &get.headers, &[]).await?;
    let before = server.usage();
    let flooding = async {
        let begun = Instant::now();
        let mut sent = Vec::new();
        for number in 1..=reports {
            let at = begun + Duration::from_secs(seconds) * u32::try_from(number - 1)? / u32::try_from(reports)?;
            tokio::time::sleep_until(at.into()).await;
            sent.push(Instant::now());
            topics[0].publish(&text(number)).await?;
        }
        anyhow::Ok(sent)
    };
    let (sent, busy) = tokio::try_join!(flooding, submits(server, Duration::from_secs(seconds)))?;
    let Read { latency, wrong, .. } = collect(watching, &sent).await?;
    let used = server.usage() - before;
    topics[0].answer().await?;
    drop(slow);
    let mut outcome = Outcome::default();
    let change = |quantile| (busy.at(quantile) as f64 / quiet.at(quantile) as f64 - 1.0) * 100.0;
    outcome.figure("median submit + finish slower by", change(0.5), "%");
    outcome.figure("p99 slower by", change(0.99), "%");
    outcome.figure("server CPU", used.cpu.as_secs_f64() / seconds as f64 * 100.0, "% of a core");
    outcome.times("submit + finish, quiet", quiet);
    outcome.times("submit + finish, flooded", busy);
    outcome.times("from sent to read", latency);
    outcome.check_none(IN_ORDER, &wrong);
    Ok(outcome)
}

/// A report's lines: the last one carries its number.
fn text(number: usize) -> String {
    let mut lines = vec!["a line of output as long as lines are on average".to_owned(); LINES / REPORTS - 1];
    lines.push(Message::text(number as u64));
    // It is put between quotation marks as it is.
    lines.join(r#"",""#)
}

/// How long a submit and its finish take, by clients that are not in a hurry.
async fn submits(server: &Server, duration: Duration) -> Result<Times> {
    let (over, is_over) = watch::channel(false);
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (mut locker, is_over) = (Raw::connect(server).await?, is_over.clone());
        clients.spawn(async move {
            let slot = format!("quiet-{client}");
            let mut times = Times::default();
            tokio::time::sleep(PAUSE * u32::try_from(client)? / u32::try_from(CLIENTS)?).await;
            // Once at least, however busy the machine is.
            while !*is_over.borrow() || times.count() == 0 {
                let asked = Instant::now();
                locker.take(&slot).await?;
                locker.give(&slot).await?;
                times.add(asked.elapsed());
                tokio::time::sleep(PAUSE.saturating_sub(asked.elapsed())).await;
            }
            anyhow::Ok(times)
        });
    }
    tokio::time::sleep(duration).await;
    over.send_replace(true);
    let mut all = Times::default();
    while let Some(times) = clients.join_next().await {
        all.join(&times??);
    }
    Ok(all)
}
