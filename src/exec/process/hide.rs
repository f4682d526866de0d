//! Removes variables from a shim's environment, and so from its command's: the worker's own variables, and those by
//! which a CI system finds the processes of a job.
//!
//! Jenkins and the runners of GitHub and Azure end a job by a signal to every process that has a variable of theirs. If
//! they find only the `run`, the shim tells each process of the command to stop once, in the right order.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// Whether a CI system finds the processes of a job by this variable.
pub(super) fn finds_processes(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let is_of_jenkins = name.starts_with(b"JENKINS_") || name.starts_with(b"HUDSON_");
    (is_of_jenkins && name.ends_with(b"_COOKIE")) || name == b"BUILD_ID" || name == b"RUNNER_TRACKING_ID"
}

/// Removes variables from this process's environment, and from `/proc/PID/environ` as well, which shows the bytes that
/// were there at the start.
///
/// # Safety
/// This process must have one thread, and hold no reference into its environment.
///
/// # Errors
/// `/proc` cannot be read. Even then, children do not get the variables.
#[expect(unsafe_code, reason = "no safe way leads to the bytes with which a process was started")]
pub(super) unsafe fn hide(is_hidden: impl Fn(&OsStr) -> bool) -> io::Result<()> {
    let hidden: Vec<OsString> = std::env::vars_os().map(|(name, _)| name).filter(|name| is_hidden(name)).collect();
    for name in &hidden {
        // SAFETY: there is no other thread, by this function's contract.
        unsafe { std::env::remove_var(name) };
    }
    if hidden.is_empty() {
        return Ok(());
    }
    let start = environment_start(&fs::read("/proc/self/stat")?).ok_or(io::ErrorKind::InvalidData)?;
    let shown = fs::read("/proc/self/environ")?;
    let mut at = 0;
    for assignment in shown.split(|byte| *byte == 0) {
        let name = assignment.split(|byte| *byte == b'=').next().unwrap_or_default();
        if is_hidden(&OsString::from_vec(name.to_vec())) {
            // SAFETY: the kernel has just read these bytes there; they are writable as part of the stack; and no
            // reference to them is left.
            unsafe {
                std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(start + at), 0, assignment.len())
            };
        }
        at += assignment.len() + 1;
    }
    Ok(())
}

/// Where the environment with which a process was started begins: field 50 of proc_pid_stat(5).
fn environment_start(stat: &[u8]) -> Option<usize> {
    let name_end = stat.iter().rposition(|byte| *byte == b')')?;
    let fields = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    fields.split_ascii_whitespace().nth(47)?.parse().ok().filter(|start| *start != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_by_which_ci_systems_find_processes_are_known() {
        for name in ["JENKINS_NODE_COOKIE", "JENKINS_SERVER_COOKIE", "HUDSON_COOKIE", "BUILD_ID", "RUNNER_TRACKING_ID"]
        {
            assert!(finds_processes(name.as_ref()), "{name}");
        }
        for name in ["JENKINS_URL", "BUILD_NUMBER", "BUILDKITE_BUILD_ID", "MY_COOKIE", "RUNNER_NAME"] {
            assert!(!finds_processes(name.as_ref()), "{name}");
        }
    }
}
