//! Wake-ups: hints that something was committed, told after the commit. Who is woken re-reads the store.
//!
//! There are two topics a deployment. Its *state* stirs when its slot changes or a cancel is asked for; its *history*
//! with every event. So output wakes who follows it, and nobody who waits for the end.
//!
//! Every wake-up of a topic brings a fresh cell that all who were woken share: the first of them reads the store into it,
//! so that ten thousand polls on one deployment cost one read.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, OnceCell, watch};

use crate::model::{Changes, Deployment, DeploymentId, Hint};

/// Locks of the topic table: enough that ten thousand polls that park at once seldom meet.
const SHARD_COUNT: usize = 32;

/// What of a deployment to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Slot changes and cancel requests.
    State(DeploymentId),
    /// Every event.
    History(DeploymentId),
}

/// What those who were woken together have read: empty until the first of them has.
pub type SharedRead = Arc<OnceCell<Option<Arc<Deployment>>>>;

type Topics = HashMap<Topic, watch::Sender<SharedRead>>;

/// The topics that somebody waits for.
#[derive(Debug)]
pub struct Notifier {
    shards: [Mutex<Topics>; SHARD_COUNT],
    hasher: RandomState,
    work: watch::Sender<()>,
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
            work: watch::Sender::new(()),
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

    /// Hears of deployments that became ready for a worker of the server.
    pub fn work(&self) -> watch::Receiver<()> {
        self.work.subscribe()
    }

    /// Hears of agents that come.
    pub fn agents(&self) -> watch::Receiver<()> {
        self.agents.subscribe()
    }

    /// Wakes whoever waits for what these changes changed.
    pub fn publish(&self, changes: &Changes) {
        changes.hints().for_each(|hint| self.hear(hint));
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
        // A look costs nothing where nobody waits, as is usual while there is something to hear.
        // Nothing of a deployment stirs when an agent comes.
        if hint != Hint::Agents
            && self.is_anything_awaited.load(Ordering::SeqCst)
            && self.is_anything_awaited.swap(false, Ordering::SeqCst)
        {
            self.anything.notify_one();
        }
        match hint {
            Hint::State(id) => self.wake(Topic::State(id)),
            Hint::History(id) | Hint::Output(id) => self.wake(Topic::History(id)),
            Hint::Work => {
                self.work.send_replace(());
            }
            Hint::Agents => {
                self.agents.send_replace(());
            }
            Hint::Anything => {
                for shard in &self.shards {
                    let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                    shard.values().for_each(|sender| _ = sender.send_replace(SharedRead::default()));
                }
                self.work.send_replace(());
                self.agents.send_replace(());
            }
        }
    }

    /// The deployments that somebody waits for.
    pub fn awaited(&self) -> HashSet<DeploymentId> {
        let mut ids = HashSet::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            ids.extend(shard.keys().map(|(Topic::State(id) | Topic::History(id))| *id));
        }
        ids
    }

    /// Wakes who waits for this topic.
    pub fn wake(&self, topic: Topic) {
        if let Some(sender) = self.shard(topic).get(&topic) {
            sender.send_replace(SharedRead::default());
        }
    }

    fn shard(&self, topic: Topic) -> MutexGuard<'_, Topics> {
        let index = usize::try_from(self.hasher.hash_one(topic) % SHARD_COUNT as u64).unwrap_or(0);
        // A panic while a table is locked leaves it whole: every change of it is one call.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }
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
