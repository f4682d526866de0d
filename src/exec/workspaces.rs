//! Removes the workspaces of deployments, and the files beside them. Files that a command made as another user, or made
//! immutable, cannot be removed. That is logged and counted, and tried again, because somebody may have fixed it
//! meanwhile.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use rustix::fs::{FlockOperation, flock};
use tokio::{task::spawn_blocking, time::sleep};

use super::{archive::unpacking_path, job::lock_path};
use crate::model::DeploymentId;

/// How long until removing is tried again after a failure.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(15 * 60);

/// How many workspaces could not be removed.
static LEFT_COUNT: AtomicU64 = AtomicU64::new(0);

/// How many workspaces could not be removed, as of the last try.
pub fn left_count() -> u64 {
    LEFT_COUNT.load(Ordering::Relaxed)
}

/// Where an agent keeps the artifact until it has been unpacked.
pub fn artifact_path(workspace: &Path) -> PathBuf {
    workspace.with_extension("artifact")
}

/// Removes a workspace in which nothing runs any more, and the files beside it, the lock last. Logs a failure.
pub async fn remove(workspace: &Path) {
    let path = workspace.to_owned();
    // It does not panic. If it did, the next sweep would remove the rest.
    if let Ok(Err(error)) = spawn_blocking(move || remove_all_of(&path)).await {
        LEFT_COUNT.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(
            path = %workspace.display(),
            %error,
            "a workspace could not be removed; remove it by hand if a command made files in it as another user"
        );
    }
}

/// Removes, from time to time, everything of former deployments that is still in the folder of workspaces. `is_in_use`
/// tells whether something of a deployment may still run. Never returns.
pub async fn keep_swept(dir: PathBuf, is_in_use: impl Fn(DeploymentId) -> bool) {
    let mut told_count = 0;
    loop {
        let listed = dir.clone();
        let found = spawn_blocking(move || deployments_in(&listed)).await.unwrap_or_default();
        let mut left_count = 0;
        for id in found.into_iter().filter(|id| !is_in_use(*id)) {
            let workspace = dir.join(id.to_string());
            let removed = spawn_blocking(move || if is_free(&workspace) { remove_all_of(&workspace) } else { Ok(()) });
            left_count += u64::from(matches!(removed.await, Ok(Err(_))));
        }
        LEFT_COUNT.store(left_count, Ordering::Relaxed);
        if left_count > 0 && left_count != told_count {
            tracing::warn!(path = %dir.display(), left_count, "workspaces cannot be removed; trying again every 15 minutes");
        }
        told_count = left_count;
        sleep(TRY_AGAIN_AFTER).await;
    }
}

/// The deployments that have any file there.
fn deployments_in(dir: &Path) -> Vec<DeploymentId> {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let ids = names.filter_map(|name| name.to_str()?.split('.').next()?.parse().ok());
    let mut ids: Vec<DeploymentId> = ids.collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Whether no shim holds the workspace's lock.
fn is_free(workspace: &Path) -> bool {
    match File::open(lock_path(workspace)) {
        Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn remove_all_of(workspace: &Path) -> io::Result<()> {
    for folder in [workspace, &unpacking_path(workspace)] {
        match remove_folder(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    for file in [artifact_path(workspace), lock_path(workspace)] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Removes a folder, even if some folders in it are closed to their owner, as the module caches of Go are.
fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            open_up(folder);
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

/// Gives the owner every right to the folders below. Links are not followed.
fn open_up(folder: &Path) {
    // Another user's folder stays as it is.
    let _ = fs::set_permissions(folder, Permissions::from_mode(0o700));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path());
        }
    }
}
