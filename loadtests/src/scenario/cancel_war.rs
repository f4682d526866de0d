//! `cancel-war`: each new deployment cancels the slot's holder and all deployments before itself. The youngest
//! deployment must win, no deployment may be superseded by an older one, and the war must end.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use singletrack::{client::resolve::Wish, model::Status};
use tokio::task::JoinSet;

use crate::{
    history::{self, Hold},
    race::judge,
    racer::{Held, Racer, Taken, Tally},
    report::{Outcome, Plot, Times},
    run::Run,
    server::Server,
    subject::Ability,
};

pub const NAME: &str = "cancel-war";

pub async fn run(run: &Run) -> Result<()> {
    let contenders = run.contenders(Ability::Race, "").await?;
    run.take_turns(NAME, &contenders[..1], async |one| match one.subject.own() {
        Some(own) => war(run, &own.server).await,
        None => bail!("the first one is ours"),
    })
    .await
}

/// How it ended for one client.
enum End {
    Held(Hold, Held),
    Superseded,
}

async fn war(run: &Run, server: &Server) -> Result<Outcome> {
    let (clients, stagger, hold) = (run.scale(40, 8), Duration::from_millis(20), run.scale(1500, 400));
    let hold = Duration::from_millis(hold);
    let slot = run.fresh("war");
    let begun = Instant::now();
    let (mut tasks, mut tallies) = (JoinSet::new(), Vec::new());
    for client in 0..clients {
        let mut racer = Racer::connect(server, client)?;
        tallies.push(racer.tallied());
        let (slot, comes_at) = (slot.clone(), begun + stagger * u32::try_from(client)?);
        tasks.spawn(async move {
            tokio::time::sleep_until(comes_at.into()).await;
            let asked = begun.elapsed();
            match racer.compete(&slot, Wish::Wait { preempt: true }).await? {
                Taken::Lost(code) if code == "SUPERSEDED" => Ok(End::Superseded),
                taken => {
                    let grant = taken.grant()?;
                    let got = begun.elapsed();
                    let (held, gave) = racer.hold(&grant, hold).await;
                    let granted = Some((grant.id, grant.token()));
                    let hold = Hold { client, asked, got, gave: gave - begun, given: begun.elapsed(), granted };
                    anyhow::Ok(End::Held(hold, held))
                }
            }
        });
    }
    let (mut holds, mut ended, mut superseded) = (Vec::new(), BTreeMap::new(), 0_usize);
    while let Some(end) = tasks.join_next().await {
        match end?? {
            End::Held(hold, held) => {
                if let Some((id, _)) = hold.granted {
                    match held {
                        Held::Succeeded => _ = ended.insert(id, Status::Succeeded),
                        Held::Cancelled => _ = ended.insert(id, Status::Cancelled),
                        Held::TooLate => {}
                    }
                }
                holds.push(hold);
            }
            End::Superseded => superseded += 1,
        }
    }
    holds.sort_by_key(|hold| hold.got);
    let tallies: Vec<Tally> = tallies.iter().map(crate::racer::Tallied::read).collect();
    let history = server.history(&slot).await?;
    let mut outcome = Outcome::default();
    outcome.figure("total", begun.elapsed().as_secs_f64() * 1e3, "ms");
    let landed = ended.values().filter(|status| **status == Status::Succeeded).count();
    outcome.figure("clients", clients as f64, "");
    outcome.figure("landed", landed as f64, "");
    outcome.figure("cancelled while they ran", (ended.len() - landed) as f64, "");
    outcome.figure("superseded in line", superseded as f64, "");
    outcome.figure("cancels sent", tallies.iter().map(|tally| tally.cancels).sum::<u64>() as f64, "");
    let waits: Times = holds.iter().map(|hold| hold.got - hold.asked).collect();
    outcome.times("from asking to having the slot", waits);
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let spans = holds.iter().map(|hold| (hold.client, micros(hold.got), micros(hold.gave))).collect();
    outcome.plots.push(Plot::Timeline { holds: spans });
    let most = tallies.iter().map(|tally| tally.submits).max().unwrap_or_default();
    outcome.check("one re-submit at most", most <= 2, || format!("a client sent {most} submits"));
    let youngest = history.last().map(|deployment| deployment.status);
    outcome.check("the youngest lands", youngest == Some(Status::Succeeded), || format!("it is {youngest:?}"));
    outcome.check_none("nobody is superseded by an older one", &history::wrong_successors(&history));
    judge(&mut outcome, server, &slot, &holds, &ended).await?;
    Ok(outcome)
}
