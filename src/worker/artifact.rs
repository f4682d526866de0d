//! Unpacks a deployment's artifact into its workspace before the first phase.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::watch;

use super::{
    pipeline::Job,
    report::{FailureCode, Stop, Verdict},
};
use crate::artifact::{UnpackError, UnpackLimits, unpack};

/// Unpacks what the job has to deploy. Answers the verdict where that ends the deployment.
///
/// Whoever asks for a stop, or the time-out, is heeded between two blocks; when this returns, nothing is written any more.
pub(super) async fn fill(job: &Job, mut stop: watch::Receiver<Stop>) -> Option<Verdict> {
    let artifact = job.artifact.clone()?;
    let (workspace, limits) = (job.workspace.clone(), job.unpack_limits);
    let halt = Arc::new(AtomicBool::new(false));
    let halted = Arc::clone(&halt);
    let mut unpacking = tokio::task::spawn_blocking(move || unpack_file(&artifact, &workspace, &limits, &halted));
    let wait = async {
        if stop.wait_for(|stop| *stop != Stop::None).await.is_err() {
            // Nobody is left who could stop it.
            std::future::pending::<()>().await;
        }
    };
    let unpacked = tokio::select! {
        unpacked = &mut unpacking => unpacked,
        () = wait => {
            halt.store(true, Ordering::Relaxed);
            unpacking.await
        }
        () = tokio::time::sleep(job.pipeline.timeout) => {
            halt.store(true, Ordering::Relaxed);
            // Its answer is no longer of interest, only that it is over.
            let _ = unpacking.await;
            return Some(failed(FailureCode::TimedOut, "unpacking the artifact took longer than the pipeline may"));
        }
    };
    match unpacked {
        Ok(Ok(())) => None,
        Ok(Err(UnpackError::Stopped)) => match *stop.borrow() {
            Stop::Cancel => Some(Verdict::Cancelled),
            Stop::None | Stop::Shutdown | Stop::LeaseLost { .. } => Some(Verdict::Abandoned),
        },
        Ok(Err(error)) => Some(failed(FailureCode::PhaseFailed, &error.to_string())),
        Err(error) => Some(failed(FailureCode::PhaseFailed, &format!("the artifact could not be unpacked: {error}"))),
    }
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

fn failed(code: FailureCode, message: &str) -> Verdict {
    Verdict::Failed { code, message: message.to_owned(), phase: None }
}
