//! The paths of all screens.

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};

use super::{assets, log_in, project, projects, sign_in};
use crate::{
    http::{App, feed, needs::MethodNeeds},
    model::Scope,
};

const READ: &[Scope] = &[Scope::Read];

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
    ]
}
