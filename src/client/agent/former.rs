//! The journals that an earlier agent left in this folder. Its child processes must be gone first; then the missing reports
//! and the end are sent to the server.

use std::sync::Arc;

use super::{
    Agent,
    journal::{JournalFile, Record},
};
use crate::{
    exec::{
        lease::{Backlog, Lost},
        lock_path,
        process::leftovers::leftovers_gone,
        workspaces,
    },
    model::{FailureCause, Verdict},
};

impl Agent {
    /// Ends one deployment that an earlier agent in this folder had taken.
    pub(super) async fn end_former(self: Arc<Self>, journal: JournalFile, record: Record) {
        let Record { taken, pending, last, end } = record;
        let id = taken.deployment;
        let workspace = self.workspace(id);
        let limits = self.settings.config.now().limits;
        // The earlier agent's shims end their children; until they are done, the slot must not be free.
        if !leftovers_gone(&lock_path(&workspace), &id.to_string(), limits.kill_budget + limits.lock_delay).await {
            tracing::error!(deployment.id = %id, "a former agent's child does not end; its lease must run out first");
            return;
        }
        workspaces::remove(&workspace).await;
        let backlog = Backlog::journalled(journal, last, pending);
        backlog.close();
        let verdict = end.unwrap_or_else(|| {
            let message = format!("the agent {} ended before it was done", self.settings.name);
            let verdict = Verdict::Failed { cause: FailureCause::WorkerLost, message, phase: None };
            backlog.with_journal(|journal| journal.end(&verdict));
            verdict
        });
        let status = verdict.status().as_str();
        let told = self.keeper(&taken).finish(&backlog, verdict).await;
        backlog.with_journal(|journal| journal.remove());
        match told {
            Ok(()) => {
                tracing::warn!(deployment.id = %id, deployment.status = status, "reported the end of a deployment that an earlier agent ran")
            }
            Err(Lost) => {
                tracing::warn!(deployment.id = %id, "a deployment that an earlier agent ran ended without that agent")
            }
        }
    }
}
