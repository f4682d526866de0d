//! `cancel`: asks for a deployment to be stopped.

use super::{
    connection::Patience,
    exit::{Exit, Failure},
    session::Session,
};
use crate::{api::CancelBody, cli::Cancel, model::Status};

/// Cancels.
///
/// # Errors
/// There is no such deployment, or no answer.
pub async fn run(args: &Cancel) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::QUESTION)?;
    let project = &args.target.project;
    let body = CancelBody { superseded_by: None, reason: args.reason.clone() };
    let (deployment, changed) = session.connection.cancel(project, args.id, &body).await?;
    let id = deployment.id;
    let line = match (deployment.status, changed) {
        (Status::Pending | Status::Running, true) => {
            format!(
                "{project}: deployment {id} is asked to stop; `singletrack logs --project {project} {id} --follow` shows how"
            )
        }
        (Status::Pending | Status::Running, false) => format!("{project}: deployment {id} was asked to stop already"),
        (Status::Cancelled, true) => format!("{project}: deployment {id} is cancelled"),
        (Status::Cancelled | Status::Succeeded | Status::Failed, _) => {
            format!("{project}: deployment {id} had ended already: {}", deployment.status.as_str())
        }
    };
    session.answer(&deployment, &[line])?;
    Ok(Exit::Done)
}
