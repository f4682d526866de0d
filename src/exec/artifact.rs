//! Unpacks a deployment's artifact into its workspace before the first phase.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    archive::{UnpackError, UnpackLimits, unpack},
    job::{Artifact, Job},
    report::{FailureCause, Stop, Verdict},
};

/// Unpacks the job's artifact.
///
/// A stop and the time-out are checked between two blocks. When this returns, nothing is written any more.
///
/// # Errors
/// How the deployment has ended, as [`super::run`] answers it.
pub(super) async fn fill(job: &Job, mut stop: watch::Receiver<Option<Stop>>) -> Result<(), Option<Verdict>> {
    let Some(artifact) = job.artifact.clone() else { return Ok(()) };
    let ends_at = Instant::now() + job.pipeline.timeout;
    let stopped = stop.clone();
    let wait = async {
        if stop.wait_for(Option::is_some).await.is_err() {
            // The sender is gone, so no stop can come any more.
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(wait);
    let file = tokio::select! {
        file = file(&artifact) => file,
        () = &mut wait => return Err(verdict_of(&stopped)),
        () = sleep_until(ends_at) => return Err(Some(too_long())),
    };
    let file = match file {
        Ok(file) => file,
        Err(why) => return Err(Some(failed(&why))),
    };
    let (workspace, limits) = (job.workspace.clone(), job.unpack_limits);
    let halt = Arc::new(AtomicBool::new(false));
    let halted = Arc::clone(&halt);
    let mut unpacking = tokio::task::spawn_blocking(move || unpack_file(&file, &workspace, &limits, &halted));
    let unpacked = tokio::select! {
        unpacked = &mut unpacking => unpacked,
        () = wait => {
            halt.store(true, Ordering::Relaxed);
            unpacking.await
        }
        () = sleep_until(ends_at) => {
            halt.store(true, Ordering::Relaxed);
            // Only its end matters here; its result is no longer needed.
            let _ = unpacking.await;
            return Err(Some(too_long()));
        }
    };
    match unpacked {
        Ok(Ok(())) => Ok(()),
        Ok(Err(UnpackError::Stopped)) => Err(verdict_of(&stopped)),
        Ok(Err(error)) => Err(Some(failed(&error.to_string()))),
        Err(error) => Err(Some(failed(&format!("the artifact could not be unpacked: {error}")))),
    }
}

async fn file(artifact: &Artifact) -> Result<PathBuf, String> {
    match artifact {
        Artifact::File(file) => Ok(file.clone()),
        Artifact::Remote(remote) => remote.fetch().await,
    }
}

fn verdict_of(stop: &watch::Receiver<Option<Stop>>) -> Option<Verdict> {
    (*stop.borrow() == Some(Stop::Cancel)).then_some(Verdict::Stopped)
}

fn too_long() -> Verdict {
    let message = "unpacking the artifact took longer than the pipeline may".to_owned();
    Verdict::Failed { cause: FailureCause::TimedOut, message, phase: None }
}

fn unpack_file(
    artifact: &Path,
    workspace: &Path,
    limits: &UnpackLimits,
    halted: &AtomicBool,
) -> Result<(), UnpackError> {
    let file = File::open(artifact)?;
    unpack(file, workspace, limits, halted).map(|_| ())
}

fn failed(message: &str) -> Verdict {
    Verdict::Failed { cause: FailureCause::PhaseFailed, message: message.to_owned(), phase: None }
}
