//! The token that a client shows.

use std::fmt;

use reqwest::header::HeaderValue;

use super::error::SetupError;

/// What comes before a token in its header.
const BEARER: &str = "Bearer ";

/// A bearer token. It is never printed.
#[derive(Clone)]
pub struct Token(HeaderValue);

impl Token {
    /// The token in this text; `None` when there is nothing but white space.
    ///
    /// # Errors
    /// It holds what no header can carry.
    pub fn parse(text: &str) -> Result<Option<Self>, SetupError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SetupError::Token);
        }
        let mut header = HeaderValue::from_str(&format!("{BEARER}{text}")).map_err(|_| SetupError::Token)?;
        header.set_sensitive(true);
        Ok(Some(Token(header)))
    }

    /// The token itself.
    pub(super) fn shown(&self) -> Option<&str> {
        self.0.to_str().ok()?.strip_prefix(BEARER)
    }

    /// The header's value that shows it.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
