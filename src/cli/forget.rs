//! `forget`: removes a project, such as one that a typing mistake made, with its whole history.

use std::io::{self, BufRead as _, IsTerminal as _};

use clap::Args;

use super::{
    ConnectArgs,
    exit::{Exit, Failure, about_project},
    parse::parse_project,
    screen::print,
    session::Session,
};
use crate::{client::calls::Patience, model::ProjectName, wire::ForgetAnswer};

/// `forget`.
#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub struct ForgetArgs {
    /// The project
    #[arg(value_name = "PROJECT", value_parser = parse_project)]
    pub project: ProjectName,
    /// Do not ask; needed where nobody can be asked
    #[arg(long, short)]
    pub yes: bool,
    /// The reason; it is recorded
    #[arg(long, short)]
    pub reason: Option<String>,
    /// The server.
    #[command(flatten)]
    pub connect: ConnectArgs,
}

const AFTER_HELP: &str = "\
All that the server keeps of the project goes, and cannot be brought back: its deployments and their output, its numbers and keys, \
its mark and its pause. The audit log stays, and says who forgot it. A project in use is refused (PROJECT_IN_USE): nothing may run, \
be called up or wait in line. A project that the configuration names comes back empty. A project of that name that comes later \
begins at #1; its fencing tokens go on above the former ones.";

/// Forgets a project.
///
/// # Errors
/// Somebody says no, there is nobody to ask, the server refuses, or there is no answer.
pub async fn run(args: &ForgetArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.connect, Patience::QUESTION)?;
    let (connection, project) = (&session.connection, &args.project);
    if !args.yes {
        confirm(project)?;
    }
    let answer = connection.forget(project, args.reason.as_deref()).await;
    let answer = answer.map_err(|fault| about_project(connection, project, fault))?;
    session.answer(&answer, &lines(&answer))?;
    Ok(Exit::Done)
}

/// Has somebody at a terminal type the name again.
fn confirm(project: &ProjectName) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        let why = format!("this removes all of {project} for good, and there is no terminal to ask at: pass --yes");
        return Err(Failure::new(Exit::Usage, why));
    }
    let mut typed = String::new();
    print::progress(&format!("This removes all of {project} for good. Type its name to go on:"));
    match io::stdin().lock().read_line(&mut typed) {
        Ok(_) if typed.trim() == project.as_str() => Ok(()),
        Ok(_) | Err(_) => Err(Failure::new(Exit::Usage, format!("nothing was done: that was not {project}"))),
    }
}

fn lines(answer: &ForgetAnswer) -> Vec<String> {
    let ForgetAnswer { project, forgotten, deployments, configured } = answer;
    let mut lines = vec![match forgotten {
        true => format!("{project} is forgotten; it had {deployments} deployments"),
        false => format!("there is nothing of {project} to forget"),
    }];
    if *configured {
        lines.push(format!("  the server's configuration has {project}, so it is still there, empty"));
    }
    lines
}
