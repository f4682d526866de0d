//! Which agents there are, as this server has seen them: what they can run, and when they last asked for work.
//!
//! It is kept in memory only. Agents ask again within seconds of a server's start, and until then nobody is told that
//! there are none.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use jiff::Timestamp;
use tokio::{sync::watch, time::timeout};

use crate::{
    api::{AgentView, ClaimRequest},
    clock::{BootInstant, Clock},
    model::ProjectName,
};

/// An agent that asked so short a time ago counts as there: between two polls, or while it is restarted.
const ABSENCE_LIMIT: Duration = Duration::from_secs(5);
/// How many agents are remembered, each once a project: those that are gone longest are forgotten first.
const REMEMBERED_LIMIT: usize = 10_000;
/// How many of a project's agents are shown.
const SHOWN_LIMIT: usize = 100;

/// The agents that this server has seen.
pub struct Agents {
    clock: Arc<dyn Clock>,
    began_at: BootInstant,
    seen: Mutex<BTreeMap<(ProjectName, String), Seen>>,
    /// Stirs when an agent comes.
    came: watch::Sender<()>,
    turns: Mutex<HashMap<String, Weak<Turn>>>,
}

/// One after the other for the calls of one claim; whether one of them has claimed something since this one began.
pub type Turn = tokio::sync::Mutex<bool>;

#[derive(Clone, Debug)]
struct Seen {
    pipelines: Vec<String>,
    last_seen_at: Timestamp,
    last_seen_boot: BootInstant,
    /// How many of its polls are parked now.
    parked_count: usize,
}

impl Agents {
    /// None are known yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let began_at = clock.boot();
        let came = watch::Sender::new(());
        Agents { clock, began_at, seen: Mutex::default(), came, turns: Mutex::default() }
    }

    /// Notes an agent that asks for work, for as long as the answer is kept.
    pub fn arrive(self: &Arc<Self>, wish: &ClaimRequest) -> Present {
        let (wall, boot) = (self.clock.wall(), self.clock.boot());
        let mut seen = self.seen();
        for (project, pipelines) in &wish.projects {
            let entry = seen.entry((project.clone(), wish.worker.clone())).or_insert_with(|| Seen {
                pipelines: Vec::new(),
                last_seen_at: wall,
                last_seen_boot: boot,
                parked_count: 0,
            });
            entry.pipelines.clone_from(pipelines);
            entry.last_seen_at = wall;
            entry.last_seen_boot = boot;
            entry.parked_count += 1;
        }
        forget_oldest(&mut seen);
        drop(seen);
        self.came.send_replace(());
        Present { agents: self.clone(), worker: wish.worker.clone(), projects: wish.projects.keys().cloned().collect() }
    }

    /// One after the other for the calls of one claim: should an agent ask again because an answer was lost, the first
    /// call may still be at work.
    pub fn turn(&self, holder: &str) -> Arc<Turn> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = turns.get(holder).and_then(Weak::upgrade) {
            return turn;
        }
        turns.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        turns.insert(holder.to_owned(), Arc::downgrade(&turn));
        turn
    }

    /// A project's agents, those that asked last first.
    pub fn of(&self, project: &ProjectName) -> Vec<AgentView> {
        let mut views: Vec<_> = self.entries(project).into_iter().map(|(worker, seen)| view(worker, seen)).collect();
        views.sort_by_key(|agent| Reverse((agent.connected, agent.last_seen_at)));
        views.truncate(SHOWN_LIMIT);
        views
    }

    /// Every pipeline of a project that some agent offered.
    pub fn pipelines(&self, project: &ProjectName) -> BTreeSet<String> {
        self.entries(project).into_iter().flat_map(|(_, seen)| seen.pipelines).collect()
    }

    /// Whether an agent is there for this pipeline. Right after the server's start it waits for one that comes back.
    pub async fn is_there(&self, project: &ProjectName, pipeline: &str) -> bool {
        let mut came = self.came.subscribe();
        let known_by = self.began_at.after(ABSENCE_LIMIT);
        loop {
            came.mark_unchanged();
            let now = self.clock.boot();
            let there = self.entries(project).into_iter().any(|(_, seen)| {
                let is_near = seen.parked_count > 0 || now.since(seen.last_seen_boot) < ABSENCE_LIMIT;
                is_near && seen.pipelines.iter().any(|offered| offered == pipeline)
            });
            let left = known_by.since(now);
            if there || left.is_zero() {
                return there;
            }
            // Either an agent came, or the time is up: both are looked at.
            let _ = timeout(left, came.changed()).await;
        }
    }

    /// A project's agents, in one sentence.
    pub fn in_words(&self, project: &ProjectName) -> String {
        let known = self.of(project);
        if known.is_empty() {
            return "none was ever seen".to_owned();
        }
        let each = known.iter().take(5).map(|agent| {
            let (worker, pipelines) = (&agent.worker, agent.pipelines.join(", "));
            if agent.connected {
                format!("{worker} is connected, for {pipelines}")
            } else {
                format!("{worker} ({pipelines}) was last seen at {:.0}", agent.last_seen_at)
            }
        });
        each.collect::<Vec<_>>().join("; ")
    }

    fn entries(&self, project: &ProjectName) -> Vec<(String, Seen)> {
        let seen = self.seen();
        let from = (project.clone(), String::new());
        let own = seen.range(from..).take_while(|((of, _), _)| of == project);
        own.map(|((_, worker), seen)| (worker.clone(), seen.clone())).collect()
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<(ProjectName, String), Seen>> {
        // A panic while it is locked leaves it whole enough: it is for display and for the first refusal only.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(worker: String, seen: Seen) -> AgentView {
    let connected = seen.parked_count > 0;
    AgentView { worker, pipelines: seen.pipelines, last_seen_at: seen.last_seen_at, connected }
}

fn forget_oldest(seen: &mut BTreeMap<(ProjectName, String), Seen>) {
    while seen.len() > REMEMBERED_LIMIT {
        let gone = seen.iter().filter(|(_, seen)| seen.parked_count == 0);
        let Some(oldest) = gone.min_by_key(|(_, seen)| seen.last_seen_boot).map(|(key, _)| key.clone()) else { return };
        seen.remove(&oldest);
    }
}

/// An agent whose call is parked, until it is dropped.
pub struct Present {
    agents: Arc<Agents>,
    worker: String,
    projects: Vec<ProjectName>,
}

impl Drop for Present {
    fn drop(&mut self) {
        let (wall, boot) = (self.agents.clock.wall(), self.agents.clock.boot());
        let mut seen = self.agents.seen();
        for project in self.projects.drain(..) {
            if let Some(entry) = seen.get_mut(&(project, self.worker.clone())) {
                entry.parked_count = entry.parked_count.saturating_sub(1);
                entry.last_seen_at = wall;
                entry.last_seen_boot = boot;
            }
        }
    }
}
