//! What a process inherits besides its environment, and what of that a phase's command must not have from the server or
//! the agent: open files, ignored signals, the raised limit of open files, and a place in the kernel's favour.

use std::fs;
use std::io;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit, setpriority_process, setrlimit};

/// The soft limit of open files with which this process was started, where it was raised.
static OPEN_FILES_BEFORE: OnceLock<Option<u64>> = OnceLock::new();

/// Raises this process's limit of open files: each parked poll is a connection, and the usual soft limit of 1,024 is none
/// for a server. Programs that a phase starts get the former limit, since some go through all numbers up to it.
///
/// # Errors
/// The system does not let us.
pub fn allow_many_open_files() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    OPEN_FILES_BEFORE.get_or_init(|| limit.current);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    Ok(())
}

/// The soft limit of open files that commands are to have, where it is not ours.
pub(super) fn open_files_before() -> Option<u64> {
    OPEN_FILES_BEFORE.get().copied().flatten()
}

/// Gives this process, which becomes the command, that soft limit of open files.
pub(super) fn limit_open_files(count: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum.map_or(count, |maximum| count.min(maximum));
    // Without it the command has a higher limit, which few programs mind.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum });
}

/// Puts this process, which becomes the command, on a par with others, where an operator has favoured the server: the
/// kernel should not spare a deploy's compiler when memory runs out.
pub(super) fn favour_no_more() {
    const FAVOUR: &str = "/proc/self/oom_score_adj";
    if fs::read_to_string(FAVOUR).is_ok_and(|adjustment| adjustment.starts_with('-')) {
        let _ = fs::write(FAVOUR, "0");
    }
    if getpriority_process(None).is_ok_and(|nice| nice < 0) {
        let _ = setpriority_process(None, 0);
    }
}

/// Whether this process ignores a signal, as it was started or since.
#[expect(unsafe_code, reason = "the standard library does not tell")]
pub fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zero is a valid value of this struct of numbers, and the call writes to nothing else.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Closes every file but the standard ones, and forgets which signals were ignored. For a shim at its very start: the
/// server may have been started with sockets of a service manager, locks of a script, or under `nohup`.
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
            // The standard library has SIGPIPE ignored here, and gives it back to a command by itself.
            if is_known && signal != libc::SIGPIPE && action.sa_sigaction == libc::SIG_IGN {
                action.sa_sigaction = libc::SIG_DFL;
                let _ = libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }
}

/// The same where the kernel has no such call (before 5.9).
fn close_each() {
    let open = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        #[expect(unsafe_code, reason = "descriptors of nobody can be closed in no other way")]
        // SAFETY: as above; the folder that was just read is closed already.
        unsafe {
            libc::close(number);
        }
    }
}
