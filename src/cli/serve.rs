//! `serve`: runs a server until it is told to stop.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Args;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    parse::parse_listen,
    service::{
        EX_CONFIG, EX_UNAVAILABLE, EXIT_INTERRUPTED, HangUps, StopSignals, fail, print, service_runtime, shim,
        stop_signals,
    },
};
use crate::{
    config::{ConfigOrigin, LiveConfig, format_duration},
    exec::process::inherited::allow_many_open_files,
    http::{ServeError, require_protection},
    log::{self, LogFormat},
    model::Caller,
    server::{Node, StartError, stop_limit},
    store::{StoreError, sqlite::survive_full_disks},
    version::BUILD,
};

/// How many reloads may wait to be written into the audit log: more than anybody sends before there is a store.
const RELOADS_LIMIT: usize = 16;

/// `serve`.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// The configuration [default: singletrack.toml, if there is one]
    #[arg(long, short, value_name = "FILE", env = "SINGLETRACK_CONFIG")]
    pub config: Option<PathBuf>,
    /// The address to listen on [default: 127.0.0.1:7878]
    #[arg(long, value_name = "ADDRESS", env = "SINGLETRACK_LISTEN", value_parser = parse_listen)]
    pub listen: Option<SocketAddr>,
    /// The store: sqlite:FILE, postgres://HOST/DATABASE or memory: [default: sqlite:singletrack.db]
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE")]
    pub store: Option<String>,
    /// The folder in which pipelines run
    #[arg(long, value_name = "FOLDER", env = "SINGLETRACK_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
    /// The log on standard error: lines for people, or one JSON object a line
    #[arg(long, value_name = "FORMAT", env = "SINGLETRACK_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Runs the server until it is told to stop.
pub fn serve(args: ServeArgs) -> ExitCode {
    log::start("info", args.log_format);
    let (runtime, hang_ups) = match service_runtime() {
        Ok(started) => started,
        Err(error) => return fail(EX_UNAVAILABLE, &format!("cannot start: {error}")),
    };
    let config = match configured(args) {
        Ok(config) => config,
        Err(message) => return fail(EX_CONFIG, &message),
    };
    if let Err(error) = allow_many_open_files() {
        tracing::debug!(%error, "the limit of open files could not be raised");
    }
    survive_full_disks();
    runtime.block_on(serve_until_told(config, hang_ups))
}

async fn serve_until_told(live: LiveConfig, hang_ups: HangUps) -> ExitCode {
    let (reloads, mut reloaded) = mpsc::channel(RELOADS_LIMIT);
    hang_ups.reload(live.clone(), move |told| _ = reloads.try_send(told));
    let config = live.now();
    let (mut stop, shim) = match (stop_signals(), shim()) {
        (Ok(stop), Ok(shim)) => (stop, shim),
        (Err(error), _) | (_, Err(error)) => return fail(EX_UNAVAILABLE, &format!("cannot start: {error}")),
    };
    let (store, project_count) = (config.store.to_string(), config.projects.len());
    let stop_limit = stop_limit(&config);
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let starting = tokio::select! {
        started = Node::start(live, shim) => started,
        () = stop.received() => {
            tracing::info!("stopped while it waited for its store");
            return ExitCode::SUCCESS;
        }
    };
    let node = match starting {
        Ok(node) => node,
        Err(error) => {
            let code = match &error {
                StartError::Serve(ServeError::Unprotected(_)) => EX_CONFIG,
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
    let queue = node.queue().clone();
    tokio::spawn(async move {
        while let Some(told) = reloaded.recv().await {
            queue.note(Caller::server(), "reload", format!("SIGHUP: {told}")).await;
        }
    });
    // What was logged so far stands in the log when whoever waits for the next line reads on.
    log::flush();
    // The one line on standard output: scripts wait for it.
    print(&format!("listening on {scheme}://{}", node.address()));
    tracing::info!(address = %node.address(), %store, project_count, version = BUILD.version, commit = BUILD.commit, built_at = BUILD.built_at, "ready");
    if let Some(limit) = stop_limit {
        let limit = format_duration(limit);
        tracing::info!(%limit, "after SIGTERM the server ends within this limit; its supervisor must not kill it earlier");
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

/// The configuration: flag, then environment (clap has read both), then file, then default.
fn configured(args: ServeArgs) -> Result<LiveConfig, String> {
    let ServeArgs { config, listen, store, work_dir, log_format: _ } = args;
    let store = match store {
        Some(store) => Some(store.parse().map_err(|error| format!("--store: {error}"))?),
        None => None,
    };
    // A server that never had a token in its configuration has others.
    let mut origin = ConfigOrigin::new(config, |before, config| match before {
        Some(before) if before.tokens.is_empty() => Ok(()),
        Some(_) | None => require_protection(config).map_err(|error| error.to_string()),
    });
    (origin.listen, origin.store, origin.work_dir) = (listen, store, work_dir);
    let config = origin.read().map_err(|error| error.to_string())?;
    Ok(LiveConfig::new(config, origin, Timestamp::now()))
}
