//! The charts of projects that were looked at a moment ago.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::OnceCell, time::Instant};

use crate::model::ProjectName;

/// How long charts are kept. They change little with each deployment, and reading two weeks takes time.
const KEPT: Duration = Duration::from_secs(60);

/// The charts, as HTML, by project.
#[derive(Default)]
pub struct DayCharts(Mutex<BTreeMap<ProjectName, KeptCharts>>);

/// When somebody began to draw charts, and the charts.
type KeptCharts = (Instant, Arc<OnceCell<Arc<str>>>);

impl DayCharts {
    /// A project's charts, drawn by whoever asks first.
    pub fn of(&self, project: &ProjectName) -> Arc<OnceCell<Arc<str>>> {
        // Every change of it is one insertion, or the removal of what is too old anyway.
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, (at, _)| at.elapsed() < KEPT);
        kept.entry(project.clone()).or_insert_with(|| (Instant::now(), Arc::default())).1.clone()
    }
}
