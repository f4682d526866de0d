//! A shim that is a fork of this process: for `run`, whose process serves one command only. See decision 0020.
//!
//! Executing this program a second time would work as well. But it costs more than all the rest of a short run, because
//! the linker relocates the program anew. A fork shares the loaded program. It has two conditions: no other thread may
//! run, and no runtime may ever have been created, because a runtime leaves its signal handling behind. And the files
//! that an exec would close must be closed by hand.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_getfd};
use rustix::process::Pid;

use super::{
    hide::{finds_processes, hide},
    owner::{Prepared, ShimProcess, ShimProgram},
    shim::{self, Done, Duty},
};

/// The hidden first argument under which this program carries out the will on its standard input, in place of a run
/// that is gone.
pub const WILL_ARGUMENT: &str = "__will";

/// A command that is to be run with this process's own standard input, or with a terminal.
#[derive(Debug)]
pub struct Here<'a> {
    /// The program and its arguments.
    pub command: &'a [OsString],
    /// Variables to remove from the environment of the command and its shim, besides those by which a CI system finds a
    /// job's processes.
    pub hidden: &'a [&'a str],
    /// The file that the shim keeps locked until no process of the command is left.
    pub lock: &'a Path,
    /// The folder of this command. The shim removes it at its end, even if this process is killed. It holds files only.
    pub folder: &'a Path,
    /// How long everything may take to stop when this process is gone, or before its deadline.
    pub kill_budget: Duration,
    /// The terminal in front of the user, if the command's standard input is a terminal that the command leads a
    /// session on. The shim restores the user's terminal if this process is killed.
    pub terminal: Option<BorrowedFd<'a>>,
    /// The command's standard input, if it differs from ours.
    pub stdin: Option<OwnedFd>,
    /// The command's standard output, if it differs from ours.
    pub stdout: Option<OwnedFd>,
    /// The command's standard error, if it differs from ours.
    pub stderr: Option<OwnedFd>,
}

/// Forks the shim of a command. Call it while this process has one thread, and before a runtime was created.
///
/// # Errors
/// The system gives no process, or there are other threads.
pub fn fork(here: Here<'_>) -> io::Result<Prepared> {
    let tasks = fs::read_dir("/proc/self/task");
    let tasks = tasks.map_err(|error| io::Error::new(error.kind(), format!("/proc cannot be read: {error}")))?;
    if tasks.count() != 1 {
        return Err(io::Error::other("other threads run already"));
    }
    let (ours, theirs) = UnixStream::pair()?;
    let terminal = here.terminal.map(|terminal| terminal.try_clone_to_owned()).transpose()?;
    #[expect(unsafe_code, reason = "there is no safe way to fork")]
    // SAFETY: there is no other thread that could hold a lock or be in the middle of a change.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // A panic must not unwind into the code of the parent.
            let ended = catch_unwind(AssertUnwindSafe(|| go_on_as_shim(here, theirs, terminal)));
            let code = ended.ok().and_then(Result::ok).unwrap_or(125);
            std::process::exit(code)
        }
        pid => Ok(Prepared::new(ShimProcess::Fork(Pid::from_raw(pid)), ours)),
    }
}

fn go_on_as_shim(here: Here<'_>, control: UnixStream, terminal: Option<OwnedFd>) -> io::Result<i32> {
    let Here { command, hidden, lock, folder, kill_budget, terminal: _, stdin, stdout, stderr } = here;
    #[expect(unsafe_code, reason = "variables are taken away in no safe way")]
    // SAFETY: this process has one thread, and nothing refers to its environment.
    let _ = unsafe { hide(|name| finds_processes(name) || hidden.iter().any(|hidden| name == *hidden)) };
    stdin.map(rustix::stdio::dup2_stdin).transpose()?;
    stdout.map(rustix::stdio::dup2_stdout).transpose()?;
    stderr.map(rustix::stdio::dup2_stderr).transpose()?;
    close_as_exec_does(&[control.as_raw_fd(), terminal.as_ref().map_or(-1, AsRawFd::as_raw_fd)])?;
    let Done { code, will } = shim::serve(Duty {
        control,
        command_stdin: Stdio::inherit(),
        command,
        lock,
        folder: Some(folder),
        kill_budget,
        terminal,
    })?;
    match will {
        Some(will) => Err(become_executor(&will)),
        None => Ok(code),
    }
}

/// Continues as this same program, executed anew, because sending a will needs a runtime and a client.
fn become_executor(will: &str) -> io::Error {
    let read_by_it = || -> io::Result<OwnedFd> {
        let (reading, mut writing) = io::pipe()?;
        // A pipe that nobody reads yet has room for one line.
        writing.write_all(will.as_bytes())?;
        Ok(reading.into())
    };
    match read_by_it() {
        Ok(reading) => Command::new(ShimProgram::default().0).arg(WILL_ARGUMENT).stdin(reading).exec(),
        Err(error) => error,
    }
}

/// Closes the files that an exec would close, except `kept`. The worker's end of the socket matters most, because
/// otherwise the shim would never see it close.
fn close_as_exec_does(kept: &[RawFd]) -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2 && !kept.contains(number))
        .collect();
    for number in open {
        #[expect(unsafe_code, reason = "descriptors that others own can be closed in no other way")]
        // SAFETY: only the parent's code owns these files, and this process never returns to it.
        unsafe {
            // The descriptor of the folder that was just read is among them, and closed already.
            let is_open_till_exec =
                fcntl_getfd(BorrowedFd::borrow_raw(number)).is_ok_and(|flags| flags.contains(FdFlags::CLOEXEC));
            if is_open_till_exec {
                libc::close(number);
            }
        }
    }
    Ok(())
}
