//! Taking a leaked secret out of what is recorded of one deployment. See decision 0080.
//!
//! Each call that writes is one small transaction with a permit for it; the schema lets it change words only.

use std::sync::Arc;

use super::{
    BoxFuture, StoreError,
    blocks::{Block, StoredBlock, StoredEvent},
};
use crate::model::DeploymentId;

/// The texts of a deployment's own row. JSON stays JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowTexts {
    /// The spec, as JSON.
    pub spec: String,
    /// The outputs, as JSON.
    pub outputs: String,
    /// What became of its rollbacks, as JSON.
    pub rollbacks: Option<String>,
    /// Its message.
    pub message: Option<String>,
    /// Why it failed or was cancelled, for people.
    pub cause_message: Option<String>,
    /// Why it was asked to stop.
    pub cancel_reason: Option<String>,
}

/// Answers the texts that are to stand there instead; `None` to leave them.
pub type RewriteRow = Arc<dyn Fn(&RowTexts) -> Option<RowTexts> + Send + Sync>;

/// The calls for a redaction.
pub trait RedactRoom: Send + Sync {
    /// Events of every type after `after` that are in rows, at most `limit`, in order.
    fn event_rows(
        &self,
        id: DeploymentId,
        after: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StoredEvent>, StoreError>>;

    /// Writes other bodies into these rows.
    fn rewrite_events(&self, id: DeploymentId, events: Vec<StoredEvent>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The first block with an event after `after`.
    fn block_after(&self, id: DeploymentId, after: u64) -> BoxFuture<'_, Result<Option<StoredBlock>, StoreError>>;

    /// Writes another content into the block with this first event.
    fn rewrite_block(&self, id: DeploymentId, block: Block) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Rewrites the deployment's own row. Answers whether anything changed.
    fn rewrite_row(&self, id: DeploymentId, rewrite: RewriteRow) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Overwrites what the store itself still keeps of former versions, as far as it can. `false`: some of that is kept
    /// until another program has stopped reading.
    fn scrub(&self) -> BoxFuture<'_, Result<bool, StoreError>>;
}
