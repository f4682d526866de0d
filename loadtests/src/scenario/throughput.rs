//! `throughput`: free slots are taken and given back, durably, as fast as possible. Each client has its own slots.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::task::JoinSet;

use crate::{
    process::usage,
    report::{Outcome, Times},
    run::{Contender, Run},
    server::Server,
    subject::{Ability, Locker},
};

/// How many slots each client goes round.
const SLOTS: usize = 8;
/// How many clients there are at once.
pub const CLIENTS: [usize; 3] = [1, 16, 64];

pub async fn run(run: &Run) -> Result<()> {
    let contenders = run.contenders(Ability::FreeSlots, "").await?;
    for clients in CLIENTS {
        run.take_turns(&name(clients), &contenders, async |contender| measure(run, contender, clients).await).await?;
    }
    Ok(())
}

/// What it is called in the report.
pub fn name(clients: usize) -> String {
    let plural = if clients == 1 { "" } else { "s" };
    format!("throughput, {clients} client{plural}")
}

async fn measure(run: &Run, contender: &Contender, clients: usize) -> Result<Outcome> {
    let subject = &*contender.subject;
    let mut lockers = Vec::new();
    for _ in 0..clients {
        lockers.push(subject.locker().await?);
    }
    let slots: Vec<Vec<String>> =
        (0..clients).map(|client| (0..SLOTS).map(|slot| format!("t{client}-{slot}")).collect()).collect();
    subject.prepare(&slots.concat()).await?;
    let commits_before = match subject.own() {
        Some(own) => Counted::read(&own.server).await?,
        None => Counted::default(),
    };
    let warm_up = run.scale(Duration::from_millis(300), Duration::from_millis(50));
    let duration = run.scale(Duration::from_millis(1500), Duration::from_millis(250));
    let processes = subject.processes();
    let begin = Instant::now() + warm_up;
    let mut tasks = JoinSet::new();
    for (locker, slots) in lockers.into_iter().zip(slots) {
        tasks.spawn(go_round(locker, slots, begin, begin + duration));
    }
    tokio::time::sleep_until(begin.into()).await;
    let before = usage(&processes);
    let mut sum = Went::default();
    while let Some(done) = tasks.join_next().await {
        let went = done?.with_context(|| format!("a client of {}", contender.name))?;
        sum.times.join(&went.times);
        sum.all += went.all;
        sum.counted += went.counted;
    }
    let elapsed = begin.elapsed();
    let used = usage(&processes) - before;
    let mut outcome = Outcome::default();
    outcome.figure("pairs/s", sum.counted as f64 / elapsed.as_secs_f64(), "/s");
    outcome.figure("server CPU per pair", used.cpu.as_secs_f64() * 1e6 / sum.counted.max(1) as f64, "µs");
    outcome.times("take and give", sum.times);
    if let Some(own) = subject.own() {
        let counted = Counted::read(&own.server).await? - commits_before;
        counted.tell(&mut outcome);
        let (finished, all) = (counted.finished, sum.all as f64);
        outcome.check("nothing acknowledged is lost", finished == all, || {
            format!("{all} ends were acknowledged, the server counts {finished}")
        });
    }
    Ok(outcome)
}

/// What one client did.
#[derive(Default)]
struct Went {
    times: Times,
    /// Warm-up included.
    all: u64,
    counted: u64,
}

async fn go_round(mut locker: Box<dyn Locker>, slots: Vec<String>, begin: Instant, end: Instant) -> Result<Went> {
    let mut went = Went::default();
    for slot in slots.iter().cycle() {
        let asked = Instant::now();
        // Once at least, however busy the machine is.
        if asked > end && went.counted > 0 {
            break;
        }
        locker.take(slot).await?;
        locker.give(slot).await?;
        went.all += 1;
        if asked >= begin {
            went.counted += 1;
            went.times.add(asked.elapsed());
        }
    }
    Ok(went)
}

/// What the server counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    pub finished: f64,
    pub commits: f64,
    pub transactions: f64,
}

impl Counted {
    pub async fn read(server: &Server) -> Result<Counted> {
        Ok(Counted {
            finished: server.metric("singletrack_deployments_finished_total{status=\"SUCCEEDED\"").await?,
            commits: server.metric("singletrack_store_commits_total").await?,
            transactions: server.metric("singletrack_store_transactions_total").await?,
        })
    }

    pub fn tell(&self, outcome: &mut Outcome) {
        outcome.figure("commits", self.commits, "");
        if self.commits > 0.0 {
            outcome.figure("transactions per commit", self.transactions / self.commits, "");
        }
    }
}

impl std::ops::Sub for Counted {
    type Output = Counted;

    fn sub(self, before: Counted) -> Counted {
        Counted {
            finished: self.finished - before.finished,
            commits: self.commits - before.commits,
            transactions: self.transactions - before.transactions,
        }
    }
}
