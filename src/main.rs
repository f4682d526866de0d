//! The `singletrack` command.

use std::process::ExitCode;

use clap::Parser as _;
use singletrack::{
    cli::{Cli, Command},
    commands, worker,
};

fn main() -> ExitCode {
    // The shim comes before everything else: it must stay small and single-threaded.
    if let Some(code) = worker::shim::entry(std::env::args_os()) {
        std::process::exit(code);
    }
    match Cli::parse().command {
        Command::Serve(args) => commands::serve(args),
        Command::CheckConfig(args) => commands::check_config(&args),
        Command::Token(args) => commands::token(&args),
        Command::Demo(args) => commands::demo(&args),
        _ => ExitCode::FAILURE,
    }
}
