//! Finds the descendants of a process, even those that tried to leave: in sessions of their own, or orphaned and
//! adopted by their subreaper. If even the subreaper is gone, the command's processes are found by a variable in their
//! environment.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr, OsString};
use std::path::PathBuf;

use rustix::process::{Pid, Signal};

/// The name of a shim's process. The kernel keeps 15 bytes of it.
pub(super) const SHIM_NAME: &CStr = c"singletrack-shi";

/// A process that runs, or a child that ended and waits to be reaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Descendant {
    pub(super) pid: Pid,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// Whether it is the shim of a run inside the command, or below such a shim. That shim tells its processes when to
    /// stop.
    pub(super) has_own_shim: bool,
    /// When it started, in clock ticks.
    started_ticks: u64,
}

impl Descendant {
    /// Identifies this process for ever: another process may get its pid, but starts later.
    pub(super) fn identity(&self) -> (Pid, u64) {
        (self.pid, self.started_ticks)
    }
}

/// Every running descendant of a process, parents before their children; and the ended children of that process,
/// because it has to reap them. Other zombies are left out: only their parents can reap them, and waiting for them
/// would never end.
pub(super) fn descendants_of(root: Pid) -> Vec<Descendant> {
    let mut children: HashMap<i32, Vec<Stat>> = HashMap::new();
    for stat in all_pids().filter_map(read_stat) {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut parents = vec![(root.as_raw_nonzero().get(), false)];
    while let Some((parent, parent_has_own_shim)) = parents.pop() {
        // Removed from the map, so that a pid that was reused while we read cannot make us walk in a circle.
        for stat in children.remove(&parent).unwrap_or_default() {
            let has_own_shim = parent_has_own_shim || stat.is_shim;
            parents.push((stat.pid, has_own_shim));
            let own_child = parent == root.as_raw_nonzero().get();
            if let (true, Some(pid)) = (stat.runs || own_child, Pid::from_raw(stat.pid)) {
                let Stat { parent, group, started_ticks, .. } = stat;
                found.push(Descendant { pid, parent, group, has_own_shim, started_ticks });
            }
        }
    }
    found
}

/// Every running descendant of a process, for a caller that is not its parent.
pub(super) fn running_below(root: Pid) -> Vec<Pid> {
    descendants_of(root).into_iter().map(|found| found.pid).filter(|pid| runs(*pid)).collect()
}

/// Whether a process runs: it is there and has not ended.
fn runs(pid: Pid) -> bool {
    read_stat(pid.as_raw_nonzero().get()).is_some_and(|stat| stat.runs)
}

/// Every running process, except this one, that was started with this assignment in its environment.
pub(super) fn marked_with(assignment: &str) -> Vec<Pid> {
    let own = rustix::process::getpid();
    let is_marked = |pid: &i32| {
        // Another user's environment cannot be read, and such a process is not ours.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|known| known == assignment.as_bytes())
    };
    let marked = all_pids().filter(is_marked).filter(|pid| read_stat(*pid).is_some_and(|stat| stat.runs));
    marked.filter_map(Pid::from_raw).filter(|pid| *pid != own).collect()
}

/// Whether and how a process handles a signal itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handling {
    /// By a handler, or by waiting for it as a blocked signal.
    Itself,
    /// It has blocked the signal and does not wait: a shell does that for a moment while it starts a process.
    Undecided,
    /// It dies of the first such signal, or ignores all of them.
    Not,
}

/// Whether and how a process handles a signal itself.
pub(super) fn handling(pid: Pid, signal: Signal) -> Handling {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let has = |sets: &[&str]| signals(&status, sets) & bit(signal) != 0;
    // A process that starts another one by `vfork` sleeps as one that waits for a disk does.
    let waits = !status.lines().any(|line| line.starts_with("State:\tR") || line.starts_with("State:\tD"));
    match (has(&["SigCgt:"]), has(&["SigBlk:"])) {
        (true, _) => Handling::Itself,
        (false, true) if waits => Handling::Itself,
        (false, true) => Handling::Undecided,
        (false, false) => Handling::Not,
    }
}

/// Whether a process ignores a signal.
pub(super) fn ignores(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    signals(&status, &["SigIgn:"]) & bit(signal) != 0
}

/// Whether a process is about to handle a signal that it was sent: the signal is pending, or the process runs.
pub(super) fn is_at_work_on(pid: Pid, signal: Signal) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).unwrap_or_default();
    let runs = status.lines().any(|line| line.starts_with("State:\tR"));
    runs || signals(&status, &["SigPnd:", "ShdPnd:"]) & bit(signal) != 0
}

/// Whether every thread of a process is stopped, or it is gone.
pub(super) fn is_stopped(pid: Pid) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).into_iter().flatten().flatten();
    let mut states = threads.filter_map(|thread| {
        let text = std::fs::read(thread.path().join("stat")).ok()?;
        text.get(text.iter().rposition(|byte| *byte == b')')? + 2).copied()
    });
    states.all(|state| b"TtZX".contains(&state))
}

/// Whether a process runs and is not about to end. A process that is about to end has closed its files already.
pub(super) fn stays(pid: Pid) -> bool {
    const PF_EXITING: u64 = 4;
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    let flags = text.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    runs(pid) && flags.is_some_and(|flags| flags & PF_EXITING == 0)
}

/// The standard input of a process, as `/proc` names it.
pub(super) fn standard_input(pid: Pid) -> OsString {
    let link = std::fs::read_link(format!("/proc/{}/fd/0", pid.as_raw_nonzero()));
    link.map(PathBuf::into_os_string).unwrap_or_default()
}

/// Whether a process reads from a pipe inside the command, not from `theirs`. Such a process, like `tee` in `exec >
/// >(tee log)`, ends by itself when the pipe is closed, so it does not count as left running.
pub(super) fn reads_its_own_pipe(pid: Pid, theirs: &OsStr) -> bool {
    let own = standard_input(pid);
    own.as_encoded_bytes().starts_with(b"pipe:") && own != theirs
}

/// The names and numbers of the first few of them, for people.
pub(super) fn list(processes: &[Descendant]) -> String {
    const NAMED: usize = 3;
    let name = |one: &Descendant| {
        let pid = one.pid.as_raw_nonzero();
        let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let name: String =
            String::from_utf8_lossy(&name).trim_end().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        format!("{} (process {pid})", if name.is_empty() { "a process" } else { &name })
    };
    let names: Vec<String> = processes.iter().take(NAMED).map(name).collect();
    match processes.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

fn bit(signal: Signal) -> u64 {
    1 << (signal.as_raw() - 1)
}

/// The signals in these sets of a `/proc/PID/status`, where proc_pid_status(5) shows each as a hexadecimal mask.
fn signals(status: &str, sets: &[&str]) -> u64 {
    let masks = status.lines().filter_map(|line| sets.iter().find_map(|set| line.strip_prefix(set)));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).fold(0, |all, mask| all | mask)
}

fn all_pids() -> impl Iterator<Item = i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

struct Stat {
    pid: i32,
    runs: bool,
    parent: i32,
    group: i32,
    is_shim: bool,
    started_ticks: u64,
}

/// Reads `/proc/PID/stat` as proc_pid_stat(5) lays it out; `None` if the process is gone.
fn read_stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may itself contain brackets and spaces, so the fields are counted from its end.
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let name_start = text.iter().position(|byte| *byte == b'(')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        runs: !matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        is_shim: text.get(name_start..name_end)? == SHIM_NAME.to_bytes(),
        started_ticks: fields.get(19)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_signals_are_read_as_proc_shows_them() {
        let status = "Name:\tx\nSigBlk:\t0000000000004000\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000008002\n";
        assert_eq!(signals(status, &["SigBlk:"]), bit(Signal::TERM));
        assert_eq!(signals(status, &["SigBlk:", "SigCgt:"]), bit(Signal::TERM) | 0x8002);
        assert_eq!(signals(status, &["SigIgn:"]), 1);
        assert_eq!(signals("", &["SigIgn:"]), 0, "the process is gone");
    }
}
