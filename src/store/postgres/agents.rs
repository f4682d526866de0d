//! Agents' calls for work, which all servers of the database see alike. See decision 0026.
//!
//! ```text
//! call ─▶ its visit: do the others expect it for long enough? ─ yes ─▶ answered
//!                                                             └ no ──▶ told at once ─▶ answered
//! one that goes on for longer than was told, or ended a second ago ─▶ told, with all others of which that is true, once a second
//! ```
//!
//! The calls of an agent at one server that follow each other are one visit, and one row for each of its projects: an agent
//! that is handed work ten times a second is not news ten times a second. One task tells, so that what is told last is
//! what was known last.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{Hash, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};
use tokio_postgres::Row;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    fault::Fault,
    rows,
    session::{Session, call},
    statements::Sql,
    transact::Engine,
};
use crate::{
    health::{Pulse, Task},
    model::{Hint, ProjectName},
    store::{
        AgentCall, BoxFuture, KnownAgent, StoreError,
        agents::{ABSENCE_LIMIT, KNOWN_LIMIT, REMEMBERED_LIMIT},
        columns::millis,
    },
};

/// How far apart what nobody waits for is told, so that much of it is told at once; and how long an agent must be gone for
/// that to be news, since most come back with the next call.
const PAUSE: Duration = Duration::from_secs(1);
/// How the task that tells is supervised: the database's own time-outs bound each of its rounds.
pub(super) const TASK: Task = Task::new("agents", Duration::from_secs(90));
/// A visit that the others expect to last for so much longer need not be told anew at once: before that is over the task
/// will have told it.
const ENOUGH: Duration = Duration::from_secs(3);
/// How many rows one statement tells, or a few more.
const BATCH_LIMIT: usize = 1_000;

/// The visits of agents at this server.
#[derive(Default)]
pub(super) struct Visits {
    state: Mutex<State>,
    stirred: Notify,
}

#[derive(Default)]
struct State {
    visits: HashMap<Arc<Visitor>, Visit>,
    /// Whose visits the database knows less of than we do.
    untold: HashSet<Arc<Visitor>>,
    /// Whose visits it does not know of, and who waits until it does.
    unknown: HashSet<Arc<Visitor>>,
    asking: Vec<oneshot::Sender<Result<(), StoreError>>>,
    is_closed: bool,
}

/// An agent, and the pipelines that it can run, by project: with another offer it is another.
#[derive(Debug, PartialEq, Eq)]
struct Visitor {
    worker: String,
    offers: BTreeMap<ProjectName, Vec<String>>,
}

impl Hash for Visitor {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Hardly ever do two have one name, and some have a hundred projects.
        self.worker.hash(state);
    }
}

#[derive(Debug)]
struct Visit {
    id: Uuid,
    /// When each of its calls that may be parked ends at the latest.
    calls: HashMap<Uuid, Instant>,
    came_at: Instant,
    /// When the last one of its calls that ended early did.
    left_at: Instant,
    /// Until when the database expects it to last, once it was told.
    told_until: Option<Instant>,
}

impl Visit {
    fn new(now: Instant) -> Visit {
        let (id, calls) = (Uuid::now_v7(), HashMap::new());
        Visit { id, calls, came_at: now, left_at: now, told_until: None }
    }

    /// When its last call ended, or will.
    fn ends_at(&self) -> Instant {
        self.calls.values().copied().fold(self.left_at, Instant::max)
    }
}

/// What is told at a time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// Of visits for which somebody waits.
    Asked,
    /// Of those, and of all that is news for those who do not wait.
    Due,
    /// Whatever is not told.
    All,
}

/// What the database is told of one visit.
struct Word {
    visitor: Arc<Visitor>,
    visit: Uuid,
    came_at: Instant,
    ends_at: Instant,
}

impl Visits {
    /// Notes a call, and waits until every server can see it.
    ///
    /// # Errors
    /// The database could not be told.
    pub(super) async fn came(&self, call: AgentCall) -> Result<(), StoreError> {
        let answered = {
            let mut state = self.state();
            if state.is_closed {
                return Err(closed());
            }
            let now = Instant::now();
            let visitor = Arc::new(Visitor { worker: call.worker, offers: call.offers });
            let visit = state.visits.entry(visitor.clone()).or_insert_with(|| Visit::new(now));
            let is_known = visit.told_until.is_some_and(|until| until > now + ENOUGH);
            if !is_known && visit.told_until.is_some() {
                // Its row may be swept as one that is over; so it is never told of again.
                *visit = Visit::new(now);
            }
            visit.calls.retain(|_, due| *due > now);
            visit.calls.insert(call.id, now + call.window);
            visit.came_at = now;
            let answered = if is_known {
                state.untold.insert(visitor);
                None
            } else {
                state.unknown.insert(visitor);
                let (asker, answered) = oneshot::channel();
                state.asking.push(asker);
                Some(answered)
            };
            self.stirred.notify_one();
            answered
        };
        match answered {
            Some(answered) => answered.await.map_err(|_| closed())?,
            None => Ok(()),
        }
    }

    /// Notes that a call ended before its window did.
    pub(super) fn left(&self, call: AgentCall) {
        let visitor = Arc::new(Visitor { worker: call.worker, offers: call.offers });
        let mut state = self.state();
        if let Some(visit) = state.visits.get_mut(&visitor)
            && visit.calls.remove(&call.id).is_some()
        {
            visit.left_at = Instant::now();
            state.untold.insert(visitor);
            self.stirred.notify_one();
        }
    }

    /// Tells the database until `shutdown`, and what is left then.
    pub(super) async fn run(self: Arc<Self>, engine: Arc<Engine>, pulse: Pulse, shutdown: CancellationToken) {
        let mut due = Instant::now() + PAUSE;
        loop {
            let extent = tokio::select! {
                extent = pulse.resting(self.wanted(due)) => extent,
                () = shutdown.cancelled() => Extent::All,
            };
            pulse.beat();
            self.tell(&engine, extent).await;
            match extent {
                Extent::Asked => {}
                Extent::Due => due = Instant::now() + PAUSE,
                Extent::All => break,
            }
        }
        let asking = {
            let mut state = self.state();
            state.is_closed = true;
            mem::take(&mut state.asking)
        };
        asking.into_iter().for_each(|asker| drop(asker.send(Err(closed()))));
    }

    /// Waits until somebody waits for something to be told, or there is anything to tell and it is time.
    async fn wanted(&self, due: Instant) -> Extent {
        loop {
            let stirred = self.stirred.notified();
            let (is_asked, is_untold) = {
                let state = self.state();
                (!state.asking.is_empty(), !state.untold.is_empty())
            };
            if is_untold && Instant::now() >= due {
                return Extent::Due;
            }
            if is_asked {
                return Extent::Asked;
            }
            tokio::select! {
                () = stirred => {}
                () = sleep_until(due), if is_untold => {}
            }
        }
    }

    /// Tells so much, and answers those who wait for that.
    async fn tell(&self, engine: &Engine, extent: Extent) {
        let (words, asking) = self.state().take_words(extent);
        let mut words = words.as_slice();
        let mut result = Ok(());
        while result.is_ok() && !words.is_empty() {
            let (batch, rest) = words.split_at(batch_length(words));
            result = tell(engine, batch).await;
            if result.is_ok() {
                self.state().note_told(batch);
                words = rest;
            }
        }
        if let Err(error) = &result {
            tracing::debug!(%error, "could not note agents' calls; it is tried again");
            let mut state = self.state();
            state.untold.extend(words.iter().map(|word| word.visitor.clone()));
        }
        // Some of them may be gone.
        asking.into_iter().for_each(|asker| drop(asker.send(result.clone())));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_words(&mut self, extent: Extent) -> (Vec<Word>, Vec<oneshot::Sender<Result<(), StoreError>>>) {
        let now = Instant::now();
        let mut visitors = mem::take(&mut self.unknown);
        for visitor in &visitors {
            self.untold.remove(visitor);
        }
        if extent != Extent::Asked {
            // Those that are over and told begin anew when they come again.
            let is_over = |visit: &Visit| visit.told_until.is_some_and(|until| until <= now);
            self.visits.retain(|visitor, visit| !is_over(visit) || self.untold.contains(visitor));
            let is_sure = |visit: &Visit| visit.ends_at() > now || visit.left_at + PAUSE <= now;
            let is_news = |visitor: &Arc<Visitor>| self.visits.get(visitor).is_none_or(is_sure);
            visitors.extend(self.untold.extract_if(|visitor| extent == Extent::All || is_news(visitor)));
        }
        let word = |visitor: Arc<Visitor>| {
            let visit = self.visits.get(&visitor)?;
            let (id, came_at, ends_at) = (visit.id, visit.came_at, visit.ends_at());
            Some(Word { visitor, visit: id, came_at, ends_at })
        };
        let mut words: Vec<Word> = visitors.into_iter().filter_map(word).collect();
        // Servers that sweep the same rows lock them in the same order.
        words.sort_by(|one, other| one.visitor.worker.cmp(&other.visitor.worker));
        (words, mem::take(&mut self.asking))
    }

    fn note_told(&mut self, words: &[Word]) {
        for word in words {
            if let Some(visit) = self.visits.get_mut(&word.visitor)
                && visit.id == word.visit
            {
                visit.told_until = Some(word.ends_at);
            }
        }
    }
}

fn batch_length(words: &[Word]) -> usize {
    let mut rows = 0;
    let fits = |word: &&Word| {
        let fits = rows < BATCH_LIMIT;
        rows += word.visitor.offers.len();
        fits
    };
    words.iter().take_while(fits).count()
}

/// Tells the database, and the other servers where somebody is new to it.
async fn tell(engine: &Engine, words: &[Word]) -> Result<(), StoreError> {
    struct Through<'a> {
        engine: &'a Engine,
    }
    let through = Through { engine };
    let told: BoxFuture<'_, _> = super::read!(through, session => write(&mut session, words));
    if told.await? {
        engine.wakes.tell_hints([Hint::Agents]);
    }
    Ok(())
}

/// Answers whether some agent was not there before, for some of its projects.
async fn write(session: &mut Session, words: &[Word]) -> Result<bool, Fault> {
    let now = Instant::now();
    let (mut projects, mut workers, mut visits, mut pipelines) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut came_ago, mut due_in) = (Vec::new(), Vec::new());
    for word in words {
        let ago = |time: Instant| rows::signed(millis(now.saturating_duration_since(time)));
        let left = rows::signed(millis(word.ends_at.saturating_duration_since(now)))?;
        let (came, due) = (ago(word.came_at)?, left - ago(word.ends_at)?);
        for (project, offered) in &word.visitor.offers {
            let offered = serde_json::to_string(offered).map_err(|_| Fault::Mistaken("an offer has no JSON form"))?;
            projects.push(project.as_str().to_owned());
            workers.push(word.visitor.worker.clone());
            visits.push(word.visit);
            pipelines.push(offered);
            came_ago.push(came);
            due_in.push(due);
        }
    }
    let absence = rows::signed(millis(ABSENCE_LIMIT))?;
    let told =
        session.write(call!(Sql::TellVisits, projects, workers, visits, pipelines, came_ago, due_in, absence)).await?;
    let row = told.first().ok_or(Fault::Mistaken("the database tells nothing of an agent"))?;
    let (is_any_new, is_any_away): (bool, bool) = (rows::get(row, 0)?, rows::get(row, 1)?);
    if is_any_new {
        // Only newcomers make the table grow.
        let limit = i64::try_from(REMEMBERED_LIMIT).unwrap_or(i64::MAX);
        session.write(call!(Sql::ForgetAgents, limit)).await?;
    }
    Ok(is_any_away)
}

/// A project's agents, those that were heard of last first.
pub(super) async fn of(session: &mut Session, project: &ProjectName) -> Result<Vec<KnownAgent>, Fault> {
    let limit = i64::try_from(KNOWN_LIMIT).unwrap_or(i64::MAX);
    let found = session.ask(call!(Sql::Agents, project.as_str().to_owned(), limit)).await?;
    let known = |row: &Row| {
        Ok(KnownAgent {
            worker: rows::get(row, 0)?,
            pipelines: rows::json(row, 1)?,
            last_seen_at: rows::instant(row, 2)?,
            is_parked: rows::get(row, 3)?,
            gone_for: Duration::from_millis(rows::number(row, 4)?),
        })
    };
    found.iter().map(known).collect()
}

fn closed() -> StoreError {
    StoreError::Unavailable("the store is closed".to_owned())
}
