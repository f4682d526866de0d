//! What a former agent left in this folder: its children are gone before anything else is said of them, and then the
//! server is told what it did not hear yet.

use std::sync::Arc;

use super::{
    Agent,
    calls::Calls,
    delivery::{Delivery, Lost},
    journal::{Journal, Record},
    run::failed,
};
use crate::{
    exec::{lock_path, process::leftovers::leftovers_gone, workspaces},
    model::FailureCause,
};

impl Agent {
    /// Ends one deployment that a former agent on this folder had taken.
    pub(super) async fn end_former(self: Arc<Self>, journal: Journal, record: Record) {
        let Record { taken, pending, last, finish } = record;
        let id = taken.deployment;
        let workspace = self.workspace(id);
        let limits = &self.settings.limits;
        // Its shims have seen it die and end their children; until they are done, the slot must not be free.
        if !leftovers_gone(&lock_path(&workspace), &id.to_string(), limits.kill_budget + limits.lock_delay).await {
            tracing::error!(deployment.id = %id, "a former agent's child does not end; its lease must run out first");
            return;
        }
        workspaces::remove(&workspace).await;
        let had_ended = finish.is_some();
        let finish = finish.unwrap_or_else(|| {
            let message = format!("the agent {} ended before it was done", self.settings.name);
            failed(FailureCause::WorkerLost, message, None)
        });
        let delivery = Delivery::new(Calls::new(self.connection.clone(), taken), journal, last, pending);
        match delivery.finish(&finish, had_ended).await {
            Ok(()) => {
                tracing::warn!(deployment.id = %id, deployment.status = finish.status.as_str(), "told the end of what a former agent ran")
            }
            Err(Lost) => tracing::warn!(deployment.id = %id, "what a former agent ran was ended without it"),
        }
    }
}
