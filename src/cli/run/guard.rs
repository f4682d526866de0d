//! `protect` and `fence check`: requests of a command to the `run` around it.

use std::{env, io, path::PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{process::Command, signal::unix::SignalKind};

use super::{
    inside::{SOCKET_VARIABLE, SlotHeld, ask, ask_held},
    program,
};
use crate::{
    cli::{
        ConnectArgs, FenceCheckArgs, ProtectArgs,
        exit::{Exit, Failure},
        session::Session,
        signals::PassedOn,
    },
    client::calls::{Connection, Fault, Patience},
    exec::process::contract::ExitKind,
    model::{DeploymentId, ProjectName, Status},
};

/// Runs a command. A cancel waits until this command has ended.
///
/// # Errors
/// There is no `run` around this process, or that `run` is already being stopped.
pub async fn protect(args: &ProtectArgs) -> Result<Exit, Failure> {
    let Some((name, arguments)) = args.command.split_first() else {
        return Err(Failure::new(Exit::Usage, "there is no command"));
    };
    program::check(name)?;
    let Some(socket) = env::var_os(SOCKET_VARIABLE).map(PathBuf::from) else {
        return Err(Failure::new(Exit::Usage, "there is no `singletrack run` around this")
            .hint("`singletrack run --project NAME -- ./deploy.sh`, and `protect` within deploy.sh"));
    };
    let _protection = match ask(&socket, "protect").await {
        Ok((answer, connection)) if answer == "ok" => connection,
        Ok((answer, _)) if answer == "stopping" => {
            return Err(Failure::new(Exit::Cancelled, "the run is being stopped; the command was not started"));
        }
        Ok((answer, _)) => {
            return Err(Failure::new(Exit::Fault, format!("the run around this does not understand: {answer:?}")));
        }
        Err(error) => return Err(Failure::new(Exit::Fault, format!("the run around this does not answer: {error}"))),
    };
    let cannot_be_run = |error: io::Error| {
        Failure::new(program::NOT_EXECUTABLE, format!("{} cannot be run: {error}", name.to_string_lossy()))
    };
    // The handlers are set before the command starts, because a signal must not end this process and leave the command
    // without protection.
    let mut passed_on = PassedOn::listen(&PassedOn::BY_PROTECT).map_err(cannot_be_run)?;
    let _ignored = PassedOn::listen(&[SignalKind::interrupt(), SignalKind::quit()]).map_err(cannot_be_run)?;
    let mut command = with_our_end(Command::new(name).args(arguments)).spawn().map_err(cannot_be_run)?;
    let pid = command.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let status = loop {
        tokio::select! {
            // Before `wait` has returned, no other process can get the child's pid, so the signal below reaches only
            // the child.
            status = command.wait() => break status.map_err(cannot_be_run)?,
            signal = passed_on.next() => {
                let _ = pid.map(|pid| kill_process(pid, signal));
            }
        }
    };
    Ok(Exit::Command(shell_code(ExitKind::from(status))))
}

/// Kills the command when this process is killed, because the protection ends with this process.
fn with_our_end(command: &mut Command) -> &mut Command {
    let us = rustix::process::getpid();
    let dies_with_us = move || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        // If the parent died before that call, the signal would never come.
        if rustix::process::getppid() == Some(us) { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    };
    #[expect(unsafe_code, reason = "the closure makes two system calls and allocates nothing, as pre_exec demands")]
    // SAFETY: prctl(2) and getppid(2) are async-signal-safe.
    unsafe {
        command.pre_exec(dies_with_us)
    }
}

/// Whether the `run` around this process still holds the slot.
///
/// # Errors
/// The run does not hold the slot, or that is unknown.
pub async fn check_fence(args: &FenceCheckArgs) -> Result<Exit, Failure> {
    match held(&args.target.connect, &args.target.project).await? {
        Some(SlotHeld::Holds) => Ok(Exit::Done),
        Some(SlotHeld::Lost) => Err(Failure::new(Exit::LeaseLost, "the slot is not held by this run any more")),
        Some(SlotHeld::Unknown) => Err(Failure::new(Exit::Fault, "the server does not say who holds the slot")),
        None => Err(Failure::new(Exit::Fault, format!("this is not inside a run of project {}", args.target.project))
            .hint("call it from the command of `singletrack run -- CMD`, or from a phase of a pipeline")),
    }
}

/// Whether the deployment that runs this process as its command holds `project`'s slot. `None` if this process is not a
/// deployment's command.
pub(super) async fn held(connect: &ConnectArgs, project: &ProjectName) -> Result<Option<SlotHeld>, Failure> {
    let own_project = env::var("SINGLETRACK_PROJECT").ok();
    let ours = || env::var("SINGLETRACK_DEPLOYMENT_ID").ok()?.parse::<DeploymentId>().ok();
    let Some(id) = ours().filter(|_| own_project.as_deref() == Some(project.as_str())) else { return Ok(None) };
    if let Some(socket) = env::var_os(SOCKET_VARIABLE)
        && let Ok(held) = ask_held(&PathBuf::from(socket)).await
    {
        return Ok(Some(held));
    }
    let session = Session::open(connect, Patience::QUESTION)?;
    let token = env::var("SINGLETRACK_FENCING_TOKEN").unwrap_or_default();
    Ok(Some(ask_server(&session.connection, project, id, &token).await))
}

/// Asks the server. A running deployment holds the slot, and its revision is its fencing token.
pub(super) async fn ask_server(
    connection: &Connection,
    project: &ProjectName,
    id: DeploymentId,
    token: &str,
) -> SlotHeld {
    match connection.deployment(project, &id.into()).await {
        Ok(deployment) if deployment.status == Status::Running && deployment.revision.to_string() == token => {
            SlotHeld::Holds
        }
        Ok(_) => SlotHeld::Lost,
        Err(Fault::Refused(refusal)) if refusal.status == 404 => SlotHeld::Lost,
        Err(_) => SlotHeld::Unknown,
    }
}

/// The exit code as one byte, as the system needs it.
pub(super) fn shell_code(kind: ExitKind) -> u8 {
    u8::try_from(kind.shell_code()).unwrap_or(u8::MAX)
}
