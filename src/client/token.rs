//! The token that a client shows.

use std::{fmt, fs::File, io::Read as _, path::Path};

use reqwest::header::HeaderValue;

use super::error::SetupError;

/// What comes before a token in its header.
const BEARER: &str = "Bearer ";

/// The largest token file: a token is a line.
pub const TOKEN_FILE_LIMIT: u64 = 16 << 10;

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

    /// The token in this file.
    pub(super) fn read(path: &Path) -> std::io::Result<Option<Self>> {
        let mut text = String::new();
        File::open(path)?.take(TOKEN_FILE_LIMIT).read_to_string(&mut text)?;
        Token::parse(&text).map_err(std::io::Error::other)
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
