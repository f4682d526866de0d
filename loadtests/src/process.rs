//! A process under load: started with temporary data, watched through /proc, and ended when its value is dropped.

use std::{
    ops::Sub,
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

/// How long it may take to go.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A child process that ends with its owner.
pub struct Process {
    child: Child,
}

/// What processes have used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// Memory, in bytes; what several share counts once.
    pub memory: u64,
}

impl Process {
    pub fn of(child: Child) -> Process {
        Process { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.id())?).context("a process has an id")?;
        Ok(kill_process(id, signal)?)
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it by SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_over() {
            return;
        }
        // Those that have children, PostgreSQL and nginx, end them only if they are asked.
        let _ = self.signal(Signal::INT);
        let asked = Instant::now();
        while !self.is_over() && asked.elapsed() < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }
}

/// What these processes and their children have used so far.
pub fn usage(ids: &[u32]) -> Usage {
    let mut sum = Usage::default();
    for id in ids.iter().flat_map(|id| [*id].into_iter().chain(children(*id))) {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // The name may hold spaces, so the fields are counted from behind it: user and system time are the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
        // Linux tells both in hundredths of a second, on every architecture that this runs on.
        sum.cpu += Duration::from_millis((ticks(11) + ticks(12)) * 10);
        let rollup = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
        let pss =
            rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok());
        sum.memory += pss.unwrap_or_default() * 1024;
    }
    sum
}

impl Sub for Usage {
    type Output = Usage;

    fn sub(self, before: Usage) -> Usage {
        Usage { cpu: self.cpu.saturating_sub(before.cpu), memory: self.memory.saturating_sub(before.memory) }
    }
}

fn children(id: u32) -> Vec<u32> {
    // Each thread has children of its own.
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let direct: Vec<u32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect();
    let deeper: Vec<u32> = direct.iter().flat_map(|id| children(*id)).collect();
    direct.into_iter().chain(deeper).collect()
}
