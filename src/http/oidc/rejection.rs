//! Why a token is not accepted.

use thiserror::Error;

/// Why a token is not accepted. Each text says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum TokenRejection {
    /// It was good once.
    #[error("{0}")]
    Expired(String),
    /// It is not what it should be.
    #[error("{0}")]
    NotAccepted(String),
    /// It is good, and no rule is for it.
    #[error("{0}")]
    NoRule(String),
    /// The issuer's keys cannot be had now.
    #[error("{0}")]
    NoKeys(String),
}
