//! The mark of a project, set or removed by a person.

use super::Queue;
use crate::{
    model::{BuildMark, Caller, LineLoad, Load, ProjectName, Slot, order::outdated_by},
    store::StoreError,
};

/// A wish to set the mark of a project, or to remove it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkWish {
    /// The build number; `None` removes the mark.
    pub order: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// The person that the caller names.
    pub actor: Option<String>,
}

/// The mark before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marked {
    /// Whether that changed anything.
    pub is_changed: bool,
    /// The mark until then.
    pub before: Option<BuildMark>,
    /// The mark now.
    pub mark: Option<BuildMark>,
    /// How many of those in line it does not let start.
    pub outdated_count: u64,
    /// How many wait in line.
    pub waiting_count: u64,
}

impl Queue {
    /// Sets the mark of a project, or removes it. What runs goes on.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn set_mark(&self, caller: &Caller, project: ProjectName, wish: MarkWish) -> Result<Marked, StoreError> {
        let (now, policy, caller) = (self.clock.wall(), self.policy(&project), caller.clone());
        // The line is counted for the answer.
        let load = Load { line: LineLoad::All, ..Load::default() };
        self.transact(project, load, move |loaded| {
            let mut slot = Slot::of(loaded, now, &policy).by(&caller).claiming(wish.actor);
            let (before, is_changed) = slot.set_mark(wish.order, wish.reason);
            let line = slot.line();
            let outdated = line.iter().filter(|waiting| outdated_by(&waiting.spec, slot.project()).is_some());
            let marked = Marked {
                is_changed,
                before,
                mark: slot.project().mark(),
                outdated_count: outdated.count() as u64,
                waiting_count: slot.project().waiting_count,
            };
            (slot.into_changes(), marked)
        })
        .await
    }
}
