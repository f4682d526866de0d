//! Wake-ups: hints that something was committed, sent after the commit. A woken waiter re-reads the store.
//!
//! Each deployment has three topics. Its *state* wakes when its slot changes or a cancel is requested; its *history*
//! wakes with every event that is more than output; and its *output* wakes with the rest. So output wakes the followers
//! of output, but no waiter for the end, and no follower that pauses after it has just been sent output.
//!
//! Every wake-up of a topic brings a fresh cell that all woken waiters share: the first of them reads the store into
//! it, so that ten thousand polls on one deployment, or a thousand streams of it, cost one read.

use std::{
    collections::{HashMap, HashSet, hash_map::RandomState},
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use crate::model::{Changes, DeploymentId, Hint, ProjectName, Step};

use super::{
    board::Board,
    seekers::{Seeker, Seekers},
    shared::{Seen, Shared, SharedRead},
};

/// Locks of the topic table: enough that ten thousand polls that park at once seldom meet.
const SHARD_COUNT: usize = 32;

/// Which events of a deployment wake a waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topic {
    /// Slot changes and cancel requests.
    State(DeploymentId),
    /// Every event that is more than output.
    History(DeploymentId),
    /// Events that are output alone.
    Output(DeploymentId),
}

type Topics = HashMap<Topic, watch::Sender<SharedRead>>;

/// The topics that have waiters.
#[derive(Debug)]
pub struct Notifier {
    shards: [Mutex<Topics>; SHARD_COUNT],
    hasher: RandomState,
    seekers: Arc<Seekers>,
    board: Board,
    agents: watch::Sender<()>,
    pauses: watch::Sender<()>,
    tokens: watch::Sender<()>,
    notifications: watch::Sender<()>,
    /// Whether a waiter wants the next hint, whatever it is.
    is_anything_awaited: AtomicBool,
    anything: Notify,
}

impl Default for Notifier {
    fn default() -> Self {
        Notifier {
            shards: std::array::from_fn(|_| Mutex::default()),
            hasher: RandomState::new(),
            seekers: Arc::default(),
            board: Board::default(),
            agents: watch::Sender::new(()),
            pauses: watch::Sender::new(()),
            tokens: watch::Sender::new(()),
            notifications: watch::Sender::new(()),
            is_anything_awaited: AtomicBool::new(false),
            anything: Notify::new(),
        }
    }
}

impl Notifier {
    /// Subscribes to `topic`. Read the store after this, never before.
    pub fn subscribe(self: &Arc<Self>, topic: Topic) -> Subscription {
        let receiver = self.shard(topic).entry(topic).or_default().subscribe();
        Subscription { receiver: Some(receiver), topic, notifier: self.clone() }
    }

    /// Subscribes to deployments of these projects that become ready for a worker of the server.
    pub fn work<'a>(&self, projects: impl IntoIterator<Item = &'a ProjectName>) -> Seeker {
        self.seekers.add(projects)
    }

    /// Which projects changed.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Subscribes to agents that come.
    pub fn agents(&self) -> watch::Receiver<()> {
        self.agents.subscribe()
    }

    /// Subscribes to pauses that are set, changed or removed, at whichever server.
    pub fn pauses(&self) -> watch::Receiver<()> {
        self.pauses.subscribe()
    }

    /// Subscribes to tokens that are made or revoked, at whichever server.
    pub fn tokens(&self) -> watch::Receiver<()> {
        self.tokens.subscribe()
    }

    /// Subscribes to notifications that this server committed, or was told to try anew. The others need no hint: whoever
    /// wrote a notification sends it.
    pub fn notifications(&self) -> watch::Receiver<()> {
        self.notifications.subscribe()
    }

    /// Wakes whoever sends notifications.
    pub fn notification_came(&self) {
        self.notifications.send_replace(());
    }

    /// Wakes the waiters that these changes concern.
    pub fn publish(&self, changes: &Changes) {
        if !changes.notifications.is_empty() {
            self.notification_came();
        }
        for hint in changes.hints() {
            match hint {
                Hint::State(id) => {
                    self.note_anything();
                    let topic = Topic::State(id);
                    if let Some(sender) = self.shard(topic).get(&topic) {
                        stir(sender, committed(changes, id));
                    }
                }
                Hint::History(_)
                | Hint::Output(_)
                | Hint::Project(_)
                | Hint::Work(_)
                | Hint::Pauses
                | Hint::Tokens
                | Hint::Agents
                | Hint::Anything => self.hear(hint),
            }
        }
    }

    /// From now on the next hint is remembered for [`Notifier::anything`], which has one waiter.
    pub fn await_anything(&self) {
        self.is_anything_awaited.store(true, Ordering::SeqCst);
    }

    /// Waits for the first hint since [`Notifier::await_anything`].
    pub async fn anything(&self) {
        self.anything.notified().await;
    }

    /// Wakes every waiter that this hint may concern.
    pub fn hear(&self, hint: Hint) {
        // A new agent and a token change no deployment; and what is shown of a project changes with another hint.
        if !matches!(hint, Hint::Agents | Hint::Tokens | Hint::Project(_)) {
            self.note_anything();
        }
        match hint {
            Hint::State(id) => self.wake(Topic::State(id)),
            Hint::History(id) => self.wake(Topic::History(id)),
            Hint::Output(id) => self.wake(Topic::Output(id)),
            Hint::Project(project) => self.board.touch(project),
            Hint::Work(project) => self.seekers.wake(&project),
            Hint::Agents => {
                self.agents.send_replace(());
            }
            Hint::Pauses => {
                self.pauses.send_replace(());
            }
            Hint::Tokens => {
                self.tokens.send_replace(());
            }
            Hint::Anything => {
                for shard in &self.shards {
                    let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
                    shard.values().for_each(|sender| stir(sender, None));
                }
                self.board.touch_all();
                self.seekers.wake_all();
                self.pauses.send_replace(());
                self.agents.send_replace(());
                self.tokens.send_replace(());
            }
        }
    }

    /// The deployments that have waiters.
    pub fn awaited(&self) -> HashSet<DeploymentId> {
        let mut ids = HashSet::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            ids.extend(shard.keys().map(|(Topic::State(id) | Topic::History(id) | Topic::Output(id))| *id));
        }
        ids
    }

    /// Wakes the waiters for this topic.
    pub fn wake(&self, topic: Topic) {
        if let Some(sender) = self.shard(topic).get(&topic) {
            stir(sender, None);
        }
    }

    fn note_anything(&self) {
        // The first look costs nothing where nobody waits, which is usual while there are many hints.
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
    topic.send_replace(Arc::new(Shared::of(topic.receiver_count(), committed)));
}

/// The deployment as these changes leave it; `None` for one in line, because the changes do not tell its position.
fn committed(changes: &Changes, id: DeploymentId) -> Option<Arc<Seen>> {
    let last = changes.steps.iter().rev().map(Step::deployment).find(|deployment| deployment.id == id)?;
    (!last.is_waiting()).then(|| Arc::new(Seen::new(last.clone(), 0)))
}

/// A subscription to one topic, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    receiver: Option<watch::Receiver<SharedRead>>,
    topic: Topic,
    notifier: Arc<Notifier>,
}

impl Subscription {
    /// Waits for the next wake-up; a wake-up that came since the last call is not missed. Answers the cell that all
    /// waiters of this wake-up share: what is read into it is at least as new as the commit that caused the wake-up.
    pub async fn changed(&mut self) -> SharedRead {
        if let Some(receiver) = &mut self.receiver
            && receiver.changed().await.is_ok()
        {
            return receiver.borrow_and_update().clone();
        }
        // The sender outlives every subscription, so this is never reached; waiting for ever is the safe answer,
        // because every waiter has a time-out of its own.
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
    use jiff::Timestamp;

    use super::*;
    use crate::model::{Loaded, Place, Policy, Slot, Spec, lifecycle::Entry};

    #[tokio::test]
    async fn a_wake_up_tells_how_the_commit_left_the_deployment_unless_it_stands_in_line() {
        let notifier = Arc::new(Notifier::default());
        let name: crate::model::ProjectName = "web".parse().expect("it is a name");
        let (holder, waiting) = (DeploymentId::generate(), DeploymentId::generate());
        let mut subscriptions = [holder, waiting].map(|id| notifier.subscribe(Topic::State(id)));
        let mut slot = Slot::of(Loaded::nothing(&name), Timestamp::UNIX_EPOCH, &Policy::default());
        slot.admit(holder, name.clone(), Spec::default(), Entry::Ready);
        let blocker = Some(crate::model::Mention::unnamed(name.clone(), holder));
        let entry =
            Entry::Waiting { place: Place::Queued, position: 1, blocker, rank: None, overtaker: None, hold: None };
        slot.admit(waiting, name, Spec::default(), entry);
        notifier.publish(&slot.into_changes());
        let [of_holder, of_waiting] = &mut subscriptions;
        let told = of_holder.changed().await.committed.clone().expect("it holds the slot");
        assert_eq!((told.deployment.id, told.position), (holder, 0));
        assert_eq!(of_waiting.changed().await.committed, None, "its position is not in the changes");
    }
}
