//! The figures of a store for people who watch it: how the slots and lines of all projects stand, and how large the store
//! is. They are of the store, so every server of it answers the same.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::model::{Pause, ProjectName};

/// The figures of a store at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFigures {
    /// The projects that have something to tell; all others have a free slot, an empty line, no pause and no agent.
    pub projects: BTreeMap<ProjectName, ProjectFigures>,
    /// How much room the store takes; 0 where it takes none.
    pub size_bytes: u64,
    /// How much room is left where the store is kept; `None` where that cannot be known.
    pub free_bytes: Option<u64>,
}

/// The figures of one project.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProjectFigures {
    /// How its slot is held; `None` while it is free.
    pub slot: Option<HeldSlot>,
    /// How many deployments wait in line.
    pub waiting_count: u64,
    /// When the deployment was submitted that has waited longest.
    pub waiting_since: Option<Timestamp>,
    /// Its pause.
    pub pause: Option<Pause>,
    /// How many of its agents are there: parked, or gone for a moment only.
    pub agent_count: u64,
}

/// A slot that is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldSlot {
    /// How far its holder is.
    pub stage: SlotStage,
    /// Since when: since the start of the holder that runs, else since the slot is kept for it.
    pub since: Timestamp,
}

/// How far the holder of a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SlotStage {
    /// The slot is kept for a client that must come back.
    Reserved,
    /// The holder waits for a worker.
    Ready,
    /// A worker runs the holder.
    Running,
}

impl SlotStage {
    /// Every stage.
    pub const ALL: [SlotStage; 3] = [SlotStage::Reserved, SlotStage::Ready, SlotStage::Running];

    /// The word for it, in the stores and in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            SlotStage::Reserved => "reserved",
            SlotStage::Ready => "ready",
            SlotStage::Running => "running",
        }
    }

    /// The stage with this word.
    pub(super) fn of(word: &str) -> Option<SlotStage> {
        SlotStage::ALL.into_iter().find(|stage| stage.as_str() == word)
    }
}

impl StoreFigures {
    /// The figures of this project, to be filled.
    pub(super) fn entry(&mut self, project: ProjectName) -> &mut ProjectFigures {
        self.projects.entry(project).or_default()
    }
}
