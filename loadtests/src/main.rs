//! Load tests of the real server and of what people use today instead: figures, and whether all answers were correct.
//!
//! `cargo run --release -p loadtests -- all --peers` runs everything. A wrong answer fails the run; a slow answer is
//! only reported. `--small` takes seconds and is only for the correctness checks. `--json FILE` is for programs,
//! `--html FILE` for people.

mod counts;
mod disk;
mod goals;
mod history;
mod http;
mod jobs;
mod paths;
mod peer;
mod postgres;
mod process;
mod race;
mod racer;
mod report;
mod run;
mod scenario;
mod seed;
mod server;
mod singletrack;
mod stream;
mod subject;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};

use goals::Measured;
use report::{Machine, Report, html, markdown, table};
use run::Run;
use server::{Recipe, StoreKind};

/// Load tests of Singletrack.
#[derive(Parser)]
struct Args {
    /// What to run.
    #[arg(value_enum, default_value = "all")]
    scenario: Scenario,
    /// Measure what people use today in the same run.
    #[arg(long)]
    peers: bool,
    /// Short runs, for their truth checks alone.
    #[arg(long)]
    small: bool,
    /// How often each one is measured; three times by default, once with --small.
    #[arg(long)]
    rounds: Option<usize>,
    /// The server's store.
    #[arg(long, value_enum, default_value_t)]
    store: StoreKind,
    /// The server to test, instead of the one that is built for it.
    #[arg(long)]
    server_bin: Option<PathBuf>,
    /// Keep what counts has counted.
    #[arg(long)]
    write: bool,
    /// Where the report goes as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the report goes as tables in Markdown.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where the report goes as a page with plots.
    #[arg(long)]
    html: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Scenario {
    All,
    Small,
    Throughput,
    Contention,
    CancelWar,
    Wrapper,
    FanOut,
    EndToEnd,
    Logs,
    Growth,
    /// The last part of growth alone: two years under retention.
    TwoYears,
    Pages,
    Restart,
    DeadWaiters,
    Starts,
    /// Instructions of the hot paths, compared with those in loadtests/counts.txt; not part of all.
    Counts,
}

impl Scenario {
    /// Everything that this stands for.
    fn parts(self) -> Vec<Scenario> {
        match self {
            Scenario::All => {
                let parts = Scenario::value_variants().iter().copied();
                let own = |one: &Scenario| !matches!(one, Scenario::All | Scenario::TwoYears | Scenario::Counts);
                parts.filter(own).collect()
            }
            one => vec![one],
        }
    }

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    async fn run(self, run: &Run) -> Result<()> {
        match self {
            Scenario::All | Scenario::Counts => Ok(()),
            Scenario::Small => scenario::small::run(run).await,
            Scenario::Throughput => scenario::throughput::run(run).await,
            Scenario::Contention => scenario::contention::run(run).await,
            Scenario::CancelWar => scenario::cancel_war::run(run).await,
            Scenario::Wrapper => scenario::wrapper::run(run).await,
            Scenario::FanOut => scenario::fan_out::run(run).await,
            Scenario::EndToEnd => scenario::end_to_end::run(run).await,
            Scenario::Logs => scenario::logs::run(run).await,
            Scenario::Growth => {
                scenario::growth::run(run).await?;
                scenario::two_years::run(run).await
            }
            Scenario::TwoYears => scenario::two_years::run(run).await,
            Scenario::Pages => scenario::pages::run(run).await,
            Scenario::Restart => scenario::restart::run(run).await,
            Scenario::DeadWaiters => scenario::dead_waiters::run(run).await,
            Scenario::Starts => scenario::starts::run(run).await,
        }
    }
}

fn main() -> Result<ExitCode> {
    if let Some(counted) = counts::entry() {
        return counted;
    }
    let args = Args::parse();
    if args.scenario == Scenario::Counts {
        return counts::run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("counts.txt"), args.write);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(load(args))
}

async fn load(args: Args) -> Result<ExitCode> {
    let recipe = Recipe { binary: server::binary(args.server_bin.as_deref())?, store: args.store };
    tokio::select! {
        ended = measure(&args, recipe) => ended,
        // What was started ends when it is dropped.
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::from(130)),
    }
}

async fn measure(args: &Args, recipe: Recipe) -> Result<ExitCode> {
    let parts = args.scenario.parts();
    let style = ProgressStyle::with_template("[{elapsed_precise}] {bar:20} {pos}/{len} {msg}")?;
    let progress = ProgressBar::new(parts.len() as u64).with_style(style);
    progress.enable_steady_tick(std::time::Duration::from_millis(250));
    let rounds = args.rounds.unwrap_or(if args.small { 1 } else { 3 }).max(1);
    let run = Run::new(recipe, args.small, args.peers, rounds, progress);
    let mut fsync = vec![disk::fsync_latency("before")?];
    let mut failures = Vec::new();
    for part in parts {
        // What the others have found is not lost with it.
        if let Err(error) = part.run(&run).await {
            failures.push(format!("{}: {error:#}", part.name()));
        }
        run.progress.inc(1);
    }
    run.progress.finish_and_clear();
    fsync.push(disk::fsync_latency("after")?);
    let store = run.recipe.store.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let machine = Machine { cpus: std::thread::available_parallelism()?.get(), store, fsync };
    let (missing, summaries) = (run.missing.take(), run.summaries.take());
    let own = run.recipe.own_name();
    let goals = match args.small {
        true => Vec::new(),
        false => goals::of(&Measured { summaries: &summaries, missing: &missing, own }),
    };
    let report = Report { machine, small: args.small, rounds, missing, failures, goals, summaries };
    table::print(&mut std::io::stdout().lock(), &report)?;
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, markdown::tables(&report))?;
    }
    if let Some(path) = &args.html {
        std::fs::write(path, html::page(&report))?;
    }
    Ok(if report.wrongs().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
