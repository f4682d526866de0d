//! The `singletrack` command.

use std::process::ExitCode;

use clap::Parser;
use singletrack::{
    cli::{Cli, Command},
    client,
};

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Client(command) => client::run(&command),
        Command::Completions(args) => client::end(client::manual::completions(&args), false),
        Command::Man(args) => client::end(client::manual::man(&args), false),
        Command::Serve(_) | Command::CheckConfig(_) | Command::Token(_) | Command::Demo(_) => ExitCode::from(2),
    }
}
