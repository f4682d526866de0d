//! The rules of a project in words, its mark, and the agents that run it.

use askama::Template;

use crate::{
    http::{
        App,
        error::ErrorAnswer,
        screens::{
            rendered,
            words::{escaped, moment, plain, since},
        },
    },
    model::{BuildMark, LinePolicy, Policy, Preempt},
    store::ProjectState,
};

/// How many agents are shown.
const AGENTS_LIMIT: usize = 12;

#[derive(Template)]
#[template(path = "project_rules.html")]
struct RulesView {
    rules: Vec<String>,
    mark: Option<String>,
    freezes: Vec<String>,
    run_by: &'static str,
    pipelines: Vec<String>,
    agents: Vec<AgentRow>,
    more_agents: usize,
}

struct AgentRow {
    name: String,
    is_here: bool,
    seen: String,
    pipelines: String,
}

/// The rules in a sentence, for the heading.
pub fn sentence(policy: &Policy) -> String {
    let line = match policy.line {
        LinePolicy::All => "everyone is served in order",
        LinePolicy::Latest => "the newest goes first and supersedes those that wait",
    };
    let preempt = match policy.preempt {
        Preempt::Allow => "a newer deploy may cancel a running one".to_owned(),
        Preempt::Never => "a running deploy is never cancelled for a newer one".to_owned(),
        Preempt::Times { times: 1 } => {
            "a running deploy may be cancelled for a newer one once, then one must land".to_owned()
        }
        Preempt::Times { times } => {
            format!("a running deploy may be cancelled {times} times in a row, then one must land")
        }
    };
    format!("{line} · {preempt}")
}

/// Rules, mark and agents, as HTML.
///
/// # Errors
/// The store does not answer.
pub async fn html(app: &App, state: &ProjectState) -> Result<String, ErrorAnswer> {
    let (name, now) = (&state.project.name, app.now());
    let policy = app.queue.policy(name);
    let known = app.agents.of(name).await?;
    let pipelines = app.pipeline_names(name, &known);
    let agents = known.views();
    let is_by_agents = app.by_agents(name).is_some();
    let more_agents = agents.len().saturating_sub(AGENTS_LIMIT);
    let agents = agents.into_iter().take(AGENTS_LIMIT).map(|agent| AgentRow {
        name: plain(&agent.worker),
        is_here: agent.connected,
        seen: since(agent.last_seen_at, now),
        pipelines: plain(&agent.pipelines.join(", ")),
    });
    let view = RulesView {
        rules: vec![format!("at most {} may wait", policy.line_limit)],
        mark: state.project.mark().map(|mark| mark_words(&mark)),
        freezes: policy.freezes.iter().map(|freeze| plain(&freeze.to_string())).collect(),
        run_by: match (is_by_agents, pipelines.is_empty()) {
            (true, _) => "agents",
            (false, false) => "the server, or its clients",
            (false, true) => "its clients",
        },
        pipelines: pipelines.iter().map(|name| plain(name)).collect(),
        agents: agents.collect(),
        more_agents,
    };
    rendered(&view)
}

/// A mark in words, as HTML.
pub fn mark_words(mark: &BuildMark) -> String {
    match mark {
        BuildMark::Started(started) => {
            format!("highest build started: {}, by {}", started.order, escaped(&plain(&started.deployment.to_string())))
        }
        BuildMark::Set(set) => format!("{}, {}", escaped(&plain(&mark.to_string())), moment(set.at)),
    }
}
