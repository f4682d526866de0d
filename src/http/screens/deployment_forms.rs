//! What people may do to one deployment: forms that say what will happen, and ask. They do it through the same functions as
//! the API's calls.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};

use super::{
    Frame, Viewer, html,
    visit::{PageForm, go_to},
    words::{self, Tag, escaped, plain},
};
use crate::{
    http::{
        App, cancel as api,
        error::ErrorAnswer,
        params::{PathTarget, Query},
        submit,
    },
    model::{Deployment, DeploymentId, Hold, RunBy, State as DeploymentState, bounds},
    wire::{ErrorCode, Liveness, OnConflict, SubmitRequest},
};

/// How the fields begin that hold secret inputs.
const SECRET_FIELD: &str = "secret.";

#[derive(Template)]
#[template(path = "deployment_cancel.html")]
struct CancelForm {
    frame: Frame,
    project: String,
    name: String,
    path: String,
    label: String,
    what: String,
    tag: Tag,
    will: String,
    is_final: bool,
    reason_limit: usize,
}

#[derive(Template)]
#[template(path = "deployment_redeploy.html")]
struct RedeployForm {
    frame: Frame,
    project: String,
    name: String,
    path: String,
    label: String,
    what: String,
    pipeline: String,
    inputs: Vec<String>,
    secrets: Vec<String>,
    artifact: Option<String>,
    will: Vec<String>,
    /// The mark, if the build is older than it.
    newer: Option<u64>,
    key: String,
}

/// A deployment's name in the path above a form.
fn name(deployment: &Deployment) -> String {
    match deployment.number {
        0 => deployment.id.to_string(),
        number => format!("#{number}"),
    }
}

/// Asks whether to cancel.
pub async fn ask_cancel(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    target: PathTarget,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let deployment = app.watch.read(&target.project, target.id).await?.deployment;
    let will = match &deployment.state {
        DeploymentState::Waiting(_) => "It leaves the line, and never starts.",
        DeploymentState::Reserved | DeploymentState::Ready => "It never starts, and the next one in line has the slot.",
        DeploymentState::Running(_) => {
            "Its worker is asked to stop. A phase that is protected goes on to its end first. What was done is rolled back where \
             the pipeline says how; then the next one in line has the slot."
        }
        DeploymentState::Finished { .. } => "It has ended, so there is nothing to cancel.",
    };
    let screen = CancelForm {
        project: target.project.to_string(),
        name: name(&deployment),
        path: words::deployment_path(&deployment),
        label: words::label(&deployment),
        what: words::what(&deployment),
        tag: Tag::of(&deployment, Liveness::Alive),
        will: will.to_owned(),
        is_final: deployment.is_final(),
        reason_limit: bounds::REASON,
        frame: Frame::still(viewer),
    };
    html(StatusCode::OK, &screen)
}

/// Cancels.
pub async fn cancel(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    target: PathTarget,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let reason = form.get("reason").map(str::trim).filter(|reason| !reason.is_empty()).map(str::to_owned);
    let wish = api::CancelWish { reason, ..api::CancelWish::default() };
    let (_, deployment) = api::ask(&app, &viewer.grant.caller, target, wish).await?;
    Ok(go_to(&words::deployment_path(&deployment)))
}

/// Asks whether to deploy the same again.
pub async fn ask_redeploy(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    target: PathTarget,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let deployment = app.watch.read(&target.project, target.id).await?.deployment;
    require_repeatable(&deployment)?;
    let spec = &deployment.spec;
    let state = app.queue.store().project(target.project.clone(), 0).await?;
    let mark = state.as_ref().and_then(|state| state.project.mark_order());
    let hold = state.as_ref().and_then(|state| {
        let policy = app.queue.policy(&target.project);
        Hold::of(&policy, state.project.pause.as_ref(), app.now())
    });
    let mut will = Vec::new();
    will.push(match state.as_ref().and_then(|state| state.holder.as_ref().map(|holder| (holder, state))) {
        None if hold.is_none() => "The slot is free, so it starts at once.".to_owned(),
        None => String::new(),
        Some((holder, state)) => {
            let waiting = match state.project.waiting_count {
                0 => String::new(),
                1 => ", and 1 waits in line".to_owned(),
                count => format!(", and {count} wait in line"),
            };
            let label = escaped(&words::label(holder));
            format!("{label} has the slot{waiting}: it is put at the end of the line, and starts when its turn comes.")
        }
    });
    will.extend(hold.map(|hold| format!("The project is {}: it waits until that ends.", super::row::held(&hold))));
    will.retain(|text| !text.is_empty());
    let screen = RedeployForm {
        project: target.project.to_string(),
        name: name(&deployment),
        path: words::deployment_path(&deployment),
        label: words::label(&deployment),
        what: words::what(&deployment),
        pipeline: plain(&spec.pipeline),
        inputs: spec.inputs.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect(),
        secrets: spec.secret_inputs.keys().cloned().collect(),
        artifact: spec.artifact.as_ref().map(ToString::to_string),
        will,
        newer: mark.filter(|mark| spec.order.is_some_and(|order| order < *mark)),
        // Sent twice, the form makes one deployment.
        key: format!("page-{}", DeploymentId::generate()),
        frame: Frame::still(viewer),
    };
    html(StatusCode::OK, &screen)
}

/// Deploys the same again.
pub async fn redeploy(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    target: PathTarget,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let deployment = app.watch.read(&target.project, target.id).await?.deployment;
    require_repeatable(&deployment)?;
    let key = form.get("key").unwrap_or_default();
    let key = key.parse().map_err(|error| ErrorAnswer::new(ErrorCode::InvalidParameter, format!("{error}")))?;
    let secrets = deployment.spec.secret_inputs.keys().filter_map(|name| {
        let value = form.get(&format!("{SECRET_FIELD}{name}"))?;
        Some((name.clone(), value.to_owned()))
    });
    let wish = SubmitRequest {
        retry_of: Some(deployment.id.into()),
        inputs: secrets.collect(),
        on_conflict: OnConflict::Queue,
        rollback: form.get("rollback") == Some("yes"),
        actor: viewer.signed_in.clone(),
        ..SubmitRequest::default()
    };
    let made = submit::submit_queued(&app, &viewer.grant, target.project, key, &wish).await?;
    Ok(go_to(&words::deployment_path(&made.deployment)))
}

/// Fails for one whose command only its client knows.
fn require_repeatable(deployment: &Deployment) -> Result<(), ErrorAnswer> {
    match deployment.spec.executor {
        RunBy::Worker => Ok(()),
        RunBy::Submitter => Err(ErrorAnswer::new(
            ErrorCode::InvalidBody,
            "its command was run by its client (`singletrack run`): run that command again",
        )),
    }
}
