//! The calls about a server's outbox of notifications.

use reqwest::Method;

use super::{
    calls::{Connection, Fault},
    transport::Call,
};
use crate::wire::{NotificationList, NotificationView};

impl Connection {
    /// A page of notifications, the last one first; `state` is `pending` or `dead`.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn notifications(
        &self,
        state: Option<&str>,
        limit: u64,
        cursor: Option<&str>,
    ) -> Result<NotificationList, Fault> {
        let mut url = self.url(&["v1", "notifications"]);
        let wanted = [("state", state), ("cursor", cursor)];
        let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name, value?)));
        url.query_pairs_mut().append_pair("limit", &limit.to_string()).extend_pairs(wanted);
        let answer = self.succeed(&Call::new(Method::GET, url)).await?;
        self.transport.read(answer).map(|list| *list)
    }

    /// Tries a notification anew that was given up.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn retry_notification(&self, id: &str) -> Result<NotificationView, Fault> {
        let url = self.url(&["v1", "notifications", id, "retry"]);
        let answer = self.succeed(&Call::new(Method::POST, url)).await?;
        self.transport.read(answer).map(|view| *view)
    }
}
