//! Artifacts in the store, where several servers share it: an artifact that one server took is there for all. See
//! decision 0018.

use std::time::Duration;

use uuid::Uuid;

use super::{BoxFuture, StoreError};
use crate::model::Digest;

/// How long the writer of an artifact may be silent before another may go on with it. After a server was killed, its
/// clients wait this long.
pub const WRITER_LEASE: Duration = Duration::from_secs(15);
/// How many unfinished artifacts may be there: each belongs to a client that was cut off, or is uploading. Where there
/// are more, the one that was cut off longest ago gives way.
pub const UNFINISHED_LIMIT: u64 = 256;

/// How an upload begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStart {
    /// It is there already.
    Whole,
    /// Another upload is writing it at this moment.
    Busy,
    /// It goes on at this byte, and not at the one where it was to begin.
    Offset(u64),
    /// Too many unfinished artifacts are there.
    TooMany,
    /// It may go on.
    Go(Writing),
}

/// The right to write an artifact. It ends when another writer takes the artifact over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing {
    /// The artifact's number.
    pub artifact: i64,
    /// Tells its writer from all others.
    pub writer: Uuid,
    /// How many bytes are there.
    pub length: u64,
}

/// An artifact of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredArtifact {
    /// Which.
    pub digest: Digest,
    /// Whether it is whole.
    pub is_whole: bool,
    /// How large it is.
    pub bytes: u64,
    /// How long ago it was last wanted, or written to.
    pub unwanted_for: Duration,
    /// A mark that changes when it is wanted again.
    pub mark: i64,
}

/// The artifacts in a store of several servers. Times are the store's own.
pub trait SharedArtifacts: Send + Sync {
    /// How large an artifact is, if it is there whole; it counts as wanted from now on.
    fn want(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>, StoreError>>;

    /// How many bytes are there under this name of an unfinished artifact.
    fn offset(&self, digest: Digest) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Begins an upload under this name at `start`, or anew.
    fn begin(&self, digest: Digest, writer: Uuid, start: Option<u64>)
    -> BoxFuture<'_, Result<UploadStart, StoreError>>;

    /// Adds a piece behind the bytes that are there. `false`: another writer has it by now.
    fn add(&self, writing: Writing, piece: Vec<u8>) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Keeps the right to write. `false`: another writer has it by now.
    fn hold(&self, writing: Writing) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Lets another writer go on with it. Must not block.
    fn let_go(&self, writing: Writing);

    /// Makes the artifact whole: from here on it is there for everyone. `false`: another writer has it by now.
    fn finish(&self, writing: Writing) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// The same for an artifact that was begun under another name than its own. Other unfinished parts of it are
    /// removed.
    fn finish_as(&self, writing: Writing, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Removes the uploaded part.
    fn discard(&self, writing: Writing) -> BoxFuture<'_, Result<(), StoreError>>;

    /// At most `limit` bytes of a whole artifact from `start` on; at least one, or nothing where there is none.
    fn read(&self, digest: Digest, start: u64, limit: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// The same of an artifact that is being written.
    fn read_unfinished(
        &self,
        writing: Writing,
        start: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;

    /// Everything that is there.
    fn kept(&self) -> BoxFuture<'_, Result<Vec<StoredArtifact>, StoreError>>;

    /// Removes an artifact, unless it was wanted since it was seen, or is being written.
    fn remove(&self, seen: StoredArtifact) -> BoxFuture<'_, Result<bool, StoreError>>;

    /// Frees the room of removed artifacts.
    fn sweep(&self) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Whether it is this server's turn to look for artifacts that may go: one does so for all, each `pause`.
    fn is_retention_due(&self, pause: Duration) -> BoxFuture<'_, Result<bool, StoreError>>;
}
