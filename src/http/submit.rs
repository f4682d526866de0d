//! `POST …/deployments`: takes the slot, or a place in line, or answers with the holder. See decision 0008.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{Request, State as Shared},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use sha2::{Digest as _, Sha256};

use super::{
    App, answer, artifacts, body,
    error::{ErrorAnswer, echo},
    guard::{Grant, VisibleProjects},
    line::{LOOK_LIMIT, StandingInLine},
    params::{InProject, Query, idempotency_key},
    plan,
};
use crate::{
    config::WithoutAgent,
    model::{
        Caller, Deployment, DeploymentId, Digest, Hold, IdempotencyKey, InvalidDigest, LeaseHolder, Mention, Project,
        ProjectName, RunBy, Scope, Spec, State,
        admission::{self, Admission, ClaimTerms, Rejection, Submission},
        bounds,
    },
    queue::SubmitOutcome,
    store::{Placed, ProjectState},
    wire::{self, Accepted, Conflict, ErrorCode, OnConflict, REPLAYED_HEADER, SubmitRequest, Takes},
};

/// A body larger than this is read only after the slot was looked at, and is not decided upon if the slot is held.
const EARLY_CHECK_LIMIT: u64 = 64 << 10;
/// How long a client may ask to wait in line.
const DEADLINE_LIMIT_SECONDS: u64 = 24 * 60 * 60;
/// How long a client may ask its lease to last.
const LEASE_SECONDS: RangeInclusive<u64> = 2..=3600;

/// Decides a submit.
pub async fn submit(
    Shared(app): Shared<Arc<App>>,
    InProject(project): InProject,
    request: Request,
) -> Result<Response, ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let grant = Grant::of(&parts.extensions);
    let query = Query::of(&parts.uri, &["dryRun", "cancelInProgress", "artifactFollows"])?;
    let dry_run = query.flag("dryRun")?;
    let asked = plan::DryRunFlags { cancels: query.flag("cancelInProgress")?, uploads: query.flag("artifactFollows")? };
    if !dry_run && (asked.cancels || asked.uploads) {
        return Err(ErrorAnswer::new(
            ErrorCode::InvalidParameter,
            "cancelInProgress and artifactFollows go with dryRun=true only; to cancel the holder, POST to its cancel route",
        ));
    }
    let key = idempotency_key(&parts.headers)?;
    let may_be_held = key.is_none() && !dry_run && is_large(&parts.headers);
    let held = if may_be_held { early_conflict(&app, &project).await? } else { None };
    // Read the body anyway: otherwise a client that is still sending gets a reset instead of the answer, and only the
    // body says `onConflict: queue`, for which a held slot is no conflict.
    let wish = match (read_wish(&parts.headers, body).await, held) {
        (Ok(wish), Some(_)) if wish.on_conflict == OnConflict::Queue || passes(&wish) => wish,
        (_, Some(conflict)) => {
            if conflict.code() == ErrorCode::DeploymentInProgress {
                app.metrics.count_conflict(&project);
            }
            return Err(conflict);
        }
        (wish, None) => wish?,
    };
    if passes(&wish) {
        grant.require(&[Scope::Admin])?;
    }
    let Grant { caller, projects: visible, .. } = grant;
    let key = key.map(|key| app.recorded_key(&project, (key, fingerprint(&wish)), &wish.inputs));
    match (prepare(&app, &project, &visible, &wish, key.clone(), dry_run).await, key) {
        (Ok(mut submission), _) if dry_run => {
            // A draining server plans all the same, because another server would take the submit itself.
            submission.refusal = match without_artifact(&app, &submission).await?.filter(|_| !asked.uploads) {
                Some(missing) => Some(missing),
                None => without_agent(&app, &submission).await?,
            };
            plan::plan(&app, submission, asked).await
        }
        (Ok(mut submission), _) => {
            submission.refusal = refusal(&app, &submission).await?;
            decide(&app, &caller, submission, wish.resume, None).await
        }
        // The key comes first: a deployment that was granted earlier is answered, even if the same submit would be
        // refused now.
        (Err(failure), Some(key)) if !dry_run => {
            decide(&app, &caller, repeated(&app, project, &wish, key), false, Some(failure)).await
        }
        (Err(failure), _) => Err(failure),
    }
}

/// Submits a deployment that waits in line without a client, under a key: as a form of the page does.
///
/// # Errors
/// It is refused.
pub(super) async fn submit_queued(
    app: &App,
    grant: &Grant,
    project: ProjectName,
    key: IdempotencyKey,
    wish: &SubmitRequest,
) -> Result<Placed, ErrorAnswer> {
    if passes(wish) {
        grant.require(&[Scope::Admin])?;
    }
    let key = app.recorded_key(&project, (key, fingerprint(wish)), &wish.inputs);
    let mut submission = prepare(app, &project, &grant.projects, wish, Some(key), false).await?;
    submission.refusal = refusal(app, &submission).await?;
    let SubmitOutcome { admission, own, .. } = app.queue.submit(&grant.caller, submission).await?;
    match (admission, own) {
        (Admission::Accepted(_) | Admission::Replayed(_), Some(own)) => Ok(own),
        (Admission::Rejected(rejection), _) => Err(rejection.into()),
        (Admission::Accepted(_) | Admission::Replayed(_) | Admission::Conflict { .. }, _) => {
            Err(ErrorAnswer::new(ErrorCode::Internal, "the deployment that was made cannot be found"))
        }
    }
}

/// Whether no hold of the project holds it.
fn passes(wish: &SubmitRequest) -> bool {
    wish.override_pause || wish.resume
}

/// The submission, if it can be granted.
async fn prepare(
    app: &App,
    project: &ProjectName,
    visible: &VisibleProjects,
    wish: &SubmitRequest,
    key: Option<(IdempotencyKey, [u8; 32])>,
    dry_run: bool,
) -> Result<Submission, ErrorAnswer> {
    // A plan keeps no place, so it needs no key to find the place again.
    check(wish, key.is_some() || dry_run)?;
    app.require_known(project, |name| visible.sees(name))?;
    let artifact = wish.artifact.as_ref().map(|artifact| artifact.sha256.parse()).transpose();
    let artifact = artifact.map_err(|error: InvalidDigest| invalid(error.to_string()))?;
    let former = former(app, project, wish).await?;
    submission(app, project.clone(), wish.clone(), artifact, key, former).await
}

/// A submission that only finds the deployment made under its key, and makes none.
pub(super) fn repeated(
    app: &App,
    project: ProjectName,
    wish: &SubmitRequest,
    key: (IdempotencyKey, [u8; 32]),
) -> Submission {
    Submission {
        id: DeploymentId::generate(),
        project,
        spec: Spec { url: wish.url.clone(), ..Spec::default() },
        key: Some(key),
        on_conflict: admission::OnConflict::Refuse,
        refusal: Some(Rejection::Unmade),
        sealed: None,
        claim: claim_terms(app, wish),
    }
}

/// A digest of the request. The fields are always in the same order, so equal requests have equal digests.
fn fingerprint(wish: &SubmitRequest) -> [u8; 32] {
    Sha256::digest(serde_json::to_vec(wish).unwrap_or_default()).into()
}

fn claim_terms(app: &App, wish: &SubmitRequest) -> Option<ClaimTerms> {
    wish.claim.then(|| ClaimTerms {
        pepper: app.queue.store().pepper(),
        ttl: wish.lease_seconds.map_or(app.queue.limits().lease, Duration::from_secs),
        holder: LeaseHolder::worker(
            wish.actor.as_ref().map_or("client".to_owned(), |actor| format!("{actor}'s client")),
        ),
    })
}

/// Why the server takes no new deployment now. A deployment that was made under the key earlier is served all the same:
/// a ticket whose turn comes must not lose the slot because this server drains.
pub(super) async fn refusal(app: &App, submission: &Submission) -> Result<Option<Rejection>, ErrorAnswer> {
    if app.watch.is_draining() {
        return Ok(Some(Rejection::Draining));
    }
    match without_artifact(app, submission).await? {
        Some(missing) => Ok(Some(missing)),
        None => without_agent(app, submission).await,
    }
}

/// Why no deployment can be made if the submit names an artifact that is not there. A deployment that was made under
/// the key earlier is answered all the same, even if retention has removed the artifact since.
async fn without_artifact(app: &App, submission: &Submission) -> Result<Option<Rejection>, ErrorAnswer> {
    let Some(digest) = &submission.spec.artifact else { return Ok(None) };
    let is_there = artifacts::is_there(app, digest).await?;
    Ok((!is_there).then(|| Rejection::ArtifactMissing { digest: digest.clone() }))
}

/// Why no deployment can be made now, if its project refuses at once when no agent is there.
async fn without_agent(app: &App, submission: &Submission) -> Result<Option<Rejection>, ErrorAnswer> {
    let Submission { project, spec, .. } = submission;
    let is_strict = app.by_agents(project).is_some_and(|by_agents| by_agents.without_agent == WithoutAgent::Refuse);
    if spec.executor == RunBy::Submitter || !is_strict {
        return Ok(None);
    }
    let known = app.agents.for_pipeline(project, &spec.pipeline).await?;
    if known.can_run(&spec.pipeline) {
        return Ok(None);
    }
    Ok(Some(Rejection::NoAgent { pipeline: echo(&spec.pipeline), known: known.in_words() }))
}

async fn read_wish(headers: &HeaderMap, body: Body) -> Result<SubmitRequest, ErrorAnswer> {
    let bytes = body::read(headers, body).await?;
    if bytes.is_empty() {
        return Ok(SubmitRequest::default());
    }
    body::require_json(headers)?;
    body::parse(&bytes)
}

/// Decides the submission. If no new deployment can be made, `otherwise` says why.
pub(super) async fn decide(
    app: &App,
    caller: &Caller,
    submission: Submission,
    resumes: bool,
    otherwise: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let url = submission.spec.url.clone();
    let submitted = if resumes {
        app.queue.submit_and_resume(caller, submission).await?
    } else {
        app.queue.submit(caller, submission).await?
    };
    let SubmitOutcome { admission, own, overtaker, hold, project } = submitted;
    if matches!(&admission, Admission::Conflict { blocker: Some(_), .. }) {
        app.metrics.count_conflict(&project.name);
    }
    match (admission, own) {
        (Admission::Accepted(_), Some(own)) => accepted(app, &own, overtaker, &project, false).await,
        (Admission::Replayed(_), Some(own)) => accepted(app, &own, overtaker, &project, true).await,
        (Admission::Conflict { blocker, .. }, own) => {
            let blocker = blocker.map(|blocker| *blocker);
            let conflict = app.conflict(blocker.as_ref(), &project, url.as_deref()).await?;
            let failure = match &blocker {
                Some(blocker) => in_progress(blocker),
                None => held(hold.as_ref()),
            };
            let Some(own) = own else { return Err(failure.with_all(conflict)) };
            let line = match own.position {
                // The first in line waits only for the holder.
                0 | 1 => Vec::new(),
                _ => {
                    let state = app.queue.store().project(project.name.clone(), LOOK_LIMIT).await?;
                    state.map(|state| state.line).unwrap_or_default()
                }
            };
            let conflict = Conflict { takes: app.takes(&project, &own.deployment.spec), ..conflict };
            let state = ProjectState { holder: blocker, line, ..ProjectState::of(project) };
            let standing = StandingInLine { overtaker, ..app.line(&state).await?.standing(&own) };
            Err(failure.with_all(standing.in_conflict(conflict, &own)))
        }
        (Admission::Rejected(rejection @ (Rejection::DeadlinePassed | Rejection::Outdated { .. })), _) => {
            Err(rejection.into())
        }
        (Admission::Rejected(rejection), _) => Err(otherwise.unwrap_or_else(|| rejection.into())),
        (Admission::Accepted(_) | Admission::Replayed(_), None) => {
            Err(ErrorAnswer::new(ErrorCode::Internal, "the deployment that was made cannot be found"))
        }
    }
}

pub(super) async fn accepted(
    app: &App,
    own: &Placed,
    overtaker: Option<Mention>,
    project: &Project,
    replayed: bool,
) -> Result<Response, ErrorAnswer> {
    let standing = StandingInLine { overtaker, ..app.standing(own).await? };
    let told = standing.in_deployment(answer::deployment(own));
    let deployment = app.with_absence(&own.deployment, told).await?;
    // The lease for a client that runs the deployment itself. It is answered again to the same key.
    let lease = match &own.deployment.state {
        State::Running(lease) if own.deployment.spec.executor == RunBy::Submitter => {
            app.queue.lease_secret(&own.deployment).map(|secret| answer::lease(lease, &secret))
        }
        State::Running(_) | State::Waiting(_) | State::Reserved | State::Ready | State::Finished { .. } => None,
    };
    let takes = match own.deployment.is_final() {
        true => Takes::default(),
        false => app.takes(project, &own.deployment.spec),
    };
    let accepted = Accepted { deployment, lease, takes };
    let mut response = answer::json(StatusCode::ACCEPTED, &accepted);
    let deployment = &accepted.deployment;
    let location = format!("/v1/projects/{}/deployments/{}", deployment.project, deployment.id);
    // Names and ids are plain ASCII, so the header takes them.
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if replayed {
        response.headers_mut().insert(REPLAYED_HEADER, HeaderValue::from_static("true"));
    }
    Ok(response)
}

fn in_progress(holder: &Deployment) -> ErrorAnswer {
    let detail = format!("{} holds the project's slot", holder.mention());
    ErrorAnswer::new(ErrorCode::DeploymentInProgress, detail)
}

/// A place in line is kept, and the slot is free, but the project is held.
fn held(hold: Option<&Hold>) -> ErrorAnswer {
    let what = hold.map_or_else(|| "held".to_owned(), ToString::to_string);
    ErrorAnswer::new(ErrorCode::ProjectPaused, format!("the project is {what}; your place in line is kept"))
}

/// Whether the body is large, or has no declared size.
fn is_large(headers: &HeaderMap) -> bool {
    match headers.get(header::CONTENT_LENGTH) {
        Some(length) => length.to_str().ok().and_then(|l| l.parse().ok()).is_none_or(|l: u64| l > EARLY_CHECK_LIMIT),
        None => headers.contains_key(header::TRANSFER_ENCODING),
    }
}

/// The conflict that a submit without a key meets now. Without a key it can keep no place in line, so its body need not
/// be read.
async fn early_conflict(app: &App, project: &ProjectName) -> Result<Option<ErrorAnswer>, ErrorAnswer> {
    let state = app.queue.store().project(project.clone(), 0).await?;
    let Some(state) = state else { return Ok(None) };
    if let Some(hold) = app.line(&state).await?.hold() {
        return Ok(Some(Rejection::Paused(Box::new(hold)).into()));
    }
    Ok(state.holder.map(|holder| {
        let blocker = answer::blocker(&holder, &state.project, app.now(), None);
        in_progress(&holder).with_all(Conflict { blocker: Some(blocker), ..Conflict::default() })
    }))
}

fn invalid(detail: impl Into<String>) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidBody, detail)
}

pub(super) fn check(wish: &SubmitRequest, place_is_found: bool) -> Result<(), ErrorAnswer> {
    if wish.on_conflict == OnConflict::Wait && !place_is_found {
        return Err(ErrorAnswer::new(
            ErrorCode::InvalidParameter,
            "onConflict: wait needs an Idempotency-Key header, by which the kept place is found again",
        ));
    }
    check_claim(wish)?;
    if let Some(seconds) = wish.deadline_seconds
        && !(1..=DEADLINE_LIMIT_SECONDS).contains(&seconds)
    {
        return Err(invalid(format!("deadlineSeconds is from 1 to {DEADLINE_LIMIT_SECONDS}, not {seconds}")));
    }
    let texts = [
        ("pipeline", &wish.pipeline, bounds::NAME),
        ("ref", &wish.ref_name, bounds::REF),
        ("commit", &wish.commit, bounds::COMMIT),
        ("message", &wish.message, bounds::MESSAGE),
        ("actor", &wish.actor, bounds::ACTOR),
        ("url", &wish.url, bounds::URL),
    ];
    for (name, text, limit) in texts {
        let Some(text) = text else { continue };
        if !bounds::fits(text, limit) {
            return Err(invalid(format!("{name} is longer than {limit} characters")));
        }
        if text.chars().any(|c| c.is_control() && !(name == "message" && matches!(c, '\n' | '\t' | '\r'))) {
            return Err(invalid(format!("{name} contains a control character")));
        }
    }
    if let Some(url) = &wish.url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        return Err(invalid("url begins with https:// or http://"));
    }
    check_inputs(wish)
}

/// A client that runs its deployment itself must claim it with the submit, because it has no other way to a lease.
fn check_claim(wish: &SubmitRequest) -> Result<(), ErrorAnswer> {
    match (wish.executor, wish.claim) {
        (RunBy::Worker, false) if wish.lease_seconds.is_none() => Ok(()),
        (RunBy::Worker, _) => Err(invalid("claim and leaseSeconds go with executor: client only")),
        (RunBy::Submitter, false) => Err(invalid("executor: client goes with claim: true")),
        (RunBy::Submitter, true) if wish.on_conflict == OnConflict::Queue => {
            Err(invalid("a claim cannot be queued: use onConflict: wait, and come back for the lease"))
        }
        (RunBy::Submitter, true) => match wish.lease_seconds {
            Some(seconds) if !LEASE_SECONDS.contains(&seconds) => Err(invalid(format!(
                "leaseSeconds is from {} to {}, not {seconds}",
                LEASE_SECONDS.start(),
                LEASE_SECONDS.end()
            ))),
            Some(_) | None => Ok(()),
        },
    }
}

fn check_inputs(wish: &SubmitRequest) -> Result<(), ErrorAnswer> {
    if wish.inputs.len() > bounds::INPUTS {
        return Err(invalid(format!("there are more than {} inputs", bounds::INPUTS)));
    }
    let mut variables = BTreeMap::new();
    for (name, value) in &wish.inputs {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if !plain || !(1..=bounds::INPUT_NAME).contains(&name.len()) {
            return Err(invalid(format!(
                "an input's name is 1 to {} letters, digits, '_', '-' or '.', not '{}'",
                bounds::INPUT_NAME,
                echo(name)
            )));
        }
        if value.contains('\0') {
            return Err(invalid(format!("input {name} contains a NUL character")));
        }
        let variable = bounds::input_variable(name);
        if let Some(other) = variables.insert(variable.clone(), name) {
            return Err(invalid(format!(
                "inputs {other} and {name} would both be the variable {variable}; give one of them another name"
            )));
        }
    }
    if bounds::size(&wish.inputs) > bounds::INPUTS_BYTES {
        return Err(invalid(format!(
            "the inputs' names and values are more than {} bytes together; upload what is larger as an artifact",
            bounds::INPUTS_BYTES
        )));
    }
    Ok(())
}

/// The fields that a submit may leave out, taken from the deployment that is run again.
#[derive(Default)]
pub(super) struct Former {
    mention: Option<Mention>,
    pipeline: Option<String>,
    spec: Spec,
}

impl Former {
    /// What this deployment was asked for.
    pub(super) fn of(deployment: Deployment) -> Self {
        let mention = Some(deployment.mention());
        let spec = deployment.spec;
        Former { mention, pipeline: Some(spec.pipeline.clone()), spec }
    }
}

async fn former(app: &App, project: &ProjectName, wish: &SubmitRequest) -> Result<Former, ErrorAnswer> {
    let Some(name) = &wish.retry_of else { return Ok(Former::default()) };
    let id = app.named(project, name).await?;
    let placed = app.queue.store().deployment(project.clone(), id).await?.ok_or_else(ErrorAnswer::not_found)?;
    if placed.deployment.spec.executor == RunBy::Submitter && wish.executor == RunBy::Worker {
        return Err(invalid("retryOf names a deployment that its client ran: run its command again"));
    }
    Ok(Former::of(placed.deployment))
}

pub(super) async fn submission(
    app: &App,
    project: ProjectName,
    wish: SubmitRequest,
    artifact: Option<Digest>,
    key: Option<(IdempotencyKey, [u8; 32])>,
    former: Former,
) -> Result<Submission, ErrorAnswer> {
    let on_conflict = match wish.on_conflict {
        OnConflict::Refuse => admission::OnConflict::Refuse,
        OnConflict::Wait => admission::OnConflict::Wait,
        OnConflict::Queue => admission::OnConflict::Queue,
    };
    let claim = claim_terms(app, &wish);
    let pipeline = wish.pipeline.or(former.pipeline).unwrap_or_else(|| match wish.executor {
        RunBy::Worker => "deploy".to_owned(),
        RunBy::Submitter => "run".to_owned(),
    });
    let (pipeline_digest, claim_within_seconds) = match (wish.executor, app.by_agents(&project)) {
        // A pipeline that a client runs itself is not configured here.
        (RunBy::Submitter, _) => (None, None),
        (RunBy::Worker, Some(by_agents)) => {
            app.require_offered(&project, &pipeline).await?;
            (None, Some(by_agents.unclaimed_timeout.as_secs().max(1)))
        }
        (RunBy::Worker, None) => (Some(app.pipeline_digest(&project, &pipeline)?), None),
    };
    let id = DeploymentId::generate();
    let again = former.mention.as_ref().map(|mention| (&former.spec, mention));
    let inputs = app.told_apart(&project, id, wish.executor, wish.inputs, again)?;
    let (retry_of, retry_of_named) = wire::parts(former.mention);
    let former = former.spec;
    let spec = Spec {
        pipeline,
        ref_name: wish.ref_name.or(former.ref_name),
        commit: wish.commit.or(former.commit),
        message: wish.message.or(former.message),
        actor: wish.actor,
        url: wish.url,
        order: wish.order.or(former.order),
        inputs: inputs.plain,
        secret_inputs: inputs.shown,
        artifact: artifact.or(former.artifact),
        executor: wish.executor,
        rollback: wish.rollback,
        override_pause: wish.override_pause || wish.resume,
        deadline_seconds: wish.deadline_seconds,
        retry_of,
        retry_of_named,
        pipeline_digest,
        claim_within_seconds,
        // The decision knows who asks.
        submitted_by: None,
    };
    let sealed = inputs.sealed;
    Ok(Submission { id, project, spec, key, on_conflict, refusal: None, claim, sealed })
}
