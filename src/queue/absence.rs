//! Says in words that nobody is there that could run a deployment: to a client that waits for an agent, and of a
//! deployment that no worker took.

use super::Queue;
use crate::{
    model::{DeploymentId, ProjectName, State},
    store::{KnownAgent, StoreError},
};

/// How many agents a sentence names.
const TOLD_LIMIT: usize = 5;
/// How many pipelines of an agent a sentence names; a longer list must be looked up.
const NAMES_TOLD_LIMIT: usize = 20;

impl Queue {
    /// The sentence for a deployment that holds its slot and waits for a worker, where no agent is there or the
    /// configuration has no such pipeline any more; otherwise `None`.
    pub(super) async fn absence(&self, project: &ProjectName, id: DeploymentId) -> Result<Option<String>, StoreError> {
        let placed = self.store.deployment(project.clone(), id).await?;
        let waiting = placed.map(|placed| placed.deployment).filter(|deployment| deployment.state == State::Ready);
        let Some(waiting) = waiting else { return Ok(None) };
        let pipeline = &waiting.spec.pipeline;
        // Only a deployment that agents run has its own limit for the wait for an agent.
        if waiting.spec.claim_within_seconds.is_none() {
            let config = self.config.now();
            let is_there = config.projects.get(project).is_some_and(|it| it.pipelines.contains_key(pipeline));
            return Ok((!is_there)
                .then(|| format!("the server's configuration has no pipeline {pipeline} of {project} any more")));
        }
        let known = self.store.agents(project.clone(), self.clock.now()).await?;
        Ok(absence(project, pipeline, &known))
    }
}

/// A sentence that no agent of a project can run this pipeline now; `None` where one can.
pub fn absence(project: &ProjectName, pipeline: &str, known: &[KnownAgent]) -> Option<String> {
    if can_run(pipeline, known) {
        return None;
    }
    Some(match known {
        [] => format!("no agent for {project} is connected (none was ever seen)"),
        known => format!("no agent that runs pipeline {pipeline} of {project} is connected ({})", in_words(known)),
    })
}

/// Whether an agent is there for this pipeline.
pub fn can_run(pipeline: &str, known: &[KnownAgent]) -> bool {
    known.iter().any(|agent| agent.is_there() && agent.pipelines.iter().any(|offered| offered == pipeline))
}

/// Which agents are known.
pub fn in_words(known: &[KnownAgent]) -> String {
    if known.is_empty() {
        return "none was ever seen".to_owned();
    }
    let each = known.iter().take(TOLD_LIMIT).map(|agent| {
        let (worker, pipelines) = (&agent.worker, some_of(agent.pipelines.iter().map(String::as_str)));
        if agent.is_parked {
            format!("{worker} is connected, for {pipelines}")
        } else {
            format!("{worker} ({pipelines}) was last seen at {:.0}", agent.last_seen_at)
        }
    });
    each.collect::<Vec<_>>().join("; ")
}

/// Names in a row, as many as a person reads.
pub fn some_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.collect();
    let told = names.iter().take(NAMES_TOLD_LIMIT).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMES_TOLD_LIMIT) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}
