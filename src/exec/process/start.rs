//! Starts a command's process: in its cgroup from its first instruction on, and bound to die with its shim.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions};

use super::cgroup::Cgroup;

/// Starts it, in this cgroup if there is one and the system allows it. `prepare` is called in the new process. Call it
/// while this process has one thread.
pub(super) fn start(command: &mut Command, cgroup: Option<&Cgroup>, prepare: impl FnOnce()) -> io::Result<Pid> {
    // The new process writes here why it could not become the command. The pipe closes once it is the command.
    let (report, reporting) = pipe_with(PipeFlags::CLOEXEC)?;
    let shim = rustix::process::getpid();
    let forked = cgroup.and_then(Cgroup::fork).unwrap_or_else(|| {
        #[expect(unsafe_code, reason = "there is no safe way to fork")]
        // SAFETY: this process has one thread, so the child may run any code.
        unsafe {
            libc::fork()
        }
    });
    if forked == 0 {
        prepare();
        let error = become_command(command, shim);
        let code = error.raw_os_error().unwrap_or(libc::EINVAL);
        let _ = rustix::io::write(&reporting, &code.to_ne_bytes());
        #[expect(unsafe_code, reason = "there is no other way")]
        // SAFETY: ends this child without running the parent's exit handlers.
        unsafe {
            libc::_exit(127)
        }
    }
    drop(reporting);
    let child = Pid::from_raw(forked).filter(|_| forked > 0).ok_or_else(io::Error::last_os_error)?;
    let mut code = Vec::new();
    File::from(report).read_to_end(&mut code)?;
    match <[u8; 4]>::try_from(code) {
        Err(_) => Ok(child),
        Ok(code) => {
            let _ = rustix::process::waitpid(Some(child), WaitOptions::empty());
            Err(io::Error::from_raw_os_error(i32::from_ne_bytes(code)))
        }
    }
}

/// In the child; returns only on an error.
fn become_command(command: &mut Command, shim: Pid) -> io::Error {
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    // If the shim had died before that call, the signal would never come.
    if rustix::process::getppid() != Some(shim) {
        return io::ErrorKind::NotFound.into();
    }
    command.exec()
}
