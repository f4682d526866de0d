//! Runs the command that the arguments name, and ends the program.

use std::{ffi::OsString, process::ExitCode};

use clap::CommandFactory as _;

use super::{
    agent,
    args::{AnyCommand, Cli, ClientCommand},
    audit, cancel, check_config, current, demo, deploy,
    end::{end, on_runtime},
    exit::{Exit, Failure},
    explain, forget, list, logs, manual, notifications, order, pause, redact, release, reload, rollback, run,
    run::FenceCommand,
    screen::print,
    serve, status, store, token, version, wait, why,
};
use crate::exec::process::fork::WILL_ARGUMENT;

/// Runs the command that this process's arguments name, to its end.
pub fn main() -> ExitCode {
    let command = match Cli::read() {
        Ok(cli) => cli.command,
        Err(error) => return refuse(&error),
    };
    match command {
        AnyCommand::Client(command) => client(&command),
        AnyCommand::Serve(args) => serve::serve(args),
        AnyCommand::Agent(args) => agent::agent(args),
        AnyCommand::CheckConfig(args) => check_config::check_config(&args),
        AnyCommand::Token(args) => token::token(&args),
        AnyCommand::Store(args) => store::store(&args),
        AnyCommand::Demo(args) => demo::demo(&args),
        AnyCommand::Version(args) => end(version::run(&args), false),
        AnyCommand::Explain(args) => end(explain::run(&args), false),
        AnyCommand::Completions(args) => end(manual::completions(&args, Cli::command()), false),
        AnyCommand::Man(args) => end(manual::man(&args, Cli::command()), false),
    }
}

/// Executes the last will of a killed run, if the program was started for that.
pub fn execute_will(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    (args.nth(1)? == WILL_ARGUMENT).then(|| end(run::execute_will(), false))
}

/// Runs a client's command to its end, and tells what kept it from succeeding.
fn client(command: &ClientCommand) -> ExitCode {
    end(dispatch(command), wants_json(command))
}

/// Tells what is wrong with the command line, or the help that was asked for. What is wrong may have been written by others: a
/// commit's message, say.
fn refuse(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    let is_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    if is_help {
        // If this cannot be written, nobody can read an error either.
        let _ = error.print();
    } else {
        let text = error.render().to_string();
        let mut lines = text.trim_end().lines();
        let first = lines.next().unwrap_or_default();
        print::error("singletrack: exit code 2", first.strip_prefix("error: ").unwrap_or(first));
        lines.for_each(print::progress);
        let wants_json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
        if wants_json {
            // The exit code tells already that this did not go well.
            let _ = print::json(&Failure::new(Exit::Usage, first.strip_prefix("error: ").unwrap_or(first)).to_json());
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn dispatch(command: &ClientCommand) -> Result<Exit, Failure> {
    match command {
        ClientCommand::Deploy(args) => on_runtime(deploy::race::run(args)),
        ClientCommand::Run(args) => run::run(args),
        ClientCommand::Protect(args) => on_runtime(run::protect(args)),
        ClientCommand::Fence(FenceCommand::Check(args)) => on_runtime(run::check_fence(args)),
        ClientCommand::Redeploy(args) => on_runtime(deploy::race::run(&args.deploy())),
        ClientCommand::Rollback(args) => on_runtime(rollback::run(args)),
        ClientCommand::Status(args) => on_runtime(status::run(args)),
        ClientCommand::Wait(args) => on_runtime(wait::run(args)),
        ClientCommand::Why(args) => on_runtime(why::run(args)),
        ClientCommand::Current(args) => on_runtime(current::run(args)),
        ClientCommand::Logs(args) => on_runtime(logs::run(args)),
        ClientCommand::List(args) => on_runtime(list::run(args)),
        ClientCommand::Audit(args) => on_runtime(audit::run(args)),
        ClientCommand::Notifications(args) => on_runtime(notifications::run(args)),
        ClientCommand::Cancel(args) => on_runtime(cancel::run(args)),
        ClientCommand::Pause(args) => on_runtime(pause::pause(args)),
        ClientCommand::Resume(args) => on_runtime(pause::resume(args)),
        ClientCommand::Order(args) => on_runtime(order::run(args)),
        ClientCommand::Release(args) => on_runtime(release::run(args)),
        ClientCommand::Redact(args) => on_runtime(redact::run(args)),
        ClientCommand::Forget(args) => on_runtime(forget::run(args)),
        ClientCommand::Reload(args) => on_runtime(reload::run(args)),
    }
}

fn wants_json(command: &ClientCommand) -> bool {
    match command {
        ClientCommand::Deploy(args) => args.target.connect.json,
        // Of `run` that is a mistake, which is told so, too.
        ClientCommand::Run(args) => args.target.connect.json,
        ClientCommand::Protect(_) => false,
        ClientCommand::Fence(FenceCommand::Check(args)) => args.target.connect.json,
        ClientCommand::Redeploy(args) => args.target.connect.json,
        ClientCommand::Rollback(args) => args.connect.json,
        ClientCommand::Status(args) => args.target.connect.json,
        ClientCommand::Wait(args) => args.target.connect.json,
        ClientCommand::Why(args) => args.target.connect.json,
        ClientCommand::Current(args) => args.connect.json,
        ClientCommand::Logs(args) => args.target.connect.json,
        ClientCommand::List(args) => args.connect.json,
        ClientCommand::Audit(args) => args.connect.json,
        ClientCommand::Notifications(args) => args.connect.json,
        ClientCommand::Cancel(args) => args.target.connect.json,
        ClientCommand::Pause(args) => args.connect.json,
        ClientCommand::Resume(args) => args.connect.json,
        ClientCommand::Order(args) => args.connect.json,
        ClientCommand::Release(args) => args.target.connect.json,
        ClientCommand::Redact(args) => args.target.connect.json,
        ClientCommand::Forget(args) => args.connect.json,
        ClientCommand::Reload(args) => args.connect.json,
    }
}
