//! `restart`: the server is restarted and killed under load, again and again. The clients must survive that: nothing
//! that the server confirmed is lost, and two clients never hold the same slot.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use singletrack::{
    client::resolve::Wish,
    model::{DeploymentId, Status},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    history::Hold,
    race::{judge, judge_order},
    racer::{Held, Racer, Tally},
    report::{Outcome, Summary, Times},
    run::Run,
    server::Server,
};

pub const NAME: &str = "restart, stopped and killed under load";

const HOLD: Duration = Duration::from_millis(5);
/// How long the server runs between two ends.
const PAUSE: Duration = Duration::from_millis(700);

pub async fn run(run: &Run) -> Result<()> {
    run.say(NAME);
    // Whose turn comes while the server is away must have the time to come back.
    let mut server = Server::start(&run.recipe, "[limits]\nreserve = \"20s\"\n").await?;
    let (clients, slots) = (run.scale(32, 6), run.scale(8, 2));
    let (over, is_over) = watch::channel(false);
    let begun = Instant::now();
    let (mut tasks, mut tallies) = (JoinSet::new(), Vec::new());
    for client in 0..clients {
        let racer = Racer::connect(&server, client)?;
        tallies.push(racer.tallied());
        tasks.spawn(ride(racer, client, format!("ride-{}", client % slots), begun, is_over.clone()));
    }
    let (mut ready, mut away) = (Times::default(), Times::default());
    for end in 0..run.scale(8, 2) {
        run.say(format!("{NAME}: {} of {}", end + 1, run.scale(8, 2)));
        tokio::time::sleep(PAUSE).await;
        let gone = Instant::now();
        // Both block this one task's thread only.
        if end % 2 == 0 {
            server.stop()
        } else {
            server.kill()
        }
        server.boot()?;
        ready.add(server.ready_after);
        away.add(gone.elapsed());
    }
    tokio::time::sleep(PAUSE).await;
    over.send_replace(true);
    let mut went = Went::default();
    while let Some(ended) = tasks.join_next().await {
        went.join(ended??);
    }
    let tallies: Vec<Tally> = tallies.iter().map(crate::racer::Tallied::read).collect();
    let mut outcome = Outcome::default();
    outcome.figure("deployments", went.ended.len() as f64, "");
    outcome.figure("calls tried again", tallies.iter().map(|tally| tally.retries).sum::<u64>() as f64, "");
    outcome.times("ready after", ready);
    outcome.times("away", away);
    outcome.times("from asking to given back", went.took);
    outcome.check_none("no client is told anything but success", &went.troubles);
    for slot in 0..slots {
        let holds: Vec<Hold> = went.holds.iter().filter(|(at, _)| *at == slot).map(|(_, hold)| *hold).collect();
        let ended = holds
            .iter()
            .filter_map(|hold| hold.granted.map(|(id, _)| id))
            .filter_map(|id| Some((id, *went.ended.get(&id)?)))
            .collect();
        judge(&mut outcome, &server, &format!("ride-{slot}"), &holds, &ended).await?;
        judge_order(&mut outcome, &server, &format!("ride-{slot}"), &holds).await?;
    }
    merge(&mut outcome);
    run.keep(Summary::of(NAME, "singletrack", env!("CARGO_PKG_VERSION"), vec![outcome]));
    Ok(())
}

/// The same check of several slots is one.
fn merge(outcome: &mut Outcome) {
    let mut merged: Vec<crate::report::Check> = Vec::new();
    for check in outcome.checks.drain(..) {
        match merged.iter_mut().find(|known| known.what == check.what) {
            Some(known) if known.wrong.is_none() => known.wrong = check.wrong,
            Some(_) => {}
            None => merged.push(check),
        }
    }
    outcome.checks = merged;
}

/// What clients went through.
#[derive(Default)]
struct Went {
    holds: Vec<(usize, Hold)>,
    ended: BTreeMap<DeploymentId, Status>,
    took: Times,
    troubles: Vec<String>,
}

impl Went {
    fn join(&mut self, other: Went) {
        self.holds.extend(other.holds);
        self.ended.extend(other.ended);
        self.took.join(&other.took);
        self.troubles.extend(other.troubles);
    }
}

async fn ride(
    mut racer: Racer,
    client: usize,
    slot: String,
    begun: Instant,
    is_over: watch::Receiver<bool>,
) -> Result<Went> {
    let mut went = Went::default();
    let Some(number) = slot.rsplit('-').next().and_then(|number| number.parse().ok()) else {
        bail!("the slot has no number")
    };
    while !*is_over.borrow() {
        let asked = begun.elapsed();
        let grant = match racer.compete(&slot, Wish::Wait { preempt: false }).await?.grant() {
            Ok(grant) => grant,
            Err(error) => {
                went.troubles.push(format!("client {client} did not get the slot: {error}"));
                continue;
            }
        };
        let got = begun.elapsed();
        let (held, gave) = racer.hold(&grant, HOLD).await;
        let (gave, given) = (gave - begun, begun.elapsed());
        match held {
            Held::Succeeded => _ = went.ended.insert(grant.id, Status::Succeeded),
            other => went.troubles.push(format!("the end of client {client}'s hold was not recorded: {other:?}")),
        }
        went.took.add(given - asked);
        went.holds.push((number, Hold { client, asked, got, gave, given, granted: Some((grant.id, grant.token())) }));
    }
    Ok(went)
}
