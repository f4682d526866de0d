//! `POST /v1/admin/reload`: reads the configuration again, as SIGHUP does.

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, Uri},
    response::Response,
};

use super::{App, answer, error::ErrorAnswer, guard::Grant, params::Query};
use crate::{
    config::{ConfigError, Reload, reload_in_words},
    wire::{ErrorCode, ReloadAnswer, ReloadedProjects},
};

/// Reads the configuration again.
pub async fn reload(State(app): State<Arc<App>>, grant: Grant, uri: Uri) -> Result<Response, ErrorAnswer> {
    Query::of(&uri, &[])?;
    let (config, now) = (app.queue.config().clone(), app.now());
    let reloaded = tokio::task::spawn_blocking(move || config.reload(now)).await;
    let reloaded = reloaded.map_err(|_| ErrorAnswer::new(ErrorCode::Internal, "the reload panicked; see the log"))?;
    app.queue.note(grant.caller, "reload", reload_in_words(&reloaded)).await;
    Ok(answer::json(StatusCode::OK, &told(reloaded.map_err(invalid)?)))
}

fn told(reload: Reload) -> ReloadAnswer {
    let words = |keys: Vec<&str>| keys.into_iter().map(str::to_owned).collect();
    let Reload { projects, keys, waits_for_restart } = reload;
    let projects = ReloadedProjects { added: projects.added, removed: projects.removed, changed: projects.changed };
    ReloadAnswer { projects, keys: words(keys), waits_for_restart: words(waits_for_restart) }
}

/// With the same lines as those of `check-config`.
fn invalid(error: ConfigError) -> ErrorAnswer {
    let error = error.to_string();
    let problems: Vec<_> = error.lines().filter(|line| !line.starts_with("hint: ")).collect();
    let first = problems.first().copied().unwrap_or_default();
    let more = match problems.len() {
        0 | 1 => String::new(),
        count => format!(" (and {} more)", count - 1),
    };
    let detail = format!("nothing has changed, because the configuration's file is wrong: {first}{more}");
    ErrorAnswer::new(ErrorCode::ConfigInvalid, detail).with("problems", problems)
}
