//! An agent's call for work.

use std::time::Duration;

use reqwest::Method;

use crate::{
    client::{
        calls::{Connection, Fault},
        transport::{Call, WAIT_PARAMETER, code_of, refused},
    },
    wire::{ClaimRequest, Claimed, ErrorCode},
};

impl Connection {
    /// Asks for work; parks at the server for up to `window`. One attempt.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn claim(&self, wish: &ClaimRequest, window: Duration) -> Result<Option<Claimed>, Fault> {
        let mut url = self.url(&["v1", "claims"]);
        url.query_pairs_mut().append_pair(WAIT_PARAMETER, &window.as_secs().to_string());
        // Our own type: serializing cannot fail.
        let body = Some(serde_json::to_vec(wish).unwrap_or_default());
        let answer = self.transport().send_once(&Call { window, body, ..Call::new(Method::POST, url) }).await?;
        if answer.status.is_success() {
            return self.transport().read(answer).map(|claimed| Some(*claimed));
        }
        if code_of(&answer.body) == Some(ErrorCode::NothingToDo) { Ok(None) } else { Err(refused(answer)) }
    }
}
