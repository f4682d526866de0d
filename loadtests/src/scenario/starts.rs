//! `starts`: the server tells waiting deployments when their start is expected. How often did the start come before the
//! p90?
//!
//! Each project has its own past runs and a short line, and all projects run at the same time. The durations of past
//! and of coming runs are drawn from the same distribution, because no forecast can know that a machine has become
//! slower.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use singletrack::{client::resolve::Wish, model::Eta};
use tokio::task::JoinSet;

use crate::{
    racer::{Held, Racer},
    report::Outcome,
    run::{Contender, Run},
    seed,
    server::Server,
    singletrack::Singletrack,
};

pub const NAME: &str = "starts, as they were told";
pub const BEFORE_P90: &str = "starts before the p90";

/// How many wait in each line.
const LINE: usize = 4;
/// How often each one asks for its turn, and is told anew: the shortest time that the API knows.
const ASKING: Duration = Duration::from_secs(1);
/// How many past runs a project knows: few, and as many as are remembered.
const PASTS: [usize; 3] = [3, 8, 20];
/// What the runs of clients are called that do not say it.
const PIPELINE: &str = "run";

/// How the durations of a project's runs lie.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// All about the same.
    Steady,
    /// Some longer, as a rule.
    Skewed,
    /// Some much longer.
    Wild,
    /// What has to build takes three times as long as what finds it in the cache.
    Two,
}

const SHAPES: [Shape; 4] = [Shape::Steady, Shape::Skewed, Shape::Wild, Shape::Two];

impl Shape {
    /// A duration, as a part of the usual one.
    fn draw(self, dice: &mut Dice) -> f64 {
        match self {
            Shape::Steady => (1.0 + 0.05 * dice.normal()).max(0.5),
            Shape::Skewed => (0.3 * dice.normal()).exp(),
            Shape::Wild => (0.7 * dice.normal()).exp().min(6.0),
            Shape::Two => (if dice.uniform() < 0.3 { 3.0 } else { 1.0 }) * (1.0 + 0.05 * dice.normal()),
        }
    }
}

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn normal(&mut self) -> f64 {
        let (one, other) = (self.uniform().max(f64::MIN_POSITIVE), self.uniform());
        (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos()
    }
}

/// One that waited: what it was told and when, and when it had the slot.
struct Waited {
    told: Vec<(Instant, Eta)>,
    /// Whether the slot was held when it came.
    was_held: bool,
    got: Instant,
}

pub async fn run(run: &Run) -> Result<()> {
    // What is told is in whole seconds, rounded up: runs that are no longer than a few of them would look better than they are.
    let usual = run.scale(Duration::from_secs(6), Duration::from_millis(400));
    let project_count = run.scale(240, 36);
    let name = run.recipe.own_name();
    let mut outcomes = Vec::new();
    let mut about = String::new();
    for round in 0..run.rounds {
        run.say(format!("{NAME}: round {} of {}", round + 1, run.rounds));
        let mut dice = Dice(round as u64);
        let mut server = Server::prepare(&run.recipe, "")?;
        let mut projects = Vec::new();
        for number in 0..project_count {
            let shape = SHAPES[number % SHAPES.len()];
            let past_count = PASTS[number / SHAPES.len() % PASTS.len()];
            let mut draw = || usual.mul_f64(shape.draw(&mut dice));
            let past: Vec<_> = (0..past_count).map(|_| draw()).collect();
            let next: Vec<_> = (0..=LINE).map(|_| draw()).collect();
            projects.push((format!("starts-{number}"), past, next));
        }
        let known = projects.iter().map(|(name, past, _)| {
            Ok((name.parse()?, past.iter().map(|run| u64::try_from(run.as_millis()).unwrap_or(u64::MAX)).collect()))
        });
        seed::remember(&server.store_url(), &server.path("."), PIPELINE, known.collect::<Result<_>>()?).await?;
        server.boot()?;
        let own = Contender::new(name, Box::new(Singletrack { server }));
        about = own.subject.about();
        let server = &own.subject.own().context("it is ours")?.server;
        outcomes.push(measure(server, projects, usual).await?);
    }
    run.keep(crate::report::Summary::of(NAME, name, &about, outcomes));
    Ok(())
}

type Drawn = (String, Vec<Duration>, Vec<Duration>);

async fn measure(server: &Server, projects: Vec<Drawn>, usual: Duration) -> Result<Outcome> {
    let mut lines = JoinSet::new();
    let mut dice = Dice(17);
    for (number, (name, _, next)) in projects.into_iter().enumerate() {
        let racers = (0..=LINE).map(|client| Ok(Racer::connect(server, number * 10 + client)?.asking_every(ASKING)));
        let racers: Vec<_> = racers.collect::<Result<_>>()?;
        // Not all at the same moment, and each line comes while its holder has run for a while.
        let (begin, apart) = (usual.mul_f64(dice.uniform()), usual.mul_f64(dice.uniform() / 8.0));
        lines.spawn(async move {
            tokio::time::sleep(begin).await;
            line(&name, racers, next, apart).await.with_context(|| name.clone())
        });
    }
    let mut waited = Vec::new();
    while let Some(line) = lines.join_next().await {
        waited.extend(line??);
    }
    let (mut at_once, mut later, mut halves) = (Share::default(), Share::default(), Share::default());
    for Waited { told, got, .. } in &waited {
        for (number, (at, eta)) in told.iter().enumerate() {
            let took = got.saturating_duration_since(*at);
            let is_before = took <= Duration::from_secs(eta.p90_seconds);
            if number == 0 {
                at_once.add(is_before)
            } else {
                later.add(is_before)
            }
            halves.add(took <= Duration::from_secs(eta.p50_seconds));
        }
    }
    let mut outcome = Outcome::default();
    let all = Share { yes: at_once.yes + later.yes, all: at_once.all + later.all };
    outcome.figure(BEFORE_P90, all.percent(), "%");
    outcome.figure("of those told at the submit", at_once.percent(), "%");
    outcome.figure("of those told later", later.percent(), "%");
    outcome.figure("starts before the p50", halves.percent(), "%");
    outcome.figure("tellings", all.all as f64, "");
    let untold = waited.iter().filter(|waited| waited.was_held && waited.told.is_empty()).count();
    outcome.check("each one in line is told its start", untold == 0, || format!("{untold} are not"));
    Ok(outcome)
}

/// One line, from its holder to the last one.
async fn line(slot: &str, racers: Vec<Racer>, runs: Vec<Duration>, apart: Duration) -> Result<Vec<Waited>> {
    let mut waiting = JoinSet::new();
    let slot = slot.to_owned();
    for (number, (mut racer, hold)) in racers.into_iter().zip(runs).enumerate() {
        let tallied = racer.tallied();
        let slot = slot.clone();
        let (held, mut holds) = tokio::sync::oneshot::channel();
        waiting.spawn(async move {
            let grant = racer.compete(&slot, Wish::Wait { preempt: false }).await?.grant()?;
            let got = Instant::now();
            let _ = held.send(());
            let (ended, _) = racer.hold(&grant, hold).await;
            if ended != Held::Succeeded {
                bail!("the end of number {number} was not recorded: {ended:?}");
            }
            let tally = racer.tallied().read();
            Ok((number, Waited { told: tally.starts, was_held: tally.conflicts > 0, got }))
        });
        // The next one comes once this one has its place.
        match number {
            0 => holds.await.context("the first one gets the slot")?,
            _ => {
                while tallied.read().polls == 0 && holds.try_recv().is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        tokio::time::sleep(apart).await;
    }
    let mut waited = Vec::new();
    while let Some(ended) = waiting.join_next().await {
        let (number, one) = ended??;
        if number > 0 {
            waited.push(one);
        }
    }
    Ok(waited)
}

/// How many of all.
#[derive(Default)]
struct Share {
    yes: usize,
    all: usize,
}

impl Share {
    fn add(&mut self, is: bool) {
        self.yes += usize::from(is);
        self.all += 1;
    }

    fn percent(&self) -> f64 {
        100.0 * self.yes as f64 / self.all.max(1) as f64
    }
}
