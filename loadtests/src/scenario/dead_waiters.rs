//! `dead-waiters`: 30 % of the waiting clients are killed. The others must get the slot in order. A dead client may
//! delay the others only for the time for which the slot is reserved for one client.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use singletrack::{client::resolve::Wish, model::Status};
use tokio::task::JoinSet;

use crate::{
    history::{self, Hold},
    race::{judge, judge_order},
    racer::{Held, Racer},
    report::{Outcome, Plot},
    run::Run,
    server::Server,
    subject::Ability,
};

pub const NAME: &str = "dead-waiters, 3 in 10 are killed";

/// Of the server in this scenario: short, so that a run is.
const RESERVE: Duration = Duration::from_secs(3);
const CONFIG: &str = "[limits]\nreserve = \"3s\"\nattendance = \"5s\"\n";
/// How much longer one who is dead may cost: the reaper looks once a second, so that it may see late that the slot is kept, and
/// late again that nobody came.
const TICKS: Duration = Duration::from_secs(2);
/// What a machine that is busy may take beyond that.
const SLACK: Duration = Duration::from_millis(500);
const HOLD: Duration = Duration::from_millis(10);

pub async fn run(run: &Run) -> Result<()> {
    let contenders = run.contenders(Ability::Race, CONFIG).await?;
    run.take_turns(NAME, &contenders[..1], async |one| {
        let own = one.subject.own().context("the first one is ours")?;
        die(run, &own.server).await
    })
    .await
}

async fn die(run: &Run, server: &Server) -> Result<Outcome> {
    let count = run.scale(50, 10);
    let slot = run.fresh("dead");
    let begun = Instant::now();
    // Somebody holds the slot until all are in line, and some of them dead.
    let mut first = Racer::connect(server, 0)?;
    let grant = first.compete(&slot, Wish::Wait { preempt: false }).await?.grant()?;
    let got = begun.elapsed();
    let (mut waiting, mut doomed) = (JoinSet::new(), Vec::new());
    for client in 1..=count {
        let mut racer = Racer::connect(server, client)?;
        let (tallied, slot) = (racer.tallied(), slot.clone());
        let task = waiting.spawn(async move {
            let asked = begun.elapsed();
            let taken = racer.compete(&slot, Wish::Wait { preempt: false }).await?;
            let grant = taken.grant().with_context(|| format!("client {client}"))?;
            let got = begun.elapsed();
            let (held, gave) = racer.hold(&grant, HOLD).await;
            if held != Held::Succeeded {
                bail!("the end of client {client} was not recorded: {held:?}");
            }
            let granted = Some((grant.id, grant.token()));
            Ok(Hold { client, asked, got, gave: gave - begun, given: begun.elapsed(), granted })
        });
        // It is in line once its poll is parked; only then comes the next one.
        while tallied.read().polls == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if client % 10 < 3 {
            doomed.push(task);
        }
    }
    let dead = doomed.len();
    doomed.iter().for_each(tokio::task::AbortHandle::abort);
    let (held, gave) = first.hold(&grant, HOLD).await;
    if held != Held::Succeeded {
        bail!("the end of the first one was not recorded: {held:?}");
    }
    let granted = Some((grant.id, grant.token()));
    let freed = gave - begun;
    let mut holds = vec![Hold { client: 0, asked: got, got, gave: freed, given: begun.elapsed(), granted }];
    while let Some(ended) = waiting.join_next().await {
        match ended {
            Ok(hold) => holds.push(hold?),
            Err(error) if error.is_cancelled() => {}
            Err(error) => return Err(error.into()),
        }
    }
    holds.sort_by_key(|hold| hold.got);
    // The last of the dead are recorded as such within their time.
    let limit = Instant::now() + Duration::from_secs(60);
    let mut history = server.history(&slot).await?;
    while !history::unfinished(&history).is_empty() && Instant::now() < limit {
        tokio::time::sleep(Duration::from_millis(50)).await;
        history = server.history(&slot).await?;
    }
    let mut outcome = Outcome::default();
    let total = holds.last().map_or(Duration::ZERO, |hold| hold.given) - freed;
    outcome.figure("clients", count as f64, "");
    outcome.figure("killed", dead as f64, "");
    outcome.figure("all others served after", total.as_secs_f64() * 1e3, "ms");
    let worst = history::hand_offs(&holds).into_iter().max().unwrap_or_default();
    outcome.figure("worst hand-off", worst.as_secs_f64() * 1e3, "ms");
    outcome.times("hand-off", history::hand_offs(&holds).into_iter().collect());
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    let spans = holds.iter().map(|hold| (hold.client, micros(hold.got), micros(hold.gave))).collect();
    outcome.plots.push(Plot::Timeline { holds: spans });
    outcome.check("all the living are served", holds.len() == count + 1 - dead, || {
        format!("{} of {} were", holds.len(), count + 1 - dead)
    });
    let abandoned = history.iter().filter(|one| code(one) == Some("ABANDONED")).count();
    outcome.check("each of the dead is told as abandoned", abandoned == dead, || format!("{abandoned} of {dead} are"));
    // A figure, not a check: a busy machine is slow and yet right.
    let late = slow_hand_offs(&holds, |client| client % 10 < 3);
    outcome.figure("hand-offs slower than the dead explain", late as f64, "");
    let ended = holds.iter().filter_map(|hold| Some((hold.granted?.0, Status::Succeeded))).collect();
    judge(&mut outcome, server, &slot, &holds, &ended).await?;
    judge_order(&mut outcome, server, &slot, &holds).await?;
    Ok(outcome)
}

fn code(deployment: &singletrack::wire::Deployment) -> Option<&str> {
    deployment.error.as_ref().map(|error| error.code.as_str())
}

/// How many hand-offs took longer than the dead between the two clients may cost.
fn slow_hand_offs(holds: &[Hold], is_dead: impl Fn(usize) -> bool) -> usize {
    let is_slow = |pair: &&[Hold]| {
        let between = (pair[0].client + 1..pair[1].client).filter(|client| is_dead(*client)).count();
        let allowed = (RESERVE + TICKS) * u32::try_from(between).unwrap_or(u32::MAX) + SLACK;
        pair[1].got.saturating_sub(pair[0].gave) > allowed
    };
    holds.windows(2).filter(is_slow).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hold(client: usize, got: u64) -> Hold {
        let at = Duration::from_millis(got);
        Hold { client, asked: Duration::ZERO, got: at, gave: at, given: at, granted: None }
    }

    #[test]
    fn only_the_dead_in_between_excuse_a_slow_hand_off() {
        let is_dead = |client| client == 2;
        assert_eq!(slow_hand_offs(&[hold(1, 0), hold(3, 5_400)], is_dead), 0);
        assert_eq!(slow_hand_offs(&[hold(1, 0), hold(3, 5_600)], is_dead), 1);
        assert_eq!(slow_hand_offs(&[hold(3, 0), hold(4, 600)], is_dead), 1);
    }
}
