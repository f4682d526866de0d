//! `POST …/deployments`: take the slot, a place in line, or learn who holds it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use sha2::{Digest, Sha256};

use super::{
    App, answer, body,
    error::{Failure, echo},
    params::{InProject, Query, idempotency_key},
    plan,
};
use crate::{
    api::{ErrorCode, OnConflict, REPLAYED_HEADER, SubmitRequest},
    config::WithoutAgent,
    model::{
        DeploymentId, Executor, IdempotencyKey, ProjectName, Spec,
        admission::{self, Admission, Rejection, Submission},
    },
    queue::Submitted,
    store::Placed,
};

/// A body larger than this is not read before the slot was looked at.
const EARLY_CHECK_LIMIT: u64 = 64 << 10;
/// How long a client may ask to wait in line.
const DEADLINE_LIMIT_SECONDS: u64 = 24 * 60 * 60;
/// Texts about a deployment: a commit's whole message fits.
const TEXT_LIMIT: usize = 4 << 10;
/// Values for a pipeline.
const INPUTS_LIMIT: usize = 100;
/// One value for a pipeline; the kernel takes no larger one in a process's environment.
const INPUT_VALUE_LIMIT: usize = 64 << 10;

/// Decides a submit.
pub async fn submit(
    State(app): State<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let query = Query::of(&parts.uri, &["dryRun"])?;
    let dry_run = query.flag("dryRun")?;
    let key = idempotency_key(&parts.headers)?;
    if key.is_none()
        && !dry_run
        && is_large(&parts.headers)
        && let Some(conflict) = early_conflict(&app, &project).await?
    {
        body::drain(body).await;
        return Err(conflict);
    }
    let bytes = body::read(&parts.headers, body).await?;
    let wish: SubmitRequest = if bytes.is_empty() {
        SubmitRequest::default()
    } else {
        body::require_json(&parts.headers)?;
        body::parse(&bytes)?
    };
    check(&wish, key.as_ref())?;
    let mut submission = submission(&app, project, wish, key)?;
    if !dry_run {
        submission.refusal = without_agent(&app, &submission).await;
    }
    if dry_run { plan::plan(&app, submission).await } else { decide(&app, submission).await }
}

/// Why nothing can be made of it now, where its project wants to know at once that no agent is there.
async fn without_agent(app: &App, submission: &Submission) -> Option<Rejection> {
    let Submission { project, spec, .. } = submission;
    let by_agents = app.by_agents(project)?;
    if spec.executor == Executor::Client || by_agents.without_agent == WithoutAgent::Wait {
        return None;
    }
    if app.agents.is_there(project, &spec.pipeline).await {
        return None;
    }
    Some(Rejection::NoAgent { pipeline: echo(&spec.pipeline), known: app.agents.in_words(project) })
}

async fn decide(app: &App, submission: Submission) -> Result<Response, Failure> {
    let url = submission.spec.url.clone();
    let Submitted { admission, own, project } = app.queue.submit(submission).await?;
    match (admission, own) {
        (Admission::Accepted(_), Some(own)) => Ok(accepted(&own, false)),
        (Admission::Replayed(_), Some(own)) => Ok(accepted(&own, true)),
        (Admission::Conflict { blocker, .. }, own) => {
            let conflict = answer::conflict(&blocker, &project, app.now(), url.as_deref());
            let conflict = match own {
                Some(own) => answer::with_place(conflict, own.deployment.id, own.position),
                None => conflict,
            };
            Err(in_progress(blocker.id).with_all(conflict))
        }
        (Admission::Rejected(rejection), _) => Err(rejection.into()),
        (Admission::Accepted(_) | Admission::Replayed(_), None) => {
            Err(Failure::new(ErrorCode::Internal, "the deployment that was made cannot be found"))
        }
    }
}

fn accepted(own: &Placed, replayed: bool) -> Response {
    let deployment = answer::deployment(own);
    let mut response = answer::json(StatusCode::ACCEPTED, &deployment);
    let location = format!("/v1/projects/{}/deployments/{}", deployment.project, deployment.id);
    // Names and ids are plain ASCII, so the header takes them.
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if replayed {
        response.headers_mut().insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
    }
    response
}

fn in_progress(holder: DeploymentId) -> Failure {
    Failure::new(ErrorCode::DeploymentInProgress, format!("deployment {holder} holds the project's slot"))
}

/// Whether the body is large, or does not say how large it is.
fn is_large(headers: &HeaderMap) -> bool {
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|l| l.parse().ok()).is_none_or(|l: u64| l > EARLY_CHECK_LIMIT),
        None => headers.contains_key(header::TRANSFER_ENCODING),
    }
}

/// The conflict that a submit without a key meets now. Such a one can keep no place in line, so it need not be read.
async fn early_conflict(app: &App, project: &ProjectName) -> Result<Option<Failure>, Failure> {
    let state = app.queue.store().project(project.clone(), 0).await?;
    Ok(state.and_then(|state| {
        let holder = state.holder?;
        let conflict = answer::conflict(&holder, &state.project, app.now(), None);
        Some(in_progress(holder.id).with_all(conflict))
    }))
}

fn invalid(detail: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::InvalidBody, detail)
}

fn check(wish: &SubmitRequest, key: Option<&IdempotencyKey>) -> Result<(), Failure> {
    if wish.on_conflict == OnConflict::Wait && key.is_none() {
        return Err(Failure::new(
            ErrorCode::InvalidParameter,
            "onConflict: wait needs an Idempotency-Key header, by which the kept place is found again",
        ));
    }
    if wish.executor == Executor::Client || wish.claim || wish.lease_seconds.is_some() {
        return Err(invalid("executor: client, claim and leaseSeconds are not in this version yet; leave them out"));
    }
    if wish.artifact.is_some() {
        return Err(invalid("artifact is not in this version yet; leave it out"));
    }
    if let Some(seconds) = wish.deadline_seconds
        && !(1..=DEADLINE_LIMIT_SECONDS).contains(&seconds)
    {
        return Err(invalid(format!("deadlineSeconds is from 1 to {DEADLINE_LIMIT_SECONDS}, not {seconds}")));
    }
    let texts = [
        ("pipeline", &wish.pipeline),
        ("ref", &wish.ref_name),
        ("commit", &wish.commit),
        ("message", &wish.message),
        ("actor", &wish.actor),
        ("url", &wish.url),
    ];
    for (name, text) in texts {
        let Some(text) = text else { continue };
        if text.len() > TEXT_LIMIT {
            return Err(invalid(format!("{name} is longer than {TEXT_LIMIT} bytes")));
        }
        if text.chars().any(|c| c.is_control() && !(name == "message" && matches!(c, '\n' | '\t' | '\r'))) {
            return Err(invalid(format!("{name} holds a control character")));
        }
    }
    if let Some(url) = &wish.url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        return Err(invalid("url begins with https:// or http://"));
    }
    check_inputs(wish)
}

fn check_inputs(wish: &SubmitRequest) -> Result<(), Failure> {
    if wish.inputs.len() > INPUTS_LIMIT {
        return Err(invalid(format!("there are more than {INPUTS_LIMIT} inputs")));
    }
    for (name, value) in &wish.inputs {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !plain || !(1..=64).contains(&name.len()) {
            return Err(invalid(format!(
                "an input's name is 1 to 64 letters, digits, '_', '-' or '.', not '{}'",
                echo(name)
            )));
        }
        if value.len() > INPUT_VALUE_LIMIT || value.contains('\0') {
            return Err(invalid(format!("input {name} is longer than {INPUT_VALUE_LIMIT} bytes, or holds a NUL")));
        }
    }
    Ok(())
}

fn submission(
    app: &App,
    project: ProjectName,
    wish: SubmitRequest,
    key: Option<IdempotencyKey>,
) -> Result<Submission, Failure> {
    let on_conflict = match wish.on_conflict {
        OnConflict::Refuse => admission::OnConflict::Refuse,
        OnConflict::Wait => admission::OnConflict::Wait,
        OnConflict::Queue => admission::OnConflict::Queue,
    };
    // The fields stand in one order always, so equal requests have equal texts.
    let fingerprint = Sha256::digest(serde_json::to_vec(&wish).unwrap_or_default()).into();
    let pipeline = wish.pipeline.unwrap_or_else(|| "deploy".to_owned());
    let (pipeline_digest, claim_within_seconds) = match app.by_agents(&project) {
        Some(by_agents) => {
            app.require_offered(&project, &pipeline)?;
            (None, Some(by_agents.unclaimed_timeout.as_secs().max(1)))
        }
        None => (Some(app.pipeline_digest(&project, &pipeline)?), None),
    };
    let spec = Spec {
        pipeline,
        ref_name: wish.ref_name,
        commit: wish.commit,
        message: wish.message,
        actor: wish.actor,
        url: wish.url,
        order: wish.order,
        inputs: wish.inputs,
        executor: wish.executor,
        rollback: wish.rollback,
        deadline_seconds: wish.deadline_seconds,
        retry_of: None,
        pipeline_digest,
        claim_within_seconds,
    };
    let key = key.map(|key| (key, fingerprint));
    Ok(Submission { id: DeploymentId::generate(), project, spec, key, on_conflict, refusal: None })
}
