//! The course of a deployment, made of its events: where it stood, and its phases.

use jiff::Timestamp;

use crate::model::{Event, EventBody, Hold, Mention, Party, PhaseState, ProjectName};

/// How many events of a course are read. A pipeline has few phases.
pub const COURSE_LIMIT: usize = 1_000;

/// What happened to a deployment, in order.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// Where it stood, from which moment on.
    pub stands: Vec<Stand>,
    /// Its phases and their rollbacks, in the order in which they began.
    pub phases: Vec<PhaseRun>,
    /// Requests to stop it.
    pub cancels: Vec<CancelTold>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// Whether there are events that were not read.
    pub goes_on: bool,
}

/// Where a deployment stood.
#[derive(Clone, Debug)]
pub struct Stand {
    /// From when.
    pub at: Timestamp,
    /// How many were served before it, itself included; 0 when the slot was kept for it.
    pub position: u64,
    /// Who had the slot at that moment.
    pub blocker: Option<Mention>,
    /// What held it at that moment.
    pub hold: Option<Hold>,
    /// The newer deployment that was to supersede it.
    pub overtaker: Option<Mention>,
}

/// A phase, or its rollback.
#[derive(Clone, Debug)]
pub struct PhaseRun {
    /// The event that began it.
    pub seq: u64,
    /// Its name.
    pub name: String,
    /// Whether it is the rollback.
    pub is_rollback: bool,
    /// Its last state.
    pub state: PhaseState,
    /// When it began; `None` where that was not told.
    pub began_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// More about it.
    pub message: Option<String>,
}

/// A request to stop.
#[derive(Clone, Debug)]
pub struct CancelTold {
    /// When.
    pub at: Timestamp,
    /// Who made it.
    pub by: Option<Party>,
    /// Why.
    pub reason: Option<String>,
    /// The newer deployment that takes its place.
    pub successor: Option<Mention>,
}

impl Course {
    /// The course that these events tell.
    pub fn of(project: &ProjectName, events: &[Event]) -> Self {
        let mut course = Course { goes_on: events.len() >= COURSE_LIMIT, ..Course::default() };
        for event in events {
            let at = event.at;
            match &event.body {
                EventBody::Queue { position, blocker, blocker_deployment, hold, .. } => course.stands.push(Stand {
                    at,
                    position: *position,
                    blocker: blocker.map(|id| Mention {
                        project: project.clone(),
                        id,
                        named: blocker_deployment.clone(),
                    }),
                    hold: hold.as_deref().cloned(),
                    overtaker: event.body.told_of(project),
                }),
                EventBody::Phase { name, state, message } => course.phase(event, name, *state, message.as_ref()),
                EventBody::Cancel { reason, by, .. } => course.cancels.push(CancelTold {
                    at,
                    by: by.clone(),
                    reason: reason.clone(),
                    successor: event.body.told_of(project),
                }),
                EventBody::Complete => course.ended_at = Some(at),
                EventBody::Status { .. }
                | EventBody::Progress { .. }
                | EventBody::Output { .. }
                | EventBody::Log { .. }
                | EventBody::Gap { .. } => {}
            }
        }
        course
    }

    fn phase(&mut self, event: &Event, name: &str, state: PhaseState, message: Option<&String>) {
        let is_rollback =
            matches!(state, PhaseState::RollingBack | PhaseState::RolledBack | PhaseState::RollbackFailed);
        let begins = matches!(state, PhaseState::Started | PhaseState::RollingBack);
        let is_same =
            |run: &&mut PhaseRun| run.name == name && run.is_rollback == is_rollback && run.ended_at.is_none();
        if let Some(run) = self.phases.iter_mut().rev().find(is_same).filter(|_| !begins) {
            (run.state, run.ended_at) = (state, Some(event.at));
            run.message = message.cloned().or_else(|| run.message.take());
            return;
        }
        self.phases.push(PhaseRun {
            seq: event.seq,
            name: name.to_owned(),
            is_rollback,
            state,
            began_at: begins.then_some(event.at),
            ended_at: (!begins).then_some(event.at),
            message: message.cloned(),
        });
    }

    /// The times at which the slot was its own, each with its end; `None` where that has not come.
    pub fn slot_times(&self) -> Vec<(Timestamp, Option<Timestamp>)> {
        let mut times: Vec<(Timestamp, Option<Timestamp>)> = Vec::new();
        for stand in &self.stands {
            let is_open = times.last().is_some_and(|(_, until)| until.is_none());
            match (stand.position, is_open) {
                (0, false) => times.push((stand.at, None)),
                (0, true) | (_, false) => {}
                (_, true) => times.iter_mut().last().into_iter().for_each(|(_, until)| *until = Some(stand.at)),
            }
        }
        if let Some((_, until)) = times.last_mut() {
            *until = until.or(self.ended_at);
        }
        times
    }
}
