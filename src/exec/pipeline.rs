//! Walks a pipeline's phases. When one fails or the deployment is cancelled, rolls back those that had started.
//!
//! When `run` returns, no process that it started runs any more (I12).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{
    artifact, check,
    command::{self, ActionEnd, Interruptible, Order, TimeLimits, changed, halt_wanted, reached},
    environment::environment,
    job::{Job, lock_path},
    output::{mask::Secrets, outbox::Outbox, phase::PhaseOutput},
    report::{FailureCause, PROTECTED_MESSAGE, PhaseState, Report, Stop, Verdict},
    workspaces,
};
use crate::{
    config::{Check, Phase, PhaseAction},
    model::rollback_of,
};

/// How long a rollback may take when its phase has no limit.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// Runs the pipeline to its end and reports its progress. `None`: the lease was lost or the worker ended, and no end
/// may be reported under this lease.
///
/// Reports wait for their receiver without ever making a command wait. The verdict is returned after the last report
/// was taken. If the receiver is dropped, the pipeline goes on all the same.
pub async fn run(job: Job, stop: watch::Receiver<Option<Stop>>, reports: mpsc::Sender<Report>) -> Option<Verdict> {
    let outbox = Arc::new(Outbox::default());
    let secrets = Arc::new(secrets(&job));
    // Closes the outbox even when this future is dropped, so that the forwarding ends.
    let closing = CloseOnDrop(Arc::clone(&outbox));
    let mut forwarding = tokio::spawn({
        let outbox = Arc::clone(&outbox);
        async move { outbox.forward(reports).await }
    });
    let lock = lock_path(&job.workspace);
    let workspace = job.workspace.clone();
    let grace = job.grace;
    let mut lost = stop.clone();
    let made = make_workspace(&workspace).await;
    // A workspace that could not be made may belong to another run. Then it is not ours to remove.
    let ours = made.is_ok();
    let verdict = match made {
        Ok(()) => {
            let started_at = Instant::now();
            match artifact::fill(&job, stop.clone()).await {
                Err(verdict) => verdict,
                Ok(()) => Runner { job, stop, outbox, lock, started_at, secrets: Arc::clone(&secrets) }.run().await,
            }
        }
        Err(error) => Some(Verdict::Failed {
            cause: FailureCause::PhaseFailed,
            message: format!("the workspace {} could not be made: {error}", workspace.display()),
            phase: None,
        }),
    };
    let verdict = match verdict {
        Some(Verdict::Failed { cause, message, phase }) => {
            Some(Verdict::Failed { cause, message: secrets.mask(&message).into_owned(), phase })
        }
        verdict => verdict,
    };
    drop(closing);
    let lease_lost = lost.wait_for(|stop| matches!(stop, Some(Stop::LeaseLost { .. })));
    let verdict = tokio::select! {
        biased;
        Ok(_) = lease_lost => None,
        // After a shutdown the receiver may never take the reports.
        () = tokio::time::sleep(grace), if verdict.is_none() => verdict,
        _ = &mut forwarding => verdict,
    };
    forwarding.abort();
    if ours {
        workspaces::remove(&workspace).await;
    }
    verdict
}

/// The values to mask in the output of phases.
fn secrets(job: &Job) -> Secrets {
    let secrets = Secrets::default();
    for (name, value) in environment(std::env::vars_os(), job, "") {
        let name = name.to_string_lossy();
        if job.pass_env.masks(&name)
            && !value.is_empty()
            && let Err(why) = secrets.add(&value.to_string_lossy())
        {
            tracing::warn!(deployment.id = job.deployment_id, variable = %name, %why, "a variable of `mask_env` is not masked");
        }
    }
    for (name, value) in
        job.inputs.iter().filter(|(name, value)| job.secret_inputs.contains(*name) && !value.is_empty())
    {
        if let Err(why) = secrets.add(value) {
            tracing::warn!(deployment.id = job.deployment_id, input = %name, %why, "a secret input is not masked");
        }
    }
    secrets
}

struct CloseOnDrop(Arc<Outbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn make_workspace(workspace: &Path) -> io::Result<()> {
    if let Some(parent) = workspace.parent() {
        tokio::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).await?;
    }
    // Fails if the directory exists, because files of another run must never be deployed. Closed to others, because
    // inputs may be secret.
    tokio::fs::DirBuilder::new().mode(0o700).create(workspace).await
}

struct Runner {
    job: Job,
    stop: watch::Receiver<Option<Stop>>,
    outbox: Arc<Outbox>,
    lock: PathBuf,
    started_at: Instant,
    secrets: Arc<Secrets>,
}

impl Runner {
    async fn run(self) -> Option<Verdict> {
        let phases = &self.job.pipeline.phases;
        let mut started_count = 0;
        let mut end = ActionEnd::Done;
        for (index, phase) in phases.iter().enumerate() {
            if let Some(halt) = halt_wanted(*self.stop.borrow(), Interruptible::ByAll, false) {
                end = ActionEnd::Halted(halt);
                break;
            }
            let message = phase.protected.then_some(PROTECTED_MESSAGE);
            self.outbox.phase(&phase.name, PhaseState::Started, message);
            self.outbox.reached(index * 100 / phases.len());
            started_count = index + 1;
            end = self.run_phase(phase).await;
            let (state, message) = match end {
                ActionEnd::Done => (PhaseState::Succeeded, None),
                ActionEnd::Failed { .. } | ActionEnd::Halted(Stop::LeaseLost { .. }) => (PhaseState::Failed, None),
                // The wire has no separate state for these.
                ActionEnd::Halted(Stop::Cancel) => (PhaseState::Failed, Some("it was cancelled")),
                ActionEnd::Halted(Stop::Shutdown) => (PhaseState::Failed, Some("its worker is being shut down")),
            };
            self.outbox.phase(&phase.name, state, message);
            if end != ActionEnd::Done {
                break;
            }
        }
        let failed_phase = started_count.checked_sub(1).and_then(|last| phases.get(last));
        match end {
            ActionEnd::Done => {
                self.outbox.reached(100);
                Some(Verdict::Succeeded { outputs: self.outbox.outputs() })
            }
            ActionEnd::Halted(Stop::LeaseLost { .. }) => None,
            ActionEnd::Halted(stop) => {
                let taken_back = self.take_back(started_count).await;
                taken_back.filter(|_| stop == Stop::Cancel).map(|_| Verdict::Stopped)
            }
            ActionEnd::Failed { cause, mut message } => {
                for failure in self.take_back(started_count).await? {
                    message.push_str("; ");
                    message.push_str(&failure);
                }
                Some(Verdict::Failed { cause, message, phase: failed_phase.map(|phase| phase.name.clone()) })
            }
        }
    }

    fn output(&self, phase: &Phase, protected: bool) -> PhaseOutput {
        PhaseOutput::new(Arc::clone(&self.outbox), &phase.name, protected, Arc::clone(&self.secrets))
    }

    async fn run_phase(&self, phase: &Phase) -> ActionEnd {
        let output = self.output(phase, phase.protected);
        let subject = format!("phase {:?}", phase.name);
        let pipeline = &self.job.pipeline;
        let limits = TimeLimits {
            total: Some((self.started_at + pipeline.timeout, pipeline.timeout)),
            phase: phase.timeout.map(|timeout| (Instant::now() + timeout, timeout)),
            stall: pipeline.stall_timeout,
        };
        match &phase.action {
            PhaseAction::Run(script) => {
                let order = self.order(phase, &subject, script, Interruptible::ByAll, limits);
                command::run(order, &output, self.stop.clone()).await
            }
            // A check is silent while nothing changes, and has a limit of its own.
            PhaseAction::Check(check) => {
                self.run_check(check, phase, &output, &subject, TimeLimits { stall: None, ..limits }).await
            }
        }
    }

    async fn run_check(
        &self,
        check: &Check,
        phase: &Phase,
        output: &PhaseOutput,
        subject: &str,
        limits: TimeLimits,
    ) -> ActionEnd {
        let mut stop = self.stop.clone();
        let halted = async {
            loop {
                if let Some(halt) = halt_wanted(*stop.borrow_and_update(), Interruptible::ByAll, phase.protected) {
                    return halt;
                }
                changed(Some(&mut stop)).await;
            }
        };
        tokio::select! {
            answer = check::poll(check, |problem| output.note(problem)) => match answer {
                Ok(()) => ActionEnd::Done,
                Err(message) => {
                    ActionEnd::Failed { cause: FailureCause::VerifyFailed, message: format!("{subject}: {message}") }
                }
            },
            halt = halted => ActionEnd::Halted(halt),
            limit = reached(limits.first(subject, Instant::now())) => {
                ActionEnd::Failed { cause: limit.cause, message: limit.message }
            }
        }
    }

    /// Reports which phases were never started, then runs the rollbacks of the started ones, the last first. Returns
    /// the rollbacks that failed, or `None` if the lease was lost meanwhile.
    async fn take_back(&self, started_count: usize) -> Option<Vec<String>> {
        let (started, skipped) = self.job.pipeline.phases.split_at(started_count);
        for phase in skipped {
            self.outbox.phase(&phase.name, PhaseState::Skipped, None);
        }
        let mut failures = Vec::new();
        for phase in started.iter().rev() {
            let Some(script) = &phase.rollback else { continue };
            // A cancel waits for a rollback in the same way as for a protected phase.
            self.outbox.phase(&phase.name, PhaseState::RollingBack, None);
            let output = self.output(phase, true);
            let timeout = phase.timeout.unwrap_or(ROLLBACK_TIMEOUT);
            let limits = TimeLimits { total: None, phase: Some((Instant::now() + timeout, timeout)), stall: None };
            let subject = rollback_of(&phase.name);
            let order = self.order(phase, &subject, script, Interruptible::ByLeaseLossOnly, limits);
            match command::run(order, &output, self.stop.clone()).await {
                ActionEnd::Done => self.outbox.phase(&phase.name, PhaseState::RolledBack, None),
                ActionEnd::Failed { message, .. } => {
                    output.note(&message);
                    self.outbox.phase(&phase.name, PhaseState::RollbackFailed, Some(&self.secrets.mask(&message)));
                    failures.push(message);
                }
                ActionEnd::Halted(_) => return None,
            }
        }
        Some(failures)
    }

    fn order<'a>(
        &'a self,
        phase: &'a Phase,
        subject: &'a str,
        script: &'a str,
        interruptible: Interruptible,
        limits: TimeLimits,
    ) -> Order<'a> {
        Order { job: &self.job, lock: &self.lock, phase: &phase.name, subject, script, interruptible, limits }
    }
}
