//! `singletrack demo`: a server and pipelines that race on it, to be watched. Everything in it is real: the server, its
//! store in a temporary directory, and the `singletrack deploy` processes.

use std::{
    io,
    path::{Path, PathBuf},
    pin::pin,
    process::{ExitCode, Stdio},
    time::Duration,
};

use anstyle::{AnsiColor, Style};
use clap::Args;
use thiserror::Error;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};

use super::{
    screen::print,
    service::{EX_UNAVAILABLE, EXIT_INTERRUPTED, fail, runtime, stop_signals},
};
use crate::{
    config::{Config, LiveConfig},
    exec::ShimProgram,
    log,
    model::{Deployment, InvalidId},
    server::{Node, StartError},
    store::{ListQuery, StoreError},
};

/// `demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Keep the demo's folder and say where it is
    #[arg(long)]
    pub keep: bool,
}

/// Runs the demo.
pub fn demo(args: &DemoArgs) -> ExitCode {
    log::start("warn", log::LogFormat::Text);
    let shown = runtime().map_err(DemoError::Io).and_then(|runtime| {
        let program = std::env::current_exe()?;
        runtime.block_on(async {
            let mut stop = stop_signals()?;
            run(program, args.keep, stop.received()).await
        })
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(DemoError::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => fail(EX_UNAVAILABLE, &error.to_string()),
    }
}

/// Why the demo does not run.
#[derive(Debug, Error)]
pub enum DemoError {
    /// Its server does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A file cannot be written, or a process cannot start.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Its own configuration is wrong, which a test rules out.
    #[error("{0}")]
    Config(#[from] crate::config::ConfigError),
    /// Its own project's name is wrong, which a test rules out.
    #[error("{0}")]
    Id(#[from] InvalidId),
    /// Its store does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The demo was told to stop.
    #[error("interrupted")]
    Interrupted,
    /// The race had an unexpected result.
    #[error("the demo had an unexpected result: {0}")]
    Wrong(String),
}

/// A racer's name, its flags, and the exit code that it must end with.
type Racer = (&'static str, &'static [&'static str], i32);

const ACT_ONE: &[Racer] = &[("alice", &[], 0), ("bob", &[], 0), ("carol", &[], 0)];
const ACT_TWO: &[Racer] =
    &[("dave", &[], 122), ("erin", &[], 122), ("hotfix", &["--cancel-in-progress-deployment"], 0)];
const COLORS: [AnsiColor; 3] = [AnsiColor::Cyan, AnsiColor::Yellow, AnsiColor::Magenta];
const CONFIG: &str = include_str!("demo.toml");

/// How long a race may take: its racers give up after two minutes, and see to the end of what they began.
const RACE_LIMIT: Duration = Duration::from_secs(180);
/// How long the server may take to stop. What still runs then ends with this process.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// Runs the demo, until `stop` at the latest. With `keep`, the server goes on until then.
///
/// # Errors
/// The demo cannot run, or had an unexpected result.
pub async fn run(program: PathBuf, keep: bool, stop: impl Future<Output = ()>) -> Result<(), DemoError> {
    let dir = temporary_dir()?;
    let shown = show(&program, &dir, keep, stop).await;
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::warn!(%error, path = %dir.display(), "could not remove the demo's directory");
    }
    shown
}

async fn show(program: &Path, dir: &Path, keep: bool, stop: impl Future<Output = ()>) -> Result<(), DemoError> {
    let mut config = Config::parse(CONFIG, Path::new("demo.toml"))?;
    config.store = crate::config::StoreLocation::Sqlite(dir.join("demo.db"));
    config.work_dir = Some(dir.join("work"));
    let node = Node::start(LiveConfig::fixed(config), ShimProgram(program.to_owned())).await?;
    let server = format!("http://{}", node.address());
    say(&format!("A server listens on {server}; its store is in {}.", dir.display()));

    let mut stop = pin!(stop);
    let played = tokio::select! {
        biased;
        // The racers are dropped, and killed with that.
        () = &mut stop => Err(DemoError::Interrupted),
        played = play(program, &server, &node) => played,
    };
    if keep && played.is_ok() {
        say(&format!("\nThe server goes on at {server} until you press Ctrl-C. Try, from another shell:\n"));
        say(&format!("  SINGLETRACK_URL={server} singletrack deploy --project web\n"));
        stop.await;
    }
    if timeout(STOP_LIMIT, node.stop()).await.is_err() {
        tracing::warn!("the demo's server did not stop in time");
    }
    played
}

async fn play(program: &Path, server: &str, node: &Node) -> Result<(), DemoError> {
    say("\nThree pipelines race to deploy one project. One gets the slot, the others wait their turn:\n");
    race(program, server, ACT_ONE).await?;
    say("\nTwo more deploy, and a hotfix that will not wait (--cancel-in-progress-deployment):\n");
    race(program, server, ACT_TWO).await?;

    let deployments =
        node.queue().store().list("web".parse()?, ListQuery { status: None, before: None, limit: 100 }).await?;
    summarize(&deployments)
}

async fn race(program: &Path, server: &str, racers: &[Racer]) -> Result<(), DemoError> {
    let late = |_| DemoError::Wrong(format!("a race was not over after {} s", RACE_LIMIT.as_secs()));
    timeout(RACE_LIMIT, run_race(program, server, racers)).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
}

/// Starts the racers one after the other, each once the one before is in line, and waits for all.
async fn run_race(program: &Path, server: &str, racers: &[Racer]) -> Result<(), DemoError> {
    let mut ends = JoinSet::new();
    for ((name, flags, expected), color) in racers.iter().zip(COLORS) {
        let mut child = deploy(program, server, name, flags)?;
        let Some(stderr) = child.stderr.take() else { continue };
        let mut lines = BufReader::new(stderr).lines();
        // The first line says that the server has answered, so the order of the race is the order of this list.
        if let Some(line) = lines.next_line().await? {
            tell(name, color, &line);
        }
        let (name, expected) = (*name, *expected);
        ends.spawn(async move {
            while let Some(line) = lines.next_line().await? {
                tell(name, color, &line);
            }
            let code = child.wait().await?.code();
            Ok::<_, io::Error>((name, expected, code))
        });
    }
    while let Some(ended) = ends.join_next().await {
        let (name, expected, code) = ended.map_err(io::Error::other)??;
        if code != Some(expected) {
            return Err(DemoError::Wrong(format!("{name} ended with {code:?}, not with {expected}")));
        }
    }
    Ok(())
}

fn deploy(program: &Path, server: &str, name: &str, flags: &[&str]) -> io::Result<Child> {
    Command::new(program)
        .args(["deploy", "--server", server, "--project", "web", "--no-order", "--actor", name, "--ref", "main"])
        .args(["--timeout", "2m"])
        .args(flags)
        .env_remove("SINGLETRACK_TOKEN")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Prints who held the slot when, and checks that no two did at once.
fn summarize(deployments: &[Deployment]) -> Result<(), DemoError> {
    let mut held: Vec<_> = deployments
        .iter()
        .filter_map(|deployment| Some((deployment.started_at?, deployment.ended_at()?, deployment)))
        .collect();
    held.sort_by_key(|(started, ..)| *started);
    say("\nWho held the slot:\n");
    let Some((begin, ..)) = held.first() else { return Err(DemoError::Wrong("nobody was deployed".to_owned())) };
    let seconds = |at: jiff::Timestamp| (at.as_millisecond() - begin.as_millisecond()) as f64 / 1000.0;
    for (started, ended, deployment) in &held {
        let actor = deployment.spec.actor.as_deref().unwrap_or("?");
        let (from, to, status) = (seconds(*started), seconds(*ended), deployment.status().as_str());
        say(&format!("  {from:6.2} s – {to:6.2} s  {actor:<7} {status}"));
    }
    if held.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(DemoError::Wrong("two deployments ran at once".to_owned()));
    }
    say("\nNo two ran at once.");
    Ok(())
}

fn temporary_dir() -> io::Result<PathBuf> {
    let dir = std::env::temp_dir().join(format!("singletrack-demo-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    Ok(dir)
}

fn say(text: &str) {
    for line in text.split('\n') {
        // If this cannot be written, nobody can read an error either.
        let _ = print::result(line);
    }
}

fn tell(name: &str, color: AnsiColor, line: &str) {
    let style = Style::new().fg_color(Some(color.into()));
    let _ = print::styled_result(style, &format!("{name:>7} │"), &format!(" {line}"));
}
