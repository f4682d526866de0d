//! One button holds everything: it pauses all projects that are not paused, one after the other, and lets those go again that it
//! has paused. What was paused before stays as it is. See decision 0092.

use std::{collections::BTreeSet, sync::Arc};

use axum::{extract::State, response::Response};

use super::{
    Viewer, all_rows,
    form::{self, ActionForm, FormField, show, typed},
    rows::EverythingHeld,
    visit::{PageForm, go_to},
    words::{escaped, moment, plain},
};
use crate::{
    http::{App, error::ErrorAnswer, pause::checked},
    model::{Caller, ProjectName, reason_of_all},
    queue::pause::PauseWish,
    wire::{ErrorCode, PauseRequest},
};

/// Where everything is held, and let go again.
pub const PATH: &str = "/hold";
/// Where it is let go.
pub const END_PATH: &str = "/hold/end";
/// How many names of projects are told.
const NAMED_LIMIT: usize = 20;

/// How all projects of a viewer stand.
struct Standings {
    /// Those that the hold of everything holds.
    held: BTreeSet<ProjectName>,
    /// Who holds them, and why.
    why: Option<EverythingHeld>,
    /// Those that something else holds.
    otherwise: BTreeSet<ProjectName>,
    /// Those that are open.
    open: BTreeSet<ProjectName>,
}

async fn standings(app: &App, viewer: &Viewer) -> Result<Standings, ErrorAnswer> {
    let mut all = Standings { held: BTreeSet::new(), why: None, otherwise: BTreeSet::new(), open: BTreeSet::new() };
    for (name, row) in all_rows(app, &viewer.grant.projects).await? {
        match (&row.everything, row.is_held) {
            (Some(why), _) => {
                all.why.get_or_insert_with(|| why.clone());
                all.held.insert(name)
            }
            (None, true) => all.otherwise.insert(name),
            (None, false) => all.open.insert(name),
        };
    }
    Ok(all)
}

/// The form that holds everything, and lets it go.
pub async fn hold_form(State(app): State<Arc<App>>, viewer: Viewer) -> Result<Response, ErrorAnswer> {
    show_hold(&app, viewer, &PageForm::default(), None).await
}

/// Holds everything.
pub async fn hold(State(app): State<Arc<App>>, viewer: Viewer, form: PageForm) -> Result<Response, ErrorAnswer> {
    let done = async {
        // The reason itself must be one, too.
        let reason = crate::http::cancel::reason_text(&typed(&form, "reason").unwrap_or_default())?;
        let until = form::until(&form, app.now())?;
        let wish = PauseRequest { reason: reason_of_all(&reason), until, actor: typed(&form, "actor") };
        let wish = checked(&app, wish)?;
        let all = standings(&app, &viewer).await?;
        let names = all.open.into_iter().chain(all.otherwise).collect();
        each(&app, &viewer, names, Some(wish)).await
    };
    match done.await {
        Ok(()) => Ok(go_to(PATH)),
        Err(wrong) => show_hold(&app, viewer, &form, Some(wrong)).await,
    }
}

/// Lets go what the hold of everything holds.
pub async fn let_go(State(app): State<Arc<App>>, viewer: Viewer) -> Result<Response, ErrorAnswer> {
    let done = async {
        let all = standings(&app, &viewer).await?;
        each(&app, &viewer, all.held, None).await
    };
    match done.await {
        Ok(()) => Ok(go_to("/")),
        Err(wrong) => show_hold(&app, viewer, &PageForm::default(), Some(wrong)).await,
    }
}

/// Pauses each of these projects, or lets each go. A browser that goes away in between stops nothing.
async fn each(
    app: &Arc<App>,
    viewer: &Viewer,
    names: BTreeSet<ProjectName>,
    wish: Option<PauseWish>,
) -> Result<(), ErrorAnswer> {
    let (app, caller, count) = (app.clone(), viewer.grant.caller.clone(), names.len());
    let failures = tokio::spawn(async move {
        let mut failures = Vec::new();
        let mut done = 0;
        for name in names {
            match one(&app, &caller, name.clone(), wish.clone()).await {
                Ok(is_changed) => done += usize::from(is_changed),
                Err(error) => failures.push(format!("{name}: {}", error.detail())),
            }
        }
        let what = if wish.is_some() { "held" } else { "let go" };
        tracing::warn!(by = %caller.identity, count = done, failed = failures.len(), "somebody {what} all projects");
        failures
    });
    let failures = failures.await.map_err(|_| ErrorAnswer::new(ErrorCode::Internal, "the server has a fault"))?;
    if failures.is_empty() {
        return Ok(());
    }
    let told = failures.iter().take(NAMED_LIMIT).cloned().collect::<Vec<_>>().join("; ");
    let detail = format!("{} of {count} projects did not change: {told}", failures.len());
    Err(ErrorAnswer::new(ErrorCode::Unavailable, detail))
}

/// Whether that changed the project.
async fn one(app: &App, caller: &Caller, name: ProjectName, wish: Option<PauseWish>) -> Result<bool, ErrorAnswer> {
    Ok(match wish {
        Some(wish) => app.queue.pause_if_open(caller, name, wish).await?.before.is_none(),
        None => app.queue.resume_of_all(caller, name).await?.before.is_some(),
    })
}

async fn show_hold(
    app: &App,
    viewer: Viewer,
    form: &PageForm,
    wrong: Option<ErrorAnswer>,
) -> Result<Response, ErrorAnswer> {
    let all = standings(app, &viewer).await?;
    let projects = |count: usize| if count == 1 { "1 project".to_owned() } else { format!("{count} projects") };
    let mut says = Vec::new();
    if let Some(why) = &all.why {
        says.push(format!("<b>{} held.</b> {}", counted(all.held.len()), words_of(why)));
    }
    let open = all.open.len();
    if open > 0 {
        says.push(format!(
            "{} open. Nothing of a project starts while it is held. What runs goes on, and deploys still come in and wait in \
             line.",
            counted(open)
        ));
    }
    if open > 0 && !all.held.is_empty() {
        says.push(format!("Open: {}.", named(&all.open)));
    }
    if !all.otherwise.is_empty() {
        says.push(format!(
            "{} held by something else already: {}. A pause of its own stays as it is, and also when everything is let go; a \
             project that only a freeze window or the configuration holds is paused as well.",
            counted(all.otherwise.len()),
            named(&all.otherwise)
        ));
    }
    says.push("A project that is deployed for the first time after that is not held.".to_owned());
    let screen = ActionForm {
        title: if all.held.is_empty() { "Hold everything".to_owned() } else { "Everything is held".to_owned() },
        project: None,
        says,
        warning: None,
        fields: vec![FormField::reason(form), FormField::until(form), FormField::actor(form)],
        action: PATH.to_owned(),
        button: match (open + all.otherwise.len(), all.held.is_empty()) {
            (0, _) => None,
            (_, true) => Some("Hold everything"),
            (_, false) => Some("Hold the others, too"),
        },
        is_danger: true,
        other: (!all.held.is_empty()).then(|| (END_PATH, format!("Let {} go", projects(all.held.len())))),
    };
    show(viewer, screen, wrong)
}

fn counted(count: usize) -> String {
    if count == 1 { "1 project is".to_owned() } else { format!("{count} projects are") }
}

fn named(names: &BTreeSet<ProjectName>) -> String {
    let told: Vec<_> = names.iter().take(NAMED_LIMIT).map(|name| escaped(&plain(name.as_str()))).collect();
    let more = names.len().saturating_sub(NAMED_LIMIT);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", told.join(", "))
}

/// Who holds everything and why, as HTML.
pub fn words_of(why: &EverythingHeld) -> String {
    let since = why.since.map(|at| format!(" since {}", moment(at))).unwrap_or_default();
    let until = why.until.map(|at| format!(" until {}", moment(at))).unwrap_or_default();
    let who = why.who.as_deref().map(|who| format!("By {}", escaped(&plain(who)))).unwrap_or_default();
    format!("{who}{since}{until}: “{}”", escaped(&plain(&why.reason)))
}
