//! How an upload begins, and why the depot does not do something.

use std::io;

use thiserror::Error;

use crate::{model::Digest, store::StoreError};

/// Why a call to the depot failed.
#[derive(Debug, Error)]
pub enum DepotError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk.
    #[error("the artifacts' directory: {0}")]
    Disk(#[from] io::Error),
}

/// How an upload begins.
#[derive(Debug)]
pub enum UploadBegun<U> {
    /// It is there already.
    Whole,
    /// It may go on.
    Upload(U),
}

/// Why an upload does not begin, or does not go on.
#[derive(Debug, Error)]
pub enum UploadError {
    /// Another upload is writing it at this moment.
    #[error("the artifact is being uploaded at this moment")]
    Busy,
    /// The upload begins at another byte than the one where the last upload ended.
    #[error("the upload goes on at byte {offset}")]
    Offset {
        /// Where it goes on.
        offset: u64,
    },
    /// The bytes are those of another artifact; they were removed.
    #[error("the content has another SHA-256: {found}")]
    Mismatch {
        /// The digest of the bytes.
        found: Digest,
    },
    /// Too many artifacts are there in part.
    #[error("too many uploads are unfinished")]
    TooMany,
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}
