//! The known agents: what they can run, and when they last asked for work. They are kept in the store, so it does not
//! matter which of the store's servers an agent calls.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    clock::{BootInstant, Clock},
    model::ProjectName,
    queue::absence,
    store::{ABSENCE_LIMIT, AgentCall, KnownAgent, Store, StoreError},
    watch::Watch,
    wire::{AgentView, ClaimRequest},
};

/// How many of a project's agents are shown.
const SHOWN_LIMIT: usize = 100;

/// The agents that are known.
pub struct Agents {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    watch: Watch,
    began_at: BootInstant,
}

impl Agents {
    /// The agents that the store knows. After a server's start they have a little time to come back before they count
    /// as absent.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, watch: Watch) -> Self {
        let began_at = clock.boot();
        Agents { store, clock, watch, began_at }
    }

    /// Notes an agent that asks for work, for as long as the returned [`Present`] is kept, and for `window` at most.
    ///
    /// # Errors
    /// The store did not record it.
    pub async fn arrive(&self, wish: &ClaimRequest, window: std::time::Duration) -> Result<Present, StoreError> {
        let (id, worker, offers) = (Uuid::now_v7(), wish.worker.clone(), wish.projects.clone());
        let call = AgentCall { id, worker, offers, window };
        let came_at = self.clock.now();
        let ends_at = came_at.boot.after(window);
        let (store, clock) = (self.store.clone(), self.clock.clone());
        // Made before the store is told, so that a client that hangs up in between is noted as gone, too.
        let present = Present { store, clock, call: Some(call.clone()), ends_at };
        self.store.agent_came(call, came_at).await?;
        self.watch.agent_came();
        Ok(present)
    }

    /// A project's agents, those with the most recent call first.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn of(&self, project: &ProjectName) -> Result<KnownAgents, StoreError> {
        self.store.agents(project.clone(), self.clock.now()).await.map(KnownAgents)
    }

    /// A project's agents, once one of them can run this pipeline, or once the agents from before the server's start
    /// have had the time to come back.
    ///
    /// # Errors
    /// The store did not answer.
    pub async fn for_pipeline(&self, project: &ProjectName, pipeline: &str) -> Result<KnownAgents, StoreError> {
        let mut came = self.watch.agents();
        let known_by = self.began_at.after(ABSENCE_LIMIT);
        loop {
            came.mark_unchanged();
            let known = self.of(project).await?;
            let left = known_by.since(self.clock.boot());
            if known.can_run(pipeline) || left.is_zero() {
                return Ok(known);
            }
            // Either an agent came, or the time is up: both cases are checked.
            let _ = timeout(left, came.changed()).await;
        }
    }
}

/// A project's agents at one moment, those with the most recent call first.
pub struct KnownAgents(Vec<KnownAgent>);

impl KnownAgents {
    /// For the wire.
    pub fn views(self) -> Vec<AgentView> {
        self.0.into_iter().take(SHOWN_LIMIT).map(view).collect()
    }

    /// Every pipeline that some agent offered.
    pub fn pipelines(&self) -> BTreeSet<&String> {
        self.0.iter().flat_map(|agent| &agent.pipelines).collect()
    }

    /// Whether an agent is there for this pipeline.
    pub fn can_run(&self, pipeline: &str) -> bool {
        absence::can_run(pipeline, &self.0)
    }

    /// One sentence that no agent can run this pipeline now; `None` if one can.
    pub fn absence(&self, project: &ProjectName, pipeline: &str) -> Option<String> {
        absence::absence(project, pipeline, &self.0)
    }

    /// The agents in one sentence.
    pub fn in_words(&self) -> String {
        absence::in_words(&self.0)
    }
}

fn view(agent: KnownAgent) -> AgentView {
    let KnownAgent { worker, pipelines, last_seen_at, is_parked, gone_for: _ } = agent;
    AgentView { worker, pipelines, last_seen_at, connected: is_parked }
}

/// An agent whose call is parked, until it is dropped.
pub struct Present {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    call: Option<AgentCall>,
    ends_at: BootInstant,
}

impl Drop for Present {
    fn drop(&mut self) {
        let now = self.clock.now();
        // The store knows by itself when the window has passed.
        if let Some(call) = self.call.take()
            && now.boot < self.ends_at
        {
            self.store.agent_left(call, now);
        }
    }
}
