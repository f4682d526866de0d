//! Note: a line of the audit log about an act that changes nothing in the store, such as a reload.

use super::Queue;
use crate::{
    model::{AuditEntry, Caller, bounds},
    store::NewAuditLine,
};

/// How many bytes of what there is to say the audit log keeps.
const DETAIL_LIMIT: usize = 4096;

impl Queue {
    /// Notes an act after it was done. It is done whether or not the line can be written, so a failure is logged.
    pub async fn note(&self, caller: Caller, action: &'static str, detail: String) {
        let detail = bounds::cut(detail, DETAIL_LIMIT);
        let entry = AuditEntry { at: self.clock.wall(), action, caller, deployment: None, detail };
        if let Err(error) = self.store.audit().append(vec![NewAuditLine::of(None, entry)]).await {
            tracing::error!(%error, action, "an act could not be written into the audit log");
        }
    }
}
