//! The artifacts of a server: in a folder of its own, or, where several servers share a store, in that store, with a
//! folder for copies of the artifacts that this server ran.
//!
//! Either way an artifact is named by its content, and is there whole or not at all. The uploaded part of an artifact
//! stays when the connection is cut, so that the client goes on where it was: at whichever server, where the servers
//! share a store.

use std::{fmt, fs::File, path::Path, path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio_util::io::ReaderStream;

use super::{
    error::{DepotError, UploadBegun, UploadError},
    folder::{self, ArtifactFolder, blocking, on_disk},
    shared::{Content, SharedDepot, SharedUpload},
};
use crate::{
    model::{Digest, Glob},
    store::{Store, artifacts::StoredArtifact},
};

/// How much of a file is read ahead for a download.
const READ_BYTES: usize = 64 << 10;

/// The name of an artifact's uploaded part, until the artifact is whole. Callers who see other projects have other
/// names, so that no caller is held up by another caller's upload of the same bytes, or goes on with bytes that another
/// caller sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartName(Digest);

impl PartName {
    /// The name for callers who see all projects.
    pub fn of_all(digest: &Digest) -> Self {
        PartName(digest.clone())
    }

    /// The name for callers who see only projects of these patterns.
    pub fn of(digest: &Digest, projects: &[Glob]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(digest.as_str());
        for project in projects {
            hasher.update([0]);
            hasher.update(project.as_str());
        }
        PartName(Digest::of(hasher))
    }
}

/// An artifact that is there, whole or in part.
#[derive(Clone, Debug)]
pub struct KeptArtifact {
    /// Which artifact.
    pub digest: Digest,
    /// Whether it is whole.
    pub is_whole: bool,
    /// How large it is.
    pub bytes: u64,
    /// How long ago it was last wanted, or written to.
    pub unwanted_for: Duration,
    seen: SeenHow,
}

/// An artifact as it was seen: if it was wanted since, it is kept.
#[derive(Clone, Debug)]
enum SeenHow {
    File(folder::KeptFile),
    Stored(StoredArtifact),
}

/// A server's artifacts.
#[derive(Clone)]
pub struct Depot {
    place: DepotPlace,
}

#[derive(Clone)]
enum DepotPlace {
    Folder(ArtifactFolder),
    SharedDepot(SharedDepot),
}

/// One artifact that is being uploaded. At most one exists for each [`PartName`] until it is dropped; the written bytes
/// stay.
#[derive(Debug)]
pub struct Upload(Way);

#[derive(Debug)]
enum Way {
    File(Box<folder::FileUpload>),
    SharedDepot(Box<SharedUpload>),
}

impl Depot {
    /// The artifacts of the server with this store and work directory.
    pub fn new(store: Arc<dyn Store>, work_dir: &Path) -> Self {
        if store.artifacts().is_none() {
            return Depot::below(work_dir);
        }
        // Not the folder of a server that has its store for itself, because that folder holds the only artifacts.
        let copies = ArtifactFolder::at(work_dir.join("artifact-copies"));
        Depot { place: DepotPlace::SharedDepot(SharedDepot::new(store, copies)) }
    }

    /// The artifacts in the work directory of a server that has its store for itself.
    pub fn below(work_dir: &Path) -> Self {
        Depot { place: DepotPlace::Folder(ArtifactFolder::at(work_dir.join("artifacts"))) }
    }

    /// How large an artifact is, if it is there whole; it counts as wanted from now on.
    ///
    /// # Errors
    /// The store or the disk.
    pub async fn want(&self, digest: &Digest) -> Result<Option<u64>, DepotError> {
        match &self.place {
            DepotPlace::Folder(folder) => on_disk(folder, digest, ArtifactFolder::want).await,
            DepotPlace::SharedDepot(shared) => Ok(shared.table()?.want(digest.clone()).await?),
        }
    }

    /// How many bytes of an upload under this name are there.
    ///
    /// # Errors
    /// The store or the disk.
    pub async fn offset(&self, part: &PartName) -> Result<u64, DepotError> {
        match &self.place {
            DepotPlace::Folder(folder) => on_disk(folder, &part.0, ArtifactFolder::offset).await,
            DepotPlace::SharedDepot(shared) => Ok(shared.table()?.offset(part.0.clone()).await?),
        }
    }

    /// A whole artifact, and how large it is.
    ///
    /// # Errors
    /// The store or the disk.
    pub async fn read(&self, digest: &Digest) -> Result<Option<(u64, Content)>, DepotError> {
        let folder = match &self.place {
            DepotPlace::Folder(folder) => folder,
            DepotPlace::SharedDepot(shared) => shared.copies(),
        };
        if let Some((file, bytes)) = on_disk(folder, digest, ArtifactFolder::open).await? {
            return Ok(Some((bytes, of_file(file))));
        }
        match &self.place {
            DepotPlace::Folder(_) => Ok(None),
            DepotPlace::SharedDepot(shared) => shared.read(digest).await,
        }
    }

    /// A whole artifact as a file of this machine; fetched, where the servers share it.
    ///
    /// # Errors
    /// The store or the disk.
    pub async fn file(&self, digest: &Digest) -> Result<Option<PathBuf>, DepotError> {
        match &self.place {
            DepotPlace::Folder(folder) => {
                Ok(on_disk(folder, digest, ArtifactFolder::want).await?.map(|_| folder.path(digest)))
            }
            DepotPlace::SharedDepot(shared) => shared.fetch(digest).await,
        }
    }

    /// Begins an upload at `start`, or anew.
    ///
    /// # Errors
    /// The upload may not begin, or not at this byte.
    pub async fn begin(
        &self,
        digest: &Digest,
        part: &PartName,
        start: Option<u64>,
    ) -> Result<UploadBegun<Upload>, UploadError> {
        match &self.place {
            DepotPlace::Folder(folder) => {
                let (folder, digest, part) = (folder.clone(), digest.clone(), part.0.clone());
                Ok(match blocking(move || folder.begin(&digest, &part, start)).await? {
                    UploadBegun::Whole => UploadBegun::Whole,
                    UploadBegun::Upload(upload) => UploadBegun::Upload(Upload(Way::File(Box::new(upload)))),
                })
            }
            DepotPlace::SharedDepot(shared) => Ok(match shared.begin(digest, &part.0, start).await? {
                UploadBegun::Whole => UploadBegun::Whole,
                UploadBegun::Upload(upload) => UploadBegun::Upload(Upload(Way::SharedDepot(Box::new(upload)))),
            }),
        }
    }

    /// All artifacts that are there.
    ///
    /// # Errors
    /// The store or the disk.
    pub async fn kept(&self) -> Result<Vec<KeptArtifact>, DepotError> {
        match &self.place {
            DepotPlace::Folder(folder) => files(folder).await,
            DepotPlace::SharedDepot(shared) => {
                let stored = shared.table()?.kept().await?.into_iter().map(|stored| KeptArtifact {
                    digest: stored.digest.clone(),
                    is_whole: stored.is_whole,
                    bytes: stored.bytes,
                    unwanted_for: stored.unwanted_for,
                    seen: SeenHow::Stored(stored),
                });
                Ok(stored.collect())
            }
        }
    }

    /// Removes an artifact, unless it was wanted since it was seen, or is being written.
    ///
    /// # Errors
    /// The store or the disk.
    pub async fn remove(&self, kept: KeptArtifact) -> Result<bool, DepotError> {
        match (&self.place, kept.seen) {
            (DepotPlace::Folder(folder), SeenHow::File(file)) => remove_file(folder, file).await,
            (DepotPlace::SharedDepot(shared), SeenHow::File(file)) => remove_file(shared.copies(), file).await,
            (DepotPlace::SharedDepot(shared), SeenHow::Stored(stored)) => Ok(shared.table()?.remove(stored).await?),
            (DepotPlace::Folder(_), SeenHow::Stored(_)) => Ok(false),
        }
    }

    /// Frees the room of removed artifacts, where that takes more than their removal.
    ///
    /// # Errors
    /// The store.
    pub async fn sweep(&self) -> Result<(), DepotError> {
        match &self.place {
            DepotPlace::Folder(_) => Ok(()),
            DepotPlace::SharedDepot(shared) => Ok(shared.table()?.sweep().await?),
        }
    }

    /// Whether it is this server's turn to look for artifacts that may go, each `pause`: where servers share a store,
    /// one does so for all.
    ///
    /// # Errors
    /// The store.
    pub async fn is_retention_due(&self, pause: Duration) -> Result<bool, DepotError> {
        match &self.place {
            DepotPlace::Folder(_) => Ok(true),
            DepotPlace::SharedDepot(shared) => Ok(shared.table()?.is_retention_due(pause).await?),
        }
    }

    /// The copies that this server can do without, because the store has the artifacts.
    ///
    /// # Errors
    /// The disk.
    pub async fn copies(&self) -> Result<Vec<KeptArtifact>, DepotError> {
        match &self.place {
            DepotPlace::Folder(_) => Ok(Vec::new()),
            DepotPlace::SharedDepot(shared) => files(shared.copies()).await,
        }
    }
}

impl fmt::Debug for Depot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Depot")
    }
}

impl Upload {
    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        match &self.0 {
            Way::File(upload) => upload.length(),
            Way::SharedDepot(upload) => upload.length(),
        }
    }

    /// Adds bytes. Answers their buffer, empty, where it can be used again.
    ///
    /// # Errors
    /// The disk or the store. The added bytes are kept, unless the disk is full: then they are given up, because others
    /// need the room.
    pub async fn add(self, mut bytes: Vec<u8>) -> Result<(Upload, Vec<u8>), UploadError> {
        match self.0 {
            Way::File(mut upload) => {
                blocking(move || {
                    upload.add(&bytes)?;
                    bytes.clear();
                    Ok((Upload(Way::File(upload)), bytes))
                })
                .await
            }
            Way::SharedDepot(upload) => {
                let upload = upload.add(bytes).await?;
                Ok((Upload(Way::SharedDepot(Box::new(upload))), Vec::new()))
            }
        }
    }

    /// Shows that the upload goes on, although no bytes come: to be called every few seconds.
    ///
    /// # Errors
    /// The store; or another upload is writing it by now.
    pub async fn hold(&self) -> Result<(), UploadError> {
        match &self.0 {
            Way::File(_) => Ok(()),
            Way::SharedDepot(upload) => upload.hold().await,
        }
    }

    /// Ends the upload: from here on the artifact is there, and stays there through a loss of power. Answers its size.
    ///
    /// # Errors
    /// The content is that of another artifact, and was removed; or the disk, or the store.
    pub async fn finish(self) -> Result<u64, UploadError> {
        match self.0 {
            Way::File(upload) => blocking(move || upload.finish()).await,
            Way::SharedDepot(upload) => upload.finish().await,
        }
    }

    /// Removes the uploaded part.
    ///
    /// # Errors
    /// The disk or the store.
    pub async fn discard(self) -> Result<(), UploadError> {
        match self.0 {
            Way::File(upload) => Ok(blocking(move || upload.discard()).await?),
            Way::SharedDepot(upload) => upload.discard().await,
        }
    }
}

fn of_file(file: File) -> Content {
    ReaderStream::with_capacity(tokio::fs::File::from_std(file), READ_BYTES).boxed()
}

async fn files(folder: &ArtifactFolder) -> Result<Vec<KeptArtifact>, DepotError> {
    let folder = folder.clone();
    let files = blocking(move || folder.kept()).await?;
    let kept = |file: folder::KeptFile| KeptArtifact {
        digest: file.digest.clone(),
        is_whole: file.is_whole,
        bytes: file.bytes,
        unwanted_for: file.wanted_at.elapsed().unwrap_or_default(),
        seen: SeenHow::File(file),
    };
    Ok(files.into_iter().map(kept).collect())
}

async fn remove_file(folder: &ArtifactFolder, file: folder::KeptFile) -> Result<bool, DepotError> {
    let folder = folder.clone();
    Ok(blocking(move || folder.remove(&file)).await?)
}
