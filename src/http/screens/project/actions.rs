//! What a person may do to a project: each as a form, which calls the same function as the API does.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use uuid::Uuid;

use crate::{
    http::{
        App, answer,
        error::ErrorAnswer,
        mark::set_mark,
        params::{InProject, decimal},
        pause::{pause_project, resume_project},
        projects::release_slot,
        rollback::roll_back,
        screens::{
            Viewer,
            form::{self, ActionForm, FieldChoice, FieldKind, FormField, named, show, typed},
            row::held,
            visit::{PageForm, go_to},
            words::{self, Tag, escaped, plain, since},
        },
    },
    model::{Deployment, Hold, HoldKind, Project, ProjectName, RunBy, Scope, State as Stands, Status},
    store::{ListQuery, ProjectState},
    wire::{ErrorCode, Liveness, OrderRequest, PauseRequest, ReleaseRequest, ResumeRequest, RollbackRequest},
};

/// How many successes a rollback offers.
const SUCCESSES_LIMIT: usize = 20;

/// A link to a form, beside a project's heading.
pub struct ActionLink {
    /// Its path.
    pub path: String,
    /// What it does.
    pub text: &'static str,
    /// When it is shown: the class by which the slot's state shows or hides it.
    pub class: &'static str,
}

/// The links to the forms that this viewer may send.
pub fn links(viewer: &Viewer, project: &ProjectName) -> Vec<ActionLink> {
    let all: [(&[Scope], _, _, _); 6] = [
        (&[Scope::Admin], "pause", "Pause…", "when-open"),
        (&[Scope::Admin], "pause", "Change the pause…", "when-paused"),
        (&[Scope::Admin], "resume", "Resume…", "when-paused"),
        (&[Scope::Submit, Scope::Cancel], "rollback", "Roll back…", ""),
        (&[Scope::Admin], "mark", "Set the mark…", ""),
        (&[Scope::Release], "release", "Release the slot…", "when-taken danger"),
    ];
    let may = all.into_iter().filter(|(scopes, ..)| scopes.iter().all(|scope| viewer.may(*scope)));
    may.map(|(_, form, text, class)| ActionLink { path: path_of(project, form), text, class }).collect()
}

fn path_of(project: &ProjectName, form: &str) -> String {
    format!("{}/{form}", words::project_path(project))
}

async fn read(app: &App, project: &ProjectName) -> Result<ProjectState, ErrorAnswer> {
    match app.queue.store().project(project.clone(), 1).await? {
        Some(state) => Ok(state),
        None if app.is_configured(project) => Ok(ProjectState::of(Project::new(project.clone()))),
        None => Err(ErrorAnswer::not_found()),
    }
}

/// The form that pauses.
pub async fn pause_form(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
) -> Result<Response, ErrorAnswer> {
    show_pause(&app, viewer, project, &PageForm::default(), None).await
}

/// Pauses.
pub async fn pause(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let done = async {
        let reason = typed(&form, "reason").unwrap_or_default();
        let wish = PauseRequest { reason, until: form::until(&form, app.now())?, actor: typed(&form, "actor") };
        pause_project(&app, &viewer.grant.caller, project.clone(), wish).await
    };
    match done.await {
        Ok(_) => Ok(back(&project)),
        Err(wrong) => show_pause(&app, viewer, project, &form, Some(wrong)).await,
    }
}

async fn show_pause(
    app: &App,
    viewer: Viewer,
    project: ProjectName,
    form: &PageForm,
    wrong: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let state = read(app, &project).await?;
    let name = named(&project);
    let mut says =
        vec![format!("Nothing of {name} starts while it is paused. Deploys still come in, and wait in line.")];
    says.extend(holder_goes_on(&state));
    says.extend(waiting(&state));
    let before = state.project.pause.as_ref().filter(|pause| pause.lasts(app.now()));
    let hold = Hold::of(&app.queue.policy(&project), state.project.pause.as_ref(), app.now());
    let screen = ActionForm {
        title: if before.is_some() { format!("Change the pause of {project}") } else { format!("Pause {project}") },
        warning: hold.map(|hold| format!("It is held already: {}.", held(&hold))),
        says,
        fields: vec![FormField::reason(form), FormField::until(form), FormField::actor(form)],
        action: path_of(&project, "pause"),
        button: Some(if before.is_some() { "Change the pause" } else { "Pause" }),
        is_danger: false,
        other: None,
        project: Some(project),
    };
    show(viewer, screen, wrong)
}

/// The form that resumes.
pub async fn resume_form(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
) -> Result<Response, ErrorAnswer> {
    show_resume(&app, viewer, project, &PageForm::default(), None).await
}

/// Resumes.
pub async fn resume(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let wish = ResumeRequest { reason: typed(&form, "reason") };
    let done = resume_project(&app, &viewer.grant.caller, project.clone(), wish).await;
    match done {
        Ok(_) => Ok(back(&project)),
        Err(wrong) => show_resume(&app, viewer, project, &form, Some(wrong)).await,
    }
}

async fn show_resume(
    app: &App,
    viewer: Viewer,
    project: ProjectName,
    form: &PageForm,
    wrong: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let state = read(app, &project).await?;
    let policy = app.queue.policy(&project);
    let pause = state.project.pause.as_ref().filter(|pause| pause.lasts(app.now()));
    // Only the pause, and then what is left without it.
    let own = pause.and_then(|pause| Hold::of(&crate::model::Policy::default(), Some(pause), app.now()));
    let rest = Hold::of(&policy, None, app.now());
    let name = named(&project);
    let mut says = match &own {
        Some(own) => vec![format!("{name} is {}.", held(own))],
        None => vec![format!("{name} is not paused, so there is nothing to resume.")],
    };
    match (&own, &rest, state.line.first()) {
        (_, Some(rest), _) => says.push(format!(
            "{} {}",
            if own.is_some() { "After that it is still held:" } else { "It is held:" },
            match rest.kind {
                HoldKind::Freeze => format!("{}. That ends by itself.", held(rest)),
                HoldKind::Configuration | HoldKind::Pause => format!("{}.", held(rest)),
            }
        )),
        (Some(_), None, Some(first)) if state.holder.is_none() => {
            says.push(format!("{} starts next.", deployment(first)));
        }
        (Some(_), None, _) => says.push("What comes next starts as usual.".to_owned()),
        (None, None, _) => {}
    }
    let screen = ActionForm {
        title: format!("Resume {project}"),
        says,
        warning: own.as_ref().and_then(|own| own.pin).map(|pin| {
            format!("It was rolled back to #{pin}. The next deploy replaces what the rollback brought back.")
        }),
        fields: vec![FormField::reason_if_any(form)],
        action: path_of(&project, "resume"),
        button: own.is_some().then_some("Resume"),
        is_danger: false,
        other: None,
        project: Some(project),
    };
    show(viewer, screen, wrong)
}

/// The form that releases the slot.
pub async fn release_form(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
) -> Result<Response, ErrorAnswer> {
    show_release(&app, viewer, project, &PageForm::default(), None).await
}

/// Releases the slot.
pub async fn release(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let done = async {
        let unreadable = |_| ErrorAnswer::new(ErrorCode::InvalidBody, "the form names no deployment; load it again");
        let wish = ReleaseRequest {
            reason: typed(&form, "reason").unwrap_or_default(),
            // The one that the form named, so that a newer one is never hit.
            deployment_id: Some(form.get("holder").unwrap_or_default().parse().map_err(unreadable)?),
            even_if_alive: form.get("even_if_alive") == Some("yes"),
            actor: typed(&form, "actor"),
        };
        release_slot(&app, &viewer.grant.caller, project.clone(), wish).await
    };
    match done.await {
        Ok(_) => Ok(back(&project)),
        Err(wrong) => show_release(&app, viewer, project, &form, Some(wrong)).await,
    }
}

async fn show_release(
    app: &App,
    viewer: Viewer,
    project: ProjectName,
    form: &PageForm,
    wrong: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let state = read(app, &project).await?;
    let now = app.now();
    let title = format!("Release the slot of {project}");
    let Some(holder) = state.holder.as_ref() else {
        let screen = ActionForm {
            title,
            says: vec![format!("The slot of {} is free, so there is nothing to release.", named(&project))],
            warning: None,
            fields: Vec::new(),
            action: path_of(&project, "release"),
            button: None,
            is_danger: false,
            other: None,
            project: Some(project),
        };
        return show(viewer, screen, wrong);
    };
    let liveness = answer::liveness(holder, now);
    let tag = Tag::of(holder, liveness);
    let beat = holder.last_heartbeat_at.map(|at| format!("; its last sign of life came {} ago", since(at, now)));
    let mut says = vec![
        format!("{} holds it: {}{}.", deployment(holder), escaped(&tag.word), beat.unwrap_or_default()),
        "It is recorded as released, and the first one in line starts. Its own command is told to stop, as soon as its worker is \
         heard of again."
            .to_owned(),
    ];
    says.extend(waiting(&state));
    let is_alive = matches!(holder.state, Stands::Running(_)) && liveness != Liveness::Lost;
    let mut fields = vec![FormField::reason(form)];
    if is_alive {
        let label = "Release it although its worker may still be at work";
        fields.push(FormField::new(form, "even_if_alive", label, FieldKind::Check));
    }
    fields.push(FormField::actor(form));
    fields.push(FormField::new(form, "holder", "", FieldKind::Hidden).or(holder.id.to_string()));
    let screen = ActionForm {
        title,
        says,
        warning: is_alive.then(|| {
            "Its worker is alive: its command may go on beside the next deployment. To stop it, cancel the deployment instead."
                .to_owned()
        }),
        fields,
        action: path_of(&project, "release"),
        button: Some("Release the slot"),
        is_danger: true,
        other: None,
        project: Some(project),
    };
    show(viewer, screen, wrong)
}

/// The form that rolls back.
pub async fn rollback_form(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
) -> Result<Response, ErrorAnswer> {
    show_rollback(&app, viewer, project, &PageForm::default(), None).await
}

/// Rolls back.
pub async fn rollback(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let done = async {
        let invalid = |error: String| ErrorAnswer::new(ErrorCode::InvalidBody, error);
        let to = form.get("to").unwrap_or_default().parse().map_err(|error| invalid(format!("{error}")))?;
        let wish = RollbackRequest {
            to: Some(to),
            reason: typed(&form, "reason"),
            actor: typed(&form, "actor"),
            leave_open: form.get("leave_open") == Some("yes"),
            ..RollbackRequest::default()
        };
        // So that a form that is sent twice rolls back once.
        let key = form.get("key").unwrap_or_default().parse().map_err(|error| invalid(format!("{error}")))?;
        Box::pin(roll_back(&app, &viewer.grant, project.clone(), Some(key), wish)).await
    };
    match done.await {
        Ok(_) => Ok(back(&project)),
        Err(wrong) => show_rollback(&app, viewer, project, &form, Some(wrong)).await,
    }
}

async fn show_rollback(
    app: &App,
    viewer: Viewer,
    project: ProjectName,
    form: &PageForm,
    wrong: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let state = read(app, &project).await?;
    let query = ListQuery { status: Some(Status::Succeeded), before: None, limit: SUCCESSES_LIMIT };
    let successes = app.queue.store().list(project.clone(), query).await?;
    let live = state.last_success.as_ref().map(|live| live.id);
    let now = app.now();
    // Nobody but its client can run the command of a `run`.
    let of_worker = successes.iter().filter(|success| success.spec.executor == RunBy::Worker && success.number > 0);
    let choices: Vec<_> = of_worker
        .map(|success| FieldChoice {
            value: success.number.to_string(),
            text: format!(
                "{} · {}{}{}",
                words::label(success),
                words::shortened(&words::what(success), 70),
                success
                    .ended_at()
                    .map(|at| format!(" · {} ago", words::span(words::seconds_between(at, now))))
                    .unwrap_or_default(),
                if Some(success.id) == live { " · live" } else { "" }
            ),
        })
        .collect();
    let first = successes.iter().find(|success| Some(success.id) != live && success.spec.executor == RunBy::Worker);
    let first = first.map(|success| success.number.to_string()).unwrap_or_default();
    let name = named(&project);
    let mut says = Vec::new();
    if let Some(live) = &state.last_success {
        says.push(format!("{} is live.", deployment(live)));
    }
    let is_possible = !choices.is_empty();
    if is_possible {
        says.push(
            "The deployment that you choose runs again, with what it had: commit, artifact and inputs. It goes before all that \
             wait."
                .to_owned(),
        );
        says.push(format!(
            "Then {name} is paused for your reason, so that nothing replaces it, until somebody resumes it."
        ));
        says.extend(
            state
                .holder
                .as_ref()
                .map(|holder| format!("{} has the slot, and may be cancelled for it.", deployment(holder))),
        );
    } else {
        says.push(format!(
            "There is nothing to go back to: the server can only repeat deployments that it or an agent ran, and no such one \
             of {name} has succeeded. What `singletrack run` deployed is repeated by its own command."
        ));
    }
    let screen = ActionForm {
        title: format!("Roll back {project}"),
        says,
        warning: None,
        fields: vec![
            FormField::new(form, "to", "Back to", FieldKind::Choice(choices)).or(first),
            FormField::reason_if_any(form),
            FormField::new(form, "leave_open", "Do not pause the project after it", FieldKind::Check),
            FormField::actor(form),
            FormField::new(form, "key", "", FieldKind::Hidden).or(Uuid::now_v7().to_string()),
        ],
        action: path_of(&project, "rollback"),
        button: is_possible.then_some("Roll back"),
        is_danger: true,
        other: None,
        project: Some(project),
    };
    show(viewer, screen, wrong)
}

/// The form that sets the mark.
pub async fn mark_form(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
) -> Result<Response, ErrorAnswer> {
    show_mark(&app, viewer, project, &PageForm::default(), None).await
}

/// Sets the mark, or removes it.
pub async fn mark(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    InProject(project): InProject,
    form: PageForm,
) -> Result<Response, ErrorAnswer> {
    let done = async {
        let whole = |text: String| {
            let wrong = || ErrorAnswer::new(ErrorCode::InvalidBody, "the build number is a whole number, or empty");
            decimal(&text).ok_or_else(wrong)
        };
        let order = typed(&form, "order").map(whole).transpose()?;
        let wish = OrderRequest { order, reason: typed(&form, "reason"), actor: typed(&form, "actor") };
        set_mark(&app, &viewer.grant.caller, project.clone(), wish).await
    };
    match done.await {
        Ok(_) => Ok(back(&project)),
        Err(wrong) => show_mark(&app, viewer, project, &form, Some(wrong)).await,
    }
}

async fn show_mark(
    app: &App,
    viewer: Viewer,
    project: ProjectName,
    form: &PageForm,
    wrong: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let state = read(app, &project).await?;
    let before = match state.project.mark() {
        Some(mark) => format!("Now it is {}.", super::rules::mark_words(&mark)),
        None => "Now there is none.".to_owned(),
    };
    let screen = ActionForm {
        title: format!("Set the mark of {project}"),
        says: vec![
            format!(
                "No deployment of {} with a build number below the mark starts, unless it is a rollback. What runs goes on. The \
                 next start with a higher number moves the mark up.",
                named(&project)
            ),
            before,
        ],
        warning: None,
        fields: vec![
            FormField::new(form, "order", "Build number", FieldKind::Line { limit: 16 })
                .with_hint("Empty: there is no mark, and the next deployment starts whatever its number is."),
            FormField::reason_if_any(form),
            FormField::actor(form),
        ],
        action: path_of(&project, "mark"),
        button: Some("Set the mark"),
        is_danger: false,
        other: None,
        project: Some(project),
    };
    show(viewer, screen, wrong)
}

fn back(project: &ProjectName) -> Response {
    go_to(&words::project_path(project))
}

/// A deployment as a link, as HTML.
fn deployment(deployment: &Deployment) -> String {
    let (path, label, what) = (words::deployment_path(deployment), words::label(deployment), words::what(deployment));
    let what = if what.is_empty() { what } else { format!(" ({})", escaped(&what)) };
    format!("<a href=\"{}\">{}</a>{what}", escaped(&path), escaped(&plain(&label)))
}

/// What becomes of the one that has the slot when a pause begins, as HTML.
fn holder_goes_on(state: &ProjectState) -> Option<String> {
    let holder = state.holder.as_ref()?;
    Some(match &holder.state {
        Stands::Running(_) => format!("{} runs, and goes on.", deployment(holder)),
        _ => format!("{} is called up and has not started: it waits again.", deployment(holder)),
    })
}

/// How many wait, as HTML.
fn waiting(state: &ProjectState) -> Option<String> {
    let first = state.line.first()?;
    Some(match state.project.waiting_count {
        1 => format!("{} waits.", deployment(first)),
        count => format!("{count} wait, first {}.", deployment(first)),
    })
}
