//! `completion` and `turn`: long-polls that are parked until their condition is true.
//!
//! A parked poll costs the memory of its whole future for as long as it waits. So the large futures before and after the
//! wait are boxed.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, response::Response};
use tokio::time::{Instant, timeout};

use super::{
    App, answer,
    connection::Standby,
    error::ErrorAnswer,
    line::{LOOK_LIMIT, StandingInLine},
    params::{MaxWait, PathTarget},
};
use crate::{
    model::{DeploymentId, ProjectName},
    queue::Queue,
    store::Placed,
    watch::Waited,
    wire::ErrorCode,
};

/// How often within the attendance limit a parked poll records again that its client is there.
const ATTENDED_AGAIN: u32 = 3;

/// Waits for the deployment's end.
pub async fn completion(
    State(app): State<Arc<App>>,
    target: PathTarget,
    MaxWait(window): MaxWait,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    standby.begin();
    let _parked = app.metrics.park();
    match app.watch.completion(&target.project, target.id, window).await? {
        // Ten thousand clients that waited together share the same bytes.
        Waited::Reached(seen) => answer::seen(&seen),
        Waited::NotYet(placed) => {
            let told = Box::pin(app.told(&placed)).await?;
            Err(ErrorAnswer::new(ErrorCode::StillRunning, "the deployment is not final yet; ask again")
                .with("deployment", told))
        }
    }
}

/// Waits for the ticket's turn, and keeps its place meanwhile.
pub async fn turn(
    State(app): State<Arc<App>>,
    target: PathTarget,
    MaxWait(window): MaxWait,
    standby: Standby,
) -> Result<Response, ErrorAnswer> {
    standby.begin();
    let PathTarget { project, id } = target;
    // Taken before the store is written to, so that a drain that begins meanwhile ends this call, too.
    let wait_end = app.watch.wait_end().clone();
    let waits = Box::pin(app.watch.read(&project, id)).await?.deployment.is_waiting();
    let _parked = app.metrics.park();
    // Made before the store records the window: from then on it must be told of a hang-up, even during that write.
    let attendance = Attendance(waits.then(|| (app.queue.clone(), project.clone(), id)));
    if waits {
        Box::pin(app.queue.attend(project.clone(), id, window)).await?;
    }
    let waited = {
        let ends = Instant::now() + window;
        let mut turn = std::pin::pin!(app.watch.turn(&project, id, window, &wait_end));
        loop {
            match timeout(app.queue.limits().attendance / ATTENDED_AGAIN, &mut turn).await {
                Ok(waited) => break waited?,
                // Another poll of this ticket, at any server, may have recorded a shorter window meanwhile, or its
                // hang-up.
                Err(_) if waits => {
                    let left = ends.saturating_duration_since(Instant::now());
                    if let Err(error) = Box::pin(app.queue.attend(project.clone(), id, left)).await {
                        tracing::debug!(deployment.id = %id, %error, "a parked poll was not noted again");
                    }
                }
                Err(_) => {}
            }
        }
    };
    attendance.end();
    match waited {
        Waited::Reached(seen) => answer::seen(&seen),
        Waited::NotYet(placed) => Err(Box::pin(still_waiting(&app, project, &placed)).await?),
    }
}

/// The answer to a poll whose turn has not come: its standing in line, and the holder of the slot.
async fn still_waiting(app: &App, project: ProjectName, placed: &Placed) -> Result<ErrorAnswer, ErrorAnswer> {
    let state = app.queue.store().project(project, LOOK_LIMIT).await?;
    let standing = match &state {
        Some(state) => app.line(state).await?.standing(placed),
        None => StandingInLine::default(),
    };
    let failure = ErrorAnswer::new(ErrorCode::StillWaiting, "the deployment is still in line; ask again")
        .with("deployment", standing.in_deployment(answer::deployment(placed)));
    Ok(match &state {
        Some(state) if state.holder.is_some() || standing.hold.is_some() => {
            let url = placed.deployment.spec.url.as_deref();
            let conflict = app.conflict(state.holder.as_ref(), &state.project, url).await?;
            failure.with_all(standing.in_conflict(conflict, placed))
        }
        // The slot is being handed on right now.
        Some(_) | None => failure,
    })
}

/// A parked poll of `turn`. If its client hangs up, its silence counts from the hang-up, not from the poll's planned
/// end.
struct Attendance(Option<(Queue, ProjectName, DeploymentId)>);

impl Attendance {
    /// The poll ended by itself, so the silence counts from now anyway.
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        let Some((queue, project, id)) = self.0.take() else { return };
        tokio::spawn(async move {
            if let Err(error) = queue.attend(project, id, Duration::ZERO).await {
                tracing::debug!(deployment.id = %id, %error, "a hang-up was not noted");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How large the future is that these make.
    fn size<A, B, C, D, F>(_: impl Fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_parked_poll_keeps_little_of_what_comes_before_and_after_its_wait() {
        for (poll, bytes) in [
            ("completion", size(completion)),
            ("turn", size(turn)),
            ("events", size(crate::http::events::events)),
            ("claim", size(|app, request, (), ()| crate::http::claims::claim(app, request))),
        ] {
            assert!(bytes <= 2_560, "{poll} keeps {bytes} bytes");
        }
    }
}
