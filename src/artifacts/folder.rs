//! Artifacts in a directory: a file each, named by its content, that appears whole or not at all.
//!
//! The uploaded part of an artifact stays when the connection is cut, so that the client goes on where it was. A file's
//! time of change is the time when it was last wanted.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use sha2::{Digest as _, Sha256};

use super::error::{DepotError, UploadBegun, UploadError};
use crate::{model::Digest, private};

/// The ending of the name of a file that is not whole yet.
const PARTIAL: &str = ".part";
/// How many unfinished artifacts may be there: each belongs to a client that was cut off, or is uploading. Where there
/// are more, the one that was cut off longest ago gives way.
const PARTIAL_LIMIT: usize = 256;

/// Artifacts in a directory.
#[derive(Clone, Debug)]
pub(super) struct ArtifactFolder {
    dir: PathBuf,
    /// The names of the parts that are being written.
    uploading: Arc<Mutex<HashSet<Digest>>>,
}

/// One artifact that is being uploaded. At most one exists for each part's name until it is dropped; the written bytes
/// stay.
#[derive(Debug)]
pub(super) struct FileUpload {
    claim: Claim,
    file: File,
    hasher: Sha256,
    length: u64,
}

/// A file of the folder.
#[derive(Clone, Debug)]
pub(super) struct KeptFile {
    /// Which artifact; the name of a part, where it is not whole.
    pub(super) digest: Digest,
    /// Whether it is whole.
    pub(super) is_whole: bool,
    /// How large it is.
    pub(super) bytes: u64,
    /// When it was last wanted, or written to.
    pub(super) wanted_at: SystemTime,
}

impl ArtifactFolder {
    /// The folder with this path. It is made with the first upload.
    pub(super) fn at(dir: PathBuf) -> Self {
        ArtifactFolder { dir, uploading: Arc::default() }
    }

    /// Where an artifact is, or would be.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.as_str())
    }

    fn partial(&self, part: &Digest) -> PathBuf {
        self.dir.join(format!("{part}{PARTIAL}"))
    }

    fn uploading(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.uploading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How large an artifact is, if it is there whole; it counts as wanted from now on.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn want(&self, digest: &Digest) -> io::Result<Option<u64>> {
        // Under the lock, so that it is not removed as unwanted at the same moment.
        let _lock = self.uploading();
        let file = match OpenOptions::new().append(true).open(self.path(digest)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.set_modified(SystemTime::now())?;
        Ok(Some(file.metadata()?.len()))
    }

    /// How many bytes are there under this name of a part.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn offset(&self, part: &Digest) -> io::Result<u64> {
        match fs::metadata(self.partial(part)) {
            Ok(found) => Ok(found.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Opens a whole artifact.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn open(&self, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        match File::open(self.path(digest)) {
            Ok(file) => {
                let bytes = file.metadata()?.len();
                Ok(Some((file, bytes)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins an upload under the name `part` at `start`, or anew. Blocks while it reads the part that is there.
    ///
    /// # Errors
    /// The upload may not begin, or not at this byte.
    pub(super) fn begin(
        &self,
        digest: &Digest,
        part: &Digest,
        start: Option<u64>,
    ) -> Result<UploadBegun<FileUpload>, UploadError> {
        if self.want(digest)?.is_some() {
            return Ok(UploadBegun::Whole);
        }
        if !self.uploading().insert(part.clone()) {
            return Err(UploadError::Busy);
        }
        // From here on the lock is released however this ends.
        let claim = Claim { folder: self.clone(), digest: digest.clone(), part: part.clone() };
        // It may have become whole in between.
        if self.want(digest)?.is_some() {
            return Ok(UploadBegun::Whole);
        }
        private::folder(&self.dir)?;
        let offset = self.offset(part)?;
        if start.is_some_and(|start| start != offset) {
            return Err(UploadError::Offset { offset });
        }
        if offset == 0 && !self.make_place()? {
            return Err(UploadError::TooMany);
        }
        let mut file = private::file().read(true).write(true).create(true).truncate(false).open(self.partial(part))?;
        let (mut hasher, mut length) = (Sha256::new(), 0);
        if start.is_none() {
            file.set_len(0)?;
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                count => {
                    hasher.update(&buffer[..count]);
                    length += count as u64;
                }
            }
        }
        Ok(UploadBegun::Upload(FileUpload { claim, file, hasher, length }))
    }

    /// Whether there is a place for another part. Of the parts that nobody is writing, the part that was written to
    /// longest ago gives way.
    fn make_place(&self) -> io::Result<bool> {
        let mut parts: Vec<_> = self.kept()?.into_iter().filter(|kept| !kept.is_whole).collect();
        if parts.len() < PARTIAL_LIMIT {
            return Ok(true);
        }
        parts.sort_by_key(|part| part.wanted_at);
        for part in &parts {
            if self.remove(part)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All files that are there.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn kept(&self) -> io::Result<Vec<KeptFile>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut kept = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let (digits, is_whole) = name.strip_suffix(PARTIAL).map_or((name, true), |digits| (digits, false));
            // Files that are not ours are left alone, and files that have gone meanwhile are skipped.
            let (Ok(digest), Ok(found)) = (digits.parse(), entry.metadata()) else { continue };
            kept.push(KeptFile { digest, is_whole, bytes: found.len(), wanted_at: found.modified()? });
        }
        Ok(kept)
    }

    /// Removes a file of the folder, unless it was wanted since `seen`, or is being written.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn remove(&self, seen: &KeptFile) -> io::Result<bool> {
        let uploading = self.uploading();
        let path = if seen.is_whole { self.path(&seen.digest) } else { self.partial(&seen.digest) };
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        if uploading.contains(&seen.digest) || found.modified()? != seen.wanted_at {
            return Ok(false);
        }
        fs::remove_file(&path)?;
        Ok(true)
    }
}

/// Keeps other uploads from writing under the same name.
#[derive(Debug)]
struct Claim {
    folder: ArtifactFolder,
    digest: Digest,
    part: Digest,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.folder.uploading().remove(&self.part);
    }
}

impl FileUpload {
    /// How many bytes there are.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Adds bytes. Blocks.
    ///
    /// # Errors
    /// The disk. The added bytes are kept, unless the disk is full: then they are given up, because others need the
    /// room.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        if let Err(error) = self.file.write_all(bytes) {
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                self.discard()?;
            } else {
                // The bytes of the failed write are not in the hash.
                self.file.set_len(self.length)?;
            }
            return Err(error.into());
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Ends the upload: from here on the artifact is there, and stays there through a loss of power. Blocks.
    ///
    /// # Errors
    /// The content is that of another artifact, and was removed; or the disk.
    pub(super) fn finish(self) -> Result<u64, UploadError> {
        let found = Digest::of(self.hasher.clone());
        if found != self.claim.digest {
            self.discard()?;
            return Err(UploadError::Mismatch { found });
        }
        self.file.sync_all()?;
        self.file.set_modified(SystemTime::now())?;
        fs::rename(self.claim.folder.partial(&self.claim.part), self.claim.folder.path(&self.claim.digest))?;
        File::open(&self.claim.folder.dir)?.sync_all()?;
        Ok(self.length)
    }

    /// Removes the uploaded part.
    ///
    /// # Errors
    /// The disk.
    pub(super) fn discard(&self) -> io::Result<()> {
        fs::remove_file(self.claim.folder.partial(&self.claim.part))
    }
}

pub(super) async fn on_disk<T: Send + 'static>(
    folder: &ArtifactFolder,
    digest: &Digest,
    ask: fn(&ArtifactFolder, &Digest) -> io::Result<T>,
) -> Result<T, DepotError> {
    let (folder, digest) = (folder.clone(), digest.clone());
    Ok(blocking(move || ask(&folder, &digest)).await?)
}

/// Runs work that waits for the disk on a thread for such work.
pub(super) async fn blocking<T: Send + 'static, E: From<io::Error> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(io::Error::other(error).into()),
    }
}
