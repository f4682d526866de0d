//! How long a phase usually takes: told when a cancel waits for its end.

use std::time::Duration;

use super::{App, error::ErrorAnswer};
use crate::{
    config::format_duration,
    model::{CANCEL_WAITS, Deployment, DeploymentId, EventBody, PhaseState, State, Status},
    store::ListQuery,
};

/// How many of the last successes are searched for runs of the same pipeline.
const SUCCESSES_LIMIT: usize = 20;
/// How many runs are enough for a median.
const RUNS_LIMIT: usize = 5;
/// How many events one read returns, and how many reads are made for a run. Output between the phases makes the phases'
/// events rare.
const EVENTS_LIMIT: usize = 256;
const READS_LIMIT: usize = 8;

impl App {
    /// The sentence that a cancel waits for the end of a phase, and how long that usually takes; `None` if no cancel
    /// waits, or if nothing is known.
    pub async fn protected_wait(&self, holder: &Deployment) -> Result<Option<String>, ErrorAnswer> {
        let is_waited_for = matches!(holder.state, State::Running(_)) && holder.cancel.is_some();
        let message = holder.message.as_deref().filter(|message| is_waited_for && message.starts_with(CANCEL_WAITS));
        let (Some(message), Some(phase)) = (message, &holder.phase) else { return Ok(None) };
        let time = match self.phase_times.known(holder.id, phase) {
            Some(time) => time,
            None => {
                let time = self.usual_time(holder, phase).await?;
                self.phase_times.remember(holder.id, phase, time);
                time
            }
        };
        // In whole seconds, rounded up.
        let time = time.map(|time| Duration::from_secs(time.as_secs_f64().ceil().max(1.0) as u64));
        Ok(time.map(|time| format!("{message}, which takes about {} as a rule", format_duration(time))))
    }

    /// The median time of the phase in the last successes.
    async fn usual_time(&self, holder: &Deployment, phase: &str) -> Result<Option<Duration>, ErrorAnswer> {
        let query = ListQuery { status: Some(Status::Succeeded), limit: SUCCESSES_LIMIT, ..ListQuery::default() };
        let successes = self.queue.store().list(holder.project.clone(), query).await?;
        let alike = successes.iter().filter(|run| run.spec.pipeline == holder.spec.pipeline).take(RUNS_LIMIT);
        let mut times = Vec::new();
        for run in alike {
            times.extend(self.time_in(run.id, phase).await?);
        }
        times.sort_unstable();
        Ok(times.get(times.len() / 2).copied())
    }

    /// How long the phase took in this run.
    async fn time_in(&self, run: DeploymentId, phase: &str) -> Result<Option<Duration>, ErrorAnswer> {
        let (mut after, mut began) = (0, None);
        for _ in 0..READS_LIMIT {
            let events = self.queue.store().events(run, after, EVENTS_LIMIT).await?;
            let Some(last) = events.last() else { return Ok(None) };
            after = last.seq;
            for event in &events {
                let EventBody::Phase { name, state, .. } = &event.body else { continue };
                if name == phase && *state == PhaseState::Started {
                    began = Some(event.at);
                } else if name == phase && *state == PhaseState::Succeeded {
                    let took = began.map(|began| event.at.as_millisecond() - began.as_millisecond());
                    return Ok(took.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))));
                }
            }
        }
        Ok(None)
    }
}
