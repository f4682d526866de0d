//! The calls of agents for work, as a store knows them. See decision 0017.
//!
//! A call is noted once, as it begins, with how long it may be parked. After that time it counts as ended, whatever
//! happens to the server at which it was parked. Only a call that ends sooner is noted again. The data serves people,
//! and the first answer to a submit that no agent could run; nothing else depends on it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use uuid::Uuid;

use super::figures::StoreFigures;
use crate::{
    clock::{BootInstant, Now},
    model::ProjectName,
};

/// An agent that asked at most this long ago counts as there: it may be between two polls, or being restarted.
pub const ABSENCE_LIMIT: Duration = Duration::from_secs(5);
/// How many agents are remembered, each once for each of its projects: those that are gone longest are forgotten first.
pub(super) const REMEMBERED_LIMIT: usize = 10_000;
/// How many of a project's agents are answered, the last callers first, because each submit looks at their offers.
pub(super) const KNOWN_LIMIT: usize = 1_000;

/// One call of an agent for work.
#[derive(Clone, Debug)]
pub struct AgentCall {
    /// Tells this call from every other call.
    pub id: Uuid,
    /// The agent's name.
    pub worker: String,
    /// The pipelines that it can run, by project.
    pub offers: BTreeMap<ProjectName, Vec<String>>,
    /// How long it may be parked.
    pub window: Duration,
}

/// An agent of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownAgent {
    /// Its name.
    pub worker: String,
    /// The pipelines that it offered when it last asked.
    pub pipelines: Vec<String>,
    /// When it last called, for people.
    pub last_seen_at: Timestamp,
    /// Whether a call of it is parked now, at whichever server.
    pub is_parked: bool,
    /// How long ago its last call ended; zero while one is parked.
    pub gone_for: Duration,
}

impl KnownAgent {
    /// Whether it can be relied upon to take work: it is parked, or called a moment ago.
    pub fn is_there(&self) -> bool {
        self.is_parked || self.gone_for < ABSENCE_LIMIT
    }
}

/// The agents of the one server of a store.
#[derive(Debug, Default)]
pub(super) struct Presence {
    seen: Mutex<BTreeMap<(ProjectName, String), SeenAgent>>,
}

#[derive(Debug)]
struct SeenAgent {
    pipelines: Vec<String>,
    /// When each call that may be parked ends at the latest.
    due: HashMap<Uuid, BootInstant>,
    /// When the last call began, or ended.
    last: Now,
}

impl Presence {
    /// Notes a call.
    pub(super) fn came(&self, call: &AgentCall, now: Now) {
        let mut seen = self.seen();
        for (project, pipelines) in &call.offers {
            let entry = seen.entry((project.clone(), call.worker.clone())).or_insert_with(|| SeenAgent {
                pipelines: Vec::new(),
                due: HashMap::new(),
                last: now,
            });
            entry.pipelines.clone_from(pipelines);
            entry.due.retain(|_, due| *due > now.boot);
            entry.due.insert(call.id, now.boot.after(call.window));
            entry.last = now;
        }
        while seen.len() > REMEMBERED_LIMIT {
            let oldest = seen.iter().min_by_key(|(_, seen)| seen.ended_at()).map(|(key, _)| key.clone());
            oldest.map(|key| seen.remove(&key));
        }
    }

    /// Notes that a call ended before its window did.
    pub(super) fn left(&self, call: &AgentCall, now: Now) {
        let mut seen = self.seen();
        for project in call.offers.keys() {
            if let Some(entry) = seen.get_mut(&(project.clone(), call.worker.clone()))
                && entry.due.remove(&call.id).is_some()
            {
                entry.last = now;
            }
        }
    }

    /// A project's agents, the last callers first.
    pub(super) fn of(&self, project: &ProjectName, now: Now) -> Vec<KnownAgent> {
        let seen = self.seen();
        let from = (project.clone(), String::new());
        let own = seen.range(from..).take_while(|((of, _), _)| of == project);
        let mut known: Vec<_> = own.map(|((_, worker), seen)| seen.shown(worker, now)).collect();
        known.sort_by_key(|agent| (agent.gone_for, std::cmp::Reverse(agent.last_seen_at)));
        known.truncate(KNOWN_LIMIT);
        known
    }

    /// Adds how many agents of each project are there.
    pub(super) fn counts(&self, now: Now, figures: &mut StoreFigures) {
        for ((project, worker), seen) in self.seen().iter() {
            if seen.shown(worker, now).is_there() {
                figures.entry(project.clone()).agent_count += 1;
            }
        }
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<(ProjectName, String), SeenAgent>> {
        // A panic while it is locked leaves it whole enough for its purpose.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SeenAgent {
    /// When its last call ended, or will end.
    fn ended_at(&self) -> BootInstant {
        self.due.values().copied().fold(self.last.boot, BootInstant::max)
    }

    fn shown(&self, worker: &str, now: Now) -> KnownAgent {
        let ended_at = self.ended_at();
        let is_parked = ended_at > now.boot;
        let gone_for = now.boot.since(ended_at);
        // A call whose end was not noted counts as there until its window was over.
        let last_seen_at = if is_parked { Some(self.last.wall) } else { now.wall.checked_sub(gone_for).ok() };
        KnownAgent {
            worker: worker.to_owned(),
            pipelines: self.pipelines.clone(),
            last_seen_at: last_seen_at.unwrap_or(self.last.wall),
            is_parked,
            gone_for,
        }
    }
}
