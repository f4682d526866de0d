//! The rows of all projects, each rendered once after its project changed, for all who look.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use tokio::{sync::OnceCell, time::Instant};

use crate::model::{Hold, ProjectName};

/// How old a row may be that shows a silence, a forecast or a hold: these change by time alone.
pub const FRESH: Duration = Duration::from_secs(5);

/// A row, and what it adds to the sum above the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProjectRow {
    /// As HTML.
    pub html: Bytes,
    /// The lower, the sooner a person must look.
    pub rank: u8,
    /// What the slot does.
    pub slot: SlotUse,
    /// How many wait.
    pub waiting: u64,
    /// Whether the project is held.
    pub is_held: bool,
    /// Who holds everything and why, where that is what holds the project.
    pub everything: Option<EverythingHeld>,
    /// Since when the first one in line waits.
    pub waits_since: Option<Timestamp>,
    /// What it tells, without what goes on with the clock.
    pub told: String,
    /// Whether the row can change although nobody does anything: a worker falls silent, a pause ends.
    pub changes_by_time: bool,
}

/// Who holds all projects, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EverythingHeld {
    /// Who.
    pub who: Option<String>,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Option<Timestamp>,
    /// Until when.
    pub until: Option<Timestamp>,
}

impl EverythingHeld {
    /// Where it is what holds a project.
    pub fn of(hold: &Hold) -> Option<Self> {
        let reason = hold.of_all()?.to_owned();
        Some(EverythingHeld { who: hold.who(), reason, since: hold.since, until: hold.until })
    }
}

/// What a slot does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUse {
    /// Nothing.
    Free,
    /// It is kept for a deployment that has not started.
    CalledUp,
    /// A deployment runs.
    Running,
}

/// The rank of a project that needs a person.
pub const TROUBLE: u8 = 0;

/// The rows by project, as they were rendered.
#[derive(Default)]
pub struct Rows {
    known: Mutex<BTreeMap<ProjectName, Arc<RowSlot>>>,
    /// The names of all projects.
    pub names: tokio::sync::Mutex<Option<KnownNames>>,
    /// When rows were rendered again that change by time alone.
    pub refreshed_at: tokio::sync::Mutex<Option<Instant>>,
}

/// The names of all projects that were there when the board had this floor.
pub struct KnownNames {
    /// The floor.
    pub floor: u64,
    /// When they were read.
    pub read_at: Instant,
    /// The names.
    pub names: BTreeSet<ProjectName>,
}

/// The place of a row that somebody renders, and all others wait for.
pub struct RowSlot {
    /// The number of the project's last change when this was made.
    number: u64,
    made_at: Instant,
    /// The row; `None` if the project is not there.
    pub row: OnceCell<Option<Arc<ProjectRow>>>,
}

impl Rows {
    /// The place of a project's row after the change with this number, not older than `limit`.
    pub fn slot(&self, name: &ProjectName, number: u64, limit: Option<Duration>) -> Arc<RowSlot> {
        let mut known = self.known();
        let is_usable =
            |slot: &&Arc<RowSlot>| slot.number == number && limit.is_none_or(|limit| slot.made_at.elapsed() < limit);
        if let Some(slot) = known.get(name).filter(is_usable) {
            return slot.clone();
        }
        let slot = Arc::new(RowSlot { number, made_at: Instant::now(), row: OnceCell::new() });
        known.insert(name.clone(), slot.clone());
        slot
    }

    /// The rows that can change although nobody does anything.
    pub fn changing_by_time(&self) -> Vec<(ProjectName, Arc<ProjectRow>)> {
        let known = self.known();
        let rows = known.iter().filter_map(|(name, slot)| Some((name.clone(), slot.row.get()?.clone()?)));
        rows.filter(|(_, row)| row.changes_by_time).collect()
    }

    /// Forgets a project that is not there any more.
    pub fn forget(&self, name: &ProjectName) {
        self.known().remove(name);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<ProjectName, Arc<RowSlot>>> {
        // Every change of it is one insertion or removal.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
