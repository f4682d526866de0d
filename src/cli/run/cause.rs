//! What made a command end, and what that means for the deployment and the exit code.

use std::collections::BTreeMap;

use super::guard::shell_code;
use crate::{
    cli::{
        exit::{Exit, Failure},
        reason::Reason,
        signals::Asked,
    },
    client::lease::HttpLessor,
    exec::{
        Stop,
        lease::Keeper,
        process::contract::{ExitKind, StoppedBy},
        process::owner::CommandExit,
    },
    model::{FailureCause, Verdict},
};

/// What made us end the command, the most urgent last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    Cancelled,
    Interrupted,
    InterruptedAgain,
    LeaseLost,
}

/// What there is to stop the command for.
pub(super) fn wanted(asked: Option<Stop>, signalled: Asked) -> Option<Cause> {
    match (asked, signalled) {
        (Some(Stop::LeaseLost { .. }), _) => Some(Cause::LeaseLost),
        (_, Asked::StopNow) => Some(Cause::InterruptedAgain),
        (_, Asked::Stop) => Some(Cause::Interrupted),
        (Some(Stop::Cancel | Stop::Shutdown), Asked::Nothing) => Some(Cause::Cancelled),
        (None, Asked::Nothing) => None,
    }
}

/// The verdict for the server, if one may be sent, and the exit of the run.
pub(super) fn judge(
    exit: CommandExit,
    cause: Option<Cause>,
    keeper: &Keeper<HttpLessor<'_>>,
) -> (Option<Verdict>, Result<Exit, Failure>) {
    match (exit.stopped_by, cause, exit.kind) {
        (_, Some(Cause::LeaseLost), _) if exit.left_count > 0 => {
            let message = "the slot is no longer held, and something of the command that cannot be ended may still run";
            (None, Err(Failure::new(Exit::LeaseLost, message)))
        }
        // The shim ended the command because this process did not: so the lease is over, whatever this process believes.
        (_, Some(Cause::LeaseLost), _) | (StoppedBy::Deadline | StoppedBy::WorkerGone, _, _) => {
            let message = "the lease was lost; the command was ended before another deployment could get the slot";
            (None, Err(Failure::new(Exit::LeaseLost, message)))
        }
        (_, Some(Cause::Interrupted | Cause::InterruptedAgain), _) => {
            (Some(Verdict::Stopped), Err(Failure::new(Exit::Interrupted, "interrupted; the command was ended first")))
        }
        // The command finished anyway: report its real end.
        (_, _, ExitKind::Code(0)) => (Some(Verdict::Succeeded { outputs: BTreeMap::new() }), Ok(Exit::Command(0))),
        (_, Some(Cause::Cancelled), _) if keeper.is_token_revoked() => {
            let message = "the token of this run was revoked, so the command was stopped";
            (Some(Verdict::Stopped), Err(Failure::new(Exit::LeaseLost, message).because(Reason::TokenRevoked)))
        }
        (_, Some(Cause::Cancelled), _) => {
            let reason = keeper.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
            (Some(Verdict::Stopped), Err(Failure::new(Exit::Cancelled, format!("the run was cancelled{reason}"))))
        }
        (_, None, kind @ ExitKind::Code(code)) => {
            (Some(failed(format!("the command exited with {code}"))), Ok(Exit::Command(shell_code(kind))))
        }
        (_, None, kind @ ExitKind::Signal(number)) => {
            (Some(failed(format!("the command was killed by signal {number}"))), Ok(Exit::Command(shell_code(kind))))
        }
        (_, None, ExitKind::Unknown) => {
            let message = "the command ended in an unknown way: its shim was killed";
            (Some(failed(message.to_owned())), Err(Failure::new(Exit::Fault, message)))
        }
    }
}

/// The end of a command that failed.
pub(super) fn failed(message: String) -> Verdict {
    Verdict::Failed { cause: FailureCause::PhaseFailed, message, phase: None }
}
