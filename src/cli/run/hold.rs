//! `run` from taking the slot to its end. In every case the command has ended before another deployment can get the
//! slot.

use std::{
    cell::Cell,
    io::{self, IsTerminal as _},
    sync::Arc,
    time::Duration,
};

use rustix::io::Errno;
use tokio::{
    sync::{mpsc, watch},
    task::yield_now,
    time::timeout,
};

use super::{
    ahead::{Ahead, Copied, Ready, secrets},
    cause::{Cause, failed, judge, wanted},
    guard::{ask_server, held},
    inside::{Door, PrivateFolder, SOCKET_VARIABLE, SlotHeld},
    program,
    terminal::Terminal,
    will::Will,
};
use crate::{
    cli::{
        self, DeployArgs, FollowMode, RunWhenHeld, SubmitArgs, WhenHeld,
        deploy::{
            key::Key,
            race::{self, TakenSlot},
        },
        end::on_runtime,
        exit::{Exit, Failure},
        report::Reports,
        session::Session,
        signals::{Asked, PassedOn, Signals},
    },
    client::{
        calls::{Patience, Worker},
        deadline::Deadline,
        lease::HttpLessor,
        resolve::{Ending, Wish},
    },
    clock::{BootInstant, Clock as _, SystemClock},
    exec::{
        PhaseState, Stop,
        lease::{Keeper, Lost, REPORT_QUEUE_LIMIT, Times},
        output::{outbox::Outbox, phase::PhaseOutput},
        process::contract::{ExitKind, StoppedBy},
        process::owner::{CommandExit, Prepared, Process},
        report::{PROTECTED_MESSAGE, cannot_be_ended},
    },
    model::{self, CANCEL_WAITS, DeploymentId, ProjectName, RunBy},
    wire::{Deployment, SubmitRequest},
};

/// The hint about processes that a command left running.
const OUTLIVE_HINT: &str = "start a service that is to outlive the run with `systemd-run`";
/// The name of the phase that shows a protected section.
const PROTECTED_PHASE: &str = "protected";
/// How long the last output may take to be logged after all processes have ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long the final look-up of the deployment at the server may take. Reports, `--superseded-ok` and
/// `--follow-successor` need this look-up.
const LOOK_LIMIT: Duration = Duration::from_secs(3);
/// How long a signal that has ended the command may take to reach this process, too. CI systems send the signal to all
/// processes of a job.
const SIGNAL_SKEW: Duration = Duration::from_millis(50);

/// Runs a command in the project's slot.
///
/// # Errors
/// The command did not run to its own end.
pub fn run(args: &cli::RunArgs) -> Result<Exit, Failure> {
    let reports = Reports::wanted(&args.end);
    let ended = prepare_and_run(args, &reports);
    reports.or_write(&args.target.project, &ended);
    ended
}

fn prepare_and_run(args: &cli::RunArgs, reports: &Reports<'_>) -> Result<Exit, Failure> {
    // The shim is forked before the runtime starts, because this process must have only one thread when it forks.
    let ahead = Ahead::new(args)?;
    on_runtime(take_and_hold(args, reports, ahead))
}

async fn take_and_hold(args: &cli::RunArgs, reports: &Reports<'_>, ahead: Ahead) -> Result<Exit, Failure> {
    match held(&args.target.connect, &args.target.project).await? {
        Some(SlotHeld::Holds) => {
            ahead.abandon().await;
            return Err(program::become_it(&args.command));
        }
        Some(SlotHeld::Unknown) => {
            return Err(Failure::new(
                Exit::Fault,
                "the server does not say whether the run around this holds the slot",
            ));
        }
        // No run is around this one (`None`), or the variables name a run that no longer holds the slot (`Lost`): take
        // the slot.
        Some(SlotHeld::Lost) | None => {}
    }
    let session = Session::open(&args.target.connect, Patience::DEADLINE)?;
    let secrets = Arc::new(secrets(&session, &args.mask)?);
    let as_deploy = as_deploy(args);
    let wish = race::wish(&as_deploy);
    let request = SubmitRequest {
        executor: RunBy::Submitter,
        claim: true,
        lease_seconds: Some(args.lease.as_secs()),
        ..race::request(&as_deploy, wish, session.ci.as_ref())?
    };
    let mut signals = Signals::of_a_job(session.in_ci)?;
    let Ready { prepared, folder, door, terminal, copied } = ahead.ready(args.no_logs, &secrets)?;
    let grant = match take_slot(&session, &as_deploy, reports, wish, &request, &mut signals).await {
        Ok(Ok(grant)) => grant,
        without => {
            prepared.abandon().await;
            return without.map(|slot| slot.err().unwrap_or(Exit::Fault));
        }
    };
    let shim = Cell::default();
    let may_run = Cell::new(false);
    let work = Work { session: &session, args, request: &request, folder, door, terminal, shim, may_run };
    let id = grant.deployment.id;
    let ended = work.run(prepared, copied, grant, &mut signals).await;
    finish(&session, &as_deploy, reports, id, ended, &mut signals).await
}

/// Decides how the job ends after its command has run in the slot.
async fn finish(
    session: &Session,
    args: &DeployArgs,
    reports: &Reports<'_>,
    id: DeploymentId,
    ended: Result<Exit, Failure>,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let end = &args.submit.end;
    let is_cancelled = ended.as_ref().is_err_and(|failure| failure.exit == Exit::Cancelled);
    let is_of_interest = (is_cancelled && (end.superseded_ok || end.follow_successor)) || !reports.is_empty();
    if !is_of_interest {
        return ended;
    }
    let asked = timeout(LOOK_LIMIT, session.connection.deployment(&args.target.project, &id.into())).await;
    let ours = asked.ok().and_then(Result::ok);
    // The wait for a successor gets the whole `--timeout` again, because the wait for the slot had its own.
    let deadline = Deadline::after(session.clock.clone(), args.submit.line.timeout);
    let by = ours.as_ref().and_then(Deployment::successor);
    race::job(session, args, reports, &deadline).finish(ours.as_ref(), by, ended, signals).await
}

/// The arguments of a `deploy` for the same slot.
fn as_deploy(args: &cli::RunArgs) -> DeployArgs {
    DeployArgs {
        target: args.target.clone(),
        pipeline: Some(args.pipeline.clone()),
        source: args.source.clone(),
        inputs: Vec::new(),
        artifact: None,
        respect_gitignore: false,
        allow_empty: false,
        retry_of: None,
        rollback: args.rollback,
        submit: SubmitArgs {
            on_conflict: match args.on_conflict {
                RunWhenHeld::Wait => WhenHeld::Wait,
                RunWhenHeld::Fail => WhenHeld::Fail,
            },
            line: args.line.clone(),
            follow: FollowMode::None,
            detach: false,
            dry_run: false,
            idempotency_key: None,
            end: args.end.clone(),
        },
    }
}

/// Takes the slot, as `deploy` does. Returns an exit code if the wait ends without a slot.
async fn take_slot(
    session: &Session,
    args: &DeployArgs,
    reports: &Reports<'_>,
    wish: Wish,
    request: &SubmitRequest,
    signals: &mut Signals,
) -> Result<Result<Box<TakenSlot>, Exit>, Failure> {
    let body = serde_json::to_vec(request).map_err(|error| Failure::new(Exit::Fault, error.to_string()))?;
    // The CI job's key is not used here: this process is the worker, and another process cannot use its lease.
    let key = Key::made(None, &args.target.project, &body)?;
    let deadline = Deadline::after(session.clock.clone(), args.submit.line.timeout);
    let mut way = race::Race {
        session,
        args,
        key,
        body,
        deadline,
        wish,
        claims: true,
        rolls_back: false,
        grant: None,
        held: None,
        problem: None,
        number: None,
        seen_event: Cell::new(0),
    };
    let verdict = way.drive(signals).await?;
    session.screen.clear();
    match (way.grant, verdict) {
        (Some(grant), Ending::Detached(_)) => Ok(Ok(Box::new(grant))),
        (None, Ending::Detached(deployment)) => Err(Failure::new(
            Exit::Fault,
            format!("{} gave {} the slot without a lease", session.connection.server(), deployment.name()),
        )
        .hint("the server may be older than this client")),
        (Some(grant), verdict) => {
            // The request to stop came in the moment when the slot was granted, so the slot is given back.
            let keeper = keeper(session, &args.target.project, &grant);
            let _ = keeper.finish_in_time(std::future::ready(()), model::Verdict::Stopped).await;
            race::job(session, args, reports, &way.deadline).conclude(verdict, way.problem, signals).await.map(Err)
        }
        (None, verdict) => {
            race::job(session, args, reports, &way.deadline).conclude(verdict, way.problem, signals).await.map(Err)
        }
    }
}

fn keeper<'a>(session: &'a Session, project: &'a ProjectName, grant: &'a TakenSlot) -> Keeper<HttpLessor<'a>> {
    let (id, lease) = (grant.deployment.id, &grant.lease);
    let lessor = HttpLessor::new(&session.connection, Worker { project, id, secret: &lease.secret });
    Keeper::new(lessor, session.clock.clone(), id, Times::of_length(lease.length()), grant.sent_at)
}

/// One command in its slot.
struct Work<'a> {
    session: &'a Session,
    args: &'a cli::RunArgs,
    request: &'a SubmitRequest,
    folder: PrivateFolder,
    door: Door,
    /// The command's own terminal, if `run` is at a terminal.
    terminal: Option<Terminal>,
    /// The shim of a command that has ended.
    shim: Cell<Option<Process>>,
    /// Whether a process of the command may still run, because it could not be ended.
    may_run: Cell<bool>,
}

impl Work<'_> {
    async fn run(
        self,
        prepared: Prepared,
        copied: Copied,
        grant: Box<TakenSlot>,
        signals: &mut Signals,
    ) -> Result<Exit, Failure> {
        signals.own_command();
        let passed_on = PassedOn::listen(&PassedOn::BY_RUN)
            .map_err(|error| Failure::new(Exit::Fault, format!("signals cannot be listened for: {error}")))?;
        let project = &self.args.target.project;
        let id = grant.deployment.id;
        let (name, argument) = (grant.deployment.name(), grant.deployment.argument());
        let token = grant.lease.fencing_token.to_string();
        let keeper = keeper(self.session, project, &grant);
        let Copied { output, outbox, mut relays } = copied;
        let connected = self.terminal.as_ref().map(Terminal::connect).transpose();
        let _connected = connected.map_err(|error| Failure::new(Exit::Fault, format!("the terminal: {error}")))?;
        let follow_size = async {
            match &self.terminal {
                Some(terminal) => terminal.follow_size().await,
                None => std::future::pending().await,
            }
        };
        let (reports, reported) = mpsc::channel(REPORT_QUEUE_LIMIT);
        let all_told = Cell::new(false);
        let mut telling = std::pin::pin!(async {
            tokio::join!(outbox.forward(reports), keeper.relay(reported));
            all_told.set(true);
        });
        let working = async {
            let ended = self.work(prepared, &keeper, &grant, (&output, &outbox), signals, passed_on).await;
            for relay in &mut relays {
                let _ = timeout(DRAIN_LIMIT, &mut relay.copied).await;
            }
            outbox.close();
            ended
        };
        let check = || async {
            match *keeper.stop().borrow() {
                Some(Stop::LeaseLost { .. }) => SlotHeld::Lost,
                Some(Stop::Cancel | Stop::Shutdown) | None => {
                    ask_server(&self.session.connection, project, id, &token).await
                }
            }
        };
        let ended = tokio::select! {
            ended = working => ended,
            () = async { telling.as_mut().await; std::future::pending().await } => unreachable!("pending"),
            never = keeper.keep() => match never {},
            never = follow_size => match never {},
            never = self.door.serve(check) => match never {},
        };
        let (verdict, exit) = ended;
        let verdict = verdict.map(|verdict| match verdict {
            model::Verdict::Failed { cause, message, phase } => {
                model::Verdict::Failed { cause, message: output.secrets().mask(&message).into_owned(), phase }
            }
            verdict => verdict,
        });
        let told = match verdict {
            Some(verdict) => {
                let last_reports = async {
                    if !all_told.get() {
                        telling.as_mut().await;
                    }
                };
                keeper.finish_in_time(last_reports, verdict).await
            }
            None => Err(Lost),
        };
        // A slow reader of our output delays only this process: the outcome was reported before this wait.
        let mut lost = None;
        for relay in relays {
            let passed_on = async {
                // If the sender is gone without a result, the relay's thread did not start or ended too early.
                relay.passed_on.await.unwrap_or(Err(Errno::AGAIN))
            };
            // A process that could not be ended may hold the pipe open for ever.
            let passed_on = match self.may_run.get() {
                true => timeout(DRAIN_LIMIT, passed_on).await.unwrap_or(Ok(())),
                false => passed_on.await,
            };
            lost = lost.or(passed_on.err());
        }
        // Without an init that collects orphans, the shim would stay as a zombie.
        if let Some(shim) = self.shim.take() {
            shim.collect().await;
        }
        match told {
            Ok(()) if exit.as_ref().is_ok_and(|exit| *exit == Exit::Command(0)) && lost.is_some() => {
                let why = lost.map(io::Error::from).map(|error| error.to_string()).unwrap_or_default();
                let message = format!("the command succeeded, but a part of its output could not be written: {why}");
                Err(Failure::new(Exit::Fault, message).hint("make room where the output of `run` goes"))
            }
            Ok(()) => {
                if let Some(error) = lost.map(io::Error::from) {
                    self.session
                        .screen
                        .warning(&format!("a part of the command's output could not be written: {error}"));
                }
                exit
            }
            Err(Lost) if exit.as_ref().is_err_and(|failure| failure.exit == Exit::LeaseLost) => exit,
            Err(Lost) => Err(Failure::new(
                Exit::LeaseLost,
                format!("the command ended, but the lease of {name} ran out before the server learned of the end"),
            )
            .hint(format!("`singletrack status --project {project} {argument}` shows what the server recorded"))),
        }
    }

    /// Runs the command from its start to its end. Returns the verdict for the server (`None` after a lost lease) and
    /// the exit.
    async fn work(
        &self,
        prepared: Prepared,
        keeper: &Keeper<HttpLessor<'_>>,
        grant: &TakenSlot,
        (output, outbox): (&PhaseOutput, &Outbox),
        signals: &mut Signals,
        mut passed_on: PassedOn,
    ) -> (Option<model::Verdict>, Result<Exit, Failure>) {
        let deployment = &grant.deployment;
        let socket = self.folder.socket();
        let variables = [
            ("SINGLETRACK_FENCING_TOKEN", grant.lease.fencing_token.to_string()),
            ("SINGLETRACK_DEPLOYMENT_ID", deployment.id.to_string()),
            ("SINGLETRACK_DEPLOYMENT_NUMBER", deployment.number.map(|it| it.to_string()).unwrap_or_default()),
            ("SINGLETRACK_PROJECT", deployment.project.to_string()),
            ("SINGLETRACK_PIPELINE", deployment.pipeline.clone()),
            ("SINGLETRACK_REF", self.request.ref_name.clone().unwrap_or_default()),
            ("SINGLETRACK_COMMIT", self.request.commit.clone().unwrap_or_default()),
            ("SINGLETRACK_URL", self.session.connection.server().to_owned()),
            (SOCKET_VARIABLE, socket.to_string_lossy().into_owned()),
        ];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let will = Will::new(self.session, &self.args.target, grant).to_line();
        let started = prepared.start(&variables, Some(*keeper.deadline().borrow()), will.as_deref());
        let mut process = match started.await {
            Ok(process) => process,
            Err(error) => {
                let message = format!("the command could not be started: {error}");
                return (Some(failed(message.clone())), Err(Failure::new(program::NOT_EXECUTABLE, message)));
            }
        };
        let (exit, cause) = self.watch(&mut process, keeper, (output, outbox), signals, &mut passed_on).await;
        if let Some(left) = process.left().filter(|_| cause.is_none() && exit.stopped_by == StoppedBy::Nobody) {
            self.say(&format!("the command left something running, which was ended with it: {left}; {OUTLIVE_HINT}"));
            output.note(format!("the command left something running, which was ended with it: {left}"));
        }
        if exit.left_count > 0 {
            self.may_run.set(true);
            self.session.screen.warning("something of the command could not be ended and may still run");
        }
        self.shim.set(Some(process));
        let cause = match (cause, exit.kind) {
            // A signal to the whole job may have reached the command before this process.
            (None, ExitKind::Signal(1 | 2 | 15) | ExitKind::Code(129 | 130 | 143)) => {
                timeout(SIGNAL_SKEW, signals.first()).await.ok().map(|()| Cause::Interrupted)
            }
            (cause, _) => cause,
        };
        let was_interrupted = self.terminal.as_ref().is_some_and(Terminal::was_interrupted);
        let cause = match (cause, exit.kind) {
            (None, ExitKind::Signal(2) | ExitKind::Code(130)) if was_interrupted => Some(Cause::Interrupted),
            (cause, _) => cause,
        };
        judge(exit, cause, keeper)
    }

    /// Waits for the command's end, or ends the command.
    async fn watch(
        &self,
        process: &mut Process,
        keeper: &Keeper<HttpLessor<'_>>,
        (output, outbox): (&PhaseOutput, &Outbox),
        signals: &mut Signals,
        passed_on: &mut PassedOn,
    ) -> (CommandExit, Option<Cause>) {
        let mut stop = keeper.stop();
        let mut deadline = keeper.deadline();
        deadline.mark_changed();
        let mut protected_lines = output.protection();
        let mut protected_count = self.door.protected_count();
        let mut stuck = process.stuck();
        let mut withheld = self.terminal.as_ref().map(Terminal::withheld);
        let mut cause: Option<Cause> = None;
        let mut was_protected = false;
        let mut wait_was_told = false;
        let mut signalled = Asked::Nothing;
        loop {
            let asked = *stop.borrow_and_update();
            let is_protected = *protected_lines.borrow_and_update() || *protected_count.borrow_and_update() > 0;
            if is_protected != was_protected {
                if let Some(terminal) = &self.terminal {
                    terminal.protect(is_protected);
                }
                let state = if is_protected { PhaseState::Started } else { PhaseState::Succeeded };
                outbox.phase(PROTECTED_PHASE, state, is_protected.then_some(PROTECTED_MESSAGE));
                was_protected = is_protected;
            }
            // A withheld interrupt key asks to stop, as a signal does. The command itself gets the next press.
            let by_key = withheld.as_mut().is_some_and(|withheld| *withheld.borrow_and_update());
            let wanted = wanted(asked, if by_key { signalled.max(Asked::Stop) } else { signalled });
            if wanted == Some(Cause::LeaseLost) && stuck.borrow().is_some() {
                // An operator has freed the slot, or the server was away for too long. The lease is over, so this process
                // does not wait for the command, and the will must not be sent.
                process.forget_will();
                let exit = CommandExit { kind: ExitKind::Unknown, stopped_by: StoppedBy::Worker, left_count: 1 };
                return (exit, wanted);
            }
            if wanted > cause {
                let waits = is_protected && matches!(wanted, Some(Cause::Cancelled | Cause::Interrupted));
                if waits && !wait_was_told {
                    let how = if by_key { " (Ctrl-C again to interrupt it)" } else { "" };
                    self.say(&format!("stopping once the protected section is over{how}"));
                    output.note("asked to stop: that waits until the protected section is over");
                    output.say(format!("{CANCEL_WAITS} the protected section is over"));
                    wait_was_told = true;
                } else if let Some(why) = wanted.filter(|_| !waits) {
                    // If this process was suspended for longer than the lease, the lease is lost and the command may
                    // have ended, too. Only the kernel knows of the command's end, so the kernel is asked first.
                    tokio::select! {
                        biased;
                        exit = process.wait() => return (exit, cause),
                        () = yield_now() => {}
                    }
                    self.door.stop();
                    self.tell_stop(why, keeper);
                    let kill_at = self.kill_at(why, asked);
                    if why == Cause::Interrupted && signals.began_with_interrupt() {
                        process.interrupt(kill_at);
                    } else {
                        process.terminate(kill_at);
                    }
                    cause = wanted;
                }
            }
            tokio::select! {
                exit = process.wait() => return (exit, cause),
                Ok(()) = stop.changed() => {}
                Ok(()) = stuck.changed() => {
                    let what = stuck.borrow_and_update().clone().unwrap_or_default();
                    let text = cannot_be_ended(&what);
                    self.say(&text);
                    output.note(&*text);
                    output.say(text);
                }
                Ok(()) = protected_lines.changed() => {}
                Ok(()) = protected_count.changed() => {}
                () = changed(withheld.as_mut()) => {}
                Ok(()) = deadline.changed() => process.renew_deadline(*deadline.borrow_and_update()),
                signal = passed_on.next() => process.signal(signal),
                asked = signals.more_than(signalled) => signalled = asked,
            }
        }
    }

    fn kill_at(&self, why: Cause, asked: Option<Stop>) -> BootInstant {
        let now = SystemClock.boot();
        match (why, asked) {
            (Cause::LeaseLost, Some(Stop::LeaseLost { deadline })) => deadline,
            (Cause::Cancelled | Cause::Interrupted, _) => now.after(self.args.grace),
            (Cause::InterruptedAgain | Cause::LeaseLost, _) => now,
        }
    }

    fn tell_stop(&self, why: Cause, keeper: &Keeper<HttpLessor<'_>>) {
        let reason = keeper.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        let text = match why {
            Cause::Cancelled => format!("cancelled{reason}; stopping the command"),
            Cause::Interrupted => "interrupted; stopping the command (a second Ctrl-C or SIGINT kills it)".to_owned(),
            Cause::InterruptedAgain => "killing the command".to_owned(),
            Cause::LeaseLost => "the lease is lost; stopping the command".to_owned(),
        };
        self.say(&text);
    }

    /// Prints a line of its own, also while the terminal is in raw mode.
    fn say(&self, text: &str) {
        if self.terminal.is_some() && io::stderr().is_terminal() {
            self.session.screen.line_in_raw_mode(text);
        } else {
            self.session.screen.line(text);
        }
    }
}

/// Waits for a change. Waits for ever if there is no receiver.
async fn changed<T>(receiver: Option<&mut watch::Receiver<T>>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
