//! What the commands of the server's side do: `serve`, `check-config`, `token`, `store` and `demo`. The client's are in
//! `client`.

use std::{path::Path, process::ExitCode, time::Duration};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    agent::{Agent, Settings},
    cli::{self, CheckConfig, Demo, Serve, Token},
    client::{
        self,
        render::print as screen,
        signals::{Asked, Signals},
    },
    config::{Config, ConfigError, format_duration},
    demo::{self, DemoError},
    log,
    node::{Node, StartError, stop_limit},
    server::{ServeError, new_token},
    store::{StoreError, sqlite::survive_full_disks},
    version::BUILD,
    worker::{ShimProgram, allow_many_open_files},
};

mod store;

pub use store::store;

/// `sysexits.h`: the service is not available.
const EX_UNAVAILABLE: u8 = 69;
/// As a shell says it of a program that SIGINT ended.
const EXIT_INTERRUPTED: u8 = 130;
/// How long after a stop signal another one is taken for the same.
const SIGNAL_ECHO: Duration = Duration::from_secs(1);
/// `sysexits.h`: the configuration is wrong.
const EX_CONFIG: u8 = 78;

/// Runs the server until it is told to stop.
pub fn serve(args: Serve) -> ExitCode {
    log::start("info");
    let config = match configured(args) {
        Ok(config) => config,
        Err(message) => return fail(EX_CONFIG, &message),
    };
    if let Err(error) = allow_many_open_files() {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
    survive_full_disks();
    match runtime() {
        Ok(runtime) => runtime.block_on(serve_until_told(config)),
        Err(error) => fail(EX_UNAVAILABLE, &format!("cannot start: {error}")),
    }
}

async fn serve_until_told(config: Config) -> ExitCode {
    let (mut stop, shim) = match (stop_signals(), shim()) {
        (Ok(stop), Ok(shim)) => (stop, shim),
        (Err(error), _) | (_, Err(error)) => return fail(EX_UNAVAILABLE, &format!("cannot start: {error}")),
    };
    let (store, project_count) = (config.store.to_string(), config.projects.len());
    let stop_limit = stop_limit(&config);
    let starting = tokio::select! {
        started = Node::start(config, shim) => started,
        () = stop.received() => {
            tracing::info!("stopped while it waited for its store");
            return ExitCode::SUCCESS;
        }
    };
    let node = match starting {
        Ok(node) => node,
        Err(error) => {
            let code = match &error {
                StartError::Serve(ServeError::Unprotected(_) | ServeError::ProjectName(_)) => EX_CONFIG,
                StartError::Store(
                    StoreError::Unusable(_)
                    | StoreError::Unavailable(_)
                    | StoreError::Unknown(_)
                    | StoreError::Refused(_)
                    | StoreError::Full,
                )
                | StartError::Serve(ServeError::Bind { .. })
                | StartError::WorkDir { .. } => EX_UNAVAILABLE,
            };
            return fail(code, &error.to_string());
        }
    };
    // What was logged so far stands in the log when whoever waits for the next line reads on.
    log::flush();
    // The one line on standard output: scripts wait for it.
    print(&format!("listening on http://{}", node.address()));
    tracing::info!(address = %node.address(), %store, project_count, version = BUILD.version, commit = BUILD.commit, built_at = BUILD.built_at, "ready");
    if let Some(limit) = stop_limit {
        let limit = format_duration(limit);
        tracing::info!(%limit, "after SIGTERM it ends within this limit; whatever supervises it must not kill it before");
    }
    if project_count == 0 {
        tracing::info!("no project has pipelines: `run` works for any, `deploy` for those that --config FILE names");
    }
    stop.received().await;
    stop_node(node, &mut stop).await
}

/// The first signal has come: drains. The second one stops the pipelines that still run, and the third one ends the process.
async fn stop_node(node: Node, stop: &mut StopSignals) -> ExitCode {
    let hurry = node.hurry();
    let mut stopping = std::pin::pin!(node.stop());
    tokio::select! {
        () = &mut stopping => {}
        () = stop.received_again() => {
            tracing::warn!("stopping the pipelines that still run; a third signal ends the process at once");
            hurry.cancel();
            tokio::select! {
                () = stopping => {}
                () = stop.received_again() => {
                    tracing::warn!("ended at once; shims end what still runs");
                    log::flush();
                    // The runtime would wait for blocking threads, and nothing is left that must be waited for.
                    std::process::exit(i32::from(EXIT_INTERRUPTED))
                }
            }
        }
    }
    tracing::info!("stopped");
    ExitCode::SUCCESS
}

/// Runs an agent until it is told to stop.
pub fn agent(args: cli::Agent) -> ExitCode {
    log::start("info");
    let settings = match shim().map_err(|error| error.to_string()).and_then(|shim| Settings::read(args, shim)) {
        Ok(settings) => settings,
        Err(message) => return fail(EX_CONFIG, &message),
    };
    match runtime() {
        Ok(runtime) => runtime.block_on(agent_until_told(settings)),
        Err(error) => fail(EX_UNAVAILABLE, &format!("cannot start: {error}")),
    }
}

async fn agent_until_told(settings: Settings) -> ExitCode {
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(failure) => return client::end(Err(failure), false),
    };
    // It has commands to be ended first.
    signals.own_command();
    let drain = CancellationToken::new();
    let agent = match Agent::new(settings) {
        Ok(agent) => agent,
        Err(failure) => return client::end(Err(failure), false),
    };
    let running = agent.run(drain.clone(), print);
    tokio::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = signals.first() => {
            tracing::info!("taking no more work; a second SIGINT stops at once");
            drain.cancel();
            tokio::select! {
                ended = running => ended,
                _ = signals.more_than(Asked::Stop) => {
                    tracing::warn!("stopped at once; shims end what still runs");
                    log::flush();
                    std::process::exit(i32::from(EXIT_INTERRUPTED))
                }
            }
        }
    };
    client::end(ended.map(|()| client::exit::Exit::Done), false)
}

/// Says whether a configuration is right.
pub fn check_config(args: &CheckConfig) -> ExitCode {
    match Config::load(Some(&args.path)) {
        Ok(config) => {
            let (path, project_count) = (args.path.display(), config.projects.len());
            let pipeline_count: usize = config.projects.values().map(|project| project.pipelines.len()).sum();
            print(&format!("{path} is right: projects: {project_count}, pipelines: {pipeline_count}"));
            ExitCode::SUCCESS
        }
        Err(error) => fail(EX_CONFIG, &error.to_string()),
    }
}

/// Makes a token.
pub fn token(args: &Token) -> ExitCode {
    let Token::New { name } = args;
    match new_token() {
        Ok(new) => {
            let name = name.as_deref().unwrap_or("ci");
            // The token alone goes to standard output, so that it can be piped to where secrets are kept.
            print(&new.token);
            let config = format!("[[tokens]]\nname = {name:?}\nsha256 = \"{}\"", new.sha256);
            screen::progress(
                "This is the token; it is shown once. Give it to clients as SINGLETRACK_TOKEN. For the server's configuration:",
            );
            screen::progress("");
            config.lines().for_each(screen::progress);
            ExitCode::SUCCESS
        }
        Err(error) => fail(EX_UNAVAILABLE, &format!("the system has no randomness to give: {error}")),
    }
}

/// Shows what it is all about.
pub fn demo(args: &Demo) -> ExitCode {
    log::start("warn");
    let shown = runtime().map_err(DemoError::Io).and_then(|runtime| {
        let program = std::env::current_exe()?;
        runtime.block_on(async {
            let mut stop = stop_signals()?;
            demo::run(program, args.keep, stop.received()).await
        })
    });
    match shown {
        Ok(()) => ExitCode::SUCCESS,
        Err(DemoError::Interrupted) => ExitCode::from(EXIT_INTERRUPTED),
        Err(error) => fail(EX_UNAVAILABLE, &error.to_string()),
    }
}

/// The configuration: flag, then environment (clap has read both), then file, then default.
fn configured(args: Serve) -> Result<Config, String> {
    let Serve { config, listen, store, work_dir } = args;
    let store = match store {
        Some(store) => Some(store.parse().map_err(|error| format!("--store: {error}"))?),
        None => None,
    };
    let config = Config::load(config.as_deref().map(Path::new)).map_err(|error: ConfigError| error.to_string())?;
    let mut config = config.overriding(listen, store);
    if work_dir.is_some() {
        config.work_dir = work_dir;
    }
    Ok(config)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn shim() -> std::io::Result<ShimProgram> {
    // The file itself and not its name: it may be replaced while the server runs.
    std::env::current_exe().map(ShimProgram)
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

fn stop_signals() -> std::io::Result<StopSignals> {
    Ok(StopSignals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
}

impl StopSignals {
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// The next signal. What comes right after the last one is the same one: process supervisors and terminals signal a
    /// whole group of processes, and a process in it may pass the signal on to us.
    async fn received_again(&mut self) {
        let _ = tokio::time::timeout(SIGNAL_ECHO, async {
            loop {
                self.received().await;
            }
        })
        .await;
        self.received().await;
    }
}

/// Tells why it ends. The first line of the message is the error; further ones are hints, or lines that go with it.
fn fail(code: u8, message: &str) -> ExitCode {
    let mut lines = message.lines();
    screen::error(&format!("singletrack: exit code {code}"), lines.next().unwrap_or_default());
    for line in lines {
        match line.strip_prefix("hint: ") {
            Some(hint) => screen::hint(hint),
            None => screen::progress(line),
        }
    }
    ExitCode::from(code)
}

fn print(text: &str) {
    // Where it cannot be written there is nobody to tell that.
    let _ = screen::result(text);
}
