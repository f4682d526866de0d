//! Looks at the processes of this machine.

use std::{
    fs,
    process::Child,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open, waitid},
};

/// How long processes may take to end once nobody needs them: a kill budget, and some time on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends a signal to a child. One that stops it has stopped all its threads when this returns: until the first thread has
/// seen it, the others still run.
pub fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_child(child);
    kill_process(pid, signal).unwrap();
    while signal == Signal::STOP && matches!(waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED), Err(Errno::INTR)) {}
}

/// Waits for the end of every process that has this variable in its environment. Returns whether all ended in time.
pub fn all_gone(variable: &str) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while let Some(pid) = with_environment(variable) {
        if !gone_by(pid, deadline) {
            return false;
        }
    }
    true
}

/// Waits for the end of one process. Returns whether it ended in time.
pub fn gone(pid: Pid) -> bool {
    gone_by(pid, Instant::now() + PATIENCE)
}

/// Whether the process runs; a stopped process counts as running.
pub fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    // The state follows the name, which is in brackets and may contain brackets itself.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn gone_by(pid: Pid, deadline: Instant) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            // The child of another test has ended.
            Err(Errno::INTR) => {}
            ended => return ended.unwrap() > 0,
        }
    }
}

fn with_environment(variable: &str) -> Option<Pid> {
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(Pid::from_raw).filter(|pid| runs(*pid)).find(|pid| {
        let environment = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|known| known == variable.as_bytes())
    })
}
