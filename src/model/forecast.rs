//! When a run is expected to end, and when a waiting one is expected to start, from the durations of past successes.
//! See decision 0053.
//!
//! Durations of deploys are no bell curve, because a run that has to build takes far longer than a run that finds
//! everything in a cache. So the forecast of one run is made of quantiles of past runs: of those that took longer than
//! this run has taken already. For several runs in a row, the means are added, and the variances are.

use std::time::Duration;

use jiff::Timestamp;
use thiserror::Error;

use super::{
    deployment::Deployment,
    hold::Hold,
    mark::BuildMark,
    order::outdated_by,
    policy::Policy,
    project::{Eta, Project},
};

/// 90 % of the sums of runs stay below their mean plus this many standard deviations, because a sum is close to a bell
/// curve.
const NINE_IN_TEN: f64 = 1.2816;
/// The spread of runs that is assumed while too few runs are known, as a part of their mean.
const USUAL_SPREAD: f64 = 0.25;
/// How much longer a run takes that has outlasted all known runs, as a part of its time so far. Nobody knows; but a run
/// that has lasted for hours does not end within a second.
const OVERTIME: f64 = 0.25;

/// Why nobody can tell when a waiting deployment starts.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartUnknown {
    /// A deployment before it has a pipeline that never succeeded.
    #[error("pipeline {pipeline} has not succeeded yet, so nobody knows how long it takes")]
    NeverSucceeded {
        /// The pipeline.
        pipeline: String,
    },
    /// The holder ends before its run is over.
    #[error("nobody knows how long the cancel of the deployment that has the slot takes")]
    HolderCancelled,
    /// The holder has not started, since no agent is there.
    #[error("the deployment that has the slot waits for an agent")]
    NoAgent,
    /// It is held, and no end of that is known.
    #[error("the project is {}, and no end is set", .0.what())]
    Held(Box<Hold>),
    /// As things stand, it never starts.
    #[error("a newer deployment that is before it in line will supersede it")]
    Superseded,
    /// As things stand, it never starts.
    #[error("it will not start: build {order} is older than {mark}")]
    Outdated {
        /// Its build number.
        order: u64,
        /// The mark of the project.
        mark: Box<BuildMark>,
    },
}

/// How long runs of one pipeline take from a moment on: the rest of each past run that lasted beyond that moment.
struct Runs {
    /// In milliseconds, in ascending order. None where all past runs were shorter.
    rests: Vec<f64>,
    elapsed: f64,
}

impl Runs {
    /// `None` without a past success.
    fn of(project: &Project, pipeline: &str, elapsed: Duration) -> Option<Self> {
        let elapsed = elapsed.as_secs_f64() * 1e3;
        let past = project.recent_runs.iter().filter(|run| *run.pipeline == *pipeline);
        let mut past: Vec<_> = past.map(|run| run.duration_ms as f64).collect();
        if past.is_empty() {
            return None;
        }
        past.sort_by(f64::total_cmp);
        let rests = past.into_iter().map(|duration| duration - elapsed).filter(|rest| *rest > 0.0).collect();
        Some(Runs { rests, elapsed })
    }

    fn count(&self) -> f64 {
        self.rests.len().max(1) as f64
    }

    fn mean(&self) -> f64 {
        if self.rests.is_empty() {
            return self.elapsed * OVERTIME / 2.0;
        }
        self.rests.iter().sum::<f64>() / self.count()
    }

    /// The variance of the runs. The usual spread counts as one more run, because a few runs that happen to be equal
    /// prove nothing.
    fn variance(&self) -> f64 {
        let mean = self.mean();
        let apart: f64 = self.rests.iter().map(|rest| (rest - mean).powi(2)).sum();
        (apart + (mean * USUAL_SPREAD).powi(2)) / self.count()
    }

    /// The variance of `count` runs in a row. It includes the error of their mean, because the mean is known from the
    /// past runs only, and its error is the same for each run of the row.
    fn variance_of(&self, count: f64) -> f64 {
        self.variance() * (count + count * count / self.count())
    }

    /// The rest that `100 - percent` % of future runs are expected to exceed: the next run is as likely to fall between
    /// any two of the past runs as beyond the last.
    fn at(&self, percent: usize) -> f64 {
        let rank = (percent * (self.rests.len() + 1)).div_ceil(100);
        match (self.rests.get(rank.saturating_sub(1)), self.rests.last()) {
            (Some(rest), _) => *rest,
            (None, Some(longest)) => longest.max(self.mean() + NINE_IN_TEN * self.variance_of(1.0).sqrt()),
            (None, None) => self.elapsed * OVERTIME,
        }
    }

    fn eta(&self) -> Eta {
        match self.rests.is_empty() {
            // It may end at any moment.
            true => Eta { p50_seconds: 1, p90_seconds: seconds(self.at(90)) },
            false => Eta { p50_seconds: seconds(self.at(50)), p90_seconds: seconds(self.at(90)) },
        }
    }
}

/// Whole seconds, rounded up: never "0 s" while something still runs.
fn seconds(ms: f64) -> u64 {
    // A float of that size becomes the largest number, as is wanted here.
    ((ms / 1e3).ceil() as u64).max(1)
}

impl Project {
    /// How much longer a run of `pipeline` that has taken `elapsed` is expected to take; `None` without a past success, and
    /// nothing but zeros where it has taken longer than all past ones.
    pub fn eta(&self, pipeline: &str, elapsed: Duration) -> Option<Eta> {
        let runs = Runs::of(self, pipeline, elapsed)?;
        Some(if runs.rests.is_empty() { Eta { p50_seconds: 0, p90_seconds: 0 } } else { runs.eta() })
    }

    /// How much longer the deployment that holds the slot is expected to take.
    pub fn rest_of(&self, holder: &Deployment, now: Timestamp) -> Option<Eta> {
        self.eta(&holder.spec.pipeline, elapsed(holder, now))
    }
}

/// How long a holder has run.
fn elapsed(holder: &Deployment, now: Timestamp) -> Duration {
    let elapsed_ms = holder.started_at.map_or(0, |at| now.as_millisecond() - at.as_millisecond());
    Duration::from_millis(u64::try_from(elapsed_ms).unwrap_or(0))
}

/// Tells when the deployments in line start: behind `holder`, and not before the project is held no more.
#[derive(Clone, Copy, Debug)]
pub struct Forecast<'a> {
    /// The project's counters.
    pub project: &'a Project,
    /// The project's rules.
    pub policy: &'a Policy,
    /// The deployment that holds the slot.
    pub holder: Option<&'a Deployment>,
    /// The moment from which it is counted.
    pub now: Timestamp,
}

impl Forecast<'_> {
    /// How long until `waiting`, which is number `position` in line, has the slot. `front` is the beginning of the
    /// line, in the order in which it is served. Deployments behind `front` are assumed to run the same pipeline as
    /// `waiting`.
    ///
    /// # Errors
    /// Nobody can tell; the error is the reason.
    pub fn start<'a>(
        &'a self,
        waiting: &'a Deployment,
        position: u64,
        front: impl IntoIterator<Item = &'a Deployment>,
    ) -> Result<Eta, StartUnknown> {
        let holder = self.holder;
        let ahead: Vec<_> = front.into_iter().take_while(|one| one.rank() < waiting.rank()).collect();
        let unseen_count = position.saturating_sub(1).saturating_sub(ahead.len() as u64);
        let mut served: Vec<_> = holder.into_iter().collect();
        for one in ahead {
            // A deployment that ends before its turn takes no time.
            let is_served = !served.iter().any(|before| before.will_supersede(one.age()));
            if is_served && outdated_by(&one.spec, self.project).is_none() {
                served.push(one);
            }
        }
        if served.iter().any(|before| before.will_supersede(waiting.age())) {
            return Err(StartUnknown::Superseded);
        }
        if let Some(mark) = outdated_by(&waiting.spec, self.project) {
            return Err(StartUnknown::Outdated { order: waiting.spec.order.unwrap_or_default(), mark: Box::new(mark) });
        }
        let held = self.held(waiting)?;
        if holder.is_some_and(|holder| holder.cancel.is_some()) {
            return Err(StartUnknown::HolderCancelled);
        }
        let rest = holder.map(|holder| self.runs(&holder.spec.pipeline, elapsed(holder, self.now))).transpose()?;
        let mut counts: Vec<(&str, f64)> = Vec::new();
        let unseen = (unseen_count > 0).then_some((&*waiting.spec.pipeline, unseen_count as f64));
        let behind = served.iter().skip(usize::from(holder.is_some()));
        for (pipeline, count) in behind.map(|one| (&*one.spec.pipeline, 1.0)).chain(unseen) {
            match counts.iter_mut().find(|(known, _)| *known == pipeline) {
                Some((_, known)) => *known += count,
                None => counts.push((pipeline, count)),
            }
        }
        if counts.is_empty() {
            let eta = rest.map_or(Eta { p50_seconds: 0, p90_seconds: 0 }, |rest| rest.eta());
            let not_before = if held > 0.0 { seconds(held) } else { 0 };
            let [p50_seconds, p90_seconds] = [eta.p50_seconds, eta.p90_seconds].map(|eta| eta.max(not_before));
            return Ok(Eta { p50_seconds, p90_seconds });
        }
        let (mut mean, mut variance) = rest.map_or((0.0, 0.0), |rest| (rest.mean(), rest.variance_of(1.0)));
        if held > mean {
            // The holder ends meanwhile, and the end of the hold is certain.
            (mean, variance) = (held, 0.0);
        }
        for (pipeline, count) in counts {
            let runs = self.runs(pipeline, Duration::ZERO)?;
            mean += runs.mean() * count;
            variance += runs.variance_of(count);
        }
        Ok(Eta { p50_seconds: seconds(mean), p90_seconds: seconds(mean + NINE_IN_TEN * variance.sqrt()) })
    }

    /// For how many milliseconds `waiting` is held at least.
    fn held(&self, waiting: &Deployment) -> Result<f64, StartUnknown> {
        let pause = self.project.pause.as_ref();
        let hold = Hold::of(self.policy, pause, self.now).filter(|_| !waiting.spec.override_pause);
        let Some(hold) = hold else { return Ok(0.0) };
        let free_from = Hold::free_from(self.policy, pause, self.now);
        let free_from = free_from.ok_or_else(|| StartUnknown::Held(Box::new(hold)))?;
        Ok((free_from.as_millisecond() - self.now.as_millisecond()) as f64)
    }

    fn runs(&self, pipeline: &str, elapsed: Duration) -> Result<Runs, StartUnknown> {
        let unknown = || StartUnknown::NeverSucceeded { pipeline: pipeline.to_owned() };
        Runs::of(self.project, pipeline, elapsed).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::project::RecentRun;

    fn after(durations: &[u64], elapsed_seconds: u64) -> Eta {
        let run = |seconds: &u64| RecentRun { pipeline: "deploy".into(), duration_ms: seconds * 1000 };
        let name = "web".parse().expect("a test's name");
        let project = Project { recent_runs: Arc::new(durations.iter().map(run).collect()), ..Project::new(name) };
        project.eta("deploy", Duration::from_secs(elapsed_seconds)).expect("there are runs")
    }

    fn eta(p50_seconds: u64, p90_seconds: u64) -> Eta {
        Eta { p50_seconds, p90_seconds }
    }

    #[test]
    fn the_rest_is_that_of_the_runs_which_took_longer() {
        let runs: Vec<_> = (1..=19).map(|tens| tens * 10).collect();
        assert_eq!(after(&runs, 0), eta(100, 180));
        // Nine runs took longer, by 10 s to 90 s.
        assert_eq!(after(&runs, 100), eta(50, 90));
        assert_eq!(after(&runs, 189).p50_seconds, 1, "the longest ends in a second");
    }

    #[test]
    fn few_runs_prove_little() {
        let one = after(&[100], 0);
        assert!(one.p50_seconds == 100 && one.p90_seconds > 130, "{one:?}");
        let many = after(&[100; 20], 0);
        assert_eq!(many, eta(100, 100));
    }

    #[test]
    fn nothing_is_left_of_a_run_that_outlasts_all() {
        assert_eq!(after(&[10, 20], 21), eta(0, 0));
    }

    #[test]
    fn what_has_run_for_long_over_its_time_may_end_in_a_second_or_take_long_again() {
        let runs = Runs { rests: Vec::new(), elapsed: 400_000.0 };
        assert_eq!(runs.eta(), eta(1, 100));
    }
}
