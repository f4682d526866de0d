//! `redact`: takes a leaked secret out of what is recorded of a deployment.

use std::io::{IsTerminal as _, Read as _};

use clap::Args;

use super::{
    TargetArgs,
    exit::{Exit, Failure},
    parse::parse_deployment,
    session::Session,
};
use crate::{
    client::calls::Patience,
    model::DeploymentName,
    wire::{RedactAnswer, RedactRequest},
};

/// The most that is read as a value: a large key.
const VALUE_LIMIT: u64 = 64 << 10;

/// `redact`.
#[derive(Args, Debug)]
#[command(override_usage = "singletrack redact [OPTIONS] <DEPLOYMENT>", group(clap::ArgGroup::new("what").required(true)))]
pub struct RedactArgs {
    /// The deployment: its number, such as 17; its number with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: DeploymentName,
    /// Read the secret from standard input; it is no argument, so that no shell and no process list keeps it
    #[arg(long, group = "what")]
    pub value_from_stdin: bool,
    /// Redact whatever matches this regular expression, such as ghp_[A-Za-z0-9]{36}
    #[arg(long, value_name = "REGEX", group = "what")]
    pub pattern: Option<String>,
    /// The reason; it is recorded, without the secret
    #[arg(long, short)]
    pub reason: String,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Redacts.
///
/// # Errors
/// There is no value, the server refuses, or there is no answer.
pub async fn run(args: &RedactArgs) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::QUESTION)?;
    let value = if args.value_from_stdin { Some(read_value()?) } else { None };
    let body = RedactRequest { reason: args.reason.clone(), value, pattern: args.pattern.clone() };
    let answer = session.connection.redact(&args.target.project, &args.id, &body).await?;
    session.answer(&answer, &lines(&args.id, &answer))?;
    Ok(Exit::Done)
}

/// The value without the line end behind it.
fn read_value() -> Result<String, Failure> {
    let refuse = |why: &str| Failure::new(Exit::Usage, why);
    if std::io::stdin().is_terminal() {
        return Err(refuse(
            "--value-from-stdin reads the secret from a pipe or a file, because a terminal would show it: write for example \
             `singletrack redact … --value-from-stdin < secret.txt`",
        ));
    }
    let mut value = String::new();
    let read = std::io::stdin().take(VALUE_LIMIT + 1).read_to_string(&mut value);
    match read {
        Err(_) => Err(refuse("the secret on standard input is not text in UTF-8")),
        Ok(_) if value.len() as u64 > VALUE_LIMIT => Err(refuse("the secret on standard input is longer than 64 KiB")),
        Ok(_) if value.trim().is_empty() => Err(refuse("there is no secret on standard input")),
        Ok(_) => Ok(value),
    }
}

fn lines(name: &DeploymentName, answer: &RedactAnswer) -> Vec<String> {
    let RedactAnswer { events, record, damaged_blocks, scrubbed, .. } = answer;
    let mut lines = vec![match (events, record) {
        (0, false) => format!("{name}: nothing matched, so nothing was changed"),
        (_, false) => format!("{name}: {events} events were redacted"),
        (_, true) => format!("{name}: {events} events and the record itself were redacted"),
    }];
    if *damaged_blocks > 0 {
        lines.push(format!("{damaged_blocks} blocks of output are damaged and could not be searched"));
    }
    if !scrubbed {
        lines.push(
            "another program reads the store's file, so its log still holds the secret; run this again when that has ended"
                .to_owned(),
        );
    }
    lines.push("backups, and copies that others made, still hold the secret: make the secret invalid".to_owned());
    lines
}
