//! The `singletrack` command.

use std::process::ExitCode;

use singletrack::{
    cli::{Cli, Command},
    client, commands, log, names, worker,
};

fn main() -> ExitCode {
    // The shim comes before everything else: it must stay small and single-threaded.
    if let Some(code) = worker::shim::entry(std::env::args_os()) {
        std::process::exit(code);
    }
    names::look_inside();
    if let Some(code) = client::execute_will(std::env::args_os()) {
        return code;
    }
    let command = match Cli::read() {
        Ok(cli) => cli.command,
        Err(error) => return client::refuse(&error),
    };
    let code = match command {
        Command::Client(command) => client::run(&command),
        Command::Serve(args) => commands::serve(args),
        Command::Agent(args) => commands::agent(args),
        Command::CheckConfig(args) => commands::check_config(&args),
        Command::Token(args) => commands::token(&args),
        Command::Store(args) => commands::store(&args),
        Command::Demo(args) => commands::demo(&args),
        Command::Version(args) => client::end(client::version::run(&args), false),
        Command::Explain(args) => client::end(client::explain::run(&args), false),
        Command::Completions(args) => client::end(client::manual::completions(&args), false),
        Command::Man(args) => client::end(client::manual::man(&args), false),
    };
    log::flush();
    code
}
