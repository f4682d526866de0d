//! `contention`: many clients race for one slot, and each client holds the slot for a moment. Measures how long each
//! client waits, in which order the clients get the slot, and what a hand-off costs in addition to the time for which
//! the slot was held.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use singletrack::{client::resolve::Wish, model::Status};
use tokio::{
    sync::{Barrier, watch},
    task::JoinSet,
};

use super::throughput::Counted;
use crate::{
    history::{self, Hold},
    process::usage,
    race::{Racing, Seen, judge, judge_order, race, tell},
    racer::{Held, Racer, Taken, Tally},
    report::{Outcome, Times},
    run::{Contender, Run},
    server::Server,
    subject::{Ability, Locker, Work},
};

/// How long each one holds the slot.
const HOLD: Duration = Duration::from_millis(10);
/// One comes so long after the other: so their order is clear, and all are there long before the last one is served.
const STAGGER: Duration = Duration::from_millis(2);
/// Clients that keep no place in line try again so soon.
const TRY_PAUSE: Duration = Duration::from_millis(5);

pub const NAME: &str = "contention, everyone waits";

pub async fn run(run: &Run) -> Result<()> {
    let racers = run.scale(50, 12);
    let contenders = run.contenders(Ability::Race, "").await?;
    run.take_turns(NAME, &contenders, async |contender| match contender.subject.own() {
        Some(own) => waiting(run, &own.server, racers, 0).await,
        None => peers(run, contender, racers).await,
    })
    .await?;
    let own = &contenders[..1];
    let server = &own[0].subject.own().context("the first one is ours")?.server;
    let mixed = "contention, others try without a ticket";
    run.take_turns(mixed, own, async |_| waiting(run, server, racers, run.scale(10, 4)).await).await?;
    let fail = "contention, all at once, fail where it is held";
    run.take_turns(fail, own, async |_| failing(run, server, racers).await).await
}

/// Peers' clients wait as they do.
async fn peers(run: &Run, contender: &Contender, racers: usize) -> Result<Outcome> {
    let slot = run.fresh("race");
    contender.subject.prepare(std::slice::from_ref(&slot)).await?;
    let mut clients: Vec<Box<dyn Racing>> = Vec::new();
    for _ in 0..racers {
        clients.push(Box::new(Peer(contender.subject.racer().await?)));
    }
    let processes = contender.subject.processes();
    let before = usage(&processes);
    let holds = race(clients, &slot, Instant::now(), STAGGER).await?;
    let mut outcome = Outcome::default();
    outcome.figure("server CPU", (usage(&processes) - before).cpu.as_secs_f64() * 1e3, "ms");
    tell(&mut outcome, &holds, STAGGER);
    outcome.figure("overlaps", history::overlaps(&holds).len() as f64, "");
    Ok(outcome)
}

struct Peer(Box<dyn Locker>);

impl Racing for Peer {
    fn go<'a>(&'a mut self, slot: &'a str, begun: Instant) -> Work<'a, Seen> {
        Box::pin(async move {
            self.0.take(slot).await?;
            let got = begun.elapsed();
            tokio::time::sleep(HOLD).await;
            let gave = begun.elapsed();
            self.0.give(slot).await?;
            Ok(Seen { got, gave, granted: None })
        })
    }
}

struct Own(Racer);

impl Racing for Own {
    fn go<'a>(&'a mut self, slot: &'a str, begun: Instant) -> Work<'a, Seen> {
        Box::pin(async move {
            let grant = self.0.compete(slot, Wish::Wait { preempt: false }).await?.grant()?;
            let got = begun.elapsed();
            match self.0.hold(&grant, HOLD).await {
                (Held::Succeeded, gave) => {
                    Ok(Seen { got, gave: gave - begun, granted: Some((grant.id, grant.token())) })
                }
                (other, _) => bail!("its end was not recorded: {other:?}"),
            }
        })
    }
}

/// Ours wait by the resolver, `rude` others ask again and again without a ticket.
async fn waiting(run: &Run, server: &Server, racers: usize, rude: usize) -> Result<Outcome> {
    let slot = run.fresh("race");
    let (mut clients, mut tallies): (Vec<Box<dyn Racing>>, Vec<_>) = (Vec::new(), Vec::new());
    for number in 0..racers {
        let racer = Racer::connect(server, number)?;
        tallies.push(racer.tallied());
        clients.push(Box::new(Own(racer)));
    }
    let before = (server.usage(), Counted::read(server).await?);
    let (over, is_over) = watch::channel(false);
    let begun = Instant::now();
    let mut strangers = JoinSet::new();
    for number in racers..racers + rude {
        let stranger = Racer::connect(server, number)?;
        strangers.spawn(barge(stranger, number, slot.clone(), begun, is_over.clone()));
    }
    let raced = race(clients, &slot, begun, STAGGER).await;
    over.send_replace(true);
    let (mut barged, mut tried) = (Vec::new(), Tally::default());
    while let Some(done) = strangers.join_next().await {
        let (tally, holds) = done??;
        tried.submits += tally.submits;
        tried.conflicts += tally.conflicts;
        barged.extend(holds);
    }
    let holds = raced?;
    let mut outcome = Outcome::default();
    outcome.figure("server CPU", (server.usage() - before.0).cpu.as_secs_f64() * 1e3, "ms");
    tell(&mut outcome, &holds, STAGGER);
    (Counted::read(server).await? - before.1).tell(&mut outcome);
    let tallies: Vec<Tally> = tallies.iter().map(|tally| tally.read()).collect();
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>() as f64;
    outcome.figure("submits", sum(|tally| tally.submits), "");
    outcome.figure("conflicts", sum(|tally| tally.conflicts), "");
    outcome.figure("polls of turn", sum(|tally| tally.polls), "");
    if rude > 0 {
        outcome.figure("submits without a ticket", tried.submits as f64, "");
        outcome.figure("of these refused", tried.conflicts as f64, "");
        outcome.figure("of these got the slot", barged.len() as f64, "");
    }
    let most = tallies.iter().map(|tally| tally.submits).max().unwrap_or_default();
    outcome.check("one re-submit at most", most <= 2, || format!("a client sent {most} submits"));
    let all: Vec<Hold> = holds.iter().chain(&barged).copied().collect();
    let ended = all.iter().filter_map(|hold| Some((hold.granted?.0, Status::Succeeded))).collect();
    judge(&mut outcome, server, &slot, &all, &ended).await?;
    judge_order(&mut outcome, server, &slot, &all).await?;
    Ok(outcome)
}

/// A client without a ticket: takes the slot where it happens to be free, and gives it back at once.
async fn barge(
    mut racer: Racer,
    client: usize,
    slot: String,
    begun: Instant,
    is_over: watch::Receiver<bool>,
) -> Result<(Tally, Vec<Hold>)> {
    let mut holds = Vec::new();
    while !*is_over.borrow() {
        let asked = begun.elapsed();
        match racer.compete(&slot, Wish::Fail { detach: false }).await? {
            Taken::Blocked => {}
            taken => {
                let grant = taken.grant()?;
                let got = begun.elapsed();
                let (held, gave) = racer.hold(&grant, Duration::ZERO).await;
                if held != Held::Succeeded {
                    bail!("its end was not recorded: {held:?}");
                }
                let (gave, granted) = (gave - begun, Some((grant.id, grant.token())));
                holds.push(Hold { client, asked, got, gave, given: begun.elapsed(), granted });
            }
        }
        tokio::time::sleep(TRY_PAUSE).await;
    }
    Ok((racer.tallied().read(), holds))
}

/// All come at once, and go where the slot is held.
async fn failing(run: &Run, server: &Server, racers: usize) -> Result<Outcome> {
    let slot = run.fresh("race");
    let barrier = Arc::new(Barrier::new(racers));
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..racers {
        let (mut racer, slot, barrier) = (Racer::connect(server, client)?, slot.clone(), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            let asked = begun.elapsed();
            let taken = racer.compete(&slot, Wish::Fail { detach: false }).await?;
            let got = begun.elapsed();
            let hold = match taken {
                Taken::Blocked => None,
                taken => {
                    let grant = taken.grant()?;
                    let (_, gave) = racer.hold(&grant, HOLD).await;
                    let (gave, granted) = (gave - begun, Some((grant.id, grant.token())));
                    Some(Hold { client, asked, got, gave, given: begun.elapsed(), granted })
                }
            };
            anyhow::Ok((got - asked, hold))
        });
    }
    let (mut times, mut holds) = (Times::default(), Vec::new());
    while let Some(done) = tasks.join_next().await {
        let (answered, hold) = done??;
        times.add(answered);
        holds.extend(hold);
    }
    let mut outcome = Outcome::default();
    outcome.times("first answer", times);
    outcome.figure("got the slot", holds.len() as f64, "");
    outcome.figure("refused", (racers - holds.len()) as f64, "");
    let recorded = server.history(&slot).await?.len();
    outcome.check("somebody got the slot", !holds.is_empty(), || "everybody was refused".to_owned());
    outcome.check("a refused submit leaves nothing", recorded == holds.len(), || {
        format!("{} got the slot and {recorded} deployments are recorded", holds.len())
    });
    let ended: BTreeMap<_, _> = holds.iter().filter_map(|hold| Some((hold.granted?.0, Status::Succeeded))).collect();
    judge(&mut outcome, server, &slot, &holds, &ended).await?;
    Ok(outcome)
}
