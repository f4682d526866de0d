//! `logs`: a deployment's output on standard output, and what happened in between on standard error.

use std::sync::Arc;

use clap::Args;

use super::{
    TargetArgs,
    exit::{Exit, Failure, exit_of_end},
    parse::{parse_count, parse_deployment},
    result,
    screen::print,
    session::Session,
    signals::Signals,
    status,
};
use crate::{
    client::{
        calls::Patience,
        follow::{FollowLimits, Follower, How, Update},
    },
    config::Since,
    model::{DeploymentName, EventBody, Stream, bounds::TAIL_LINES},
    wire::{Event, EventData, time},
};

/// `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The deployment: its number, such as 17; its number with the project, such as web#17; or its ID
    #[arg(value_name = "DEPLOYMENT", value_parser = parse_deployment)]
    pub id: Option<DeploymentName>,
    /// Continue until the deployment is final
    #[arg(long, short)]
    pub follow: bool,
    /// Only the last N lines of the output so far
    #[arg(long, short = 'n', value_name = "N", value_parser = parse_count::<u64>(0..=TAIL_LINES as u64))]
    pub tail: Option<u64>,
    /// Only what happened since then: a duration before now, such as 10m, or a time, such as 2026-03-01T12:00:00Z
    #[arg(long, value_name = "WHEN")]
    pub since: Option<Since>,
    /// Print the time before each line
    #[arg(long, short)]
    pub timestamps: bool,
    /// Exit with the deployment's exit code, as `wait` does
    #[arg(long, requires = "follow")]
    pub exit_code: bool,
    /// Where.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Prints a deployment's output.
///
/// # Errors
/// There is no such deployment, or no answer.
pub async fn run(args: &LogsArgs) -> Result<Exit, Failure> {
    let patience = if args.follow { Patience::WATCH } else { Patience::QUESTION };
    let session = Session::open(&args.target.connect, patience)?;
    let project = &args.target.project;
    let id = status::find(&session.connection, project, args.id.as_ref()).await?.id;
    let limits = FollowLimits::default();
    let mut follower = Follower { connection: &session.connection, project, id, limits, after: 0 };
    let screen = Arc::clone(&session.screen);
    let json = session.json;
    let mut written = Ok(());
    let mut show = |update: Update| {
        let shown = match &update {
            Update::Event(event) if json => print::json_line(event),
            Update::Event(Event { data: EventData::Other(EventBody::Log { lines, stream, .. }), at, .. }) => {
                let at = if args.timestamps { format!("{} ", time::format(*at)) } else { String::new() };
                let print = match stream {
                    Stream::Stdout => print::output_after,
                    Stream::Stderr => print::error_output_after,
                };
                screen.over(|| lines.iter().try_for_each(|line| print(&at, line)))
            }
            Update::Event(_) | Update::State { .. } | Update::Switched(_) => {
                screen.update(project, &update);
                Ok(())
            }
        };
        if let (Ok(()), Err(error)) = (&written, shown) {
            written = Err(error);
        }
    };
    let mut signals = if args.follow { Some(Signals::listen()?) } else { None };
    let begun = match (args.tail, args.since) {
        (None, None) => None,
        (tail, since) => follower.begin(tail, since, &mut show).await?,
    };
    let mut exit = Exit::Done;
    if let Some(signals) = &mut signals {
        let follow = async {
            match begun {
                Some(ended) => Ok(ended),
                None => follower.follow(How::Auto, &mut show).await,
            }
        };
        let ended = tokio::select! {
            () = signals.first() => return Ok(Exit::Interrupted),
            ended = follow => ended?,
            never = session.screen.break_silence() => match never {},
        };
        session.screen.clear();
        session.screen.line(&format!("{} {}", ended.name(), ended.status.as_str()));
        result::tell_repairs(&session, &ended);
        if args.exit_code {
            let code = ended.error.as_ref().map_or("", |error| error.code.as_str());
            exit = exit_of_end(ended.status, code);
        }
    } else {
        if begun.is_none() {
            follower.read_so_far(&mut show).await?;
        }
        session.screen.clear();
    }
    written.map_err(|error| Failure::new(Exit::Fault, format!("the output could not be written: {error}")))?;
    Ok(exit)
}
