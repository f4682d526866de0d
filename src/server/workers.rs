//! The worker's three: heartbeat, reports and finish, each under the lease of its deployment.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, request::Parts},
    response::Response,
};

use super::{
    App, answer, body,
    error::{Failure, echo},
    params::{NoQuery, Query, Target},
};
use crate::{
    api::{
        DeploymentError, ErrorCode, FinishRequest, HeartbeatAnswer, LEASE_HEADER, MAX_WAIT_LIMIT_SECONDS,
        ReportsAnswer, ReportsRequest, worker::Report as WireReport,
    },
    model::{self, FailureCause, LeaseSecret, Report, SecretHash, Status, Verdict},
    queue::WorkerError,
};

/// How many reports a call may carry: a second of a busy pipeline.
const REPORTS_LIMIT: usize = 256;
/// The longest line of output that is kept whole; longer ones are split.
const LINE_LIMIT: usize = 64 << 10;
/// The longest name of a phase or an output.
const NAME_LIMIT: usize = 128;
/// The longest message, and the longest value of an output.
const TEXT_LIMIT: usize = 8 << 10;

/// The lease under which a worker calls.
pub struct UnderLease(SecretHash);

impl<S: Send + Sync> FromRequestParts<S> for UnderLease {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        lease(&parts.headers).map(UnderLease)
    }
}

fn lease(headers: &HeaderMap) -> Result<SecretHash, Failure> {
    let mut leases = headers.get_all(LEASE_HEADER).iter();
    let secret: Option<LeaseSecret> = match (leases.next(), leases.next()) {
        (Some(lease), None) => lease.to_str().ok().and_then(|lease| lease.parse().ok()),
        (_, _) => None,
    };
    let secret = secret.ok_or_else(|| {
        Failure::new(
            ErrorCode::InvalidParameter,
            "send the lease's secret, 64 hexadecimal digits, as Singletrack-Lease",
        )
    })?;
    Ok(secret.hash())
}

/// Renews a lease, and waits for a cancel for as long as the worker likes.
pub async fn heartbeat(
    State(app): State<Arc<App>>,
    target: Target,
    MaxWaitOrNone(window): MaxWaitOrNone,
    UnderLease(secret): UnderLease,
) -> Result<Response, Failure> {
    let Target { project, id } = target;
    // A lease's length never changes, so it is read before the wait and not again after it.
    let ttl = app.watch.read(&project, id).await?.deployment.lease().map_or(Duration::ZERO, |lease| lease.ttl);
    let cancel = app.queue.heartbeat(project.clone(), id, secret).await?;
    let cancel = match cancel {
        Some(cancel) => Some(cancel),
        None if window.is_zero() => None,
        None => {
            let _parked = app.metrics.park();
            let placed = app.watch.worker_called(&project, id, window).await?;
            let held = placed.deployment.lease().filter(|lease| lease.secret == secret);
            if held.is_none() || placed.deployment.is_final() {
                return Err(WorkerError::LeaseLost.into());
            }
            placed.deployment.cancel
        }
    };
    let cancel_requested = cancel.is_some();
    let (reason, superseded_by) = cancel.map_or((None, None), |cancel| (cancel.reason, cancel.superseded_by));
    let told = HeartbeatAnswer { cancel_requested, reason, superseded_by, ttl_seconds: ttl.as_secs() };
    Ok(answer::json(StatusCode::OK, &told))
}

/// Records what a worker tells.
pub async fn reports(
    State(app): State<Arc<App>>,
    target: Target,
    _: NoQuery,
    UnderLease(secret): UnderLease,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let ReportsRequest { first, reports } = body::read_json(&parts.headers, body).await?;
    if first == 0 || reports.len() > REPORTS_LIMIT {
        return Err(invalid(format!("reports are numbered from 1, and at most {REPORTS_LIMIT} come together")));
    }
    let reports = reports.into_iter().map(report).collect::<Result<Vec<_>, _>>()?;
    let Target { project, id } = target;
    let last = app.queue.report(project, id, secret, Some(first), reports).await?;
    Ok(answer::json(StatusCode::OK, &ReportsAnswer { last }))
}

/// Records what became of a deployment.
pub async fn finish(
    State(app): State<Arc<App>>,
    target: Target,
    _: NoQuery,
    UnderLease(secret): UnderLease,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let verdict = verdict(body::read_json(&parts.headers, body).await?)?;
    let Target { project, id } = target;
    let ended = app.queue.finish(project, id, secret, verdict).await?;
    Ok(answer::json(StatusCode::OK, &answer::unplaced(&ended)))
}

/// The window of a heartbeat: none unless it is asked for.
pub struct MaxWaitOrNone(Duration);

impl<S: Send + Sync> FromRequestParts<S> for MaxWaitOrNone {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let seconds =
            Query::of(&parts.uri, &["maxWaitSeconds"])?.number("maxWaitSeconds", 0..=MAX_WAIT_LIMIT_SECONDS)?;
        Ok(MaxWaitOrNone(Duration::from_secs(seconds.unwrap_or(0))))
    }
}

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidBody, detail)
}

fn report(report: WireReport) -> Result<Report, Failure> {
    let name_fits = |what: &str, name: &str| {
        if (1..=NAME_LIMIT).contains(&name.len()) && !name.chars().any(char::is_control) {
            return Ok(());
        }
        Err(invalid(format!("the name of {what} is 1 to {NAME_LIMIT} bytes without control characters")))
    };
    let text_fits = |what: &str, text: &str| {
        if text.len() <= TEXT_LIMIT {
            Ok(())
        } else {
            Err(invalid(format!("{what} is longer than {TEXT_LIMIT} bytes")))
        }
    };
    Ok(match report {
        WireReport::Phase { name, state, message } => {
            name_fits("a phase", &name)?;
            text_fits("a message", message.as_deref().unwrap_or_default())?;
            Report::Phase { name, state, message }
        }
        WireReport::Progress { progress, message } => {
            if progress.is_some_and(|progress| progress > 100) {
                return Err(invalid("progress is from 0 to 100"));
            }
            text_fits("a message", message.as_deref().unwrap_or_default())?;
            Report::Progress { progress, message }
        }
        WireReport::Output { name, value } => {
            name_fits("an output", &name)?;
            text_fits("an output", &value)?;
            Report::Output { name, value }
        }
        WireReport::Log { stream, phase, lines } => {
            name_fits("a phase", phase.as_deref().unwrap_or("none"))?;
            Report::Log { stream, phase, lines: lines.into_iter().flat_map(split).collect() }
        }
    })
}

/// A line, in pieces that are short enough; all but the last are marked.
fn split(line: String) -> Vec<String> {
    if line.len() <= LINE_LIMIT {
        return vec![line];
    }
    let mut pieces = Vec::new();
    let mut rest = line.as_str();
    while rest.len() > LINE_LIMIT {
        let (piece, tail) = rest.split_at(rest.floor_char_boundary(LINE_LIMIT));
        pieces.push(format!("{piece}…"));
        rest = tail;
    }
    pieces.push(rest.to_owned());
    pieces
}

fn verdict(finish: FinishRequest) -> Result<Verdict, Failure> {
    let FinishRequest { status, outputs, error } = finish;
    match (status, error) {
        (Status::Succeeded, None) => Ok(Verdict::Succeeded { outputs }),
        (Status::Cancelled, None) => Ok(Verdict::Stopped),
        (Status::Failed, Some(DeploymentError { code, message, phase })) => {
            const TOLD_BY_WORKERS: [FailureCause; 6] = [
                FailureCause::PhaseFailed,
                FailureCause::PhaseTimeout,
                FailureCause::VerifyFailed,
                FailureCause::TimedOut,
                FailureCause::Stalled,
                FailureCause::WorkerLost,
            ];
            let cause = TOLD_BY_WORKERS.into_iter().find(|cause| cause.code() == code).ok_or_else(|| {
                let known = TOLD_BY_WORKERS.map(model::FailureCause::code).join(", ");
                invalid(format!("error.code is one of {known}, not '{}'", echo(&code)))
            })?;
            if message.len() > TEXT_LIMIT {
                return Err(invalid(format!("error.message is longer than {TEXT_LIMIT} bytes")));
            }
            Ok(Verdict::Failed { cause, message, phase })
        }
        (Status::Failed, None) => Err(invalid("FAILED goes with an error")),
        (Status::Succeeded | Status::Cancelled, Some(_)) => Err(invalid("an error goes with FAILED only")),
        (Status::Pending | Status::Running, _) => Err(invalid("status is SUCCEEDED, FAILED or CANCELLED")),
    }
}
