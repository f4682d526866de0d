//! Which projects changed since somebody last looked: for whoever watches many of them over one connection. See decision
//! 0088.
//!
//! ```text
//! commit ─▶ hint ─▶ a number for its project ─▶ whoever watches reads what has a higher number than the last one read
//! ```
//!
//! What is shown of a project is read after its number was given, once for all who watch.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::{OnceCell, watch};
use uuid::Uuid;

use crate::{
    model::{Pause, ProjectName, Revision},
    store::ProjectState,
};

/// The last change of each project that changed since the server started.
#[derive(Debug)]
pub struct Board {
    /// Distinguishes this server's numbers from those of others, and from those before a restart.
    epoch: String,
    known: Mutex<KnownChanges>,
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct KnownChanges {
    last: u64,
    /// The number at which anything may have changed: whoever has a lower one looks at everything again.
    floor: u64,
    by_number: BTreeMap<u64, Arc<ProjectChange>>,
    numbers: HashMap<ProjectName, u64>,
}

/// The last change of a project, and what those who watch show of it since.
#[derive(Debug)]
pub struct ProjectChange {
    /// The project.
    pub project: ProjectName,
    /// Its number; a later change of any project has a higher one.
    pub number: u64,
    /// Its line in a list of projects, in JSON; `None` if it is there no more.
    pub summary: OnceCell<Option<Bytes>>,
    /// All that is shown of it, in JSON; `None` if it is there no more.
    pub view: OnceCell<Option<Bytes>>,
    /// The parts of its screen, in HTML; `None` if it is there no more.
    pub screen: OnceCell<Option<Bytes>>,
}

/// What changed.
#[derive(Debug)]
pub enum Changed {
    /// Anything may have.
    Anything,
    /// These projects, in the order of their numbers.
    Projects(Vec<Arc<ProjectChange>>),
}

impl Default for Board {
    fn default() -> Self {
        Board { epoch: Uuid::now_v7().simple().to_string(), known: Mutex::default(), last: watch::Sender::new(0) }
    }
}

impl Board {
    /// What distinguishes its numbers from those of other servers.
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// The place of a reader who knows everything up to now. Read the store after this, never before.
    pub fn cursor(&self) -> String {
        format!("{}.{}", self.epoch, self.last())
    }

    /// Notes that a project changed.
    pub fn touch(&self, project: ProjectName) {
        let mut known = self.known();
        known.last += 1;
        let number = known.last;
        if let Some(before) = known.numbers.insert(project.clone(), number) {
            known.by_number.remove(&before);
        }
        let change =
            ProjectChange { project, number, summary: OnceCell::new(), view: OnceCell::new(), screen: OnceCell::new() };
        known.by_number.insert(number, Arc::new(change));
        self.last.send_replace(number);
    }

    /// Notes that anything may have changed.
    pub fn touch_all(&self) {
        let mut known = self.known();
        known.last += 1;
        known.floor = known.last;
        self.last.send_replace(known.last);
    }

    /// The number of a project's last change. Read the store after this, never before.
    pub fn number_of(&self, project: &ProjectName) -> u64 {
        let known = self.known();
        known.numbers.get(project).copied().unwrap_or(0).max(known.floor)
    }

    /// The number at which anything may have changed.
    pub fn floor(&self) -> u64 {
        self.known().floor
    }

    /// The projects that changed since the server started.
    pub fn names(&self) -> Vec<ProjectName> {
        self.known().numbers.keys().cloned().collect()
    }

    /// The last number. Read the store after this, never before.
    pub fn last(&self) -> u64 {
        self.known().last
    }

    /// Subscribes to changes.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.last.subscribe()
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.last.receiver_count() > 0
    }

    /// What changed after this number.
    pub fn since(&self, after: u64) -> Changed {
        let known = self.known();
        // A number that was not given here yet cannot be from here.
        if after < known.floor || after > known.last {
            return Changed::Anything;
        }
        let later = known.by_number.range((Bound::Excluded(after), Bound::Unbounded));
        Changed::Projects(later.map(|(_, change)| change.clone()).collect())
    }

    fn known(&self) -> MutexGuard<'_, KnownChanges> {
        // A panic in the middle of `touch` could at worst lose one change's number, and nothing panics there.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The values that tell whether a project changed, where no hint may come.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProjectMark {
    revision: Revision,
    event_count: u64,
    waiting_count: u64,
    pause: Option<Pause>,
}

impl ProjectMark {
    pub(super) fn of(state: &ProjectState) -> Self {
        ProjectMark {
            revision: state.project.revision,
            event_count: state.holder.as_ref().map_or(0, |holder| holder.event_count),
            waiting_count: state.project.waiting_count,
            pause: state.project.pause.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changed: Changed) -> Option<Vec<String>> {
        match changed {
            Changed::Anything => None,
            Changed::Projects(changes) => Some(changes.iter().map(|change| change.project.to_string()).collect()),
        }
    }

    #[test]
    fn each_project_is_told_once_with_its_last_change() {
        let board = Board::default();
        let touch = |name: &str| board.touch(name.parse().expect("it is a name"));
        for name in ["web", "api", "web"] {
            touch(name);
        }
        assert_eq!(names(board.since(0)).expect("all is known"), ["api", "web"]);
        let last = board.last();
        assert_eq!(names(board.since(last)).expect("all is known"), Vec::<String>::new());
        touch("docs");
        assert_eq!(names(board.since(last)).expect("all is known"), ["docs"]);
    }

    #[test]
    fn whoever_saw_less_than_everything_looks_at_everything_again() {
        let board = Board::default();
        board.touch("web".parse().expect("it is a name"));
        let before = board.last();
        board.touch_all();
        assert_eq!(names(board.since(before)), None);
        assert_eq!(names(board.since(board.last())), Some(Vec::new()));
        assert_eq!(names(board.since(board.last() + 1)), None, "a number from elsewhere");
    }
}
