//! What was found out already of how long phases take.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::model::DeploymentId;

/// How many answers are kept. Few are needed, because all waiting clients ask for the same.
const KNOWN_LIMIT: usize = 64;

/// Known times, by the deployment that is waited for and its phase.
#[derive(Default)]
pub struct PhaseTimes(Mutex<VecDeque<(DeploymentId, String, Option<Duration>)>>);

impl PhaseTimes {
    pub fn known(&self, id: DeploymentId, phase: &str) -> Option<Option<Duration>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(of, name, _)| *of == id && name == phase).map(|(_, _, time)| *time)
    }

    pub fn remember(&self, id: DeploymentId, phase: &str, time: Option<Duration>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() == KNOWN_LIMIT {
            known.pop_front();
        }
        known.push_back((id, phase.to_owned(), time));
    }
}
