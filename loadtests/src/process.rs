//! A process under load: started with throw-away data, watched through /proc, and ended when it is dropped.

use std::{
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

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
}

impl Process {
    pub fn of(child: Child) -> Process {
        Process { child }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it and its children have used so far.
    pub fn usage(&self) -> Usage {
        let mut sum = usage(self.id());
        for child in children(self.id()) {
            let part = usage(child);
            sum.cpu += part.cpu;
        }
        sum
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let id = Pid::from_raw(i32::try_from(self.id())?).context("a process has an id")?;
        Ok(kill_process(id, signal)?)
    }

    /// Whether it has ended.
    pub fn is_over(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Those that have children, PostgreSQL and nginx, end them only if they are asked.
        let _ = self.signal(Signal::INT);
        let asked = Instant::now();
        while !self.is_over() && asked.elapsed() < STOP_LIMIT {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn usage(id: u32) -> Usage {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name may hold spaces, so the fields are counted from behind it: user and system time are the 12th and 13th.
    let fields: Vec<&str> = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect()).unwrap_or_default();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or_default();
    // Linux tells both in hundredths of a second, on every architecture that this runs on.
    let cpu = Duration::from_millis((ticks(11) + ticks(12)) * 10);
    Usage { cpu }
}

fn children(id: u32) -> Vec<u32> {
    let path = format!("/proc/{id}/task/{id}/children");
    let direct: Vec<u32> =
        std::fs::read_to_string(path).unwrap_or_default().split_whitespace().filter_map(|id| id.parse().ok()).collect();
    let deeper: Vec<u32> = direct.iter().flat_map(|id| children(*id)).collect();
    direct.into_iter().chain(deeper).collect()
}
