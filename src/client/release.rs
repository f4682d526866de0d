//! `release`: an operator forces the slot free.

use super::{
    connection::Patience,
    exit::{Exit, Failure},
    render::words::who_deploys,
    session::Session,
};
use crate::{
    api::{ReleaseAnswer, ReleaseRequest},
    cli::Release,
};

/// Releases.
///
/// # Errors
/// The server refuses, or there is no answer.
pub async fn run(args: &Release) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::QUESTION)?;
    let project = &args.target.project;
    // The request names its deployment: should its answer be lost, asking again must not release the next holder too.
    let holder = match args.deployment {
        Some(id) => Some(id),
        None => session.connection.project(project).await?.holder.map(|holder| holder.id),
    };
    let Some(holder) = holder else {
        session.answer(&ReleaseAnswer { released: None }, &[format!("{project}: the slot is free already")])?;
        return Ok(Exit::Done);
    };
    let body = ReleaseRequest { reason: args.reason.clone(), deployment_id: Some(holder) };
    let answer = session.connection.release(project, &body).await?;
    let line = match &answer.released {
        Some(released) => format!(
            "{project}: the slot is taken from {} ({}), which ends {}",
            who_deploys(released),
            released.id,
            released.status.as_str()
        ),
        None => format!("{project}: the slot is free already"),
    };
    session.answer(&answer, &[line])?;
    Ok(Exit::Done)
}
