//! Finds the processes that descend from another, however they tried to leave: in sessions of their own, or orphaned and
//! handed to their subreaper. Where even that is gone, its commands are known by what stands in their environment.

use std::collections::HashMap;

use rustix::process::Pid;

/// A process that still runs, or a child that ended and waits to be collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Descendant {
    pub(super) pid: Pid,
    pub(super) group: i32,
    /// When it started, in clock ticks: together with the pid this names a process for ever.
    started_ticks: u64,
}

/// Every descendant of a process that runs, in no order, and its own children even when they have ended: those are
/// for it to collect. Other zombies are their parents' business, and waiting for them would wait for nothing.
pub(super) fn descendants_of(root: Pid) -> Vec<Descendant> {
    let mut children: HashMap<i32, Vec<Stat>> = HashMap::new();
    for stat in all_pids().filter_map(read_stat) {
        children.entry(stat.parent).or_default().push(stat);
    }
    let mut found = Vec::new();
    let mut parents = vec![root.as_raw_nonzero().get()];
    while let Some(parent) = parents.pop() {
        // Taken out, so that a pid that was reused while we read cannot make us walk in a circle.
        for stat in children.remove(&parent).unwrap_or_default() {
            parents.push(stat.pid);
            let own_child = parent == root.as_raw_nonzero().get();
            if let (true, Some(pid)) = (stat.runs || own_child, Pid::from_raw(stat.pid)) {
                found.push(Descendant { pid, group: stat.group, started_ticks: stat.started_ticks });
            }
        }
    }
    found
}

/// Every descendant of a process that still runs, for whoever is not its parent.
pub(super) fn running_below(root: Pid) -> Vec<Pid> {
    let running = |found: &Descendant| read_stat(found.pid.as_raw_nonzero().get()).is_some_and(|stat| stat.runs);
    descendants_of(root).into_iter().filter(running).map(|found| found.pid).collect()
}

/// Every process but this one that runs and has this assignment in the environment with which it was started.
pub(super) fn marked_with(assignment: &str) -> Vec<Pid> {
    let own = rustix::process::getpid();
    let is_marked = |pid: &i32| {
        // Another user's cannot be read, and is none of ours.
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|known| known == assignment.as_bytes())
    };
    let marked = all_pids().filter(is_marked).filter(|pid| read_stat(*pid).is_some_and(|stat| stat.runs));
    marked.filter_map(Pid::from_raw).filter(|pid| *pid != own).collect()
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
    started_ticks: u64,
}

/// Reads `/proc/PID/stat` as proc_pid_stat(5) lays it out; `None` if the process is gone.
fn read_stat(pid: i32) -> Option<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may itself hold brackets and spaces, so the fields are counted from its end.
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&text[name_end + 1..]).ok()?.split_ascii_whitespace().collect();
    Some(Stat {
        pid,
        runs: !matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        group: fields.get(2)?.parse().ok()?,
        started_ticks: fields.get(19)?.parse().ok()?,
    })
}
