//! The inherited state of a process besides its environment, and the part of it that a phase's command must not get
//! from the server or the agent: open files, ignored signals, the raised limit of open files, and a protection from the
//! kernel's out-of-memory killer.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit};

/// The soft limit of open files with which this process was started, if it was raised.
static OPEN_FILES_BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises this process's limit of open files. Each parked poll is a connection, so the usual soft limit of 1,024 is too
/// low for a server. Programs that a phase starts get the former limit, because some of them loop over all numbers up
/// to it.
///
/// # Errors
/// The system refuses.
pub fn allow_many_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    OPEN_FILES_BEFORE.get_or_init(|| limit.current);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// The soft limit of open files for commands, if it differs from ours.
pub(super) fn open_files_before() -> Option<u64> {
    OPEN_FILES_BEFORE.get().copied().flatten()
}

/// Sets that soft limit of open files in this process, which becomes the command.
pub(super) fn limit_open_files(count: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum.map_or(count, |maximum| count.min(maximum));
    // If this fails, the command has a higher limit, which disturbs few programs.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum });
}

/// Removes the protection from the out-of-memory killer in this process, which becomes the command. An operator may
/// have protected the server, but when memory runs out, the kernel should not spare a deploy's compiler.
pub(super) fn favour_no_more() {
    const FAVOUR: &str = "/proc/self/oom_score_adj";
    if fs::read_to_string(FAVOUR).is_ok_and(|adjustment| adjustment.starts_with('-')) {
        let _ = fs::write(FAVOUR, "0");
    }
    if getpriority_process(None).is_ok_and(|nice| nice < 0) {
        let _ = setpriority_process(None, 0);
    }
}

/// Whether this process ignores a signal, from its start or since then.
#[expect(unsafe_code, reason = "the standard library does not tell")]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zero is a valid value of this struct of numbers, and the call writes to nothing else.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Closes every file except the standard ones, and resets ignored signals. For a shim at its very start: the server may
/// have been started with sockets of a service manager, with locks of a script, or under `nohup`.
pub(super) fn start_afresh() {
    #[expect(unsafe_code, reason = "descriptors of nobody can be closed in no other way")]
    // SAFETY: nothing in this process has opened a file or set a signal's disposition yet.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) != 0 {
            close_each();
        }
        for signal in 1..=libc::SIGSYS {
            let mut action: libc::sigaction = std::mem::zeroed();
            let is_known = libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0;
            // The standard library ignores SIGPIPE here, and restores it for a command by itself.
            if is_known && signal != libc::SIGPIPE && action.sa_sigaction == libc::SIG_IGN {
                action.sa_sigaction = libc::SIG_DFL;
                let _ = libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// The same, for a kernel without that system call (before 5.9).
fn close_each() {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        #[expect(unsafe_code, reason = "descriptors of nobody can be closed in no other way")]
        // SAFETY: as above; the descriptor of the folder that was just read is closed already.
        unsafe {
            libc::close(number);
        }
    }
}
