//! The three calls of a worker: heartbeat, reports and finish, each under the lease of its deployment.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::Response,
};

use super::{
    App, answer, body,
    error::{ErrorAnswer, echo},
    guard::Grant,
    params::{NoQuery, PathTarget, Query},
    validity::AccessEnd,
};
use crate::{
    exec::output::lines::{clean_line, clean_text},
    model::{
        Caller, CancelRequest, DeploymentId, LeaseSecret, ProjectName, Report, SecretHash, Verdict,
        admission::Cancellation, bounds,
    },
    queue::WorkerError,
    wire::{
        self, ErrorCode, FinishRequest, HeartbeatAnswer, LEASE_HEADER, MAX_WAIT_LIMIT_SECONDS, ReportsAnswer,
        ReportsRequest,
    },
};

/// The lease under which a worker calls.
pub struct UnderLease(SecretHash);

impl<S: Send + Sync> FromRequestParts<S> for UnderLease {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorAnswer> {
        lease(&parts.headers).map(UnderLease)
    }
}

fn lease(headers: &HeaderMap) -> Result<SecretHash, ErrorAnswer> {
    let mut leases = headers.get_all(LEASE_HEADER).iter();
    let secret: Option<LeaseSecret> = match (leases.next(), leases.next()) {
        (Some(lease), None) => lease.to_str().ok().and_then(|lease| lease.parse().ok()),
        (_, _) => None,
    };
    let secret = secret.ok_or_else(|| {
        ErrorAnswer::new(
            ErrorCode::InvalidParameter,
            "send the lease's secret, 64 hexadecimal digits, as Singletrack-Lease",
        )
    })?;
    Ok(secret.hash())
}

/// Renews a lease, and waits for a cancel for as long as the worker asks for.
pub async fn heartbeat(
    State(app): State<Arc<App>>,
    target: PathTarget,
    MaxWaitOrNone(window): MaxWaitOrNone,
    UnderLease(secret): UnderLease,
    grant: Grant,
) -> Result<Response, ErrorAnswer> {
    let PathTarget { project, id } = target;
    // A lease's length never changes, so it is read before the wait and not again after it.
    let ttl = app.watch.read(&project, id).await?.deployment.lease().map_or(Duration::ZERO, |lease| lease.ttl);
    let cancel = app.queue.heartbeat(project.clone(), id, secret).await?;
    let cancel = match cancel {
        Some(cancel) => Some(cancel),
        None if window.is_zero() || grant.end() == Some(AccessEnd::Revoked) => None,
        None => {
            let _parked = app.metrics.park();
            let placed = tokio::select! {
                biased;
                placed = app.watch.worker_called(&project, id, window) => placed?,
                () = grant.ended(), if grant.end().is_none() => app.watch.read(&project, id).await?,
            };
            let held = placed.deployment.lease().filter(|lease| lease.secret == secret);
            if held.is_none() || placed.deployment.is_final() {
                return Err(WorkerError::LeaseLost.into());
            }
            placed.deployment.cancel
        }
    };
    let token_revoked = grant.end() == Some(AccessEnd::Revoked);
    let cancel = match cancel {
        None if token_revoked => Box::pin(stop_revoked(&app, &grant, project, id)).await?,
        cancel => cancel,
    };
    let cancel_requested = cancel.is_some();
    let (reason, successor) = cancel.map_or((None, None), |cancel| (cancel.reason, cancel.superseded_by));
    let (superseded_by, superseded_by_deployment) = wire::parts(successor);
    let ttl_seconds = ttl.as_secs();
    let told = HeartbeatAnswer {
        cancel_requested,
        reason,
        superseded_by,
        superseded_by_deployment,
        ttl_seconds,
        token_revoked,
    };
    Ok(answer::json(StatusCode::OK, &told))
}

/// Asks a deployment to stop, because the token of whoever runs it was revoked: it keeps its lease until it has stopped
/// safely.
async fn stop_revoked(
    app: &App,
    grant: &Grant,
    project: ProjectName,
    id: DeploymentId,
) -> Result<Option<CancelRequest>, ErrorAnswer> {
    let reason = format!("{} was revoked", echo(&grant.caller.identity.to_string()));
    tracing::warn!(%project, deployment.id = %id, %reason, "a deployment is asked to stop");
    match app.queue.cancel(&Caller::server(), project, id, Some(reason), None).await? {
        Cancellation::Requested(deployment) | Cancellation::Unchanged(deployment) => Ok(deployment.cancel),
        Cancellation::NotFound | Cancellation::Rejected(_) => Ok(None),
    }
}

/// Records a worker's reports.
pub async fn reports(
    State(app): State<Arc<App>>,
    target: PathTarget,
    _: NoQuery,
    UnderLease(secret): UnderLease,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let ReportsRequest { first, reports } = body::read_json(&parts.headers, body).await?;
    if first == 0 || reports.len() > bounds::REPORTS {
        return Err(invalid(format!("reports are numbered from 1, and at most {} come together", bounds::REPORTS)));
    }
    check_logs(&reports)?;
    let reports = reports.into_iter().map(checked).collect::<Result<Vec<_>, _>>()?;
    let PathTarget { project, id } = target;
    let last = app.queue.report(project, id, secret, Some(first), reports).await?;
    Ok(answer::json(StatusCode::OK, &ReportsAnswer { last }))
}

/// Records how a deployment ended.
pub async fn finish(
    State(app): State<Arc<App>>,
    target: PathTarget,
    _: NoQuery,
    UnderLease(secret): UnderLease,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let caller = Grant::of(&parts.extensions).caller;
    let verdict = verdict(body::read_json(&parts.headers, body).await?)?;
    let PathTarget { project, id } = target;
    let ended = app.queue.finish_by(&caller, project, id, secret, verdict).await?;
    Ok(answer::json(StatusCode::OK, &answer::unplaced(&ended)))
}

/// The window of a heartbeat: zero unless the worker asks for one.
pub struct MaxWaitOrNone(Duration);

impl<S: Send + Sync> FromRequestParts<S> for MaxWaitOrNone {
    type Rejection = ErrorAnswer;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ErrorAnswer> {
        let seconds =
            Query::of(&parts.uri, &["maxWaitSeconds"])?.number("maxWaitSeconds", 0..=MAX_WAIT_LIMIT_SECONDS)?;
        Ok(MaxWaitOrNone(Duration::from_secs(seconds.unwrap_or(0))))
    }
}

fn invalid(detail: impl Into<String>) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidBody, detail)
}

/// Checks how much output one call carries, before any of it is taken.
fn check_logs(reports: &[Report]) -> Result<(), ErrorAnswer> {
    let mut all_bytes = 0;
    for report in reports {
        let Report::Log { lines, .. } = report else { continue };
        let bytes: usize = lines.iter().map(String::len).sum();
        if lines.len() > bounds::LOG_LINES || bytes > bounds::LOG_BYTES {
            let (lines, bytes) = (bounds::LOG_LINES, bounds::LOG_BYTES);
            return Err(invalid(format!("a log report has at most {lines} lines and {bytes} bytes; send several")));
        }
        all_bytes += bytes;
    }
    if all_bytes > bounds::CALL_LOG_BYTES {
        let limit = bounds::CALL_LOG_BYTES;
        return Err(invalid(format!("the log reports of one call have at most {limit} bytes together; call again")));
    }
    Ok(())
}

/// A report as it may be recorded: names and texts within their limits, output without control characters.
fn checked(report: Report) -> Result<Report, ErrorAnswer> {
    Ok(match report {
        Report::Phase { name, state, message } => {
            Report::Phase { name: named("a phase", name)?, state, message: text_if_any("message", message)? }
        }
        Report::Progress { progress, message } => {
            if progress.is_some_and(|progress| progress > 100) {
                return Err(invalid("progress is from 0 to 100"));
            }
            Report::Progress { progress, message: text_if_any("message", message)? }
        }
        Report::Output { name, value } => {
            let (name, value) = output(name, value)?;
            Report::Output { name, value }
        }
        Report::Log { stream, phase, lines } => {
            let phase = phase.map(|phase| named("a phase", phase)).transpose()?;
            Report::Log { stream, phase, lines: lines.into_iter().flat_map(clean_line).collect() }
        }
    })
}

/// The name of a phase or an output.
fn named(what: &str, name: String) -> Result<String, ErrorAnswer> {
    if bounds::is_name(&name) {
        return Ok(name);
    }
    let limit = bounds::NAME;
    Err(invalid(format!("the name of {what} is 1 to {limit} characters without control characters")))
}

/// A text from a worker, without the characters that would move a terminal.
fn text(field: &str, text: String) -> Result<String, ErrorAnswer> {
    if bounds::fits(&text, bounds::REPORT_TEXT) {
        return Ok(clean_text(text));
    }
    Err(invalid(format!("{field} is longer than {} characters", bounds::REPORT_TEXT)))
}

fn text_if_any(field: &str, words: Option<String>) -> Result<Option<String>, ErrorAnswer> {
    words.map(|words| text(field, words)).transpose()
}

/// An output. Its value is data, so it is taken unchanged or refused.
fn output(name: String, value: String) -> Result<(String, String), ErrorAnswer> {
    let name = named("an output", name)?;
    if !bounds::fits(&value, bounds::OUTPUT_VALUE) || !bounds::is_text(&value) {
        let (name, limit) = (echo(&name), bounds::OUTPUT_VALUE);
        return Err(invalid(format!(
            "output '{name}' is longer than {limit} characters, or contains a control character that is no tab or line end"
        )));
    }
    Ok((name, value))
}

/// An end as it may be recorded: names and texts within their limits.
fn verdict(finish: FinishRequest) -> Result<Verdict, ErrorAnswer> {
    match Verdict::try_from(finish).map_err(|error| invalid(error.detail(echo)))? {
        Verdict::Succeeded { outputs } => {
            if !bounds::outputs_fit(&outputs) {
                return Err(WorkerError::OutputsFull.into());
            }
            let outputs = outputs.into_iter().map(|(name, value)| output(name, value)).collect::<Result<_, _>>()?;
            Ok(Verdict::Succeeded { outputs })
        }
        Verdict::Failed { cause, message, phase } => {
            let message = text("error.message", message)?;
            let phase = phase.map(|phase| named("a phase", phase)).transpose()?;
            Ok(Verdict::Failed { cause, message, phase })
        }
        Verdict::Stopped => Ok(Verdict::Stopped),
    }
}
