//! Background tasks under supervision: every end of a task is noticed, and the task is started again. See decision
//! 0035.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    task::JoinHandle,
    time::{Interval, MissedTickBehavior, interval, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Health, HealthCheck, end_process};

/// How long to wait before a task is started again: at first, and at most where it fails each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A task that ran for so long before it failed is started again as if it had failed for the first time.
const RAN_WELL: Duration = Duration::from_secs(60);
/// How long a task that stands still may take to end when it is told to. One that does not end then holds its thread,
/// and a second one beside it would do everything twice: the process ends.
const ABORT_LIMIT: Duration = Duration::from_secs(10);

/// A background task: the facts that its supervisor needs.
#[derive(Clone, Copy, Debug)]
pub struct Task {
    name: &'static str,
    standstill_limit: Duration,
    round_limit: Option<Duration>,
}

impl Task {
    /// A task that shows at least one sign of life in each `standstill_limit`: [`Pulse::beat`] or [`Pulse::done`].
    pub const fn new(name: &'static str, standstill_limit: Duration) -> Self {
        Task { name, standstill_limit, round_limit: None }
    }

    /// Its check also fails where it completed no round ([`Pulse::done`]) for this long. Such a task is not started
    /// again, because it lives: something that it needs does not answer.
    #[must_use]
    pub const fn with_round_limit(mut self, round_limit: Duration) -> Self {
        self.round_limit = Some(round_limit);
        self
    }
}

/// A task's signs of life. Clones share them.
#[derive(Clone, Debug)]
pub struct Pulse(Arc<TaskSigns>);

#[derive(Debug)]
struct TaskSigns {
    task: Task,
    registered_at: Instant,
    /// In milliseconds since then.
    beat_ms: AtomicU64,
    done_ms: AtomicU64,
    /// Why it was started again, until its next sign of life.
    fault: Mutex<Option<String>>,
    is_faulty: AtomicBool,
}

/// One tick in each `period`, the first at once. After a tick that came late, the next one is a whole period away.
pub fn ticks(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

impl Pulse {
    /// The signs of life of this task, before its first one.
    pub fn new(task: Task) -> Self {
        Pulse(Arc::new(TaskSigns {
            task,
            registered_at: Instant::now(),
            beat_ms: AtomicU64::new(0),
            done_ms: AtomicU64::new(0),
            fault: Mutex::default(),
            is_faulty: AtomicBool::new(false),
        }))
    }

    /// The task lives.
    pub fn beat(&self) {
        self.0.touch();
        if self.0.is_faulty.swap(false, Ordering::Relaxed) {
            *self.0.fault() = None;
            tracing::info!(task = self.0.task.name, "the background task runs again");
        }
    }

    /// The task lives, and has completed one more round of its work.
    pub fn done(&self) {
        self.beat();
        self.0.done_ms.store(self.0.now_ms(), Ordering::Relaxed);
    }

    /// Waits for the next round of the task's work, and shows a sign of life. `false`: there is none, because `shutdown` has
    /// come.
    pub async fn next_round(&self, ticks: &mut Interval, shutdown: &CancellationToken) -> bool {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return false,
            _ = ticks.tick() => {}
        }
        self.beat();
        true
    }

    /// Waits for something that may take any time, such as a signal. The task lives meanwhile, as long as it is polled.
    pub async fn resting<T>(&self, waiting: impl Future<Output = T>) -> T {
        let mut waiting = pin!(waiting);
        let mut beats = interval(self.0.task.standstill_limit / 4);
        loop {
            tokio::select! {
                biased;
                done = &mut waiting => return done,
                _ = beats.tick() => self.beat(),
            }
        }
    }

    /// Resolves when the task has shown no sign of life for as long as it may.
    async fn stands_still(&self) {
        loop {
            let left = self.0.task.standstill_limit.saturating_sub(self.0.since(&self.0.beat_ms));
            if left.is_zero() {
                return;
            }
            sleep(left).await;
        }
    }
}

impl TaskSigns {
    fn touch(&self) {
        self.beat_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn fault(&self) -> MutexGuard<'_, Option<String>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.registered_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn since(&self, at_ms: &AtomicU64) -> Duration {
        Duration::from_millis(self.now_ms().saturating_sub(at_ms.load(Ordering::Relaxed)))
    }
}

/// A check's knowledge of its task.
#[derive(Debug)]
pub(super) struct WatchedTask {
    pulse: Pulse,
    /// Whether it has been told to end: silence is no fault then.
    shutdown: CancellationToken,
}

impl WatchedTask {
    pub(super) fn since_done(&self) -> Duration {
        let signs = &self.pulse.0;
        let at = if signs.task.round_limit.is_some() { &signs.done_ms } else { &signs.beat_ms };
        signs.since(at)
    }

    pub(super) fn why_failing(&self) -> Option<String> {
        if self.shutdown.is_cancelled() {
            return None;
        }
        let signs = &self.pulse.0;
        if let Some(why) = &*signs.fault() {
            return Some(format!("{why}; it was started again and has shown no sign of life yet"));
        }
        let silent_for = signs.since(&signs.beat_ms);
        if silent_for >= signs.task.standstill_limit {
            return Some(format!("it has stood still for {} s", silent_for.as_secs()));
        }
        let undone_for = signs.since(&signs.done_ms);
        let is_late = signs.task.round_limit.is_some_and(|limit| undone_for >= limit);
        is_late.then(|| format!("it has completed no round for {} s", undone_for.as_secs()))
    }
}

impl Health {
    /// Runs the future that `make` makes, until it ends after `shutdown`. If it ends before that, panics, or stands
    /// still, its check fails, and it is made and run again; the check is right again with its next sign of life.
    pub fn supervise<F, T>(&self, task: Task, shutdown: CancellationToken, make: F) -> JoinHandle<()>
    where
        F: FnMut(Pulse) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let pulse = Pulse::new(task);
        let check = HealthCheck {
            task: Some(WatchedTask { pulse: pulse.clone(), shutdown: shutdown.clone() }),
            ..HealthCheck::new()
        };
        self.checks().insert(task.name, check);
        tokio::spawn(self.clone().keep_running(pulse, shutdown, make))
    }

    async fn keep_running<F, T>(self, pulse: Pulse, shutdown: CancellationToken, mut make: F)
    where
        F: FnMut(Pulse) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let signs = pulse.0.clone();
        let name = signs.task.name;
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Instant::now();
            // A task of its own, so that its panic is its own.
            let why = run_once(tokio::spawn(make(pulse.clone())), &pulse, &shutdown).await;
            let Some(why) = why else { return };
            tracing::error!(task = name, %why, "a background task failed and is started again");
            *signs.fault() = Some(why.to_owned());
            signs.is_faulty.store(true, Ordering::Relaxed);
            if let Some(check) = self.checks().get_mut(name) {
                check.restart_count += 1;
            }
            pause = if began.elapsed() > RAN_WELL { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(pause) => {}
            }
            // The new run has the whole time anew, but only its own sign of life makes its check right.
            signs.touch();
        }
    }
}

/// Waits for the end of a task. Answers why it ended, where it was not told to end.
async fn run_once(mut running: JoinHandle<()>, pulse: &Pulse, shutdown: &CancellationToken) -> Option<&'static str> {
    let stands_still = async {
        pulse.stands_still().await;
        if shutdown.is_cancelled() {
            // The code that stops the process bounds how long its end may take.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = &mut running => match ended {
            Ok(()) if shutdown.is_cancelled() => None,
            Ok(()) => Some("it ended"),
            Err(_) => Some("it panicked"),
        },
        () = stands_still => {
            running.abort();
            match timeout(ABORT_LIMIT, running).await {
                Ok(_) => Some("it stood still"),
                Err(_) => end_process(&format!("the task {} stands still and cannot be ended", pulse.0.task.name)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{ProcessState, ReadinessReport};

    const LIMIT: Duration = Duration::from_millis(50);

    /// Supervises a task that fails in its own way the first time and works from then on. What was reported meanwhile.
    async fn failing_first<T>(first: impl FnOnce() -> T + Send + 'static) -> ReadinessReport
    where
        T: Future<Output = ()> + Send + 'static,
    {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let (mut first, stop) = (Some(first), shutdown.clone());
        let supervisor = health.supervise(Task::new("task", LIMIT), shutdown.clone(), move |pulse| {
            let (first, stop) = (first.take().map(|first| first()), stop.clone());
            async move {
                match first {
                    Some(first) => first.await,
                    None => pulse.resting(stop.cancelled()).await,
                }
            }
        });
        let failed = until(&health, ProcessState::Failing).await;
        until(&health, ProcessState::Ok).await;
        shutdown.cancel();
        supervisor.await.unwrap();
        assert_eq!(health.report().status, ProcessState::Ok, "its end was asked for");
        failed
    }

    async fn until(health: &Health, status: ProcessState) -> ReadinessReport {
        loop {
            let report = health.report();
            if report.status == status {
                return report;
            }
            tokio::task::yield_now().await;
        }
    }

    fn detail(report: &ReadinessReport) -> &str {
        report.checks[0].detail.as_deref().unwrap()
    }

    #[tokio::test]
    async fn a_task_that_ends_panics_or_stands_still_fails_its_check_and_is_started_again() {
        let ended = failing_first(|| async {}).await;
        assert!(detail(&ended).starts_with("it ended"), "{ended:?}");
        let panicked = failing_first(|| async { panic!("on purpose") }).await;
        assert!(detail(&panicked).starts_with("it panicked"), "{panicked:?}");
        let stood_still = failing_first(std::future::pending).await;
        assert!(detail(&stood_still).contains("stood still"), "{stood_still:?}");
    }

    #[tokio::test]
    async fn a_task_that_lives_but_completes_nothing_fails_its_check_and_goes_on() {
        let (health, shutdown) = (Health::default(), CancellationToken::new());
        let task = Task::new("task", Duration::from_secs(60)).with_round_limit(LIMIT);
        let (finish, finished) = (Arc::new(tokio::sync::Notify::new()), shutdown.clone());
        let told = finish.clone();
        let supervisor = health.supervise(task, shutdown.clone(), move |pulse| {
            let (told, finished) = (told.clone(), finished.clone());
            async move {
                told.notified().await;
                pulse.done();
                finished.cancelled().await;
            }
        });
        let late = until(&health, ProcessState::Failing).await;
        assert!(detail(&late).contains("no round"), "{late:?}");
        finish.notify_one();
        let report = until(&health, ProcessState::Ok).await;
        assert_eq!(report.checks[0].restart_count, 0, "it was the same task all the time");
        shutdown.cancel();
        supervisor.await.unwrap();
    }
}
