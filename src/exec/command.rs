//! Runs one script of a phase to its end, or ends it: on a cancel, a lost lease, a shutdown or a time limit.
//!
//! After every wake-up, the desired action is computed anew from the current values (the stop, the protection, the
//! limits). So the order in which they changed does not matter.

use std::path::Path;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::{
    environment::environment,
    job::Job,
    output::phase::PhaseOutput,
    process::contract::{ExitKind, StoppedBy},
    process::owner::{CommandExit, Process, Script},
    report::{FailureCause, Stop, Stream, cannot_be_ended},
};
use crate::{
    clock::{Clock, SystemClock},
    config::format_duration,
    model::CANCEL_WAITS,
};

/// How long reading the last output may take after every process has ended. The output is in the pipe already, unless a
/// process that could not be killed holds the pipe open.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// How a phase's action ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ActionEnd {
    /// It succeeded.
    Done,
    /// It failed, or a time limit passed.
    Failed { cause: FailureCause, message: String },
    /// It was stopped.
    Halted(Stop),
}

/// Which stops may end an action early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruptible {
    /// Every stop; a cancel only while the phase is not protected.
    ByAll,
    /// Only the loss of the lease: a rollback that has begun should finish.
    ByLeaseLossOnly,
}

/// A script and its limits.
pub(super) struct Order<'a> {
    pub(super) job: &'a Job,
    pub(super) lock: &'a Path,
    pub(super) phase: &'a str,
    /// How messages begin, such as `phase "migrate"`.
    pub(super) subject: &'a str,
    pub(super) script: &'a str,
    pub(super) interruptible: Interruptible,
    pub(super) limits: TimeLimits,
}

/// The time limits of one action.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    /// The pipeline's limit: the instant at which it passes, and its length.
    pub(super) total: Option<(Instant, Duration)>,
    /// The phase's own limit.
    pub(super) phase: Option<(Instant, Duration)>,
    /// How long the script may run without a sign of life.
    pub(super) stall: Option<Duration>,
}

/// A limit that ends the action at an instant, unless that instant moves.
pub(super) struct Limit {
    pub(super) at: Instant,
    pub(super) cause: FailureCause,
    pub(super) message: String,
}

impl TimeLimits {
    /// The limit that passes first.
    pub(super) fn first(&self, subject: &str, heard_at: Instant) -> Option<Limit> {
        let limit = |at, cause, message| Limit { at, cause, message };
        let total = self.total.map(|(at, length)| {
            let message = format!("the pipeline took longer than its {}, in {subject}", format_duration(length));
            limit(at, FailureCause::TimedOut, message)
        });
        let phase = self.phase.map(|(at, length)| {
            let message = format!("{subject} took longer than its {}", format_duration(length));
            limit(at, FailureCause::PhaseTimeout, message)
        });
        let stall = self.stall.map(|length| {
            let message = format!("{subject} gave no sign of life for {}", format_duration(length));
            limit(heard_at + length, FailureCause::Stalled, message)
        });
        [total, phase, stall].into_iter().flatten().min_by_key(|limit| limit.at)
    }
}

/// The stop that applies to an action now.
pub(super) fn halt_wanted(stop: Option<Stop>, interruptible: Interruptible, protected: bool) -> Option<Stop> {
    stop.filter(|stop| match (stop, interruptible) {
        (Stop::LeaseLost { .. }, _) | (Stop::Shutdown, Interruptible::ByAll) => true,
        (Stop::Cancel, Interruptible::ByAll) => !protected,
        (Stop::Cancel | Stop::Shutdown, Interruptible::ByLeaseLossOnly) => false,
    })
}

/// Runs the script. When this returns, no process of the script runs any more. Dropping the future ends the script too.
pub(super) async fn run(order: Order<'_>, output: &PhaseOutput, mut stop: watch::Receiver<Option<Stop>>) -> ActionEnd {
    let script = Script {
        text: order.script,
        directory: &order.job.workspace,
        environment: environment(std::env::vars_os(), order.job, order.phase),
        lock: order.lock,
        kill_budget: order.job.kill_budget,
        deadline: order.job.lease_deadline.as_ref().map(|deadline| *deadline.borrow()),
    };
    let (mut process, stdout, stderr) = match Process::start(&order.job.shim, script).await {
        Ok(started) => started,
        Err(error) => {
            let message = format!("{} could not be started: {error}", order.subject);
            return ActionEnd::Failed { cause: FailureCause::PhaseFailed, message };
        }
    };
    let readers = [
        tokio::spawn(output.clone().read(Stream::Stdout, stdout)),
        tokio::spawn(output.clone().read(Stream::Stderr, stderr)),
    ];
    let mut protection = output.protection();
    let mut lease_deadline = order.job.lease_deadline.clone();
    if let Some(deadline) = &mut lease_deadline {
        process.renew_deadline(*deadline.borrow_and_update());
    }
    let mut cause = None;
    let mut stuck = process.stuck();
    let mut wait_was_noted = false;
    let exit = loop {
        let (asked, protected) = (*stop.borrow_and_update(), *protection.borrow_and_update());
        if let Some(halt) = halt_wanted(asked, order.interruptible, protected) {
            // While the script is being ended for one reason, only a lost lease can replace that reason.
            let lost = matches!(halt, Stop::LeaseLost { .. });
            if lost && stuck.borrow().is_some() {
                // The slot was freed by force, so waiting longer would protect nothing.
                return ActionEnd::Halted(halt);
            }
            if cause.is_none() || (lost && cause != Some(ActionEnd::Halted(halt))) {
                process.terminate(match halt {
                    Stop::LeaseLost { deadline } => deadline,
                    Stop::Cancel | Stop::Shutdown => SystemClock.boot().after(order.job.grace),
                });
                cause = Some(ActionEnd::Halted(halt));
            }
        } else if asked == Some(Stop::Cancel) && order.interruptible == Interruptible::ByAll && !wait_was_noted {
            output.note(format!("a cancel waits for the end of {}, which is protected", order.subject));
            output.say(format!("{CANCEL_WAITS} {} is over", order.subject));
            wait_was_noted = true;
        }
        let limit = match cause {
            None => order.limits.first(order.subject, output.heard_at()),
            Some(_) => None,
        };
        tokio::select! {
            exit = process.wait() => break exit,
            () = changed(Some(&mut stop)) => {}
            () = changed(Some(&mut stuck)) => {
                let text = cannot_be_ended(stuck.borrow().as_deref().unwrap_or_default());
                output.note(&*text);
                output.say(text);
            }
            () = changed(Some(&mut protection)) => {}
            () = changed(lease_deadline.as_mut()) => {
                if let Some(deadline) = &mut lease_deadline {
                    process.renew_deadline(*deadline.borrow_and_update());
                }
            }
            Limit { at, cause: passed, message } = reached(limit) => {
                // A stall's limit may have moved, because a sign of life came since it was computed.
                if passed != FailureCause::Stalled || order.limits.first(order.subject, output.heard_at()).is_some_and(|now| now.at <= at) {
                    process.terminate(SystemClock.boot().after(order.job.grace));
                    cause = Some(ActionEnd::Failed { cause: passed, message });
                }
            }
        }
    };
    for mut reader in readers {
        if tokio::time::timeout(DRAIN_LIMIT, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    if let Some(left) = process.left().filter(|_| cause.is_none() && exit.stopped_by == StoppedBy::Nobody) {
        output.note(format!("{} left something running, which was ended with it: {left}", order.subject));
    }
    if exit.left_count > 0 {
        output.note("something of it could not be ended and may still run");
    }
    judge(exit, cause, order.subject)
}

/// How the script's action ended, given the reason for which the script was ended.
fn judge(exit: CommandExit, cause: Option<ActionEnd>, subject: &str) -> ActionEnd {
    match (exit.stopped_by, exit.kind, cause) {
        (_, _, Some(lost @ ActionEnd::Halted(Stop::LeaseLost { .. }))) => lost,
        // The shim acted because this process did not. So the lease is over, whatever this process believes.
        (StoppedBy::Deadline | StoppedBy::WorkerGone, _, _) => {
            ActionEnd::Halted(Stop::LeaseLost { deadline: SystemClock.boot() })
        }
        (_, _, Some(failed @ ActionEnd::Failed { .. })) => failed,
        // The script finished anyway, so that is recorded. The caller sees the cancel before the next phase.
        (_, ExitKind::Code(0), _) => ActionEnd::Done,
        (_, _, Some(halted)) => halted,
        (_, ExitKind::Code(code), None) => failed(format!("{subject} exited with {code}")),
        (_, ExitKind::Signal(number), None) => failed(format!("{subject} was killed by {}", signal_name(number))),
        (_, ExitKind::Unknown, None) => failed(format!("{subject} ended in an unknown way: its shim was killed")),
    }
}

fn failed(message: String) -> ActionEnd {
    ActionEnd::Failed { cause: FailureCause::PhaseFailed, message }
}

/// Waits for a change; for ever if the sender is gone.
pub(super) async fn changed<T>(receiver: Option<&mut watch::Receiver<T>>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits for a limit; for ever if there is none.
pub(super) async fn reached(limit: Option<Limit>) -> Limit {
    match limit {
        Some(limit) => {
            tokio::time::sleep_until(limit.at).await;
            limit
        }
        None => std::future::pending().await,
    }
}

fn signal_name(number: i32) -> String {
    let name = match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}
