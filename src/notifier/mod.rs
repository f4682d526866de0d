//! Wake-ups: hints that something was committed, told after the commit. Who is woken re-reads the store.
//!
//! There are three topics a deployment. Its *state* stirs when its slot changes or a cancel is asked for; its *history*
//! with every event that is more than output; and its *output* with the rest. So output wakes who follows it, and nobody
//! who waits for the end, nor one who has just been told of some.
//!
//! Every wake-up of a topic brings a fresh cell that all who were woken share: the first of them reads the store into it,
//! so that ten thousand polls on one deployment, or a thousand streams of it, cost one read.

mod work;

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Notify, OnceCell, watch};

use crate::model::{Changes, Deployment, DeploymentId, Event, Hint, ProjectName, Step};

pub use work::Seeker;
use work::Seekers;

/// Locks of the topic table: enough that ten thousand polls that park at once seldom meet.
const SHARD_COUNT: usize = 32;

/// What of a deployment to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Slot changes and cancel requests.
    State(DeploymentId),
    /// Every event that is more than output.
    History(DeploymentId),
    /// Events that are output alone.
    Output(DeploymentId),
}

/// A page that holds more output than this, and this for each who was woken, is kept by those who read it, and not for those
/// who come later.
const KEPT_PAGE_BYTES_LIMIT: u64 = 64 << 10;
/// A crowd is told of a flood's output more seldom, and so in larger pages: that they are kept costs each of it this much.
const KEPT_PAGE_BYTES_LIMIT_EACH: u64 = 1 << 10;
/// From how many places a history is kept: most who follow it are at the same one.
const KEPT_PAGES_LIMIT: usize = 4;

/// Some events in order.
#[derive(Debug, Default)]
pub struct Page {
    /// The events; empty when there were none.
    pub events: Vec<Event>,
    /// The cursor after them.
    pub last: u64,
    /// The final deployment, when the last of them is `complete`, or was seen before.
    pub complete: Option<Arc<Deployment>>,
    /// Whether more may follow that is there already.
    pub goes_on: bool,
    /// How they are sent, once somebody has put them into that form: the same for all who read the page.
    pub encoded: OnceLock<Bytes>,
}

impl Page {
    /// No events.
    pub fn empty(last: u64) -> Self {
        Page { last, ..Page::default() }
    }
}

/// A deployment as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The deployment.
    pub deployment: Deployment,
    /// How many are served before it, itself included; 0 when it does not wait.
    pub position: u64,
    /// How it is sent, once somebody has put it into that form: the same for all who have read it together.
    pub encoded: OnceLock<Bytes>,
}

impl Seen {
    /// Nobody has sent it yet.
    pub fn new(deployment: Deployment, position: u64) -> Self {
        Seen { deployment, position, encoded: OnceLock::new() }
    }
}

/// What those who were woken together have read, each part once.
#[derive(Debug, Default)]
pub struct Shared {
    /// How many were woken together.
    pub reader_count: usize,
    /// The deployment as the commit left it that stirred the topic, where that is known and it does not stand in line: true
    /// at that moment, so it may be told at once where it is what somebody waits for, and is read anew where it is not.
    pub committed: Option<Arc<Seen>>,
    /// The deployment, where the topic is its state: empty until the first of them has read it.
    pub deployment: OnceCell<Option<Arc<Seen>>>,
    /// The pages of its history, by the cursor before them.
    pages: Mutex<Vec<KeptPage>>,
}

/// A page, once it is read, and the cursor before it.
type KeptPage = (u64, Arc<OnceCell<Arc<Page>>>);

/// What is shared by those who were woken together.
pub type SharedRead = Arc<Shared>;

impl Shared {
    /// The page after this cursor; whoever comes first reads it.
    ///
    /// # Errors
    /// What `read` says; then the next one tries.
    pub async fn page<E>(&self, after: u64, read: impl Future<Output = Result<Page, E>>) -> Result<Arc<Page>, E> {
        let cell = {
            let mut pages = self.pages();
            match pages.iter().find(|(cursor, _)| *cursor == after) {
                Some((_, cell)) => cell.clone(),
                None => {
                    let cell = Arc::default();
                    if pages.len() < KEPT_PAGES_LIMIT {
                        pages.push((after, Arc::clone(&cell)));
                    }
                    cell
                }
            }
        };
        let page = cell.get_or_try_init(|| async { read.await.map(Arc::new) }).await?.clone();
        let reader_count = u64::try_from(self.reader_count).unwrap_or(0);
        let limit = KEPT_PAGE_BYTES_LIMIT + reader_count * KEPT_PAGE_BYTES_LIMIT_EACH;
        if page.events.iter().map(|event| event.body.log_bytes()).sum::<u64>() > limit {
            self.pages().retain(|(cursor, _)| *cursor != after);
        }
        Ok(page)
    }

    fn pages(&self) -> MutexGuard<'_, Vec<KeptPage>> {
        // Every change of it is one call, so a panic leaves it whole.
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Topics = HashMap<Topic, watch::Sender<SharedRead>>;

/// The topics that somebody waits for.
#[derive(Debug)]
pub struct Notifier {
    shards: [Mutex<Topics>; SHARD_COUNT],
    hasher: RandomState,
    seekers: Arc<Seekers>,
    agents: watch::Sender<()>,
    /// Whether somebody wants to hear of anything at all, once.
    is_anything_awaited: AtomicBool,
    anything: Notify,
}

impl Default for Notifier {
    fn default() -> Self {
        Notifier {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            seekers: Arc::default(),
            agents: watch::Sender::new(()),
            is_anything_awaited: AtomicBool::new(false),
            anything: Notify::new(),
        }
    }
}

impl Notifier {
    /// Hears of `topic` from now on. Read the store after this, never before.
    pub fn subscribe(self: &Arc<Self>, topic: Topic) -> Subscription {
        let receiver = self.shard(topic).entry(topic).or_default().subscribe();
        Subscription { receiver: Some(receiver), topic, notifier: self.clone() }
    }

    /// Hears of deployments of these projects that became ready for a worker of the server.
    pub fn work<'a>(&self, projects: impl IntoIterator<Item = &'a ProjectName>) -> Seeker {
        self.seekers.add(projects)
    }

    /// Hears of agents that come.
    pub fn agents(&self) -> watch::Receiver<()> {
        self.agents.subscribe()
    }

    /// Wakes whoever waits for what these changes changed.
    pub fn publish(&self, changes: &Changes) {
        for hint in changes.hints() {
            match hint {
                Hint::State(id) => {
                    self.note_anything();
                    let topic = Topic::State(id);
                    if let Some(sender) = self.shard(topic).get(&topic) {
                        stir(sender, committed(changes, id));
                    }
                }
                Hint::History(_) | Hint::Output(_) | Hint::Work(_) | Hint::Agents | Hint::Anything => self.hear(hint),
            }
        }
    }

    /// From now on the next hint is remembered for [`Notifier::anything`], for one who waits.
    pub fn await_anything(&self) {
        self.is_anything_awaited.store(true, Ordering::SeqCst);
    }

    /// Waits for the first hint since [`Notifier::await_anything`].
    pub async fn anything(&self) {
        self.anything.notified().await;
    }

    /// Wakes whom this may concern.
    pub fn hear(&self, hint: Hint) {
        // Nothing of a deployment stirs when an agent comes.
        if hint != Hint::Agents {
            self.note_anything();
        }
        match hint {
            Hint::State(id) => self.wake(Topic::State(id)),
            Hint::History(id) => self.wake(Topic::History(id)),
            Hint::Output(id) => self.wake(Topic::Output(id)),
            Hint::Work(project) => self.seekers.wake(&project),
            Hint::Agents => {
                self.agents.send_replace(());
            }
            Hint::Anything => {
                for shard in &self.shards {
                    let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                    shard.values().for_each(|sender| stir(sender, None));
                }
                self.seekers.wake_all();
                self.agents.send_replace(());
            }
        }
    }

    /// The deployments that somebody waits for.
    pub fn awaited(&self) -> HashSet<DeploymentId> {
        let mut ids = HashSet::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            ids.extend(shard.keys().map(|(Topic::State(id) | Topic::History(id) | Topic::Output(id))| *id));
        }
        ids
    }

    /// Wakes who waits for this topic.
    pub fn wake(&self, topic: Topic) {
        if let Some(sender) = self.shard(topic).get(&topic) {
            stir(sender, None);
        }
    }

    fn note_anything(&self) {
        // A look costs nothing where nobody waits, as is usual while there is something to hear.
        if self.is_anything_awaited.load(Ordering::SeqCst) && self.is_anything_awaited.swap(false, Ordering::SeqCst) {
            self.anything.notify_one();
        }
    }

    fn shard(&self, topic: Topic) -> MutexGuard<'_, Topics> {
        let index = usize::try_from(self.hasher.hash_one(topic) % SHARD_COUNT as u64).unwrap_or(0);
        // A panic while a table is locked leaves it whole: every change of it is one call.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stir(topic: &watch::Sender<SharedRead>, committed: Option<Arc<Seen>>) {
    topic.send_replace(Arc::new(Shared { reader_count: topic.receiver_count(), committed, ..Shared::default() }));
}

/// The deployment as these changes leave it; of one in line they do not tell its position.
fn committed(changes: &Changes, id: DeploymentId) -> Option<Arc<Seen>> {
    let last = changes.steps.iter().rev().map(Step::deployment).find(|deployment| deployment.id == id)?;
    (!last.is_waiting()).then(|| Arc::new(Seen::new(last.clone(), 0)))
}

/// Hears of one topic until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    receiver: Option<watch::Receiver<SharedRead>>,
    topic: Topic,
    notifier: Arc<Notifier>,
}

impl Subscription {
    /// Waits for the next wake-up; one that came since the last call is not missed. Answers the cell that is shared by
    /// all whom it woke: what is read into it is at least as new as the commit that it tells of.
    pub async fn changed(&mut self) -> SharedRead {
        if let Some(receiver) = &mut self.receiver
            && receiver.changed().await.is_ok()
        {
            return receiver.borrow_and_update().clone();
        }
        // The sender outlives every subscription, so this is never reached; waiting for ever is the safe answer, since
        // all who wait have a time-out of their own.
        std::future::pending().await
    }

    /// Whether there was a wake-up since the last call of [`Subscription::changed`] or [`Subscription::latest`].
    pub fn has_changed(&self) -> bool {
        self.receiver.as_ref().is_some_and(|receiver| receiver.has_changed().unwrap_or(false))
    }

    /// The cell of the last wake-up.
    pub fn latest(&mut self) -> SharedRead {
        self.receiver.as_mut().map(|receiver| receiver.borrow_and_update().clone()).unwrap_or_default()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.receiver = None;
        let mut shard = self.notifier.shard(self.topic);
        if shard.get(&self.topic).is_some_and(|sender| sender.receiver_count() == 0) {
            shard.remove(&self.topic);
            // A table that once held ten thousand topics gives the memory back.
            if shard.capacity() > 64 && shard.len() * 4 < shard.capacity() {
                shard.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::atomic::AtomicUsize};

    use jiff::Timestamp;

    use super::*;
    use crate::model::{EventBody, Loaded, Place, Slot, Spec, Stream, lifecycle::Entry};

    #[tokio::test]
    async fn a_wake_up_tells_how_the_commit_left_the_deployment_unless_it_stands_in_line() {
        let notifier = Arc::new(Notifier::default());
        let name: crate::model::ProjectName = "web".parse().expect("it is a name");
        let (holder, waiting) = (DeploymentId::generate(), DeploymentId::generate());
        let mut subscriptions = [holder, waiting].map(|id| notifier.subscribe(Topic::State(id)));
        let mut slot = Slot::of(Loaded::nothing(&name), Timestamp::UNIX_EPOCH);
        slot.admit(holder, name.clone(), Spec::default(), Entry::Ready);
        let blocker = crate::model::Mention::unnamed(name.clone(), holder);
        let entry = Entry::Waiting { place: Place::Queued, position: 1, blocker, rank: None, overtaker: None };
        slot.admit(waiting, name, Spec::default(), entry);
        notifier.publish(&slot.into_changes());
        let [of_holder, of_waiting] = &mut subscriptions;
        let told = of_holder.changed().await.committed.clone().expect("it holds the slot");
        assert_eq!((told.deployment.id, told.position), (holder, 0));
        assert_eq!(of_waiting.changed().await.committed, None, "its position is not in the changes");
    }

    /// Reads a page that holds this much output, as `reader_count` do who are woken together at each of these cursors;
    /// answers how often it was read.
    async fn reads(cursors: &[u64], reader_count: usize, line: &str) -> usize {
        let (shared, read_count) = (Shared::default(), AtomicUsize::new(0));
        for _ in 0..reader_count {
            for after in cursors {
                let read = async {
                    read_count.fetch_add(1, Ordering::SeqCst);
                    let body = EventBody::Log { stream: Stream::Stdout, phase: None, lines: vec![line.to_owned()] };
                    let events = vec![Event { seq: after + 1, at: Timestamp::UNIX_EPOCH, body }];
                    Ok::<_, Infallible>(Page { events, ..Page::empty(after + 1) })
                };
                let page = shared.page(*after, read).await.expect("it cannot fail");
                assert_eq!(page.last, after + 1);
            }
        }
        read_count.into_inner()
    }

    #[tokio::test]
    async fn those_who_are_woken_at_the_same_place_read_once() {
        assert_eq!(reads(&[7], 1000, "short").await, 1);
        assert_eq!(reads(&[7, 9], 1000, "short").await, 2);
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let long = "x".repeat(65 << 10);
        assert_eq!(reads(&[7], 10, &long).await, 10, "much output is not kept");
        let scattered: Vec<u64> = (0..20).collect();
        assert_eq!(reads(&scattered, 2, "short").await, 4 + 2 * 16, "few places are kept");
    }

    #[tokio::test]
    async fn a_read_that_fails_is_tried_by_the_next_one() {
        let shared = Shared::default();
        assert_eq!(shared.page(0, async { Err::<Page, _>("no") }).await.expect_err("it failed"), "no");
        assert!(shared.page(0, async { Ok::<_, &str>(Page::empty(0)) }).await.is_ok());
    }
}
