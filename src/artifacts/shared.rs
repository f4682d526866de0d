//! Artifacts in the store that several servers share, and copies of them on this server's disk.

use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use bytes::Bytes;
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    error::{DepotError, UploadBegun, UploadError},
    folder::{ArtifactFolder, blocking, on_disk},
};
use crate::{
    model::Digest,
    store::{
        SharedArtifacts, Store, StoreError,
        artifacts::{UploadStart, WRITER_LEASE, Writing},
    },
};

/// How much of an artifact is held in memory for one download; a slow reader keeps no more.
const SENT_BYTES: usize = 256 << 10;
/// How much is read at a time where the disk takes it at once.
const FETCHED_BYTES: usize = 1 << 20;

/// The content of a whole artifact.
pub type Content = BoxStream<'static, io::Result<Bytes>>;

/// The artifacts of a shared store.
#[derive(Clone)]
pub(super) struct SharedDepot {
    store: Arc<dyn Store>,
    copies: ArtifactFolder,
    /// The copies that are being fetched: other callers that want the same copy wait for the lock.
    fetches: Arc<Mutex<HashMap<Digest, Weak<tokio::sync::Mutex<()>>>>>,
}

impl SharedDepot {
    pub(super) fn new(store: Arc<dyn Store>, copies: ArtifactFolder) -> Self {
        SharedDepot { store, copies, fetches: Arc::default() }
    }

    pub(super) fn table(&self) -> Result<&dyn SharedArtifacts, StoreError> {
        table(&*self.store)
    }

    pub(super) fn copies(&self) -> &ArtifactFolder {
        &self.copies
    }

    pub(super) async fn read(&self, digest: &Digest) -> Result<Option<(u64, Content)>, DepotError> {
        let Some(bytes) = self.table()?.want(digest.clone()).await? else { return Ok(None) };
        let pieces =
            stream::try_unfold((self.store.clone(), digest.clone(), 0), move |(store, digest, at)| async move {
                if at == bytes {
                    return Ok(None);
                }
                let piece = piece(&*store, &digest, at, SENT_BYTES).await.map_err(io::Error::other)?;
                let next = at + piece.len() as u64;
                Ok(Some((Bytes::from(piece), (store, digest, next))))
            });
        Ok(Some((bytes, pieces.boxed())))
    }

    /// A copy on this disk; made once, however many callers want it.
    pub(super) async fn fetch(&self, digest: &Digest) -> Result<Option<PathBuf>, DepotError> {
        let turn = self.turn(digest);
        let _turn = turn.lock().await;
        let path = self.copies.path(digest);
        if on_disk(&self.copies, digest, ArtifactFolder::want).await?.is_some() {
            return Ok(Some(path));
        }
        let Some(bytes) = self.table()?.want(digest.clone()).await? else { return Ok(None) };
        let (folder, wanted) = (self.copies.clone(), digest.clone());
        let mut copy = match blocking(move || folder.begin(&wanted, &wanted, None)).await.map_err(unexpected)? {
            UploadBegun::Whole => return Ok(Some(path)),
            UploadBegun::Upload(copy) => copy,
        };
        while copy.length() < bytes {
            let piece = piece(&*self.store, digest, copy.length(), FETCHED_BYTES).await?;
            copy = blocking(move || copy.add(&piece).map(|()| copy)).await.map_err(unexpected)?;
        }
        // `finish` fails unless the bytes have the digest that names them.
        blocking(move || copy.finish()).await.map_err(unexpected)?;
        Ok(Some(path))
    }

    fn turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut fetches = self.fetches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turn) = fetches.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        fetches.retain(|_, turn| turn.strong_count() > 0);
        let turn = Arc::default();
        fetches.insert(digest.clone(), Arc::downgrade(&turn));
        turn
    }

    pub(super) async fn begin(
        &self,
        digest: &Digest,
        part: &Digest,
        start: Option<u64>,
    ) -> Result<UploadBegun<SharedUpload>, UploadError> {
        let table = self.table()?;
        if table.want(digest.clone()).await?.is_some() {
            return Ok(UploadBegun::Whole);
        }
        let writing = match table.begin(part.clone(), Uuid::now_v7(), start).await? {
            UploadStart::Whole => return Ok(UploadBegun::Whole),
            UploadStart::Busy => return Err(UploadError::Busy),
            UploadStart::Offset(offset) => return Err(UploadError::Offset { offset }),
            UploadStart::TooMany => return Err(UploadError::TooMany),
            UploadStart::Go(writing) => writing,
        };
        let (store, digest, part) = (self.store.clone(), digest.clone(), part.clone());
        let held = WriteRight { store, digest, part, writing: Some(writing) };
        let mut uploading = SharedUpload { held, hasher: Sha256::new() };
        uploading.read_again(writing).await?;
        Ok(UploadBegun::Upload(uploading))
    }
}

fn table(store: &dyn Store) -> Result<&dyn SharedArtifacts, StoreError> {
    store.artifacts().ok_or_else(|| StoreError::Unusable("the store keeps no artifacts".to_owned()))
}

async fn piece(store: &dyn Store, digest: &Digest, at: u64, limit: usize) -> Result<Vec<u8>, StoreError> {
    let piece = table(store)?.read(digest.clone(), at, limit).await?;
    piece.ok_or_else(|| StoreError::Unavailable("the artifact was removed meanwhile".to_owned()))
}

/// The errors that can still happen to a copy, which has no other writer.
fn unexpected(error: UploadError) -> DepotError {
    match error {
        UploadError::Io(error) => error.into(),
        UploadError::Store(error) => error.into(),
        other => io::Error::other(other).into(),
    }
}

/// The right to write; other writers can take it when it is dropped.
struct WriteRight {
    store: Arc<dyn Store>,
    digest: Digest,
    part: Digest,
    /// None once it is finished.
    writing: Option<Writing>,
}

impl Drop for WriteRight {
    fn drop(&mut self) {
        if let (Some(writing), Some(table)) = (self.writing.take(), self.store.artifacts()) {
            table.let_go(writing);
        }
    }
}

/// One artifact that is being uploaded.
pub(super) struct SharedUpload {
    held: WriteRight,
    hasher: Sha256,
}

impl SharedUpload {
    pub(super) fn length(&self) -> u64 {
        self.held.writing.map_or(0, |writing| writing.length)
    }

    pub(super) async fn add(mut self, bytes: Vec<u8>) -> Result<SharedUpload, UploadError> {
        let writing = self.writing()?;
        if bytes.is_empty() {
            return Ok(self);
        }
        let count = bytes.len() as u64;
        self.hasher.update(&bytes);
        match table(&*self.held.store)?.add(writing, bytes).await {
            Ok(true) => {}
            Ok(false) => return Err(self.overtaken()),
            Err(StoreError::Full) => {
                // The part is given up, because others need the room.
                self.discard().await?;
                return Err(StoreError::Full.into());
            }
            Err(error) => return Err(error.into()),
        }
        self.held.writing = Some(Writing { length: writing.length + count, ..writing });
        Ok(self)
    }

    pub(super) async fn hold(&self) -> Result<(), UploadError> {
        let is_held = table(&*self.held.store)?.hold(self.writing()?).await?;
        if is_held { Ok(()) } else { Err(UploadError::Busy) }
    }

    pub(super) async fn finish(mut self) -> Result<u64, UploadError> {
        let writing = self.writing()?;
        let found = Digest::of(self.hasher.clone());
        if found != self.held.digest {
            self.discard().await?;
            return Err(UploadError::Mismatch { found });
        }
        let table = table(&*self.held.store)?;
        let is_finished = if self.held.part == self.held.digest {
            table.finish(writing).await?
        } else {
            table.finish_as(writing, self.held.digest.clone()).await?
        };
        if !is_finished {
            return Err(self.overtaken());
        }
        self.held.writing = None;
        Ok(writing.length)
    }

    pub(super) async fn discard(mut self) -> Result<(), UploadError> {
        let writing = self.writing()?;
        table(&*self.held.store)?.discard(writing).await?;
        self.held.writing = None;
        Ok(())
    }

    /// The bytes that are there already are a part of the finished artifact, so they are read as they are.
    async fn read_again(&mut self, writing: Writing) -> Result<(), UploadError> {
        let (mut at, mut held_at) = (0, Instant::now());
        while at < writing.length {
            if held_at.elapsed() > WRITER_LEASE / 3 {
                self.hold().await?;
                held_at = Instant::now();
            }
            let table = table(&*self.held.store)?;
            let Some(piece) = table.read_unfinished(writing, at, FETCHED_BYTES).await? else {
                return Err(self.overtaken());
            };
            at += piece.len() as u64;
            self.hasher.update(&piece);
        }
        Ok(())
    }

    fn writing(&self) -> Result<Writing, UploadError> {
        self.held.writing.ok_or(UploadError::Busy)
    }

    fn overtaken(&mut self) -> UploadError {
        self.held.writing = None;
        UploadError::Busy
    }
}

impl fmt::Debug for SharedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploading").field("digest", &self.held.digest).field("writing", &self.held.writing).finish()
    }
}
