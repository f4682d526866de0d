//! Why a call to a store failed.

use thiserror::Error;

/// Why a call to a store failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Nothing happened; the same call may work later.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// It may have happened or not, and nobody can tell: read the store to find out.
    #[error("the store did not answer: {0}")]
    Unknown(String),
    /// Nothing happened, and the same call will never work, because the store cannot keep its data.
    #[error("the store cannot keep this: {0}")]
    Refused(String),
    /// Nothing happened: the disk is full.
    #[error("the disk is full")]
    Full,
    /// The store holds data that this version does not understand, or cannot be opened.
    #[error("{0}")]
    Unusable(String),
}
