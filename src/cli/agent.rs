//! `agent`: runs an agent until it is told to stop.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::{
    ci::Environment,
    end::end,
    exit::{Exit, Failure},
    groups::ServerArgs,
    parse::parse_count,
    service::{EX_CONFIG, EX_UNAVAILABLE, EXIT_INTERRUPTED, HangUps, fail, print, service_runtime, shim},
    session,
    signals::{Asked, Signals},
};
use crate::{
    client::{
        agent::{self, AgentError, Settings},
        calls::Credentials,
    },
    config::{Config, ConfigOrigin, LiveConfig},
    exec::ShimProgram,
    log::{self, LogFormat},
};

/// An agent's default folder.
const DEFAULT_WORK_DIR: &str = "singletrack-agent";
/// The longest name.
const NAME_LIMIT: usize = 100;

/// `agent`.
#[derive(Args, Clone, Debug)]
pub struct AgentArgs {
    /// The projects and pipelines that the agent runs, in the format of the server's configuration
    #[arg(long, short, value_name = "FILE", env = "SINGLETRACK_AGENT_CONFIG", default_value = "agent.toml")]
    pub config: PathBuf,
    /// The agent's name, for people: visible ASCII without spaces [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How many deployments the agent runs at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = parse_count::<u32>(1..=1000))]
    pub max_concurrent: u32,
    /// The folder in which pipelines run and journals are kept [default: singletrack-agent]
    #[arg(long, value_name = "FOLDER", env = "SINGLETRACK_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
    /// The log on standard error: lines for people, or one JSON object a line
    #[arg(long, value_name = "FORMAT", env = "SINGLETRACK_LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// The server.
    #[command(flatten)]
    pub server: ServerArgs,
}

/// Runs an agent until it is told to stop.
pub fn agent(args: AgentArgs) -> ExitCode {
    log::start("info", args.log_format);
    let (runtime, hang_ups) = match service_runtime() {
        Ok(started) => started,
        Err(error) => return fail(EX_UNAVAILABLE, &format!("cannot start: {error}")),
    };
    let server = args.server.clone();
    let settings = match shim().map_err(|error| error.to_string()).and_then(|shim| settings(args, shim)) {
        Ok(settings) => settings,
        Err(message) => return fail(EX_CONFIG, &message),
    };
    let variable = |name: &str| std::env::var(name).ok();
    let settings = match session::credentials(&server, &Environment::new(&variable)) {
        Ok(credentials) => Settings { credentials, ..settings },
        Err(failure) => return end(Err(failure), false),
    };
    runtime.block_on(agent_until_told(settings, hang_ups))
}

async fn agent_until_told(settings: Settings, hang_ups: HangUps) -> ExitCode {
    hang_ups.reload(settings.config.clone(), |_| {});
    let mut signals = match Signals::of_a_service() {
        Ok(signals) => signals,
        Err(failure) => return end(Err(failure), false),
    };
    // The agent must end its commands first.
    signals.own_command();
    let drain = CancellationToken::new();
    let agent = match agent::Agent::new(settings) {
        Ok(agent) => agent,
        Err(error) => return end(Err(error.into()), false),
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
    end(ended.map(|()| Exit::Done).map_err(Failure::from), false)
}

/// An agent's settings from the command line, the configuration and the environment, without the token.
fn settings(args: AgentArgs, shim: ShimProgram) -> Result<Settings, String> {
    let mut origin = ConfigOrigin::new(Some(args.config.clone()), |_, config| require_pipelines(config));
    let config = origin.read().map_err(|error| error.to_string())?;
    origin.require_fit(None, &config).map_err(|error| error.to_string())?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().into_owned(),
    };
    if name.is_empty() || name.len() > NAME_LIMIT || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("--name is 1 to {NAME_LIMIT} visible ASCII characters without spaces"));
    }
    let chosen =
        args.work_dir.clone().or_else(|| config.work_dir.clone()).unwrap_or_else(|| PathBuf::from(DEFAULT_WORK_DIR));
    let work_dir = std::path::absolute(&chosen).map_err(|error| format!("{}: {error}", chosen.display()))?;
    Ok(Settings {
        name,
        config: LiveConfig::new(config, origin, Timestamp::now()),
        max_concurrent: args.max_concurrent,
        work_dir,
        shim,
        server: args.server.url,
        credentials: Credentials::default(),
        ca_cert: args.server.ca_cert,
    })
}

fn require_pipelines(config: &Config) -> Result<(), String> {
    match config.projects.values().any(|project| !project.pipelines.is_empty()) {
        true => Ok(()),
        false => Err("there are no pipelines; write some as [[projects.NAME.pipelines.deploy.phases]]".to_owned()),
    }
}

impl From<AgentError> for Failure {
    fn from(error: AgentError) -> Self {
        let message = error.to_string();
        match error {
            AgentError::Setup(error) => error.into(),
            AgentError::Refused(refusal) => Failure { exit: Exit::Usage, ..Failure::from(*refusal) },
            AgentError::Folder { .. } => Failure::new(Exit::Fault, message).hint("pass another --work-dir"),
            AgentError::NotAlone(_) => Failure::new(Exit::Fault, message).hint("give each its own --work-dir"),
        }
    }
}
