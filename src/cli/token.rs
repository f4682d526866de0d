//! `token`: makes a token.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    screen::print as screen,
    service::{EX_UNAVAILABLE, fail, print},
};
use crate::http::new_token;

/// `token`.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token: print the token once, and the lines for the server's configuration
    New {
        /// What the token is for; people see this name
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
}

/// Makes a token.
pub fn token(args: &TokenCommand) -> ExitCode {
    let TokenCommand::New { name } = args;
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
        Err(error) => fail(EX_UNAVAILABLE, &format!("the system gives no random bytes: {error}")),
    }
}
