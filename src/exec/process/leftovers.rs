//! Ends what a shim should have ended and could not: because it is stopped or hangs, because it was killed, or because
//! worker and shim were killed together. See decision 0014.
//!
//! A stopped shim's processes are below it. Those of a shim that is gone were handed to whoever reaps orphans on this
//! machine; they are known by the deployment's id, which every command has in its environment, and by their cgroup.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::time::Timespec;

use super::{
    cgroup,
    descendants::{marked_with, running_below},
    shim::{LOOK_AGAIN, VANISH_LIMIT, lock_exclusively},
};

/// The variable that tells a command's processes from all others: no two deployments have the same.
pub(super) const MARK_VARIABLE: &str = "SINGLETRACK_DEPLOYMENT_ID";

/// The mark of a deployment's processes.
pub(super) fn mark(deployment_id: &str) -> String {
    format!("{MARK_VARIABLE}={deployment_id}")
}

/// Kills everything below a process that does not end it itself. Answers how many are left, which is none but for those
/// that nobody can kill.
pub(super) async fn end_below(root: Pid) -> usize {
    elsewhere(move || end_all(|| running_below(root))).await
}

/// Kills what a shim that is gone left behind. Answers how many are left.
pub(super) async fn end_marked(mark: &str) -> usize {
    let mark = mark.to_owned();
    let find = move || {
        cgroup::sweep();
        marked_with(&mark)
    };
    elsewhere(move || end_all(find)).await
}

/// On a thread of its own: the process table is read with calls that block.
async fn elsewhere(work: impl FnOnce() -> usize + Send + 'static) -> usize {
    // It does not panic; and if it did, something may be left.
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
        // Opened before the signal: the number may be another process's soon after it.
        let ending = rustix::process::pidfd_open(*first, PidfdFlags::empty());
        for pid in &running {
            let _ = rustix::process::kill_process(*pid, Signal::KILL);
        }
        match ending {
            Ok(ending) => {
                let limit = Timespec::try_from(LOOK_AGAIN).ok();
                let _ = poll(&mut [PollFd::new(&ending, PollFlags::IN)], limit.as_ref());
            }
            // Gone already, or the kernel knows no such handles.
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Waits until the shim that locked this file is gone, and sees to it that every process of its command is; whether that
/// came true in time. A file that is not there is locked by nobody.
pub async fn leftovers_gone(lock_path: &Path, deployment_id: &str, max: Duration) -> bool {
    if !lock_path.exists() {
        return true;
    }
    let path = lock_path.to_owned();
    let (gone, told) = tokio::sync::oneshot::channel();
    // A thread of its own, not one of the runtime's: a blocked flock(2) cannot be called off, and the runtime would
    // wait for it at its end.
    std::thread::spawn(move || {
        let _ = gone.send(lock_exclusively(&path).is_ok());
    });
    matches!(tokio::time::timeout(max, told).await, Ok(Ok(true))) && end_marked(&mark(deployment_id)).await == 0
}
