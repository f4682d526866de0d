//! What can be the matter with a call: no usable answer, or a refusal.

use std::fmt;

use serde_json::Value;
use thiserror::Error;

use crate::wire::ErrorCode;

/// Why no usable answer came.
#[derive(Debug, Error)]
pub enum Fault {
    /// No answer came.
    #[error("no answer from {server}: {why}")]
    Unreachable {
        /// The server's address.
        server: String,
        /// Why no answer came.
        why: String,
    },
    /// An answer came, but not from Singletrack.
    #[error("what answers at {server} is not Singletrack: {why}")]
    Foreign {
        server: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A proxy in front of the server refuses a body of that size.
    #[error("a proxy in front of {server} refuses a request of this size (HTTP 413)")]
    Proxy {
        /// The server's address.
        server: String,
    },
    /// The CI makes no ID token for this job.
    #[error("the CI makes no ID token: {why}")]
    NoToken {
        /// Why.
        why: String,
    },
    /// The server refused.
    #[error("{0}")]
    Refused(Box<ServerRefusal>),
}

/// A server's refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerRefusal {
    pub status: u16,
    /// What went wrong; `None` for a code of a newer server.
    pub code: Option<ErrorCode>,
    /// Whether a token was sent.
    pub with_token: bool,
    pub message: String,
    /// The whole problem.
    pub body: Value,
}

impl fmt::Display for ServerRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
