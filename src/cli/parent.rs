//! Watches the parent process. Runners of CI systems signal only the step's shell, and a shell does not pass signals on: the
//! only sign of a cancelled job that its child sees is the end of the shell.

use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, getppid, pidfd_open};
use tokio::io::{Interest, unix::AsyncFd};

/// Watches for the end of the process that started us.
#[derive(Debug)]
pub enum Parent {
    /// It lives, or did when we looked.
    Watched(AsyncFd<OwnedFd>),
    /// It has ended already.
    Gone,
    /// It cannot be watched: it is outside of our namespace, or the kernel is too old.
    Unknown,
}

impl Parent {
    /// Watches from now on.
    pub fn watch() -> Self {
        let Some(parent) = getppid() else { return Parent::Unknown };
        match pidfd_open(parent, PidfdFlags::NONBLOCK) {
            // It may have ended before it was opened, and another process may have its number.
            Ok(_) if getppid() != Some(parent) => Parent::Gone,
            Ok(handle) => registered(handle).map_or(Parent::Unknown, Parent::Watched),
            Err(_) if getppid() != Some(parent) => Parent::Gone,
            Err(_) => Parent::Unknown,
        }
    }

    /// Resolves when it has ended.
    pub async fn ended(&self) {
        match self {
            // A handle of a process can be read from once that has ended.
            Parent::Watched(handle) if handle.readable().await.is_ok() => {}
            Parent::Gone => {}
            Parent::Watched(_) | Parent::Unknown => std::future::pending().await,
        }
    }
}

#[expect(
    unsafe_code,
    reason = "the runtime has to be promised that a descriptor stays the same while it is registered"
)]
fn registered(handle: OwnedFd) -> Option<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor until it is dropped, and `AsyncFd` keeps it.
    unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }.ok()
}
