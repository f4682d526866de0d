//! `store copy`: everything of a SQLite store into a PostgreSQL database.
//!
//! Artifacts go first, each verified and of use to nobody until something names it; what an interrupted copy left of them is
//! found again. Then all rows go in one transaction, so the database is a store from one moment to the next, or stays empty.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use clap::Args;
use futures_util::TryStreamExt as _;
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, sleep};

use super::told::{Failed, bar};
use crate::{
    artifacts::{Depot, DepotError, KeptArtifact, PartName, UploadBegun, UploadError},
    cli::service::runtime,
    config::{Config, PostgresUrl, StoreLocation},
    model::Digest,
    store::{
        Store, StoreError,
        artifacts::WRITER_LEASE,
        postgres::{Import, PostgresStore},
        sqlite::Export,
    },
};

/// `store copy`.
#[derive(Args, Clone, Debug)]
pub struct CopyArgs {
    /// The store to copy, sqlite:FILE; it is not changed
    #[arg(long, value_name = "STORE", env = "SINGLETRACK_STORE", default_value = "sqlite:singletrack.db")]
    pub from: String,
    /// The empty database, postgres://HOST/DATABASE
    #[arg(long, value_name = "STORE")]
    pub to: String,
    /// The folder in which the store's server ran pipelines, and kept artifacts [default: singletrack-work beside the file]
    #[arg(long, value_name = "FOLDER", env = "SINGLETRACK_WORK_DIR")]
    pub work_dir: Option<PathBuf>,
}

/// So much of an artifact is sent at a time.
const PIECE_BYTES: usize = 1 << 20;
/// How often it is asked whether an upload of a copy that was interrupted has lapsed.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// One connection for pieces, and one to spare.
const CONNECTIONS: usize = 2;

/// Copies. Answers what there is to tell.
pub(super) fn copy(args: &CopyArgs) -> Result<String, Failed> {
    let (from, to) = places(args)?;
    let work_dir = args
        .work_dir
        .clone()
        .unwrap_or_else(|| Config { store: StoreLocation::Sqlite(from.clone()), ..Config::default() }.work_dir());
    let runtime = runtime().map_err(|error| StoreError::Unavailable(format!("cannot start: {error}")))?;
    runtime.block_on(copy_all(&from, &to, &work_dir))
}

fn places(args: &CopyArgs) -> Result<(PathBuf, PostgresUrl), Failed> {
    let usage = |flag: &str, why: &str| Failed::Usage(format!("{flag}: {why}"));
    let from = match args.from.parse() {
        Ok(StoreLocation::Sqlite(file)) => file,
        Ok(StoreLocation::Postgres(_) | StoreLocation::Memory) => {
            return Err(usage("--from", "only a store in a file can be copied: sqlite:FILE"));
        }
        Err(why) => return Err(usage("--from", &why)),
    };
    match args.to.parse() {
        Ok(StoreLocation::Postgres(url)) => Ok((from, *url)),
        Ok(StoreLocation::Sqlite(_) | StoreLocation::Memory) => Err(usage(
            "--to",
            "a store can only be copied into a database: postgres://HOST/DATABASE; see `store backup` for a file",
        )),
        Err(why) => Err(usage("--to", &why)),
    }
}

async fn copy_all(from: &Path, to: &PostgresUrl, work_dir: &Path) -> Result<String, Failed> {
    let export = Export::open(from)?;
    let import = Import::open(to).await?;
    let (artifact_count, bytes) = copy_artifacts(to, work_dir).await?;
    let rows = bar("copying rows", "{human_pos}/{human_len}");
    let copied = import
        .copy_from(export, &mut |done, total| {
            rows.set_length(total);
            rows.set_position(done);
        })
        .await;
    rows.finish_and_clear();
    let copied: Vec<_> = copied?.iter().map(|(table, count)| format!("{table}: {count}")).collect();
    Ok(format!(
        "{to} holds all of {} ({}, artifacts of {}: {artifact_count}, {bytes} bytes); start servers with `singletrack serve \
         --store {to}`, and the file's no more",
        from.display(),
        copied.join(", "),
        work_dir.display()
    ))
}

/// Answers how many there are, and their bytes.
async fn copy_artifacts(to: &PostgresUrl, work_dir: &Path) -> Result<(usize, u64), Failed> {
    let kept = Depot::below(work_dir).kept().await.map_err(failed)?;
    let kept: Vec<KeptArtifact> = kept.into_iter().filter(|kept| kept.is_whole).collect();
    let total = kept.iter().map(|kept| kept.bytes).sum();
    if kept.is_empty() {
        return Ok((0, 0));
    }
    let store =
        PostgresStore::open(to, CONNECTIONS, Arc::new(|_, _| {}), Arc::new(|_| {}), &crate::health::Health::default())
            .await?;
    let store: Arc<dyn Store> = Arc::new(store);
    let progress = bar("copying artifacts", "{bytes}/{total_bytes}");
    progress.set_length(total);
    let copied = async {
        // Nothing is copied here; what is read again must come from the database.
        let nowhere = tempfile::tempdir().map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let shared = Depot::new(store.clone(), nowhere.path());
        for kept in &kept {
            copy_artifact(&Depot::below(work_dir), &shared, &kept.digest, &progress).await?;
        }
        Ok((kept.len(), total))
    };
    let copied = copied.await;
    progress.finish_and_clear();
    // Whoever fills the database next waits for its connections to be gone.
    store.shut_down().await;
    copied
}

async fn copy_artifact(from: &Depot, to: &Depot, digest: &Digest, progress: &ProgressBar) -> Result<(), Failed> {
    let gone = || Failed::Store(StoreError::Unavailable(format!("artifact {digest} is gone")));
    let (bytes, mut content) = from.read(digest).await.map_err(failed)?.ok_or_else(gone)?;
    let Some(mut upload) = begin(to, digest).await? else {
        progress.inc(bytes);
        return Ok(());
    };
    let unreadable = |error| Failed::Store(StoreError::Unavailable(format!("artifact {digest}: {error}")));
    let mut pieces = Vec::with_capacity(PIECE_BYTES);
    while let Some(piece) = content.try_next().await.map_err(unreadable)? {
        progress.inc(piece.len() as u64);
        pieces.extend_from_slice(&piece);
        if pieces.len() >= PIECE_BYTES {
            (upload, pieces) = upload.add(pieces).await.map_err(|error| not_taken(digest, &error))?;
        }
    }
    (upload, _) = upload.add(pieces).await.map_err(|error| not_taken(digest, &error))?;
    upload.finish().await.map_err(|error| not_taken(digest, &error))?;
    let (_, mut kept) = to.read(digest).await.map_err(failed)?.ok_or_else(gone)?;
    let mut hasher = Sha256::new();
    while let Some(piece) = kept.try_next().await.map_err(unreadable)? {
        hasher.update(&piece);
    }
    if Digest::of(hasher) == *digest {
        return Ok(());
    }
    Err(StoreError::Unusable(format!("artifact {digest} arrived with other content; nothing was copied")).into())
}

/// `None`: it is there.
async fn begin(to: &Depot, digest: &Digest) -> Result<Option<crate::artifacts::Upload>, Failed> {
    let patience = Instant::now() + 2 * WRITER_LEASE;
    loop {
        match to.begin(digest, &PartName::of_all(digest), None).await {
            Ok(UploadBegun::Whole) => return Ok(None),
            Ok(UploadBegun::Upload(upload)) => return Ok(Some(upload)),
            // A copy that was interrupted just now.
            Err(UploadError::Busy) if Instant::now() < patience => sleep(BUSY_PAUSE).await,
            Err(error) => return Err(not_taken(digest, &error)),
        }
    }
}

fn not_taken(digest: &Digest, error: &UploadError) -> Failed {
    Failed::Store(match error {
        UploadError::Mismatch { .. } => {
            StoreError::Unusable(format!("artifact {digest} is damaged: {error}; move it away, and copy once more"))
        }
        UploadError::Busy
        | UploadError::Offset { .. }
        | UploadError::TooMany
        | UploadError::Io(_)
        | UploadError::Store(_) => StoreError::Unavailable(format!("artifact {digest}: {error}")),
    })
}

fn failed(error: DepotError) -> Failed {
    Failed::Store(match error {
        DepotError::Store(error) => error,
        DepotError::Disk(error) => StoreError::Unavailable(format!("the artifacts' directory: {error}")),
    })
}
