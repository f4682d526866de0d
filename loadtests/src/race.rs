//! A race for one slot: which client held the slot when, the figures of that, and whether it was correct.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use singletrack::model::{DeploymentId, Revision, Status};
use tokio::task::JoinSet;

use crate::{
    history::{self, Hold},
    report::{Outcome, Plot, Times},
    server::Server,
    subject::Work,
};

/// One that races.
pub trait Racing: Send {
    /// From the first question to the last answer.
    fn go<'a>(&'a mut self, slot: &'a str, begun: Instant) -> Work<'a, Seen>;
}

/// What one saw of its hold; times since the race began.
pub struct Seen {
    pub got: Duration,
    pub gave: Duration,
    pub granted: Option<(DeploymentId, Revision)>,
}

/// One comes so long after the other. The begin is the caller's, so that others may be timed by it, too.
pub async fn race(racers: Vec<Box<dyn Racing>>, slot: &str, begun: Instant, stagger: Duration) -> Result<Vec<Hold>> {
    let mut tasks = JoinSet::new();
    for (client, mut racer) in racers.into_iter().enumerate() {
        let slot = slot.to_owned();
        let comes_at = begun + stagger * u32::try_from(client)?;
        tasks.spawn(async move {
            tokio::time::sleep_until(comes_at.into()).await;
            let asked = begun.elapsed();
            let Seen { got, gave, granted } = racer.go(&slot, begun).await?;
            anyhow::Ok(Hold { client, asked, got, gave, given: begun.elapsed(), granted })
        });
    }
    let mut holds = Vec::new();
    while let Some(done) = tasks.join_next().await {
        holds.push(done??);
    }
    holds.sort_by_key(|hold| hold.got);
    Ok(holds)
}

/// What a race comes to.
pub fn tell(outcome: &mut Outcome, holds: &[Hold], stagger: Duration) {
    let held: Duration = holds.iter().map(|hold| hold.gave - hold.got).sum();
    let begun = holds.iter().map(|hold| hold.asked).min().unwrap_or_default();
    let ended = holds.iter().map(|hold| hold.given).max().unwrap_or_default();
    let total = ended - begun;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    outcome.figure("clients", holds.len() as f64, "");
    outcome.figure("total", ms(total), "ms");
    // A timer rounds up, so what was really held is taken off, not what should have been.
    let overhead = total.saturating_sub(held) / u32::try_from(holds.len().max(1)).unwrap_or(1);
    outcome.figure("overhead per hand-off", ms(overhead), "ms");
    let hand_offs: Times = history::hand_offs(holds).into_iter().collect();
    outcome.figure("median hand-off", hand_offs.at(0.5) as f64 / 1e3, "ms");
    outcome.figure("worst hand-off", hand_offs.max() as f64 / 1e3, "ms");
    outcome.figure("inversions", history::inversions(holds, stagger / 2) as f64, "");
    outcome.times("hand-off", hand_offs);
    outcome.times("wait for the slot", holds.iter().map(|hold| hold.got - hold.asked).collect());
    let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    outcome.plots.push(Plot::Timeline {
        holds: holds.iter().map(|hold| (hold.client, micros(hold.got), micros(hold.gave))).collect(),
    });
    let mut by_arrival = holds.to_vec();
    by_arrival.sort_by_key(|hold| hold.asked);
    outcome.plots.push(Plot::Waits { waits: by_arrival.iter().map(|hold| micros(hold.got - hold.asked)).collect() });
}

/// Whether a race on one of our slots was right, by what the clients saw and by what the server recorded. `ended` is what
/// clients were told is recorded.
pub async fn judge(
    outcome: &mut Outcome,
    server: &Server,
    slot: &str,
    holds: &[Hold],
    ended: &BTreeMap<DeploymentId, Status>,
) -> Result<()> {
    let history = server.history(slot).await?;
    let tokens = history::tokens(holds);
    outcome.check_none("no two held the slot at once", &history::overlaps(holds));
    outcome.check_none("no two held it at once by the record", &history::recorded_overlaps(&history, &tokens));
    outcome.check_none("fencing tokens grow", &history::stale_tokens(holds));
    outcome.check_none("nothing acknowledged is lost", &history::lost(&history, ended));
    outcome.check_none("all are final in the end", &history::unfinished(&history));
    Ok(())
}

/// Whether nobody was let past, where nobody should be.
pub async fn judge_order(outcome: &mut Outcome, server: &Server, slot: &str, holds: &[Hold]) -> Result<()> {
    let history = server.history(slot).await?;
    outcome.check_none("tickets are served in their order", &history::out_of_order(&history, &history::tokens(holds)));
    Ok(())
}
