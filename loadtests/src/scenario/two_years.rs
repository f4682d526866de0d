//! `growth`: two years of deployments with their output, under retention, and what operations cost after that.
//!
//! The history is written by the store's own code under a clock that goes a day at a time. Each simulated day has its
//! deployments, and one look of the upkeep, as a server makes it every five minutes: it compresses, removes, and gives room
//! back. Then a real server works on what is left, beside one on an almost empty store.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use singletrack::{
    clock::{BootInstant, Clock},
    config::RetentionRules,
    health::Pulse,
    model::{
        Command, DeploymentId, FailureCause, LeaseHolder, LineLoad, Load, Policy, ProjectName, Report, SecretHash,
        Slot, Stream, Verdict, lifecycle::Entry,
    },
    store::{Store, transact},
    upkeep::{Caretaker, Pace, TASK},
};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::growth::{CLIENTS, server};
use crate::{
    report::{Outcome, Times},
    run::{Contender, Run},
    seed::{self, Seed},
    server::{Server, StoreKind},
    singletrack::{Raw, Singletrack},
    subject::Locker as _,
};

pub const NAME: &str = "growth, two years";

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a line of output is, about.
const LINE_BYTES: usize = 100;
/// How many lines a worker reports together.
const LINES_AT_ONCE: usize = 50;
/// What the formula of docs/operations.md takes for a deployment without its output, and for a line of the audit log.
const DEPLOYMENT_BYTES: f64 = 3.0 * 1024.0;
const AUDIT_BYTES: f64 = 250.0;

/// A history, and how long its parts are kept.
#[derive(Clone, Copy)]
struct Plan {
    projects: usize,
    days: u32,
    per_day: usize,
    /// One deployment in so many has output; the others print nothing.
    loud: usize,
    output_bytes: usize,
    output_days: u32,
    deployment_days: u32,
    keep: u32,
}

/// 200 deployments a day, and a month more than two years, so that whole deployments go, too. One in twenty prints the MB,
/// so that 8 GB are written and not 150: all sizes of output are 5 % of those of a team whose every deployment prints it.
const FULL: Plan = Plan {
    projects: 20,
    days: 760,
    per_day: 200,
    loud: 20,
    output_bytes: 1_000_000,
    output_days: 90,
    deployment_days: 730,
    keep: 50,
};
const SMALL: Plan = Plan {
    projects: 4,
    days: 40,
    per_day: 20,
    loud: 2,
    output_bytes: 20_000,
    output_days: 5,
    deployment_days: 20,
    keep: 3,
};

impl Plan {
    /// What the formula says: the deployments that are kept, the output that is kept, at so many times smaller, the lines
    /// of the audit log, and the free part of the file.
    fn formula(&self, compression: f64) -> f64 {
        let per_day = self.per_day as f64;
        let deployments = per_day * f64::from(self.deployment_days.min(self.days)) * DEPLOYMENT_BYTES;
        let outputs = per_day / self.loud as f64 * f64::from(self.output_days) * self.output_bytes as f64 / compression;
        let newest =
            f64::from(self.keep) * self.projects as f64 / self.loud as f64 * self.output_bytes as f64 / compression;
        let audit = per_day * f64::from(self.days) * AUDIT_BYTES;
        (deployments + outputs + newest + audit) * 9.0 / 8.0
    }

    fn config(&self) -> String {
        format!(
            "[retention]\noutput = \"{}d\"\ndeployments = \"{}d\"\nkeep = {}\ninterval = \"1s\"\n",
            self.output_days, self.deployment_days, self.keep
        )
    }

    fn rules(&self) -> RetentionRules {
        let days = |days| Some(DAY * days);
        RetentionRules { output: days(self.output_days), deployments: days(self.deployment_days), keep: self.keep }
    }
}

/// A clock that goes only when it is told to.
struct Moved(AtomicI64);

impl Clock for Moved {
    fn wall(&self) -> Timestamp {
        Timestamp::from_millisecond(self.0.load(Ordering::SeqCst)).unwrap_or(Timestamp::MAX)
    }

    fn boot(&self) -> BootInstant {
        BootInstant::from_start(Duration::from_millis(self.0.load(Ordering::SeqCst).unsigned_abs()))
    }
}

/// What the history came to.
#[derive(Clone, Copy, Default)]
struct Lived {
    raw_bytes: u64,
    /// The largest size after one of the last days, and the size at the end; unknown for a database.
    largest: Option<u64>,
    last: Option<u64>,
    wall: Duration,
}

pub async fn run(run: &Run) -> Result<()> {
    let plan = run.scale(FULL, SMALL);
    let few = Seed { projects: plan.projects, finished: 1, in_line: 0 };
    let mut empty = Server::prepare(&run.recipe, &plan.config())?;
    seed::fill(&empty.store_url(), &empty.path("."), few, |_| ()).await?;
    let mut full = Server::prepare(&run.recipe, &plan.config())?;
    let lived = live(run, &full, plan).await?;
    run.say("starting");
    empty.boot()?;
    full.boot()?;
    let contender = |name: &str, server| Contender::new(name, Box::new(Singletrack { server }));
    let pair = vec![contender("empty", empty), contender("two years", full)];
    run.take_turns(NAME, &pair, async |one| {
        let server = server(one)?;
        let mut outcome = operations(run, server, plan).await?;
        if one.name == "two years" {
            sizes(&mut outcome, plan, lived);
            kept(&mut outcome, server, plan).await?;
        }
        Ok(outcome)
    })
    .await
}

/// A folder in memory, where there is one: the years would mostly wait for a disk that others use, too.
fn fast_folder() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let mut builder = tempfile::Builder::new();
    builder.prefix("loadtests-");
    Ok(if memory.is_dir() { builder.tempdir_in(memory)? } else { builder.tempdir()? })
}

/// Lets all the days pass.
async fn live(run: &Run, server: &Server, plan: Plan) -> Result<Lived> {
    let began = Instant::now();
    let folder = fast_folder()?;
    let store = seed::open(&server.store_url(), folder.path()).await?;
    let lived = days(run, &store, folder.path(), plan).await;
    store.shut_down().await;
    let mut lived = lived?;
    lived.wall = began.elapsed();
    if run.recipe.store == StoreKind::Sqlite {
        // The end of the store has moved its log into the file.
        let copy = server.path("load.db");
        lived.last = Some(std::fs::copy(folder.path().join("load.db"), &copy)?);
        // Else the kernel writes it out while the server's commits are measured, which wait for that.
        std::fs::File::open(&copy)?.sync_all()?;
    }
    Ok(lived)
}

async fn days(run: &Run, store: &Arc<dyn Store>, folder: &Path, plan: Plan) -> Result<Lived> {
    let begin = Timestamp::now() - jiff::SignedDuration::from_hours(24 * i64::from(plan.days));
    let clock = Arc::new(Moved(AtomicI64::new(begin.as_millisecond())));
    let rules = plan.rules();
    let mut caretaker =
        Caretaker::new(store.clone(), clock.clone(), Arc::new(move |_| rules), Arc::new(|| Duration::from_millis(1)));
    let (pulse, shutdown) = (Pulse::new(TASK), CancellationToken::new());
    let mut lived = Lived::default();
    let each = plan.per_day.div_ceil(plan.projects);
    for day in 0..plan.days {
        if day % 10 == 0 {
            run.say(format!("{NAME}: day {day} of {}", plan.days));
        }
        let mut writing = JoinSet::new();
        for number in 0..plan.projects {
            let (store, now, first) = (store.clone(), clock.wall(), day as usize * each);
            let name = seed::project(number).parse()?;
            writing.spawn(async move { deploy(&*store, name, first, each, now, plan).await });
        }
        while let Some(written) = writing.join_next().await {
            lived.raw_bytes += written??;
        }
        clock.0.fetch_add(DAY.as_millis() as i64, Ordering::SeqCst);
        // A look of the upkeep compresses what the one before it had seen.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            caretaker.look(Pace::Alone, &pulse, &shutdown).await?;
        }
        if run.recipe.store == StoreKind::Sqlite && day + 30 >= plan.days {
            let length = std::fs::metadata(folder.join("load.db"))?.len();
            lived.largest = lived.largest.max(Some(length));
        }
    }
    Ok(lived)
}

/// The deployments of a project on one day. Answers the bytes of their output.
async fn deploy(
    store: &dyn Store,
    name: ProjectName,
    first: usize,
    count: usize,
    now: Timestamp,
    plan: Plan,
) -> Result<u64> {
    let load = Load { line: LineLoad::Head, ..Load::default() };
    let (refused, bytes) = transact(store, name.clone(), load, move |loaded| {
        let mut slot = Slot::of(loaded, now, &Policy::default());
        let (mut refused, mut bytes) = (None, 0);
        for number in first..first + count {
            let (id, secret) = (DeploymentId::generate(), SecretHash([7; 32]));
            slot.admit(id, name.clone(), seed::spec(number), Entry::Ready);
            let claim = Command::Claim { secret, ttl: Duration::from_secs(60), holder: LeaseHolder::worker("seed") };
            let reports = if number % plan.loud == 0 { output(number, plan.output_bytes) } else { Vec::new() };
            bytes += reports.iter().map(text).sum::<u64>();
            let failed = || Verdict::Failed {
                cause: FailureCause::PhaseFailed,
                message: "exit code 1".to_owned(),
                phase: Some("build".to_owned()),
            };
            let verdict = if number % 20 == 7 { failed() } else { Verdict::Succeeded { outputs: Default::default() } };
            let mut steps = vec![claim];
            if !reports.is_empty() {
                steps.push(Command::Report { secret, first: None, reports });
            }
            steps.push(Command::Finish { secret, verdict });
            let taken = steps.into_iter().try_for_each(|command| slot.step(id, command).map(|_| ()));
            refused = refused.or(taken.err());
        }
        (slot.into_changes(), (refused, bytes))
    })
    .await?;
    refused.map_or(Ok(bytes), |refusal| bail!("a store cannot be filled: {refusal:?}"))
}

fn text(report: &Report) -> u64 {
    match report {
        Report::Log { lines, .. } => lines.iter().map(|line| line.len() as u64 + 1).sum(),
        _ => 0,
    }
}

/// Output as builds print it: words that come again and again, and hashes and times that never do.
fn output(number: usize, bytes: usize) -> Vec<Report> {
    const STEPS: [&str; 6] =
        ["Compiling", "Downloading", "Checking", "Uploading asset", "Running test", "Layer pushed"];
    const MODULES: [&str; 8] = [
        "checkout-core",
        "voucher",
        "payments/src",
        "web-frontend",
        "session-store",
        "search",
        "mail-templates",
        "infra",
    ];
    // Knuth's generator: the same history in each run.
    let mut state = number as u64 + 1;
    let mut random = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 33
    };
    let count = bytes / LINE_BYTES;
    let line = |at: usize, random: &mut dyn FnMut() -> u64| {
        let (step, module) = (STEPS[random() as usize % 6], MODULES[random() as usize % 8]);
        let (hash, time) = (random() & 0xffff_ffff, random() % 1000);
        format!(
            "[{at:>5}/{count}] {step} {module}/component-{}.ts ({hash:08x}) finished in {time} ms, no warnings",
            at % 97
        )
    };
    let mut reports = Vec::with_capacity(count / LINES_AT_ONCE + 1);
    let mut at = 0;
    while at < count {
        let upto = (at + LINES_AT_ONCE).min(count);
        let lines = (at..upto).map(|at| line(at, &mut random)).collect();
        reports.push(Report::Log { stream: Stream::Stdout, phase: Some("build".to_owned()), lines });
        at = upto;
    }
    reports
}

/// Submits and finishes, `list`, `why`, and what the page asks for.
async fn operations(run: &Run, server: &Server, plan: Plan) -> Result<Outcome> {
    const READS: [&str; 4] = ["why", "list", "failed ones of the history", "all projects"];
    let duration = run.scale(Duration::from_secs(3), Duration::from_millis(200));
    let begin = Instant::now() + duration / 5;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (mut locker, mut http) = (Raw::connect(server).await?, server.connect().await?);
        clients.spawn(async move {
            let (mut submits, mut finishes) = (Times::default(), Times::default());
            let mut reads = READS.map(|_| Times::default());
            for number in (client..plan.projects).step_by(CLIENTS).cycle() {
                let asked = Instant::now();
                // Once at least, however busy the machine is.
                if asked > begin + duration && submits.count() > 0 {
                    break;
                }
                let slot = seed::project(number);
                locker.take(&slot).await?;
                let taken = Instant::now();
                locker.give(&slot).await?;
                if asked >= begin || submits.count() == 0 {
                    submits.add(taken - asked);
                    finishes.add(taken.elapsed());
                }
                let history = format!("/v1/projects/{slot}/deployments?limit=100");
                let paths = [
                    format!("/v1/projects/{slot}"),
                    history.clone(),
                    format!("{history}&status=FAILED"),
                    "/v1/projects".into(),
                ];
                for (path, times) in paths.iter().zip(&mut reads) {
                    let asked = Instant::now();
                    http.call("GET", path, "", &[]).await?.expect(200)?;
                    times.add(asked.elapsed());
                }
            }
            anyhow::Ok((submits, finishes, reads))
        });
    }
    let (mut submits, mut finishes, mut reads) = (Times::default(), Times::default(), READS.map(|_| Times::default()));
    while let Some(done) = clients.join_next().await {
        let (submit, finish, read) = done??;
        submits.join(&submit);
        finishes.join(&finish);
        reads.iter_mut().zip(&read).for_each(|(all, one)| all.join(one));
    }
    let mut outcome = Outcome::default();
    outcome.figure("submit, median", submits.at(0.5) as f64, "µs");
    outcome.figure("submit, p99", submits.at(0.99) as f64, "µs");
    outcome.figure("finish, median", finishes.at(0.5) as f64, "µs");
    for (name, times) in READS.iter().zip(&reads) {
        outcome.figure(&format!("{name}, median"), times.at(0.5) as f64, "µs");
    }
    outcome.figure("ready after", server.ready_after.as_secs_f64() * 1e3, "ms");
    outcome.figure("memory", server.resident()? as f64 / f64::from(1 << 20), "MiB");
    Ok(outcome)
}

/// The sizes, and whether they are where the formula says.
fn sizes(outcome: &mut Outcome, plan: Plan, lived: Lived) {
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    outcome.figure("output written", mib(lived.raw_bytes as f64), "MiB");
    outcome.figure("the days passed in", lived.wall.as_secs_f64(), "s");
    let (Some(last), Some(largest)) = (lived.last, lived.largest) else { return };
    outcome.figure("file after the last day", mib(last as f64), "MiB");
    outcome.figure("file at most, in the last 30 days", mib(largest as f64), "MiB");
    // The less the output can be compressed, the larger the file.
    let [least, most] = [plan.formula(10.0), plan.formula(5.0)];
    outcome.figure("formula, output 5 times smaller", mib(most), "MiB");
    outcome.figure("formula, output 10 times smaller", mib(least), "MiB");
    // What a small file has beyond it: its first pages, and the free ones that are not worth giving back.
    let most = most + f64::from(4 << 20);
    let told = || format!("it had {:.0} MiB, and the formula says {:.0}", mib(largest as f64), mib(most));
    outcome.check("the file is no larger than the formula says", largest as f64 <= most, told);
    let written = lived.raw_bytes as f64 > 5.0 * last as f64;
    outcome.check("most of what was written is gone", written || plan.days < FULL.days, told);
}

/// What is old is gone, and what is not is there.
async fn kept(outcome: &mut Outcome, server: &Server, plan: Plan) -> Result<()> {
    let project = seed::project(0);
    let newest: serde_json::Value =
        server.get(&format!("/v1/projects/{project}/deployments?limit=1")).await?.expect(200)?.json()?;
    let newest = newest["deployments"][0]["number"].as_u64().context("it has a number")?;
    let each = plan.per_day.div_ceil(plan.projects) as u64;
    let status = async |number: u64| -> Result<u16> {
        Ok(server.get(&format!("/v1/projects/{project}/deployments/{number}")).await?.status)
    };
    let first = status(1).await?;
    outcome.check("a deployment from before the time is gone", first == 404, || format!("HTTP {first}"));
    // Two days before the limit.
    let young = u64::from(plan.days - plan.deployment_days + 2) * each + 1;
    let found = status(young).await?;
    outcome.check("a younger one is there", found == 200, || format!("number {young} of {newest}: HTTP {found}"));
    Ok(())
}
