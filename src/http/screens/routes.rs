//! The paths of all screens.

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};

use super::{
    assets, deployment, deployment_forms, deployment_live, hold, log_in, log_read, notifications, project, projects,
    sign_in,
};
use crate::{
    http::{App, feed, needs::MethodNeeds},
    model::Scope,
};

const READ: &[Scope] = &[Scope::Read];
const ADMIN: &[Scope] = &[Scope::Admin];
const RELEASE: &[Scope] = &[Scope::Release];
const CANCEL: &[Scope] = &[Scope::Cancel];
const SUBMIT: &[Scope] = &[Scope::Submit];

/// A screen's path, its methods with the scopes of which a viewer needs one, and who answers.
type ScreenRoute = (&'static str, &'static [MethodNeeds], MethodRouter<Arc<App>>);

/// What everybody may load.
pub fn open_routes() -> Vec<ScreenRoute> {
    vec![(assets::PATH, &[("get", &[])], get(assets::asset))]
}

/// The screens, and what their forms do. A viewer without access is asked to sign in.
pub fn routes() -> Vec<ScreenRoute> {
    vec![
        ("/", &[("get", READ)], get(projects::all)),
        ("/sign-in", &[("get", &[]), ("post", &[])], get(sign_in::show).post(sign_in::sign_in)),
        ("/sign-in/with/{issuer}", &[("get", &[])], get(log_in::begin)),
        ("/sign-in/back", &[("get", &[])], get(log_in::back)),
        ("/sign-out", &[("post", &[])], post(sign_in::sign_out)),
        ("/live", &[("get", READ)], get(feed::rows)),
        ("/projects/{project}", &[("get", READ)], get(project::one)),
        ("/projects/{project}/live", &[("get", READ)], get(feed::screen)),
        (
            "/projects/{project}/pause",
            &[("get", ADMIN), ("post", ADMIN)],
            get(project::pause_form).post(project::pause),
        ),
        (
            "/projects/{project}/resume",
            &[("get", ADMIN), ("post", ADMIN)],
            get(project::resume_form).post(project::resume),
        ),
        (
            "/projects/{project}/release",
            &[("get", RELEASE), ("post", RELEASE)],
            get(project::release_form).post(project::release),
        ),
        (
            "/projects/{project}/rollback",
            &[("get", SUBMIT), ("post", SUBMIT)],
            get(project::rollback_form).post(project::rollback),
        ),
        ("/projects/{project}/mark", &[("get", ADMIN), ("post", ADMIN)], get(project::mark_form).post(project::mark)),
        (hold::PATH, &[("get", ADMIN), ("post", ADMIN)], get(hold::hold_form).post(hold::hold)),
        (hold::END_PATH, &[("post", ADMIN)], post(hold::let_go)),
        (notifications::PATH, &[("get", ADMIN)], get(notifications::outbox)),
        ("/notifications/{id}/retry", &[("post", ADMIN)], post(notifications::retry)),
        ("/projects/{project}/deployments/{id}", &[("get", READ)], get(deployment::one)),
        ("/projects/{project}/deployments/{id}/live", &[("get", READ)], get(deployment_live::live)),
        ("/projects/{project}/deployments/{id}/log", &[("get", READ)], get(log_read::download)),
        (
            "/projects/{project}/deployments/{id}/cancel",
            &[("get", CANCEL), ("post", CANCEL)],
            get(deployment_forms::ask_cancel).post(deployment_forms::cancel),
        ),
        (
            "/projects/{project}/deployments/{id}/redeploy",
            &[("get", SUBMIT), ("post", SUBMIT)],
            get(deployment_forms::ask_redeploy).post(deployment_forms::redeploy),
        ),
    ]
}
