//! Ends the processes that a shim should have ended and could not: because it is stopped or hangs, because it was
//! killed, or because worker and shim were killed together. See decision 0014.
//!
//! The processes of a stopped shim are below it. Those of a dead shim were adopted by the process that reaps orphans on
//! this machine. They are found by the deployment's id, which every command has in its environment, and by their
//! cgroup.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::Timespec;

use super::{
    cgroup,
    contract::{LOOK_AGAIN, VANISH_LIMIT, lock_exclusively},
    descendants::{marked_with, running_below},
};

/// The variable that distinguishes a command's processes from all others, because no two deployments have the same
/// value.
pub(super) const MARK_VARIABLE: &str = "SINGLETRACK_DEPLOYMENT_ID";

/// The mark of a deployment's processes.
pub(super) fn mark(deployment_id: &str) -> String {
    format!("{MARK_VARIABLE}={deployment_id}")
}

/// Kills everything below a process that does not end its descendants itself. Returns how many are left: only those
/// that cannot be killed.
pub(super) async fn end_below(root: Pid) -> usize {
    elsewhere(move || end_all(|| running_below(root))).await
}

/// Kills the processes that a dead shim left behind. Returns how many are left.
pub(super) async fn end_marked(mark: &str) -> usize {
    let mark = mark.to_owned();
    let find = move || {
        cgroup::sweep();
        marked_with(&mark)
    };
    elsewhere(move || end_all(find)).await
}

/// Runs `work` on a thread of its own, because the process table is read with calls that block.
async fn elsewhere(work: impl FnOnce() -> usize + Send + 'static) -> usize {
    // It does not panic. If it did, a process might be left.
    tokio::task::spawn_blocking(work).await.unwrap_or(1)
}

fn end_all(find: impl Fn() -> Vec<Pid>) -> usize {
    let give_up_at = Instant::now() + VANISH_LIMIT;
    loop {
        let running = find();
        let Some(first) = running.first() else { return 0 };
        if Instant::now() > give_up_at {
            return running.len();
        }
        // Opened before the signal is sent, because the pid may soon belong to another process.
        let ending = rustix::process::pidfd_open(*first, PidfdFlags::empty());
        for pid in &running {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        match ending {
            Ok(ending) => {
                let limit = Timespec::try_from(LOOK_AGAIN).ok();
                let _ = poll(&mut [PollFd::new(&ending, PollFlags::IN)], limit.as_ref());
            }
            // The process is gone already, or the kernel has no pidfds.
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Waits until the shim that locked this file is gone, and ends the rest of its command's processes. Returns whether
/// all of them were gone in time. A file that does not exist is not locked.
pub async fn leftovers_gone(lock_path: &Path, deployment_id: &str, max: Duration) -> bool {
    if !lock_path.exists() {
        return true;
    }
    let path = lock_path.to_owned();
    let (gone, told) = tokio::sync::oneshot::channel();
    // A thread of its own, not one of the runtime's, because a blocked flock(2) cannot be cancelled, and the runtime
    // would wait for it at its end.
    std::thread::spawn(move || {
        let _ = gone.send(lock_exclusively(&path).is_ok());
    });
    matches!(tokio::time::timeout(max, told).await, Ok(Ok(true))) && end_marked(&mark(deployment_id)).await == 0
}
