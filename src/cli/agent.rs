//! `agent`: runs an agent until it is told to stop.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{
    dispatch::end,
    exit::Exit,
    groups::Server,
    parse::parse_count,
    service::{EX_CONFIG, EX_UNAVAILABLE, EXIT_INTERRUPTED, fail, print, runtime, shim},
    signals::{Asked, Signals},
};
use crate::{
    client::agent::{self, Settings},
    log,
};

/// `agent`.
#[derive(Args, Clone, Debug)]
pub struct Agent {
    /// The projects and the pipelines that it runs, in the format of the server's configuration
    #[arg(long, short, value_name = "FILE", env = "SINGLETRACK_AGENT_CONFIG", default_value = "agent.toml")]
    pub config: PathBuf,
    /// Its name, for people: visible ASCII without blanks [default: the machine's]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How many deployments it runs at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_count::<u32>(1..=1000))]
    pub max_concurrent: u32,
    /// The folder in which pipelines run and journals are kept [default: singletrack-agent]
    #[arg(long, value_name = "FOLDER", env = "SINGLETRACK_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
    /// The server.
    #[command(flatten)]
    pub server: Server,
}

/// Runs an agent until it is told to stop.
pub fn agent(args: Agent) -> ExitCode {
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
        Err(failure) => return end(Err(failure), false),
    };
    // It has commands to be ended first.
    signals.own_command();
    let drain = CancellationToken::new();
    let agent = match agent::Agent::new(settings) {
        Ok(agent) => agent,
        Err(failure) => return end(Err(failure), false),
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
    end(ended.map(|()| Exit::Done), false)
}
