//! Renders the parts of a deployment's screen that change while somebody looks.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    deployment_facts::DeploymentFacts, deployment_parts::RenderedParts, deployment_story, deployment_timeline,
};
use crate::{
    http::{App, error::ErrorAnswer},
    model::{DeploymentId, ProjectName},
};

/// The parts, as they are after this event or later, and not older than a few seconds.
///
/// # Errors
/// There is no such deployment, or the store does not answer.
pub async fn parts(
    app: &App,
    project: &ProjectName,
    id: DeploymentId,
    seq: u64,
) -> Result<Arc<RenderedParts>, ErrorAnswer> {
    let cell = app.deployment_parts.cell(id);
    // Whoever comes while another one reads waits for it, and has the same.
    let mut parts = cell.lock().await;
    if let Some(parts) = parts.as_ref().filter(|parts| parts.are_of(seq)) {
        return Ok(parts.clone());
    }
    let made_at = Instant::now();
    let facts = DeploymentFacts::read(app, project, id).await?;
    let made = Arc::new(RenderedParts {
        seq: facts.deployment.event_count,
        is_final: facts.deployment.is_final(),
        title: deployment_story::title(&facts),
        head: deployment_story::head(&facts)?,
        timeline: deployment_timeline::timeline(&facts)?,
        facts: deployment_story::what_and_who(&facts)?,
        story: deployment_story::what_happened(&facts)?,
        made_at,
    });
    *parts = Some(made.clone());
    Ok(made)
}
