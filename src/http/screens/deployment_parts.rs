//! The parts of a deployment's screen that change while somebody looks: rendered once for all who do.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::model::DeploymentId;

/// How old the parts may be: a silence, a place in line and a forecast change by time alone.
const FRESH: Duration = Duration::from_secs(4);
/// How many deployments are kept that nobody reads at the moment.
const KEPT_LIMIT: usize = 256;

/// The parts by deployment.
#[derive(Default)]
pub struct DeploymentParts(Mutex<HashMap<DeploymentId, Arc<PartsCell>>>);

/// The place of parts that somebody renders, and all others wait for.
pub type PartsCell = tokio::sync::Mutex<Option<Arc<RenderedParts>>>;

/// The parts of one deployment's screen, as HTML.
#[derive(Clone, Debug)]
pub struct RenderedParts {
    /// The last event that they tell of.
    pub seq: u64,
    /// Whether the deployment was final.
    pub is_final: bool,
    /// What the tab is called.
    pub title: String,
    /// What it is, and what became of it.
    pub head: String,
    /// Its wait, its phases and their rollbacks.
    pub timeline: String,
    /// What and who.
    pub facts: String,
    /// What happened.
    pub story: String,
    /// When they were read.
    pub made_at: Instant,
}

impl RenderedParts {
    /// All of them.
    pub fn all(&self) -> String {
        [&*self.head, &self.timeline, &self.facts, &self.story].join("\n")
    }

    /// Tells apart what the parts say, without what goes on with the clock.
    pub fn gist(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        without_clock(&self.all()).hash(&mut hash);
        hash.finish()
    }

    /// Whether they tell of this event, and are not too old.
    pub fn are_of(&self, seq: u64) -> bool {
        self.seq >= seq && self.made_at.elapsed() < FRESH
    }
}

/// The HTML without what goes on with the clock.
fn without_clock(html: &str) -> String {
    let mut parts = html.split("data-as=\"since\"");
    let mut gist = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (attributes, rest) = part.split_once('>').unwrap_or((part, ""));
        gist.push_str(attributes);
        gist.push_str(rest.split_once("</time>").map_or("", |(_, rest)| rest));
    }
    gist
}

impl DeploymentParts {
    /// The place of a deployment's parts.
    pub fn cell(&self, id: DeploymentId) -> Arc<PartsCell> {
        // Every change of it is one call.
        let mut cells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if cells.len() >= KEPT_LIMIT {
            cells.retain(|_, cell| Arc::strong_count(cell) > 1);
        }
        cells.entry(id).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gist_leaves_out_what_goes_on_with_the_clock() {
        let html = |text: &str| format!("<p>a <time datetime=\"x\" data-as=\"since\" title=\"t\">{text}</time> b</p>");
        assert_eq!(without_clock(&html("5 s")), without_clock(&html("6 s")));
        assert!(without_clock(&html("5 s")).contains(" b</p>"));
    }
}
