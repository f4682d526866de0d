//! Load tests on the real server: figures, and whether all of it was true.
//!
//! `cargo run --release -p loadtests` takes and gives back free slots with 1, 16 and 64 clients. A wrong answer fails the
//! run; a slow one is only reported. `--small` takes a second, for the truth checks alone; `--json FILE` is for machines.

mod disk;
mod http;
mod locker;
mod peer;
mod postgres;
mod process;
mod report;
mod run;
mod scenario;
mod server;
mod subject;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Parser;
use indicatif::ProgressBar;

use report::{Machine, Report};
use run::Run;
use server::Recipe;

/// Load tests of Singletrack.
#[derive(Parser)]
struct Args {
    /// Short runs, for their truth checks alone.
    #[arg(long)]
    small: bool,
    /// The server to test, instead of the one beside this program.
    #[arg(long)]
    server_bin: Option<PathBuf>,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let recipe = Recipe { binary: server::binary(args.server_bin.as_deref())? };
    let run = Run { recipe, small: args.small, progress: ProgressBar::new(3) };
    let mut fsync = vec![disk::fsync_latency("before")?];
    let mut outcomes = Vec::new();
    for clients in [1, 16, 64] {
        run.say(format!("throughput, {clients} clients"));
        outcomes.push(scenario::throughput::singletrack(&run, clients).await?);
        run.progress.inc(1);
    }
    run.progress.finish_and_clear();
    fsync.push(disk::fsync_latency("after")?);
    let machine = Machine { cpus: std::thread::available_parallelism()?.get(), store: "sqlite".to_owned(), fsync };
    let report = Report { machine, small: args.small, rounds: 1, outcomes };
    let is_true = print(&report)?;
    if let Some(path) = args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)?;
    }
    Ok(if is_true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The table for people; whether everything held.
fn print(report: &Report) -> Result<bool> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let mut is_true = true;
    for fsync in &report.machine.fsync {
        writeln!(out, "fsync {:<8} p50 {} µs, p99 {} µs", fsync.name, fsync.p50, fsync.p99)?;
    }
    for outcome in &report.outcomes {
        write!(out, "{:<24}", outcome.scenario)?;
        for figure in &outcome.figures {
            write!(out, "  {} {:.0} {}", figure.name, figure.value, figure.unit)?;
        }
        for spread in &outcome.spreads {
            write!(out, "  {}: p50 {} µs, p99 {} µs", spread.name, spread.p50, spread.p99)?;
        }
        writeln!(out)?;
        for check in &outcome.checks {
            if let Some(wrong) = &check.wrong {
                is_true = false;
                writeln!(out, "  WRONG: {}: {wrong}", check.what)?;
            }
        }
    }
    Ok(is_true)
}
