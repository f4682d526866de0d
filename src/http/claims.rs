//! `POST /v1/claims`: an agent asks for work, and its call is parked until there is some.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    response::Response,
};
use tokio::time::{Instant, timeout_at};

use super::{
    App, answer, body, door,
    error::{ErrorAnswer, draining, echo},
    guard::Grant,
    params::Query,
};
use crate::{
    config::is_pipeline_name,
    model::{Caller, LeaseHolder, ProjectName, bounds},
    queue::claim::Claimed,
    store::Offers,
    wire::{self, ClaimRequest, ErrorCode},
};

/// Hands out the oldest deployment that the agent can run.
pub async fn claim(State(app): State<Arc<App>>, request: Request) -> Result<Response, ErrorAnswer> {
    let grant = Grant::of(request.extensions());
    let (caller, window, wish) = Box::pin(read(request)).await?;
    let holder = LeaseHolder::agent(&wish.worker, &wish.claim_id);
    if app.watch.is_draining() {
        // An earlier call of this claim may have taken a deployment. It is answered all the same, because the agent may
        // not have received that answer.
        return Box::pin(taken(&app, &holder, &wish)).await?.ok_or_else(draining);
    }
    let mut changes = app.queue.config().changes();
    let mut served = served(&app, &wish);
    // An agent introduces itself without capacity. Then each of its projects must be right, so that a typing mistake is
    // told. Later a project may leave the configuration, and the agent goes on with the others.
    let is_introduction = wish.capacity == 0 && window.is_zero();
    if let Some(other) = wish.projects.keys().find(|project| !served.contains_key(*project))
        && (is_introduction || served.is_empty())
    {
        // The project may have left the configuration since this claim took a deployment.
        return Box::pin(taken(&app, &holder, &wish)).await?.ok_or_else(|| not_by_agents(other));
    }
    let (ends_at, wait_end) = (Instant::now() + window, app.watch.wait_end());
    let _present = Box::pin(app.agents.arrive(&wish, window)).await?;
    let _parked = app.metrics.park();
    let mut work = app.watch.work(wish.projects.keys());
    // An earlier call of this claim may have taken a deployment already. From here on, if there is anything to take,
    // the decision itself finds what another call has taken.
    let mut answer = Box::pin(taken(&app, &holder, &wish)).await?;
    loop {
        work.mark_unchanged();
        if let Some(end) = grant.end() {
            return Err(door::ended(end));
        }
        if answer.is_none() && wish.capacity > 0 {
            answer = Box::pin(take(&app, &caller, &holder, &wish, &served)).await?;
        }
        if let Some(answer) = answer.take() {
            return Ok(answer);
        }
        let woken = tokio::select! {
            biased;
            () = wait_end.cancelled() => false,
            () = grant.ended() => true,
            woken = timeout_at(ends_at, work.changed()) => woken.is_ok(),
            _ = changes.changed() => {
                served = self::served(&app, &wish);
                true
            }
        };
        if !woken {
            // Without a window this may be a claim that is asked once more, whose first call was taking a deployment
            // while this call began.
            let nothing = || ErrorAnswer::new(ErrorCode::NothingToDo, "there is no work for this agent yet; ask again");
            return match window.is_zero() {
                true => Box::pin(taken(&app, &holder, &wish)).await?.ok_or_else(nothing),
                false => Err(nothing()),
            };
        }
    }
}

/// The answer with the deployment that an earlier call of this claim took.
async fn taken(app: &App, holder: &LeaseHolder, wish: &ClaimRequest) -> Result<Option<Response>, ErrorAnswer> {
    let taken = app.queue.claimed_by(holder).await?;
    Ok(visible(taken, wish).map(|claimed| answer::json(StatusCode::OK, &wire(claimed))))
}

/// Takes a deployment; the answer with it.
async fn take(
    app: &App,
    caller: &Caller,
    holder: &LeaseHolder,
    wish: &ClaimRequest,
    served: &Offers,
) -> Result<Option<Response>, ErrorAnswer> {
    let claimed = app.queue.claim_any(caller, holder, served).await?;
    Ok(visible(claimed, wish).map(|claimed| answer::json(StatusCode::OK, &wire(claimed))))
}

/// The claimed deployment, if the caller may see its project: an agent that uses another agent's name gets no lease.
fn visible(claimed: Option<Claimed>, wish: &ClaimRequest) -> Option<Claimed> {
    claimed.filter(|claimed| wish.projects.contains_key(&claimed.deployment.project))
}

/// Reads the agent's wishes, and drops the request.
async fn read(request: Request) -> Result<(Caller, Duration, ClaimRequest), ErrorAnswer> {
    let (parts, body) = request.into_parts();
    let window = Query::of(&parts.uri, &["maxWaitSeconds"])?.max_wait()?;
    let wish: ClaimRequest = body::read_json(&parts.headers, body).await?;
    check(&wish)?;
    let Grant { caller, projects: visible, .. } = Grant::of(&parts.extensions);
    for project in wish.projects.keys() {
        if !visible.sees(project) {
            return Err(not_by_agents(project));
        }
    }
    Ok((caller, window, wish))
}

/// Those of the agent's projects that the present configuration leaves to agents.
fn served(app: &App, wish: &ClaimRequest) -> Offers {
    let config = app.config();
    let is_by_agents = |project: &ProjectName| config.projects.get(project).is_some_and(|it| it.agents.is_some());
    let served = wish.projects.iter().filter(|(project, _)| is_by_agents(project));
    served.map(|(project, pipelines)| (project.clone(), pipelines.clone())).collect()
}

/// The same words for a project that does not exist, that agents do not run, or that the caller may not see.
fn not_by_agents(project: &ProjectName) -> ErrorAnswer {
    ErrorAnswer::new(
        ErrorCode::NotFound,
        format!(
            "project '{project}' is not run by agents on this server (run_by = \"agents\"), or this token may not see it"
        ),
    )
}

fn check(wish: &ClaimRequest) -> Result<(), ErrorAnswer> {
    let invalid = |why: String| ErrorAnswer::new(ErrorCode::InvalidBody, why);
    for (name, text, limit) in
        [("worker", &wish.worker, bounds::AGENT_NAME), ("claimId", &wish.claim_id, bounds::CLAIM_ID)]
    {
        if text.is_empty() || text.len() > limit || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid(format!("{name} is 1 to {limit} visible ASCII characters, not '{}'", echo(text))));
        }
    }
    if wish.projects.is_empty() || wish.projects.len() > bounds::AGENT_PROJECTS {
        return Err(invalid(format!("projects names 1 to {} projects", bounds::AGENT_PROJECTS)));
    }
    if wish.projects.values().map(Vec::len).sum::<usize>() > bounds::AGENT_PIPELINES_IN_ALL {
        return Err(invalid(format!("projects names at most {} pipelines in all", bounds::AGENT_PIPELINES_IN_ALL)));
    }
    for (project, pipelines) in &wish.projects {
        if pipelines.is_empty() || pipelines.len() > bounds::AGENT_PIPELINES {
            return Err(invalid(format!("projects.{project} names 1 to {} pipelines", bounds::AGENT_PIPELINES)));
        }
        if let Some(name) = pipelines.iter().find(|name| !is_pipeline_name(name)) {
            return Err(invalid(format!("projects.{project}: '{}' is not a valid pipeline name", echo(name))));
        }
    }
    Ok(())
}

fn wire(claimed: Claimed) -> wire::Claimed {
    let Claimed { deployment, secret, secret_inputs } = claimed;
    let (fencing_token, ttl) = deployment.lease().map(|lease| (lease.fencing_token, lease.ttl)).unwrap_or_default();
    wire::Claimed {
        lease: wire::Lease { secret: secret.reveal(), fencing_token, ttl_seconds: ttl.as_secs() },
        secret_inputs: secret_inputs.keys().cloned().collect(),
        inputs: deployment.spec.inputs.clone().into_iter().chain(secret_inputs).collect(),
        artifact: deployment.spec.artifact.clone().map(|digest| wire::ArtifactRef { sha256: digest.into() }),
        deployment: answer::unplaced(&deployment),
    }
}
