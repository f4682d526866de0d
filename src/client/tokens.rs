//! The calls that make, list and revoke tokens.

use reqwest::Method;

use super::{
    calls::{Connection, Fault},
    transport::{Call, refused},
};
use crate::wire::{RevokeRequest, TokenCreated, TokenList, TokenRequest, TokenView};

impl Connection {
    /// Makes a token. One attempt: a token whose answer was lost is known to nobody.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn create_token(&self, wish: &TokenRequest) -> Result<TokenCreated, Fault> {
        let body = serde_json::to_vec(wish).unwrap_or_default();
        let call = Call { body: Some(body), ..Call::new(Method::POST, self.url(&["v1", "tokens"])) };
        let answer = self.transport().send_once(&call).await?;
        if !answer.status.is_success() {
            return Err(refused(answer));
        }
        self.transport().read(answer).map(|created| *created)
    }

    /// A page of tokens, the newest first.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn tokens(&self, limit: u64, cursor: Option<&str>) -> Result<TokenList, Fault> {
        let mut url = self.url(&["v1", "tokens"]);
        url.query_pairs_mut().append_pair("limit", &limit.to_string());
        if let Some(cursor) = cursor {
            url.query_pairs_mut().append_pair("cursor", cursor);
        }
        let answer = self.transport().send(&Call::new(Method::GET, url)).await?;
        if !answer.status.is_success() {
            return Err(refused(answer));
        }
        self.transport().read(answer).map(|list| *list)
    }

    /// Revokes the token with this id, or the live one with this name.
    ///
    /// # Errors
    /// No usable answer came, or the server refuses.
    pub async fn revoke_token(&self, token: &str, wish: &RevokeRequest) -> Result<TokenView, Fault> {
        let body = serde_json::to_vec(wish).unwrap_or_default();
        let url = self.url(&["v1", "tokens", token, "revoke"]);
        let answer = self.transport().send(&Call { body: Some(body), ..Call::new(Method::POST, url) }).await?;
        if !answer.status.is_success() {
            return Err(refused(answer));
        }
        self.transport().read(answer).map(|view| *view)
    }
}
