//! `reload`: the server reads its configuration again.

use clap::Args;

use super::{
    ConnectArgs,
    exit::{Exit, Failure},
    screen::{clean::clean, print},
    session::Session,
};
use crate::{
    client::calls::{Fault, Patience},
    wire::{ReloadAnswer, ReloadedProjects},
};

/// `reload`.
#[derive(Args, Debug)]
pub struct ReloadArgs {
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

/// Reloads.
///
/// # Errors
/// The file is wrong, the server refuses, or there is no answer.
pub async fn run(args: &ReloadArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    match session.connection.reload().await {
        Ok(answer) => {
            session.answer(&answer, &lines(&answer))?;
            Ok(Exit::Done)
        }
        Err(Fault::Refused(refusal)) => {
            let problems = refusal.body["problems"].as_array().cloned().unwrap_or_default();
            problems.iter().filter_map(|problem| problem.as_str()).for_each(|problem| print::progress(&clean(problem)));
            Err(Failure::from(*refusal))
        }
        Err(fault) => Err(fault.into()),
    }
}

/// What changed, in a line for each kind of change.
fn lines(answer: &ReloadAnswer) -> Vec<String> {
    let ReloadAnswer { projects: ReloadedProjects { added, removed, changed }, keys, waits_for_restart } = answer;
    let told = [
        ("added projects", added),
        ("removed projects", removed),
        ("changed projects", changed),
        ("changed keys", keys),
        ("waiting for a restart", waits_for_restart),
    ];
    let told = told.iter().filter(|(_, names)| !names.is_empty());
    let lines: Vec<_> = told.map(|(what, names)| format!("{what}: {}", clean(&names.join(", ")))).collect();
    match lines.is_empty() {
        true => vec!["read again: nothing has changed".to_owned()],
        false => lines,
    }
}
