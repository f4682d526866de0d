//! Decisions on different projects that share a transaction: one flight locks and loads for all of them, one records them,
//! and one commit makes them durable. See decision 0021.
//!
//! ```text
//! job ─▶ is a lane free? ─ yes ─▶ goes at once ─▶ then whoever has come meanwhile, together ─▶ …
//!                        └ no ──▶ goes with the next transaction of a lane
//! ```
//!
//! Nobody waits for a lock in here: a project that another server has locked is left out, and goes alone; so is a claim whose
//! worker makes another one. A transaction that takes long is left to itself, and the lane goes on. What the database refuses together is tried one by one, so
//! nobody answers for another's mistake.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{task::yield_now, time::timeout};
use tokio_postgres::Row;

use super::{
    fault::Fault,
    record::{self, Locked, Records, Sighted},
    rows,
    schema::require_version,
    session::{self, Session, call},
    statements::{DEPLOYMENT_COLUMN_COUNT, PROJECT_COLUMN_COUNT, Sql},
    text,
    transact::{Begin, Decided, Denied, Engine, Job, Wish, decided, roll_back},
};
use crate::{
    model::{LineLoad, Loaded, ProjectName},
    store::BoxFuture,
};

/// How many shared transactions are under way at once, but for those that are slow: while one waits for the disk or the
/// wire, the next is worked on. The more there were, the fewer would share each of them.
const LANE_LIMIT: usize = 2;
/// How many decisions share a transaction at most.
const GROUP_LIMIT: usize = 32;
/// How long whoever comes waits for a transaction that is under way. After that it is slow, and others go past it.
const PATIENCE: Duration = Duration::from_millis(50);

/// Who waits for a shared transaction.
#[derive(Default)]
pub(super) struct Lanes {
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// How many make shared transactions.
    lane_count: usize,
}

/// The right to make shared transactions, one after the other.
struct Lane {
    lanes: Arc<Lanes>,
    has_ended: bool,
}

impl Lanes {
    /// Queues a job; a lane is for whoever comes while one is free.
    fn enter(self: &Arc<Self>, job: Job) -> Option<Lane> {
        let mut queue = self.queue();
        queue.jobs.push_back(job);
        if queue.lane_count == LANE_LIMIT {
            return None;
        }
        queue.lane_count += 1;
        Some(Lane { lanes: self.clone(), has_ended: false })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    /// Whoever waits, those first who came first. The lane ends where nobody does.
    fn next(&mut self) -> Option<Vec<Job>> {
        let mut queue = self.lanes.queue();
        let count = queue.jobs.len().min(GROUP_LIMIT);
        if count == 0 {
            // Under the same lock, so that nobody queues behind a lane that has ended.
            queue.lane_count -= 1;
            self.has_ended = true;
            return None;
        }
        Some(queue.jobs.drain(..count).collect())
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if !self.has_ended {
            self.lanes.queue().lane_count -= 1;
        }
    }
}

/// What of each job could be loaded; none for one that would have to wait for a lock.
type LoadedJobs = Vec<Option<Result<(Loaded, Sighted), Fault>>>;

impl Job {
    /// Whether others may be made to wait for it.
    pub(super) fn may_share(&self) -> bool {
        matches!(self.wish.load.line, LineLoad::None | LineLoad::Head | LineLoad::Edges(_))
    }
}

impl Engine {
    /// Has a job done together with whoever else waits.
    pub(super) async fn share(self: Arc<Self>, job: Job) {
        if let Some(lane) = self.lanes.enter(job) {
            self.keep_lane(lane).await;
        }
    }

    fn keep_lane(self: Arc<Self>, mut lane: Lane) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            loop {
                // Whoever is ready to ask does so before the next transaction begins.
                yield_now().await;
                let Some(group) = lane.next() else { return };
                let mut transaction = pin!(self.together(group));
                if timeout(PATIENCE, &mut transaction).await.is_err() {
                    self.under_way.spawn(self.clone().keep_lane(lane));
                    return transaction.await;
                }
            }
        })
    }

    async fn together(self: &Arc<Self>, group: Vec<Job>) {
        let wishes: Vec<Wish> = group.iter().map(|job| job.wish.clone()).collect();
        let (mut session, begun) = match self.begin(&wishes).await {
            Ok(begun) => begun,
            Err(Fault::Driver(error)) if error.as_db_error().is_some() && group.len() > 1 => {
                tracing::warn!(?error, "a load for several projects was refused; each is tried alone");
                return group.into_iter().for_each(|job| self.part(job));
            }
            Err(fault) => {
                let error = fault.into_store_error();
                return group.into_iter().for_each(|job| job.asker.tell(Err(error.clone())));
            }
        };
        let Some((number, loaded)) = begun else {
            group.into_iter().for_each(|job| self.part(job));
            return roll_back(&mut session).await;
        };
        let (mut records, mut recorded, mut unchanged) = (Records::new(), Vec::new(), Vec::new());
        for (job, loaded) in group.into_iter().zip(loaded) {
            let Some(loaded) = loaded else {
                self.part(job);
                continue;
            };
            let Job { wish: Wish { project, .. }, decide, asker } = job;
            let changed = loaded.map_err(Fault::into_store_error).and_then(|(loaded, sighted)| {
                let changes = decided(&project, decide, loaded)?;
                if !changes.is_empty() {
                    records.add(&project, &sighted, &changes).map_err(|fault| {
                        tracing::error!(project.name = %project, ?fault, "a decision cannot be recorded");
                        fault.into_store_error()
                    })?;
                }
                Ok((sighted, changes))
            });
            match changed {
                Err(error) => asker.tell(Err(error)),
                Ok((_, changes)) if changes.is_empty() => unchanged.push(asker),
                Ok((sighted, changes)) => recorded.push(Decided { project, sighted, changes, asker }),
            }
        }
        // What they saw was durable before it could be seen.
        unchanged.into_iter().for_each(|asker| asker.tell(Ok(())));
        if recorded.is_empty() {
            return roll_back(&mut session).await;
        }
        match self.commit(session, number, records).await {
            Ok(()) => {
                self.commits.count(recorded.len());
                recorded.into_iter().for_each(|decided| self.tell_of(decided));
            }
            Err(Denied::Lost(error)) => {
                recorded.into_iter().for_each(|decided| decided.asker.tell(Err(error.clone())));
            }
            Err(Denied::Refused(fault)) => {
                tracing::warn!(?fault, "what was decided on several projects was refused; each is recorded alone");
                for decided in recorded {
                    self.under_way.spawn(self.clone().record_again(decided));
                }
            }
        }
    }

    /// Has a job done without the others.
    fn part(self: &Arc<Self>, job: Job) {
        self.under_way.spawn(self.clone().alone(job));
    }
}

impl Begin for Vec<Wish> {
    /// The transaction's number and what was loaded; `None` where none of the projects could be locked.
    type Begun = Option<(i64, LoadedJobs)>;

    fn begin_on(&self, session: &mut Session) -> impl Future<Output = Result<Self::Begun, Fault>> + Send {
        begin_together(session, self)
    }
}

async fn begin_together(session: &mut Session, wishes: &[Wish]) -> Result<Option<(i64, LoadedJobs)>, Fault> {
    let text = |wish: &Wish| wish.project.as_str().to_owned();
    let all: Vec<_> = wishes.iter().map(text).collect();
    let with_head: Vec<_> = wishes.iter().filter(|wish| wish.load.line == LineLoad::Head).map(text).collect();
    let with_edges = wishes.iter().filter_map(|wish| match wish.load.line {
        LineLoad::Edges(edges) => Some((&wish.project, edges)),
        LineLoad::None | LineLoad::Head | LineLoad::All => None,
    });
    let edges = record::edges_of(&with_edges.collect::<Vec<_>>())?;
    let has_edges = edges.is_some();
    let loads: Vec<_> = wishes.iter().map(|Wish { project, load }| record::load_named(project, load)).collect();
    let counts: Vec<usize> = loads.iter().map(Vec::len).collect();
    let mut calls = vec![call!(Sql::Begin), call!(Sql::LockFree, all), call!(Sql::Heads, with_head)];
    calls.extend(edges);
    calls.extend(loads.into_iter().flatten());
    let holders: BTreeSet<String> =
        wishes.iter().filter_map(|wish| wish.load.held_by.as_deref()).map(text::escaped).collect();
    let has_holders = !holders.is_empty();
    if has_holders {
        // After the projects' locks, as where one goes alone.
        let holders: Vec<_> = holders.into_iter().collect();
        calls.extend([call!(Sql::FreeHolderTurns, holders.clone()), call!(Sql::HeldByThese, holders)]);
    }

    let mut answers = session::rows(session.begin(&calls).await?)?;
    let mut held = HashMap::new();
    if has_holders {
        let (found, free) = (answers.pop().unwrap_or_default(), answers.pop().unwrap_or_default());
        for row in free {
            held.insert(rows::get::<String>(&row, 0)?, Vec::new());
        }
        for row in found {
            if let Some(rows) = held.get_mut(rows::get::<&str>(&row, 1)?) {
                rows.push(row);
            }
        }
    }
    let mut answers = answers.into_iter().skip(1);
    let mut locked = HashMap::new();
    let mut number = None;
    for row in answers.next().unwrap_or_default() {
        let name = rows::name(&row, PROJECT_COLUMN_COUNT + 3)?;
        let Locked { project, version, transaction } = Locked::of(&row, &name)?;
        require_version(version)?;
        number = Some(transaction);
        locked.insert(name, project);
    }
    let Some(number) = number else { return Ok(None) };
    let mut heads: HashMap<ProjectName, Vec<Row>> = HashMap::new();
    let lines = answers.by_ref().take(1 + usize::from(has_edges)).flatten().collect::<Vec<_>>();
    for row in lines {
        heads.entry(rows::name(&row, DEPLOYMENT_COLUMN_COUNT)?).or_default().push(row);
    }
    let loaded = wishes.iter().zip(counts).map(|(Wish { project: name, load }, count)| {
        let mut answers: Vec<_> = answers.by_ref().take(count).collect();
        if load.line != LineLoad::None {
            answers.push(heads.remove(name).unwrap_or_default());
        }
        if let Some(holder) = &load.held_by {
            // Of several claims of one holder the first goes; the others have to see what it took.
            let held = held.remove(&text::escaped(holder))?;
            answers.extend([Vec::new(), held]);
        }
        let project = locked.remove(name)?;
        Some(project.and_then(|project| record::loaded(name, load, Some(project), answers)))
    });
    Ok(Some((number, loaded.collect())))
}
