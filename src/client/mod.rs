//! The client that CI runs: typed calls with retry, pure decisions about what to do next, and what the user sees of it.

mod cancel;
pub mod ci;
pub mod connection;
pub mod deadline;
mod deploy;
mod dial;
mod download;
pub mod exit;
pub mod follow;
pub mod lease;
mod list;
mod logs;
pub mod manual;
mod plan;
mod release;
pub mod render;
pub mod resolve;
mod result;
mod run;
pub mod session;
mod signals;
mod status;
mod transport;
mod upload;
mod why;
mod work;

use std::process::ExitCode;

use exit::{Exit, Failure};
use render::{clean::clean, print};

use crate::cli::{ClientCommand, Fence};

/// Runs a client's command to its end, and tells what kept it from succeeding.
pub fn run(command: &ClientCommand) -> ExitCode {
    // One thread does: a client waits for one thing at a time, and starts faster without the others.
    let ended = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let ended = runtime.block_on(dispatch(command));
            // A look-up of a name may still be under way, and nobody waits for it.
            runtime.shutdown_background();
            ended
        }
        Err(error) => Err(Failure::new(Exit::Fault, format!("the runtime does not start: {error}"))),
    };
    end(ended, wants_json(command))
}

/// The exit code of what has ended; what went wrong is told on standard error, and with `json` on standard output too.
pub fn end(ended: Result<Exit, Failure>, json: bool) -> ExitCode {
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            tell(&failure, json);
            failure.exit.into()
        }
    }
}

async fn dispatch(command: &ClientCommand) -> Result<Exit, Failure> {
    match command {
        ClientCommand::Deploy(args) => deploy::run(args).await,
        ClientCommand::Run(args) => run::run(args).await,
        ClientCommand::Protect(args) => run::protect(args).await,
        ClientCommand::Fence(Fence::Check(args)) => run::check_fence(args).await,
        ClientCommand::Redeploy(args) => deploy::run(&args.deploy()).await,
        ClientCommand::Status(args) => status::run(args).await,
        ClientCommand::Why(args) => why::run(args).await,
        ClientCommand::Logs(args) => logs::run(args).await,
        ClientCommand::List(args) => list::run(args).await,
        ClientCommand::Cancel(args) => cancel::run(args).await,
        ClientCommand::Release(args) => release::run(args).await,
    }
}

fn tell(failure: &Failure, json: bool) {
    print::error(&clean(&failure.message));
    if let Some(hint) = &failure.hint {
        print::hint(&clean(hint));
    }
    if json {
        // The exit code tells already that this did not go well.
        let _ = print::result(&serde_json::to_string_pretty(&failure.to_json()).unwrap_or_default());
    }
}

fn wants_json(command: &ClientCommand) -> bool {
    match command {
        ClientCommand::Deploy(args) => args.target.connect.json,
        // What a command prints is its own.
        ClientCommand::Run(_) | ClientCommand::Protect(_) => false,
        ClientCommand::Fence(Fence::Check(args)) => args.target.connect.json,
        ClientCommand::Redeploy(args) => args.target.connect.json,
        ClientCommand::Status(args) => args.target.connect.json,
        ClientCommand::Why(args) => args.target.connect.json,
        ClientCommand::Logs(args) => args.target.connect.json,
        ClientCommand::List(args) => args.connect.json,
        ClientCommand::Cancel(args) => args.target.connect.json,
        ClientCommand::Release(args) => args.target.connect.json,
    }
}
