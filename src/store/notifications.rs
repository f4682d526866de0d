//! The outbox of notifications: written with the changes that they tell of, and emptied by whoever sends them. See decision
//! 0086.
//!
//! ```text
//! commit ─▶ pending ─claim─▶ pending, claimed until … ─▶ sent: removed
//!              ▲                    │
//!              ├──── later ─────────┤
//!              └──── retry ── dead ◀┘ too often tried
//! ```
//!
//! One server sends a row at a time: a claim gives the row's next number of a claim, and only the server that has the last
//! one may settle it. The claim of a server that died runs out. In each lane, only the first row that is pending can be
//! claimed, so that a lane's rows are sent in their order.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{BoxFuture, StoreError};
use crate::model::{
    AuditEntry, Caller, DeploymentId, NewNotification, NotificationEvent, NotificationId, ProjectName, bounds,
};

/// How many bytes are kept of why an attempt failed.
pub const ERROR_LIMIT: usize = 500;

/// Whether a notification may still be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationState {
    /// It is to be sent.
    Pending,
    /// It was tried too often. It is kept for a while, and can be tried anew.
    Dead,
}

impl NotificationState {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            NotificationState::Pending => "pending",
            NotificationState::Dead => "dead",
        }
    }

    /// Reads the word.
    pub fn of(word: &str) -> Option<Self> {
        [NotificationState::Pending, NotificationState::Dead].into_iter().find(|state| state.as_str() == word)
    }
}

/// A row of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Its number, in the order in which the rows were recorded.
    pub number: u64,
    /// By what its receiver knows it.
    pub id: NotificationId,
    /// The name of its rule.
    pub rule: String,
    /// What happened.
    pub event: NotificationEvent,
    /// In which project.
    pub project: ProjectName,
    /// To which deployment.
    pub deployment: Option<DeploymentId>,
    /// About a pause, as JSON.
    pub detail: Option<String>,
    /// When it happened.
    pub at: Timestamp,
    /// Whether it may still be sent.
    pub state: NotificationState,
    /// How often it was tried.
    pub attempt_count: u64,
    /// Which claim this is: grows with each.
    pub claim_number: u64,
    /// From when on it may be tried.
    pub due_at: Timestamp,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When it was given up.
    pub dead_at: Option<Timestamp>,
}

/// What becomes of a claimed row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It was sent, or there is nothing to tell any more.
    Done,
    /// It is tried again.
    Later {
        /// In how long.
        wait: Duration,
        /// Why it failed; `None` where it was not tried, and the attempt does not count.
        error: Option<String>,
    },
    /// It is given up.
    Dead {
        /// Why.
        error: String,
    },
}

/// When the next row of a rule can be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextDue {
    /// The rule.
    pub rule: String,
    /// In how long.
    pub wait: Duration,
}

/// How many rows there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotificationCounts {
    /// To be sent.
    pub pending_count: u64,
    /// Given up.
    pub dead_count: u64,
}

/// Which rows to list, the last one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotificationQuery {
    /// Only those in this state.
    pub state: Option<NotificationState>,
    /// Only those with a lower number.
    pub before: Option<u64>,
    /// How many at most.
    pub limit: usize,
}

/// The outbox of a store. `now` is the caller's; a store of several servers goes by its own clock.
pub trait NotificationRoom: Send + Sync {
    /// When rows of these rules can be claimed, for each rule that has any.
    fn next_due(&self, rules: Vec<String>, now: Timestamp) -> BoxFuture<'_, Result<Vec<NextDue>, StoreError>>;

    /// Takes rows of a rule that are due, the first ones of their lanes, for so long.
    fn claim(
        &self,
        rule: String,
        limit: usize,
        lease: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>>;

    /// Says what became of a claimed row. `false`: somebody else has it meanwhile, and nothing has changed.
    fn settle(
        &self,
        claimed: Notification,
        settlement: Settlement,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Ends all claims. Only for a store whose only server has just started: it has claimed nothing yet.
    fn end_claims(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Gives up the pending rows that no server has a rule for: those of other rules than these that happened before then.
    fn give_up(&self, rules: Vec<String>, before: Timestamp, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Removes dead rows: those that were given up before then, and all but the last `keep`.
    fn prune(&self, before: Option<Timestamp>, keep: usize) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// How many rows there are.
    fn counts(&self) -> BoxFuture<'_, Result<NotificationCounts, StoreError>>;

    /// Rows, the last one first.
    fn page(&self, query: NotificationQuery) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>>;

    /// The row with this id.
    fn by_id(&self, id: NotificationId) -> BoxFuture<'_, Result<Option<Notification>, StoreError>>;

    /// Tries a dead row anew, as if it had never been tried, with a line in the audit log. Answers the row as it is then,
    /// also where it is pending already; `None` where there is none.
    fn retry(
        &self,
        id: NotificationId,
        caller: Caller,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Notification>, StoreError>>;
}

/// Why rows are given up whose rule is gone.
pub(super) const NO_RULE: &str = "no rule of this name is in the configuration any more";

/// The line about a retry.
pub(super) fn retried_entry(row: &Notification, caller: Caller, at: Timestamp) -> AuditEntry {
    let detail = format!("{} of rule {}: {}", row.event.as_str(), row.rule, row.id);
    AuditEntry { at, action: "notification_retry", caller, deployment: row.deployment, detail }
}

/// Why an attempt failed, as short as it is kept.
pub(super) fn kept_error(error: &str) -> String {
    bounds::cut(error.replace('\0', " "), ERROR_LIMIT)
}

/// The outbox of the store in memory.
#[derive(Debug, Default)]
pub(super) struct NotificationsInMemory {
    kept: Mutex<KeptNotifications>,
}

#[derive(Debug, Default)]
struct KeptNotifications {
    rows: BTreeMap<u64, KeptNotification>,
    last: u64,
}

#[derive(Debug)]
struct KeptNotification {
    row: Notification,
    lane: String,
    claimed_until: Option<Timestamp>,
}

impl KeptNotification {
    fn free_at(&self) -> Timestamp {
        self.claimed_until.map_or(self.row.due_at, |until| until.max(self.row.due_at))
    }
}

impl KeptNotifications {
    /// The first pending row of each lane.
    fn heads(&self) -> Vec<&KeptNotification> {
        let mut lanes = BTreeSet::new();
        let pending = self.rows.values().filter(|kept| kept.row.state == NotificationState::Pending);
        pending.filter(|kept| lanes.insert((&kept.row.rule, &kept.row.project, &kept.lane))).collect()
    }

    fn take(&mut self, number: u64, until: Timestamp) -> Option<Notification> {
        let kept = self.rows.get_mut(&number)?;
        kept.claimed_until = Some(until);
        kept.row.claim_number += 1;
        kept.row.attempt_count += 1;
        Some(kept.row.clone())
    }
}

impl NotificationsInMemory {
    fn kept(&self) -> MutexGuard<'_, KeptNotifications> {
        // Nothing in here panics half-way.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, project: &ProjectName, new: &NewNotification) {
        let NewNotification { id, rule, event, deployment, detail, at, delay } = new.clone();
        let mut kept = self.kept();
        kept.last += 1;
        let row = Notification {
            number: kept.last,
            id,
            rule: rule.to_string(),
            event,
            project: project.clone(),
            deployment,
            detail,
            at,
            state: NotificationState::Pending,
            attempt_count: 0,
            claim_number: 0,
            due_at: after(at, delay),
            error: None,
            dead_at: None,
        };
        kept.rows.insert(row.number, KeptNotification { row, lane: new.lane(), claimed_until: None });
    }
}

/// The moment so long after this one.
pub(super) fn after(at: Timestamp, wait: Duration) -> Timestamp {
    let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at.as_millisecond().saturating_add(wait_ms)).unwrap_or(Timestamp::MAX)
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, StoreError>> {
    Box::pin(async { Ok(value) })
}

impl NotificationRoom for NotificationsInMemory {
    fn next_due(&self, rules: Vec<String>, now: Timestamp) -> BoxFuture<'_, Result<Vec<NextDue>, StoreError>> {
        let kept = self.kept();
        let mut first: BTreeMap<&str, Timestamp> = BTreeMap::new();
        for head in kept.heads().into_iter().filter(|head| rules.contains(&head.row.rule)) {
            let at = first.entry(&head.row.rule).or_insert(Timestamp::MAX);
            *at = head.free_at().min(*at);
        }
        let wait = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or_default();
        let due = first.into_iter().map(|(rule, at)| NextDue { rule: rule.to_owned(), wait: wait(at) }).collect();
        ready(due)
    }

    fn claim(
        &self,
        rule: String,
        limit: usize,
        lease: Duration,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>> {
        let mut kept = self.kept();
        let heads = kept.heads().into_iter().filter(|head| head.row.rule == rule && head.free_at() <= now);
        let numbers: Vec<_> = heads.map(|head| head.row.number).take(limit).collect();
        ready(numbers.into_iter().filter_map(|number| kept.take(number, after(now, lease))).collect())
    }

    fn settle(
        &self,
        claimed: Notification,
        settlement: Settlement,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let mut kept = self.kept();
        let own = kept.rows.get_mut(&claimed.number).filter(|kept| kept.row.claim_number == claimed.claim_number);
        let Some(own) = own.filter(|kept| kept.row.state == NotificationState::Pending) else { return ready(false) };
        own.claimed_until = None;
        match settlement {
            Settlement::Done => drop(kept.rows.remove(&claimed.number)),
            Settlement::Later { wait, error } => {
                own.row.due_at = after(now, wait);
                match error {
                    Some(error) => own.row.error = Some(kept_error(&error)),
                    None => own.row.attempt_count = own.row.attempt_count.saturating_sub(1),
                }
            }
            Settlement::Dead { error } => {
                own.row.state = NotificationState::Dead;
                own.row.dead_at = Some(now);
                own.row.error = Some(kept_error(&error));
            }
        }
        ready(true)
    }

    fn end_claims(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        self.kept().rows.values_mut().for_each(|kept| kept.claimed_until = None);
        ready(())
    }

    fn give_up(&self, rules: Vec<String>, before: Timestamp, now: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut count = 0;
        for kept in self.kept().rows.values_mut() {
            let row = &mut kept.row;
            if row.state == NotificationState::Pending && !rules.contains(&row.rule) && row.at < before {
                row.state = NotificationState::Dead;
                (row.dead_at, row.error) = (Some(now), Some(NO_RULE.to_owned()));
                kept.claimed_until = None;
                count += 1;
            }
        }
        ready(count)
    }

    fn prune(&self, before: Option<Timestamp>, keep: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        let mut kept = self.kept();
        let dead = kept.rows.values().rev().filter(|kept| kept.row.state == NotificationState::Dead);
        let is_old = |row: &Notification| before.is_some_and(|before| row.dead_at.is_some_and(|at| at < before));
        let old = dead.enumerate().filter(|(place, kept)| *place >= keep || is_old(&kept.row));
        let numbers: Vec<_> = old.map(|(_, kept)| kept.row.number).collect();
        numbers.iter().for_each(|number| drop(kept.rows.remove(number)));
        ready(numbers.len() as u64)
    }

    fn counts(&self) -> BoxFuture<'_, Result<NotificationCounts, StoreError>> {
        let kept = self.kept();
        let dead_count = kept.rows.values().filter(|kept| kept.row.state == NotificationState::Dead).count() as u64;
        ready(NotificationCounts { pending_count: kept.rows.len() as u64 - dead_count, dead_count })
    }

    fn page(&self, query: NotificationQuery) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>> {
        let fits = |row: &Notification| {
            query.before.is_none_or(|before| row.number < before) && query.state.is_none_or(|state| row.state == state)
        };
        let kept = self.kept();
        let rows = kept.rows.values().rev().map(|kept| &kept.row);
        ready(rows.filter(|row| fits(row)).take(query.limit).cloned().collect())
    }

    fn by_id(&self, id: NotificationId) -> BoxFuture<'_, Result<Option<Notification>, StoreError>> {
        ready(self.kept().rows.values().rev().map(|kept| &kept.row).find(|row| row.id == id).cloned())
    }

    /// The store in memory writes no line about it, as about tokens.
    fn retry(
        &self,
        id: NotificationId,
        _: Caller,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Notification>, StoreError>> {
        let mut kept = self.kept();
        let found = kept.rows.values_mut().rev().find(|kept| kept.row.id == id);
        let retried = found.map(|kept| {
            let row = &mut kept.row;
            if row.state == NotificationState::Dead {
                row.state = NotificationState::Pending;
                (row.dead_at, row.attempt_count, row.due_at) = (None, 0, now);
            }
            row.clone()
        });
        ready(retried)
    }
}

/// The columns of a row, in the order in which the engines read them.
macro_rules! notification_columns {
    () => {
        "number, id, rule, event, project, deployment, detail, at, state, attempt_count, claim_number, due_at, error, \
         dead_at"
    };
}
pub(super) use notification_columns;
