//! Waiting for something to become true of a deployment, and following its events.
//!
//! The order is the same everywhere: subscribe, read, wait, read again. A wake-up is only a hint; only the store has
//! the state.

use std::{collections::HashMap, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Board, EventPage, Notifier, Seeker, Seen, Topic, board::ProjectMark, shared::SharedRead};
use crate::{
    health::{Pulse, Task, ticks},
    model::{Deployment, DeploymentId, Event, EventBody, Hint, ProjectName, State, bounds},
    store::{Mark, Placed, Store, StoreError},
};

/// How many events one read brings: a screenful of a flood, and little memory for a slow reader.
pub const EVENT_PAGE_LIMIT: usize = 256;

/// How the slow poll is supervised. It looks once in each `period`.
pub fn fallback_task(period: Duration) -> Task {
    Task::new("watch", period + Duration::from_secs(60)).with_round_limit(period + Duration::from_secs(15))
}

/// How many events are read first, while their size is unknown.
pub(super) const EVENT_PART: usize = 8;

/// How often the slow poll looks at all projects, while somebody watches them and other servers may change them.
const PROJECTS_PERIOD: Duration = Duration::from_secs(5);
/// How many projects it reads at once.
const PROJECTS_PAGE: usize = 200;

/// What the slow poll saw of the projects last.
#[derive(Default)]
struct LookAtProjects {
    looked_at: Option<Instant>,
    marks: HashMap<ProjectName, ProjectMark>,
}

/// Waits on behalf of clients.
#[derive(Clone)]
pub struct Watch {
    pub(super) store: Arc<dyn Store>,
    pub(super) notifier: Arc<Notifier>,
    drain: CancellationToken,
    shutdown: CancellationToken,
}

/// How a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The awaited condition is true.
    Reached(Arc<Seen>),
    /// It is not true, and the window has ended, or the server drains or shuts down.
    NotYet(Box<Placed>),
}

impl Waited {
    fn reached(placed: Placed) -> Self {
        Waited::Reached(Arc::new(Seen::new(placed.deployment, placed.position)))
    }
}

/// Why there is nothing to wait for.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// The project has no such deployment.
    #[error("the project has no such deployment")]
    NotFound,
    /// The cursor is ahead of the last event.
    #[error("the deployment's last event is {last}")]
    AheadOfEnd {
        /// The last `seq`.
        last: u64,
    },
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Watch {
    /// Waits on `store`'s deployments until `shutdown`. At `drain`, the waits of that moment are answered, once.
    pub fn new(
        store: Arc<dyn Store>,
        notifier: Arc<Notifier>,
        drain: CancellationToken,
        shutdown: CancellationToken,
    ) -> Self {
        Watch { store, notifier, drain, shutdown }
    }

    /// Whether the server drains: it serves existing work, and takes nothing new.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// The token that ends a wait that begins now, if that comes before the end of its window. A wait that began before
    /// the drain ends when the drain begins, so that a load balancer can send the client to another server; a wait that
    /// begins later lasts until the server's end.
    pub fn wait_end(&self) -> &CancellationToken {
        if self.drain.is_cancelled() { &self.shutdown } else { &self.drain }
    }

    /// Subscribes to deployments of these projects that become ready for a worker of the server.
    pub fn work<'a>(&self, projects: impl IntoIterator<Item = &'a ProjectName>) -> Seeker {
        self.notifier.work(projects)
    }

    /// Waits until the deployment is final, at most for `window`.
    ///
    /// # Errors
    /// There is no such deployment, or the store does not answer.
    pub async fn completion(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        window: Duration,
    ) -> Result<Waited, WatchError> {
        self.until(project, id, window, self.wait_end(), Deployment::is_final).await
    }

    /// Waits until the deployment has left the line, at most for `window` and until `wait_end`, the token of the moment
    /// when the call began.
    ///
    /// # Errors
    /// There is no such deployment, or the store does not answer.
    pub async fn turn(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        window: Duration,
        wait_end: &CancellationToken,
    ) -> Result<Waited, WatchError> {
        self.until(project, id, window, wait_end, |deployment| match deployment.state {
            State::Waiting(_) => false,
            State::Reserved | State::Ready | State::Running(_) | State::Finished { .. } => true,
        })
        .await
    }

    /// Which projects changed.
    pub fn board(&self) -> &Board {
        self.notifier.board()
    }

    /// Subscribes to agents that come, at whichever server.
    pub fn agents(&self) -> tokio::sync::watch::Receiver<()> {
        self.notifier.agents()
    }

    /// Subscribes to tokens that are made or revoked, at whichever server.
    pub fn tokens(&self) -> tokio::sync::watch::Receiver<()> {
        self.notifier.tokens()
    }

    /// Wakes whoever sends notifications, because one is to be tried anew.
    pub fn notification_came(&self) {
        self.notifier.notification_came();
    }

    /// Tells the waiters for an agent that one came.
    pub fn agent_came(&self) {
        self.notifier.hear(Hint::Agents);
    }

    /// The slow poll that stands behind the wake-ups: looks at all awaited deployments together, every `period`, and
    /// wakes the waiters of each one that changed. Ends at `shutdown`.
    pub async fn fallback(self, period: Duration, pulse: Pulse, shutdown: CancellationToken) {
        let mut known: HashMap<DeploymentId, Mark> = HashMap::new();
        // This task may have been started again, and know nothing of what happened meanwhile.
        let mut is_first = true;
        let mut projects = LookAtProjects::default();
        let mut ticks = ticks(period);
        while pulse.next_round(&mut ticks, &shutdown).await {
            if self.store.is_shared() {
                // The waiters for an agent look again; there are seldom any.
                self.notifier.hear(Hint::Agents);
                if let Err(error) = self.look_at_projects(&mut projects).await {
                    tracing::debug!(%error, "the slow poll could not look at the projects");
                }
            }
            let awaited = self.notifier.awaited();
            if awaited.is_empty() {
                pulse.done();
                known.clear();
                continue;
            }
            match self.store.marks(awaited.into_iter().collect()).await {
                Ok(marks) => {
                    for (id, mark) in &marks {
                        // A wait that began since the last look may have missed another server's change from before
                        // this look. So where there are other servers, a new waiter looks once more.
                        let sees_all = !self.store.is_shared() && !is_first;
                        let before = known.get(id).copied().or(sees_all.then_some(*mark));
                        let is_same = |before: Mark| {
                            (before.revision, before.is_cancel_requested) == (mark.revision, mark.is_cancel_requested)
                        };
                        if !before.is_some_and(is_same) {
                            self.notifier.wake(Topic::State(*id));
                            self.notifier.wake(Topic::History(*id));
                        }
                        // The change may be output alone, as in a flood; its followers were woken for that long since.
                        if before.is_none_or(|before| before.event_count != mark.event_count) {
                            self.notifier.wake(Topic::Output(*id));
                        }
                    }
                    known = marks.into_iter().collect();
                    is_first = false;
                    pulse.done();
                }
                Err(error) => tracing::debug!(%error, "the slow poll could not look"),
            }
        }
    }

    /// Touches the projects that changed since the last look, for which no hint may have come.
    async fn look_at_projects(&self, last: &mut LookAtProjects) -> Result<(), StoreError> {
        if !self.board().is_watched() {
            *last = LookAtProjects::default();
            return Ok(());
        }
        if last.looked_at.is_some_and(|at| at.elapsed() < PROJECTS_PERIOD) {
            return Ok(());
        }
        let mut seen = HashMap::new();
        let mut after = None;
        loop {
            let page = self.store.projects(after, PROJECTS_PAGE).await?;
            let is_last = page.len() < PROJECTS_PAGE;
            after = page.last().map(|(name, _)| name.clone());
            let readable = page.into_iter().filter_map(|(name, state)| Some((name, ProjectMark::of(&state?))));
            seen.extend(readable);
            if is_last {
                break;
            }
        }
        // The first look finds everything new, since somebody may have begun to watch before it.
        let changed = seen.iter().filter(|(name, mark)| last.marks.get(*name) != Some(*mark)).map(|(name, _)| name);
        let gone = last.marks.keys().filter(|name| !seen.contains_key(*name));
        changed.chain(gone).for_each(|name| self.board().touch(name.clone()));
        *last = LookAtProjects { looked_at: Some(Instant::now()), marks: seen };
        Ok(())
    }

    /// Waits until the deployment's worker is asked to stop, or has lost its lease, at most for `window`.
    ///
    /// # Errors
    /// There is no such deployment, or the store does not answer.
    pub async fn worker_called(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        window: Duration,
    ) -> Result<Placed, WatchError> {
        let called = |deployment: &Deployment| deployment.cancel.is_some() || deployment.is_final();
        match self.until(project, id, window, self.wait_end(), called).await? {
            Waited::Reached(seen) => Ok(Placed { deployment: seen.deployment.clone(), position: seen.position }),
            Waited::NotYet(placed) => Ok(*placed),
        }
    }

    async fn until(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        window: Duration,
        wait_end: &CancellationToken,
        reached: fn(&Deployment) -> bool,
    ) -> Result<Waited, WatchError> {
        let ends = Instant::now() + window;
        let mut subscription = self.notifier.subscribe(Topic::State(id));
        let placed = self.read(project, id).await?;
        if reached(&placed.deployment) {
            return Ok(Waited::reached(placed));
        }
        // A parked poll keeps no data that it can read again.
        drop(placed);
        loop {
            let woken = tokio::select! {
                biased;
                () = wait_end.cancelled() => None,
                woken = timeout_at(ends, subscription.changed()) => woken.ok(),
            };
            let Some(shared) = woken else { break };
            // The awaited condition stays true once it is true, so later changes do not matter.
            if let Some(seen) = shared.committed.as_ref().filter(|seen| reached(&seen.deployment)) {
                return Ok(Waited::Reached(seen.clone()));
            }
            let seen = self.read_shared(project, id, &shared).await?;
            if reached(&seen.deployment) {
                return Ok(Waited::Reached(seen));
            }
        }
        let placed = self.read(project, id).await?;
        Ok(if reached(&placed.deployment) { Waited::reached(placed) } else { Waited::NotYet(Box::new(placed)) })
    }

    /// The events after `after`; waits for the first of them, at most for `window`.
    ///
    /// # Errors
    /// There is no such deployment, the cursor is ahead of its end, or the store does not answer.
    pub async fn events(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        after: u64,
        window: Duration,
    ) -> Result<Arc<EventPage>, WatchError> {
        let ends = Instant::now() + window;
        let (mut follow, first) = Box::pin(self.follow(project, id, after)).await?;
        if first.is_final() && after >= first.event_count {
            return Ok(Arc::new(EventPage { complete: Some(Arc::new(first)), ..EventPage::empty(after) }));
        }
        drop(first);
        // The window bounds the wait, and not the first look: a window of zero is answered by that look.
        if let Some(page) = Box::pin(follow.look()).await? {
            return Ok(page);
        }
        match timeout_at(ends, follow.next_page()).await {
            Ok(page) => page,
            Err(_) => Ok(Arc::new(EventPage::empty(after))),
        }
    }

    /// One deployment and its place in line.
    ///
    /// # Errors
    /// There is no such deployment, or the store does not answer.
    pub async fn read(&self, project: &ProjectName, id: DeploymentId) -> Result<Placed, WatchError> {
        self.store.deployment(project.clone(), id).await?.ok_or(WatchError::NotFound)
    }

    async fn read_shared(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        shared: &SharedRead,
    ) -> Result<Arc<Seen>, WatchError> {
        let read = async {
            let placed = self.store.deployment(project.clone(), id).await?;
            Ok::<_, StoreError>(placed.map(|placed| Arc::new(Seen::new(placed.deployment, placed.position))))
        };
        shared.deployment.get_or_try_init(|| read).await?.clone().ok_or(WatchError::NotFound)
    }
}

impl Watch {
    /// The events after `cursor` as they are now.
    pub(super) async fn read_page(
        &self,
        project: &ProjectName,
        id: DeploymentId,
        mut cursor: u64,
    ) -> Result<EventPage, WatchError> {
        let (read, goes_on) = self.read_events(id, cursor).await?;
        let mut events = Vec::with_capacity(read.len());
        let mut complete = None;
        for event in read {
            // Retention leaves holes, which are told as gaps: every `seq` is accounted for.
            if event.seq > cursor + 1 {
                let (from, to) = (cursor + 1, event.seq - 1);
                events.push(Event { seq: to, at: event.at, body: EventBody::Gap { from, to } });
            }
            cursor = event.seq;
            if matches!(event.body, EventBody::Complete) {
                complete = Some(Arc::new(self.read(project, id).await?.deployment));
            }
            events.push(event);
        }
        Ok(EventPage { events, complete, goes_on, ..EventPage::empty(cursor) })
    }

    /// A page of events, and whether there may be more. They are read in parts, since one of them may be as large as a
    /// thousand others.
    async fn read_events(&self, id: DeploymentId, mut after: u64) -> Result<(Vec<Event>, bool), StoreError> {
        let (mut events, mut bytes, mut part) = (Vec::new(), 0, EVENT_PART);
        loop {
            let limit = part.min(EVENT_PAGE_LIMIT - events.len());
            let read = self.store.events(id, after, limit).await?;
            let is_last = read.len() < limit;
            after = read.last().map_or(after, |event| event.seq);
            bytes += read.iter().map(|event| event.body.size()).sum::<usize>();
            events.extend(read);
            if is_last || events.len() >= EVENT_PAGE_LIMIT || bytes >= bounds::PAGE_BYTES {
                return Ok((events, !is_last));
            }
            // As many events as would fill the page, if they are as large as those before them.
            part = ((bounds::PAGE_BYTES - bytes) / (bytes / events.len())).max(1);
        }
    }
}
