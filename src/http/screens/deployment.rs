//! One deployment's screen: what became of it, and its output.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};

use super::{
    Frame, Viewer,
    deployment_parts::RenderedParts,
    deployment_render,
    deployment_story::clock,
    html,
    log::LineNumber,
    log_read::{self, FIND_LIMIT, FoundLines, LogWindow, WindowPlace},
    words::{self, escaped, plain},
};
use crate::{
    http::{
        App,
        error::{ErrorAnswer, echo},
        params::{PathTarget, Query},
    },
    model::{Deployment, RunBy, Scope, bounds},
    store::AuditQuery,
    wire::ErrorCode,
};

/// How many lines of the audit log are shown.
const AUDIT_LIMIT: usize = 50;

const PARAMETERS: [&str; 6] = ["find", "from", "line", "before", "after", "times"];

#[derive(Template)]
#[template(path = "deployment.html")]
struct DeploymentScreen {
    frame: Frame,
    title: String,
    project: String,
    name: String,
    path: String,
    parts: Arc<RenderedParts>,
    actions: Vec<ScreenAction>,
    audit: Vec<(String, String)>,
    find: String,
    /// The same in a link.
    find_query: String,
    has_times: bool,
    shown: ShownLog,
}

/// A link that looks like a button.
struct ScreenAction {
    path: String,
    text: &'static str,
    /// `live` or `final`: when it is of use.
    when: &'static str,
    is_danger: bool,
}

enum ShownLog {
    Window(LogWindow, WindowPlace),
    Found(FoundLines),
}

impl ShownLog {
    /// Whether the output goes on at its end while somebody looks.
    fn is_end(&self) -> bool {
        match self {
            ShownLog::Window(window, _) => window.later.is_none(),
            ShownLog::Found(_) => false,
        }
    }

    fn is_window_at_end(&self) -> bool {
        matches!(self, ShownLog::Window(_, WindowPlace::End))
    }
}

/// One deployment.
pub async fn one(
    State(app): State<Arc<App>>,
    viewer: Viewer,
    target: PathTarget,
    uri: Uri,
) -> Result<Response, ErrorAnswer> {
    let query = Query::of(&uri, &PARAMETERS)?;
    let PathTarget { project, id } = target;
    // The stream begins at the event before the output is read.
    let deployment = app.watch.read(&project, id).await?.deployment;
    let parts = deployment_render::parts(&app, &project, id, deployment.event_count).await?;
    let find = query.get("find").unwrap_or_default().trim().to_owned();
    if !bounds::fits(&find, FIND_LIMIT) {
        return Err(invalid(format!("find is at most {FIND_LIMIT} characters long")));
    }
    let shown = if find.is_empty() {
        let place = place(&query)?;
        ShownLog::Window(log_read::window(&app, &deployment, place).await?, place)
    } else {
        let from = line(&query, "from")?.unwrap_or(LineNumber::first_of(1));
        ShownLog::Found(log_read::find(&app, &deployment, &find, from).await?)
    };
    let path = words::deployment_path(&deployment);
    let audit = if viewer.may(Scope::Admin) { audit(&app, &deployment).await? } else { Vec::new() };
    let screen = DeploymentScreen {
        title: parts.title.clone(),
        project: project.to_string(),
        name: match deployment.number {
            0 => id.to_string(),
            number => format!("#{number}"),
        },
        actions: actions(&viewer, &deployment, &path),
        audit,
        find_query: form_urlencoded::Serializer::new(String::new()).append_pair("find", &find).finish(),
        find,
        has_times: query.get("times") != Some("off"),
        shown,
        frame: match parts.is_final {
            true => Frame::still(viewer),
            false => Frame::live(viewer, format!("{path}/live?after={}", deployment.event_count)),
        },
        parts,
        path,
    };
    html(StatusCode::OK, &screen)
}

fn place(query: &Query<'_>) -> Result<WindowPlace, ErrorAnswer> {
    match (line(query, "line")?, line(query, "before")?, line(query, "after")?) {
        (None, None, None) => Ok(WindowPlace::End),
        (Some(line), None, None) => Ok(WindowPlace::Around(line)),
        (None, Some(line), None) => Ok(WindowPlace::Before(line)),
        (None, None, Some(line)) => Ok(WindowPlace::After(line)),
        _ => Err(invalid("line, before and after each say which part is shown: give one of them".to_owned())),
    }
}

fn line(query: &Query<'_>, name: &str) -> Result<Option<LineNumber>, ErrorAnswer> {
    let number = query.get(name).map(|text| {
        let why = || invalid(format!("{name} is the number of a line, such as 12 or 12.3, not '{}'", echo(text)));
        text.parse::<LineNumber>().map_err(|_| why())
    });
    number.transpose()
}

fn invalid(why: String) -> ErrorAnswer {
    ErrorAnswer::new(ErrorCode::InvalidParameter, why)
}

/// What the viewer may do.
fn actions(viewer: &Viewer, deployment: &Deployment, path: &str) -> Vec<ScreenAction> {
    let action =
        |scope, path, text, when, is_danger| viewer.may(scope).then_some(ScreenAction { path, text, when, is_danger });
    let release = format!("{}/release", words::project_path(&deployment.project));
    let can_run_again = deployment.spec.executor == RunBy::Worker;
    let again = action(Scope::Submit, format!("{path}/redeploy"), "Deploy again…", "final", false);
    let all = [
        again.filter(|_| can_run_again),
        action(Scope::Cancel, format!("{path}/cancel"), "Cancel…", "live", true),
        action(Scope::Release, release, "Release the slot…", "live", true).filter(|_| deployment.holds_slot()),
    ];
    all.into_iter().flatten().collect()
}

/// What the audit log has about it, the first line first, each with its time, as HTML.
async fn audit(app: &App, deployment: &Deployment) -> Result<Vec<(String, String)>, ErrorAnswer> {
    let query = AuditQuery {
        project: Some(deployment.project.clone()),
        deployment: Some(deployment.id),
        limit: AUDIT_LIMIT,
        ..AuditQuery::default()
    };
    let page = app.queue.store().audit().audit_page(query).await?;
    let told = page.lines.into_iter().rev().map(|line| {
        let shown = |text: &Option<String>| text.as_deref().map(|text| escaped(&plain(text)));
        let who = shown(&line.caller).unwrap_or_else(|| "unknown".to_owned());
        let from = shown(&line.address).map(|address| format!(" from {address}")).unwrap_or_default();
        let request =
            shown(&line.request).map(|id| format!(" <span class=\"faint mono\">{id}</span>")).unwrap_or_default();
        let detail =
            if line.detail.is_empty() { String::new() } else { format!(": {}", escaped(&plain(&line.detail))) };
        (clock(line.at), format!("<b>{}</b> by {who}{from}{detail}{request}", escaped(&plain(&line.action))))
    });
    Ok(told.collect())
}
