//! What is live: the deployment that succeeded last.

use askama::Template;
use jiff::Timestamp;

use crate::{
    http::{
        error::ErrorAnswer,
        screens::{
            rendered,
            words::{self, moment, plain, since},
        },
    },
    model::Deployment,
    store::ProjectState,
};

/// How many inputs and how many outputs are shown. All of them stand on the deployment's screen.
const PAIRS_LIMIT: usize = 8;

#[derive(Template)]
#[template(path = "project_live.html")]
struct LiveView {
    live: Option<CurrentView>,
}

struct CurrentView {
    path: String,
    label: String,
    at: String,
    since: String,
    source: String,
    message: String,
    artifact: Option<String>,
    inputs: Vec<Pair>,
    more_inputs: usize,
    outputs: Vec<Pair>,
    more_outputs: usize,
    worker: String,
}

struct Pair {
    name: String,
    value: String,
    link: Option<String>,
}

/// What is live, as HTML.
///
/// # Errors
/// It cannot be rendered; that is a fault of ours.
pub fn html(state: &ProjectState, now: Timestamp) -> Result<String, ErrorAnswer> {
    rendered(&LiveView { live: state.last_success.as_ref().map(|live| view(live, now)) })
}

fn view(live: &Deployment, now: Timestamp) -> CurrentView {
    let at = live.ended_at().unwrap_or(live.created_at);
    let spec = &live.spec;
    let secret =
        spec.secret_inputs.keys().map(|name| Pair { name: plain(name), value: "secret".to_owned(), link: None });
    let inputs: Vec<_> = spec.inputs.iter().map(|(name, value)| pair(name, value)).chain(secret).collect();
    CurrentView {
        path: words::deployment_path(live),
        label: words::label(live),
        at: moment(at),
        since: since(at, now),
        source: words::source(live),
        message: spec.message.as_deref().map(plain).unwrap_or_default(),
        artifact: spec.artifact.as_ref().map(ToString::to_string),
        more_inputs: inputs.len().saturating_sub(PAIRS_LIMIT),
        inputs: inputs.into_iter().take(PAIRS_LIMIT).collect(),
        more_outputs: live.outputs.len().saturating_sub(PAIRS_LIMIT),
        outputs: live.outputs.iter().map(|(name, value)| pair(name, value)).take(PAIRS_LIMIT).collect(),
        worker: live.lease().map(|lease| plain(lease.holder.worker_name())).unwrap_or_default(),
    }
}

fn pair(name: &str, value: &str) -> Pair {
    // A link that is cut would lead elsewhere.
    Pair { name: plain(name), value: plain(value), link: words::link(value) }
}
