//! `store prune`: says, or does now, what retention would remove.

use std::{fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use jiff::Timestamp;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::told::Failed;
use crate::{
    cli::{screen::words::size, service::runtime},
    clock::{Clock as _, SystemClock, span},
    config::{Config, ConfigError, RetentionRules, StoreLocation},
    health::Pulse,
    store::{
        AgedHistory, Store, StoreError,
        postgres::PostgresStore,
        sqlite::{FileHistory, SqliteStore},
        upkeep::{KeptAs, UpkeepMark},
    },
    upkeep::{Caretaker, Pace, PrunePlan, PrunedProject, RulesOf, StayReason, TASK, ages_judged_at},
};

/// `store prune`.
#[derive(Args, Clone, Debug)]
pub struct PruneArgs {
    /// The configuration with the rules of [retention] [default: singletrack.toml, if there is one]
    #[arg(long, short, value_name = "FILE", env = "SINGLETRACK_CONFIG")]
    pub config: Option<PathBuf>,
    /// The store: sqlite:FILE or postgres://HOST/DATABASE [default: that of the configuration]
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE")]
    pub store: Option<String>,
    /// Only say what would go, and why others stay; this may be asked while servers run
    #[arg(long)]
    pub dry_run: bool,
}

/// A command needs few.
const CONNECTIONS: usize = 4;
/// A server that works on the store says so every few seconds. One that said so less than this ago may be at work.
const BUSY: Duration = Duration::from_secs(15);
/// How long, and how often, it is tried to take the turn of such a server.
const PATIENCE: Duration = Duration::from_secs(60);
const TURN_PAUSE: Duration = Duration::from_secs(1);
/// A lag of the instant by which ages are judged that is worth a word.
const TOLD_LAG: Duration = Duration::from_secs(2 * 24 * 60 * 60);
const SERVER_PRUNES: &str = "a running server removes what is old by itself: change its [retention] and reload it \
                             (SIGHUP), or stop it before you prune; `--dry-run` may be asked beside it";

/// Prunes. Answers what there is to tell.
pub(super) fn prune(args: &PruneArgs) -> Result<String, Failed> {
    let store = match args.store.as_deref().map(str::parse) {
        Some(Err(why)) => return Err(Failed::Usage(format!("--store: {why}"))),
        Some(Ok(store)) => Some(store),
        None => None,
    };
    let config =
        Config::load(args.config.as_deref()).map_err(|error: ConfigError| Failed::Config(error.to_string()))?;
    let config = Arc::new(config.overriding(None, store));
    if !has_rules(&config) {
        return Err(Failed::Config(
            "the configuration has no [retention] with `output` or `deployments`, so everything is kept; name the \
             configuration with --config"
                .to_owned(),
        ));
    }
    let by = config.clone();
    let rules: RulesOf = Arc::new(move |project| by.retention_of(project));
    let runtime = runtime().map_err(|error| StoreError::Unavailable(format!("cannot start: {error}")))?;
    runtime.block_on(async {
        match (&config.store, args.dry_run) {
            (StoreLocation::Sqlite(file), true) => planned(FileHistory::open(file)?.aged(), &rules).await,
            (StoreLocation::Sqlite(file), false) => {
                let store: Arc<dyn Store> = Arc::new(SqliteStore::open_unserved(file, SERVER_PRUNES)?);
                pruned(store, rules, Pace::Alone).await
            }
            (StoreLocation::Postgres(url), is_dry) => {
                let store: Arc<dyn Store> = Arc::new(PostgresStore::visit(url, CONNECTIONS).await?);
                let done = match (is_dry, store.upkeep()) {
                    (true, Some(upkeep)) => planned(upkeep.history(), &rules).await,
                    (true, None) | (false, _) => pruned(store.clone(), rules, Pace::BesideTraffic).await,
                };
                store.shut_down().await;
                done
            }
            (StoreLocation::Memory, _) => Err(Failed::Usage("--store: a memory: store keeps nothing".to_owned())),
        }
    })
}

fn has_rules(config: &Config) -> bool {
    config.retention.rules.may_remove() || config.projects.values().any(|project| project.retention.may_remove())
}

async fn planned(history: &dyn AgedHistory, rules: &RulesOf) -> Result<String, Failed> {
    let wall = SystemClock.wall();
    let until = ages_judged_at(history, wall).await?;
    let is_packed = history.mark(UpkeepMark::PackedUpTo).await?.is_some() || history.newest().await?.is_none();
    let PrunePlan(projects) = PrunePlan::of(history, rules, until).await?;
    let mut told = String::new();
    for project in &projects {
        let _ = writeln!(told, "{}", line(project, "would go", &rules(&project.project)));
    }
    let _ = write!(told, "{}", total(&projects, "would go"));
    lag(&mut told, until, wall);
    if !is_packed {
        told.push_str(
            "\nno server has compressed the output of this store yet, and output that is not compressed is not counted: ask \
             again some hours after the start of a server of this version",
        );
    }
    Ok(told)
}

async fn pruned(store: Arc<dyn Store>, rules: RulesOf, pace: Pace) -> Result<String, Failed> {
    let mut caretaker = Caretaker::new(store.clone(), Arc::new(SystemClock), rules.clone(), Arc::new(|| BUSY));
    let (pulse, shutdown) = (Pulse::new(TASK), CancellationToken::new());
    let began = Instant::now();
    let projects = loop {
        match caretaker.look(pace, &pulse, &shutdown).await? {
            Some(projects) => break projects,
            None if began.elapsed() < PATIENCE => sleep(TURN_PAUSE).await,
            None => {
                return Err(Failed::Store(StoreError::Unavailable(
                    "a server of the store is compressing and removing by itself at this moment, and has been for a minute; \
                     prune once more when it is done, or leave it to the server"
                        .to_owned(),
                )));
            }
        }
    };
    let mut told = String::new();
    for project in &projects {
        let _ = writeln!(told, "{}", line(project, "went", &rules(&project.project)));
    }
    let _ = write!(told, "{}", total(&projects, "went"));
    if let Some(upkeep) = store.upkeep() {
        let wall = SystemClock.wall();
        lag(&mut told, ages_judged_at(upkeep.history(), wall).await?, wall);
    }
    Ok(told)
}

/// A project in a line.
fn line(pruned: &PrunedProject, goes: &str, rules: &RetentionRules) -> String {
    let PrunedProject { project, deployments, outputs, bytes, stays } = pruned;
    let mut told = match (deployments, outputs) {
        (0, 0) => format!("{project}: nothing {goes}"),
        (0, _) => format!("{project}: the output of {outputs} deployments {goes} ({})", size(*bytes)),
        (_, 0) => format!("{project}: {deployments} deployments {goes} ({})", size(*bytes)),
        _ => format!(
            "{project}: {deployments} deployments, and the output of {outputs} others, {goes} ({})",
            size(*bytes)
        ),
    };
    if !stays.is_empty() {
        let reasons: Vec<_> = stays.iter().map(|(why, count)| format!("{count} {}", stay(*why, rules))).collect();
        let _ = write!(told, "; old enough, but kept: {}", reasons.join(", "));
    }
    told
}

fn stay(why: StayReason, rules: &RetentionRules) -> String {
    match why {
        StayReason::Newest => format!("among the newest {} (`keep`)", rules.keep),
        StayReason::Kept(KeptAs::Live) => "as the last success or the success before it".to_owned(),
        StayReason::Kept(KeptAs::Mark) => "as the one that the build-number mark names".to_owned(),
        StayReason::Kept(KeptAs::LastEnded) => "as the one that ended last".to_owned(),
        StayReason::Unfinished => "because it is not final".to_owned(),
    }
}

fn total(projects: &[PrunedProject], goes: &str) -> String {
    let sum = |of: fn(&PrunedProject) -> u64| projects.iter().map(of).sum::<u64>();
    let (deployments, outputs, bytes) = (sum(|it| it.deployments), sum(|it| it.outputs), sum(|it| it.bytes));
    let losing = projects.iter().filter(|it| it.loses()).count();
    if losing == 0 {
        return format!("nothing {goes}");
    }
    format!("all together, {deployments} deployments and the output of {outputs} others {goes}: {}", size(bytes))
}

/// Says so where ages are not judged by the clock.
fn lag(told: &mut String, until: Timestamp, wall: Timestamp) {
    let lag = Duration::try_from(wall.duration_since(until)).unwrap_or_default();
    if lag >= TOLD_LAG {
        let _ = write!(
            told,
            "\nages are judged by {until:.0}, {} behind the clock: retention did not run meanwhile, or the clock was set; a \
             running server catches up by one day in each hour",
            span(lag)
        );
    }
}
