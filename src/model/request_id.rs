//! The id of one request, by which a user's error leads an operator to the log.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::ids::InvalidId;

/// The longest id that a proxy may give.
const LENGTH_LIMIT: usize = 64;

/// A request's id. Cheap to clone; an id of the server's own making takes no memory beside itself.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RequestId(Form);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    /// Sixteen hexadecimal digits.
    Made(u64),
    /// Any other text.
    Given(Arc<str>),
}

impl RequestId {
    /// An id of the server's own making.
    pub const fn made(number: u64) -> Self {
        RequestId(Form::Made(number))
    }
}

impl FromStr for RequestId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > LENGTH_LIMIT || !text.bytes().all(is_allowed) {
            return Err(InvalidId::RequestId);
        }
        let number = u64::from_str_radix(text, 16).ok().map(RequestId::made);
        // One text has one form, so that equal ids are equal values.
        Ok(match number.filter(|made| made.to_string() == text) {
            Some(made) => made,
            None => RequestId(Form::Given(text.into())),
        })
    }
}

impl TryFrom<String> for RequestId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<RequestId> for String {
    fn from(id: RequestId) -> String {
        id.to_string()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Made(number) => write!(f, "{number:016x}"),
            Form::Given(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_as_it_was_written() {
        for text in ["00000000000000ff", "FF", "0", "+0000000000000ff", "7b2c.a_b-c", &"a".repeat(64)] {
            let Ok(id) = text.parse::<RequestId>() else { continue };
            assert_eq!(id.to_string(), text);
            assert_eq!(id, text.parse().unwrap());
        }
        assert_eq!(RequestId::made(255), "00000000000000ff".parse().unwrap());
        assert_ne!(RequestId::made(255), "ff".parse().unwrap());
        for text in ["", "a b", "a\nb", "a\"b", "ä", "a=b", &"a".repeat(65)] {
            assert!(text.parse::<RequestId>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_id_is_small() {
        assert!(size_of::<RequestId>() <= 24);
    }
}
