//! Pause, resume and settle: what holds a project, and what becomes of its slot and its line when a hold begins or ends.

use jiff::Timestamp;

use super::Queue;
use crate::{
    model::{Caller, Deployment, Hold, LineLoad, Load, Loaded, Pause, Policy, ProjectName, Slot},
    store::StoreError,
};

/// A wish to hold a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseWish {
    /// The person that the caller names.
    pub actor: Option<String>,
    /// Why.
    pub reason: String,
    /// The end.
    pub until: Option<Timestamp>,
}

/// How a project stands after a pause was set or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The pause that lasted until then.
    pub before: Option<Pause>,
    /// What holds the project now.
    pub hold: Option<Hold>,
    /// The deployment that holds the slot now.
    pub holder: Option<Deployment>,
    /// The deployment that had the slot before, and waits again.
    pub taken_back: Option<Deployment>,
    /// How many wait in line.
    pub waiting_count: u64,
}

impl Queue {
    /// Holds a project, or changes the pause that it has. A deployment that has the slot and that no worker has taken yet
    /// waits again; what runs goes on.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn pause(&self, caller: &Caller, project: ProjectName, wish: PauseWish) -> Result<Standing, StoreError> {
        let by = caller.identity.to_string();
        self.stand(caller, project, move |slot, at| {
            let PauseWish { actor, reason, until } = wish;
            slot.pause(Pause { at, by, actor, reason, until, pin: None })
        })
        .await
    }

    /// Ends the pause of a project. If nothing else holds the project, the head of the line has the slot.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn resume(
        &self,
        caller: &Caller,
        project: ProjectName,
        reason: Option<String>,
    ) -> Result<Standing, StoreError> {
        self.stand(caller, project, |slot, _| slot.resume(reason)).await
    }

    /// Holds a project that no pause holds; answers the pause that holds it already in `before`, and leaves that as it is.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn pause_if_open(
        &self,
        caller: &Caller,
        project: ProjectName,
        wish: PauseWish,
    ) -> Result<Standing, StoreError> {
        let by = caller.identity.to_string();
        self.stand(caller, project, move |slot, at| {
            match slot.project().pause.clone().filter(|pause| pause.lasts(at)) {
                Some(pause) => Some(pause),
                None => {
                    let PauseWish { actor, reason, until } = wish;
                    slot.pause(Pause { at, by, actor, reason, until, pin: None })
                }
            }
        })
        .await
    }

    /// Ends the pause of a project, if it came with a hold of all projects.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn resume_of_all(&self, caller: &Caller, project: ProjectName) -> Result<Standing, StoreError> {
        self.stand(caller, project, |slot, _| match &slot.project().pause {
            Some(pause) if pause.is_of_all() => slot.resume(None),
            Some(_) | None => None,
        })
        .await
    }

    /// Brings slot and line to where a hold that began or ended wants them. Answers in `before` the pause whose end has
    /// come.
    ///
    /// # Errors
    /// The store did not do it.
    pub async fn settle(&self, project: ProjectName) -> Result<Standing, StoreError> {
        self.stand(&Caller::server(), project, |slot, _| slot.settle()).await
    }

    async fn stand(
        &self,
        caller: &Caller,
        project: ProjectName,
        change: impl FnOnce(&mut Slot, Timestamp) -> Option<Pause> + Send + 'static,
    ) -> Result<Standing, StoreError> {
        let (now, policy, caller) = (self.clock.wall(), self.policy(&project), caller.clone());
        let load = Load { line: LineLoad::All, ..Load::default() };
        self.transact(project, load, move |loaded| {
            let (slot, standing) = stand(loaded, now, &policy, &caller, change);
            (slot.into_changes(), standing)
        })
        .await
    }
}

fn stand(
    loaded: Loaded,
    now: Timestamp,
    policy: &Policy,
    caller: &Caller,
    change: impl FnOnce(&mut Slot, Timestamp) -> Option<Pause>,
) -> (Slot, Standing) {
    let had = loaded.holder.as_ref().map(|holder| holder.id);
    let mut slot = Slot::of(loaded, now, policy).by(caller);
    let before = change(&mut slot, now);
    let taken_back = had.and_then(|id| slot.deployment(id)).filter(|had| had.is_waiting()).cloned();
    let standing = Standing {
        before,
        hold: slot.hold(),
        holder: slot.holder().cloned(),
        taken_back,
        waiting_count: slot.project().waiting_count,
    };
    (slot, standing)
}
