//! The state of the process: one registry that `/readyz` and `/metrics` read.
//!
//! Two kinds of checks. A *fact* is set by the code that finds it out: [`Health::set`]. A *task* is run by
//! [`Health::supervise`]: if it ends, panics or stands still, its check fails, the fault is logged and counted, and the
//! task is started again. Where nothing can be started again, [`end_process`] ends the process, so that its supervisor
//! starts it anew.
//!
//! ```text
//! health.set("store", Err("the last write failed".into()));      // /readyz: 503, one log line
//! health.set("store", Ok(()));                                       // /readyz: 200, one log line
//! health.supervise(Task::new("sweeper", limit), shutdown, |pulse| sweep(pulse));   // sweep() calls pulse.done()
//! ```

mod supervise;

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde::Serialize;

pub use supervise::{Pulse, Task, ticks};

use crate::log;

/// `sysexits.h`: an internal fault. A supervisor starts the process again.
const EX_SOFTWARE: i32 = 70;

/// The registry. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<HealthState>);

#[derive(Debug, Default)]
struct HealthState {
    is_draining: AtomicBool,
    checks: Mutex<BTreeMap<&'static str, HealthCheck>>,
}

#[derive(Debug)]
struct HealthCheck {
    /// Why it fails, for people. It must tell nothing of any project, because `/readyz` needs no token.
    failure: Option<Failing>,
    /// When it was right last; before that, when it was registered.
    right_at: Instant,
    /// For a task: the limits of its silence, and its signs of life.
    task: Option<supervise::WatchedTask>,
    restart_count: u64,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadinessReport {
    /// In one word.
    pub status: ProcessState,
    /// Each check, by its name.
    pub checks: Vec<CheckReport>,
}

/// The state of the process in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ProcessState {
    /// It does its work.
    Ok,
    /// It is about to end, and takes no new work.
    Draining,
    /// At least one check fails.
    Failing,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckReport {
    /// Its name.
    pub name: &'static str,
    /// Whether it is right.
    pub ok: bool,
    /// Why it fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long ago it was right last.
    pub seconds_since: u64,
    /// How often the task was started again.
    #[serde(skip)]
    pub restart_count: u64,
}

/// Why a check fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// The text that anybody may see. It must tell nothing of any project, nor the place of anything.
    pub told: String,
    /// The text for the log.
    pub why: String,
}

impl From<&str> for Failing {
    fn from(why: &str) -> Self {
        Failing { told: why.to_owned(), why: why.to_owned() }
    }
}

impl Health {
    /// Sets a fact: `Err` with the reason where it is not right. A change is logged.
    pub fn set(&self, name: &'static str, found: Result<(), Failing>) {
        let mut checks = self.checks();
        let check = checks.entry(name).or_insert_with(HealthCheck::new);
        let was_failing = check.failure.is_some();
        match found {
            Ok(()) => {
                check.failure = None;
                check.right_at = Instant::now();
                if was_failing {
                    tracing::info!(check = name, "the check is right again");
                }
            }
            Err(failing) => {
                if check.failure.as_ref().map(|before| &before.told) != Some(&failing.told) {
                    tracing::error!(check = name, why = failing.why, "the check fails: this process is not ready");
                }
                check.failure = Some(failing);
            }
        }
    }

    /// From now on the process takes no new work: `/readyz` says `draining`.
    pub fn drain(&self) {
        self.0.is_draining.store(true, Ordering::Relaxed);
    }

    /// Whether this check fails now. An unknown check does not fail.
    pub fn is_failing(&self, name: &str) -> bool {
        self.checks().get(name).is_some_and(|check| check.why_failing().is_some())
    }

    /// Everything, as it is now.
    pub fn report(&self) -> ReadinessReport {
        let checks: Vec<CheckReport> = self.checks().iter().map(|(name, check)| check.report(name)).collect();
        let status = if self.0.is_draining.load(Ordering::Relaxed) {
            ProcessState::Draining
        } else if checks.iter().all(|check| check.ok) {
            ProcessState::Ok
        } else {
            ProcessState::Failing
        };
        ReadinessReport { status, checks }
    }

    fn checks(&self) -> MutexGuard<'_, BTreeMap<&'static str, HealthCheck>> {
        // Every change of it is one assignment, so a panic leaves it whole.
        self.0.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HealthCheck {
    fn new() -> Self {
        HealthCheck { failure: None, right_at: Instant::now(), task: None, restart_count: 0 }
    }

    fn why_failing(&self) -> Option<String> {
        self.failure
            .as_ref()
            .map(|failing| failing.told.clone())
            .or_else(|| self.task.as_ref().and_then(supervise::WatchedTask::why_failing))
    }

    fn report(&self, name: &'static str) -> CheckReport {
        let detail = self.why_failing();
        let since: Duration = match &self.task {
            Some(task) => task.since_done(),
            None => self.right_at.elapsed(),
        };
        let restart_count = self.restart_count;
        CheckReport { name, ok: detail.is_none(), detail, seconds_since: since.as_secs(), restart_count }
    }
}

/// Ends the process at once, because a part of it is gone that cannot be started again. Its supervisor starts it anew.
pub fn end_process(why: &str) -> ! {
    tracing::error!(%why, "the process ends at once");
    log::flush();
    std::process::exit(EX_SOFTWARE)
}

/// Runs the body of a thread that cannot be started again. Its panic ends the process.
pub fn or_end_process<T>(thread: &str, body: impl FnOnce() -> T) -> T {
    std::panic::catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|_| end_process(&format!("the thread {thread} panicked, and cannot be started again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_panic_of_a_thread_that_cannot_be_started_again_ends_the_process() {
        const CHILD: &str = "SINGLETRACK_TEST_PANICKING_CHILD";
        if std::env::var_os(CHILD).is_some() {
            // Without this the process would live on, and its test be green.
            let _ = std::thread::spawn(|| or_end_process("writer", || panic!("on purpose"))).join();
            return;
        }
        let name = "the_panic_of_a_thread_that_cannot_be_started_again_ends_the_process";
        let this = std::env::current_exe().unwrap();
        let child = std::process::Command::new(this).arg(name).env(CHILD, "1").output().unwrap();
        assert_eq!(child.status.code(), Some(EX_SOFTWARE), "{child:?}");
    }

    #[test]
    fn one_failing_check_makes_the_whole_failing_until_it_is_right_again() {
        let health = Health::default();
        assert_eq!(health.report().status, ProcessState::Ok, "nothing is known to fail");
        health.set("store", Ok(()));
        health.set("clock", Err("it jumps".into()));
        let report = health.report();
        assert_eq!(report.status, ProcessState::Failing);
        let told: Vec<_> = report.checks.iter().map(|check| (check.name, check.ok, check.detail.as_deref())).collect();
        assert_eq!(told, [("clock", false, Some("it jumps")), ("store", true, None)]);
        assert!(health.is_failing("clock") && !health.is_failing("store") && !health.is_failing("unknown"));
        health.set("clock", Ok(()));
        assert_eq!(health.report().status, ProcessState::Ok);
    }

    #[test]
    fn one_that_drains_says_so_whatever_else_there_is_to_say() {
        let health = Health::default();
        health.set("store", Err("full".into()));
        health.drain();
        assert_eq!(health.report().status, ProcessState::Draining);
    }
}
