//! `deploy`: submit, resolve a conflict, follow the deployment to its end.

use std::{cell::Cell, ops::RangeInclusive, time::Duration};

use serde_json::Value;

use super::{
    artifact,
    fits::{KnownAtSubmit, too_short},
    inside::inside,
    key::Key,
    plan,
};
use crate::{
    cli::{
        DeployArgs, FollowMode, WhenHeld,
        ci::CiRun,
        exit::{Exit, Failure},
        job::CiJob,
        report::Reports,
        screen::{
            clean::clean,
            words::{LineAhead, PlaceInLine, named},
        },
        session::{Session, actor_of},
        signals::Signals,
    },
    client::{
        calls::{Completion, Fault, Patience, Submitted, Turn},
        deadline::Deadline,
        follow::{FollowLimits, Follower, How},
        resolve::{Action, Ending, Observation, Resolver, StopReason, Wish},
    },
    clock::BootInstant,
    exec::archive::PackOptions,
    model::{DeploymentId, Eta, Mention, ProjectName, RunBy, Status},
    wire::{self, ArtifactRef, CancelBody, Conflict, Deployment, ErrorCode, Lease, OnConflict, SubmitRequest, Takes},
};

/// How long to wait for the answer to a submit when it is time to stop, so that its deployment can be cancelled.
const SUBMIT_GRACE: Duration = Duration::from_secs(3);
/// How long our own cancel may take when it is time to stop. CI systems kill a cancelled job after about 7 s.
const LEAVE_LIMIT: Duration = Duration::from_secs(4);
/// How long to wait for the end of our own deployment when the deadline, not a person, stops the client: a worker that is
/// told to stop has 30 s by default, and the user wants to see the outcome.
const END_LIMIT: Duration = Duration::from_secs(35);
/// How many seconds one poll of `turn` is parked: one second for each deployment before ours, within these limits. Clients far
/// back learn of a new holder or place only when a poll ends, so polls are not longer; a thousand waiting clients still ask
/// only a hundred times a second. Clients at the front ask more often: if the server at which they are parked stops, they
/// must reach another server while the slot is still kept for them.
const TURN_WINDOW_SECONDS: RangeInclusive<u64> = 3..=10;
/// How long one poll for the end is parked: the poll answers only at the end.
const END_WINDOW: Duration = Duration::from_secs(30);
/// The pause after a poll was answered, so that a server that answers at once is not asked in a tight loop.
const TURN_PAUSE: Duration = Duration::from_millis(200);
/// How often the client asks who is before it, if no poll of `turn` tells.
const LINE_PAUSE: Duration = Duration::from_secs(15);
/// The same when a person watches.
const LIVE_LINE_PAUSE: Duration = Duration::from_secs(3);

/// Deploys.
///
/// # Errors
/// Every end that is not a success, with its exit code.
pub async fn run(args: &DeployArgs) -> Result<Exit, Failure> {
    let reports = Reports::wanted(&args.submit.end);
    let ended = deploy(args, &reports).await;
    if !args.submit.dry_run {
        reports.or_write(&args.target.project, &ended);
    }
    ended
}

async fn deploy(args: &DeployArgs, reports: &Reports<'_>) -> Result<Exit, Failure> {
    let session = Session::open(&args.target.connect, Patience::DEADLINE.within(args.submit.line.timeout))?;
    let wish = wish(args);
    let mut request = request(args, wish, session.ci.as_ref())?;
    let deadline = Deadline::after(session.clock.clone(), args.submit.line.timeout);
    let mut signals = Signals::of_a_job(session.in_ci)?;
    if let Some(path) = &args.artifact {
        let options = PackOptions { respect_gitignore: args.respect_gitignore, allow_empty: args.allow_empty };
        let packed = artifact::pack(&session, path.clone(), options, &deadline, &mut signals).await?;
        // Before the slot is taken, so that no deployment waits for a slow network.
        if !args.submit.dry_run {
            artifact::upload(&session, &packed, &deadline, &mut signals).await?;
        }
        request.artifact = Some(ArtifactRef { sha256: packed.digest.into() });
    }
    // The same bytes for every submit: with another body the key would name another request.
    let body = serde_json::to_vec(&request).map_err(|error| Failure::new(Exit::Fault, error.to_string()))?;
    if args.submit.dry_run {
        return plan::run(&session, args, &body, &deadline).await;
    }
    let key = match &args.submit.idempotency_key {
        Some(key) => Key::given(key.clone()),
        None => Key::made(session.ci.as_ref(), &args.target.project, &body)?,
    };
    let mut run = Race {
        session: &session,
        args,
        key,
        body,
        deadline,
        wish,
        claims: false,
        rolls_back: false,
        grant: None,
        held: None,
        problem: None,
        number: None,
        seen_event: Cell::new(0),
    };
    let verdict = run.drive(&mut signals).await?;
    job(&session, args, reports, &run.deadline).conclude(verdict, run.problem, &mut signals).await
}

/// The CI job of this deploy.
pub fn job<'a>(
    session: &'a Session,
    args: &'a DeployArgs,
    reports: &'a Reports<'a>,
    deadline: &'a Deadline,
) -> CiJob<'a> {
    let end = &args.submit.end;
    CiJob { session, project: &args.target.project, end, reports, how: how(args.submit.follow), deadline }
}

/// One `deploy`, or the way of a `run` to its slot, under way.
pub struct Race<'a> {
    pub session: &'a Session,
    pub args: &'a DeployArgs,
    pub key: Key,
    pub body: Vec<u8>,
    pub deadline: Deadline,
    pub wish: Wish,
    /// Whether the submit claims the slot for this process.
    pub claims: bool,
    /// Whether the submit is a rollback.
    pub rolls_back: bool,
    /// The grant of a submit that claims.
    pub grant: Option<TakenSlot>,
    /// The deployment for which we wait.
    pub held: Option<Box<Conflict>>,
    /// The last conflict as the server told it, for `--json`.
    pub problem: Option<Value>,
    /// The number of our deployment, once it is known.
    pub number: Option<u64>,
    /// The last event that was checked for a newer deployment before ours.
    pub seen_event: Cell<u64>,
}

/// A slot that is this process's own.
pub struct TakenSlot {
    pub deployment: Box<Deployment>,
    pub lease: Lease,
    /// When the submit that brought the lease was sent.
    pub sent_at: BootInstant,
}

impl Race<'_> {
    /// From the first submit to the verdict; with a grant, what the verdict says is only that it was accepted.
    pub async fn drive(&mut self, signals: &mut Signals) -> Result<Ending, Failure> {
        let connection = &self.session.connection;
        let deadline = self.deadline.clone();
        let mut stop = std::pin::pin!(async move {
            tokio::select! {
                biased;
                () = signals.first() => StopReason::Signal,
                () = deadline.passed() => StopReason::Deadline,
            }
        });
        let mut stopped = None;
        let (mut resolver, mut action) = Resolver::new(self.wish, inside());
        loop {
            let seen = match (action, stopped) {
                (Action::Finish(verdict), _) => return Ok(*verdict),
                (Action::Follow(_), None) if let Some(grant) = &self.grant => {
                    return Ok(Ending::Detached(grant.deployment.clone()));
                }
                (action, Some(why)) => self.perform(&action, Some(why)).await,
                (action, None) => {
                    let mut work = std::pin::pin!(self.perform(&action, None));
                    tokio::select! {
                        biased;
                        seen = &mut work => seen,
                        why = &mut stop => {
                            stopped = Some(why);
                            // The pending answer says which deployment must be cancelled.
                            let late = match action {
                                Action::Submit if connection.is_in_doubt() => tokio::time::timeout(SUBMIT_GRACE, work).await.ok(),
                                _ => None,
                            };
                            match late.map(|seen| resolver.next(seen)) {
                                Some(Action::Finish(verdict)) => return Ok(*verdict),
                                Some(_) | None => Observation::Stopped(why),
                            }
                        }
                    }
                }
            };
            action = resolver.next(seen);
        }
    }

    async fn perform(&mut self, action: &Action, stopped: Option<StopReason>) -> Observation {
        match action {
            Action::Submit => self.submit().await,
            Action::Preempt { target, ticket } => self.preempt(*target, *ticket).await,
            Action::AwaitTurn(ticket) => self.await_turn(*ticket).await,
            Action::Follow(id) => self.follow(*id).await,
            Action::Leave { id, until_final, overtaker } => {
                let id = *id;
                let reason = match (stopped, overtaker) {
                    (Some(StopReason::Deadline), _) => "its client's deadline passed".to_owned(),
                    (Some(StopReason::Signal), _) => "its client was interrupted".to_owned(),
                    (None, Some(by)) => {
                        format!("its client left the line: {} would have superseded it there", by.name())
                    }
                    (None, None) => "its client is a command of the deployment that holds the slot".to_owned(),
                };
                self.leave(id, *until_final, reason, stopped).await
            }
            // The caller has taken it.
            Action::Finish(_) => Observation::Left(None),
        }
    }

    async fn submit(&mut self) -> Observation {
        let session = self.session;
        let sent_at = session.clock.boot();
        match self.submit_anew().await {
            Ok(Submitted::Accepted { deployment, replayed, lease, takes, .. }) => {
                self.number = deployment.number;
                if !deployment.status.is_final() {
                    self.tell_fit(deployment.expected_start.flatten(), &takes);
                }
                match lease {
                    Some(lease) if self.claims => {
                        self.grant = Some(TakenSlot { deployment: deployment.clone(), lease, sent_at });
                    }
                    Some(_) | None => {}
                }
                self.tell_accepted(&deployment, replayed);
                Observation::Accepted { deployment, replayed }
            }
            Ok(Submitted::Conflict { conflict, problem }) => {
                self.tell_fit(conflict.expected_start.flatten(), &conflict.takes);
                self.problem = Some(problem);
                self.number = conflict.ticket_number;
                self.held = Some(conflict.clone());
                self.tell_waiting();
                Observation::Held(conflict)
            }
            Ok(Submitted::Refused(refusal)) => Observation::Refused(refusal),
            Err(fault) => Observation::Faulted(fault),
        }
    }

    /// Submits. If a generated key finds a deployment that is already final, that is from an earlier attempt at the same step:
    /// then the next key is used.
    async fn submit_anew(&mut self) -> Result<Submitted, Fault> {
        loop {
            let (connection, route) =
                (&self.session.connection, if self.rolls_back { "rollback" } else { "deployments" });
            let submitted = connection.submit_to(self.project(), route, self.key.get(), &self.body).await?;
            let ticket = self.held.as_ref().and_then(|held| held.ticket);
            let over = match &submitted {
                // If an earlier attempt of this submit may have arrived, its deployment may be final by now.
                Submitted::Accepted { deployment, replayed: true, was_in_doubt: false, .. }
                    if deployment.status.is_final() && ticket != Some(deployment.id) =>
                {
                    deployment.id.to_string()
                }
                Submitted::Refused(refusal) if refusal.code == Some(ErrorCode::DeadlinePassed) && ticket.is_none() => {
                    "expired".to_owned()
                }
                Submitted::Accepted { .. } | Submitted::Conflict { .. } | Submitted::Refused(_) => {
                    return Ok(submitted);
                }
            };
            match self.key.after(&over) {
                Some(next) => self.key = next,
                None => return Ok(submitted),
            }
        }
    }

    fn tell_accepted(&self, deployment: &Deployment, replayed: bool) {
        if deployment.queue_position == 0 {
            self.session.screen.waited();
        }
        let what = match (replayed, deployment.queue_position) {
            _ if self.wish == Wish::Detach || deployment.status.is_final() => return,
            // A command that did not have to wait says what it says, and nothing else.
            _ if self.claims && self.held.is_none() => return,
            (_, 0) if self.claims => "has the slot",
            (true, _) if self.rolls_back => "is under way already; following it",
            (true, _) => "is there already, from an earlier run of this job; following it",
            (false, 0) => "has the slot",
            (false, _) => "waits in line",
        };
        let place = match deployment.queue_position {
            // What it waits for, such as an agent.
            0 => deployment
                .waits_for
                .as_deref()
                .filter(|_| deployment.status == Status::Pending)
                .map(|why| format!("; {}", clean(why)))
                .unwrap_or_default(),
            position => format!(", number {position}"),
        };
        let target = deployment.former().filter(|_| self.rolls_back);
        let target = target.map(|target| format!(", a rollback to {},", named(&target))).unwrap_or_default();
        self.session.screen.line(&format!("{}{target} {what}{place}", deployment.name()));
    }

    /// Warns at the first submit if `--timeout` is too short, not only when it has passed.
    fn tell_fit(&self, start: Option<Eta>, takes: &Takes) {
        if self.held.is_some() {
            return;
        }
        let is_run_counted = !self.claims && !self.args.submit.detach;
        let expected = KnownAtSubmit { start, run: is_run_counted.then_some(takes) };
        if let Some(text) = too_short(expected, self.args.submit.line.timeout, self.deadline.remaining()) {
            self.session.screen.warning(&text);
        }
    }

    fn tell_waiting(&self) {
        if let (Some(conflict), Wish::Wait { .. }) = (&self.held, self.wish) {
            let project = self.project();
            let ahead = LineAhead::in_conflict(project, conflict);
            self.session.screen.waiting(project, ahead.as_ref(), &PlaceInLine::behind(project, conflict));
        }
    }

    async fn preempt(&mut self, target: DeploymentId, ticket: DeploymentId) -> Observation {
        let actor = actor(self.args, self.session.ci.as_ref());
        let by = actor.as_ref().map(|actor| format!(" by {actor}")).unwrap_or_default();
        let body = CancelBody { superseded_by: Some(ticket.into()), reason: Some(format!("superseded{by}")), actor };
        let session = self.session;
        let holder = self.held.as_ref().and_then(|held| held.blocker.as_ref());
        let holder = holder.filter(|holder| holder.deployment_id == target);
        let holder =
            holder.map_or_else(|| format!("deployment {target}"), |holder| named(&holder.mention(self.project())));
        match session.connection.cancel(self.project(), &target.into(), &body).await {
            Ok(_) => {
                session.screen.line(&format!("asked {holder} to make way for {}", self.name_of(ticket)));
                Observation::Preempted { ticket }
            }
            // Whatever the reason, the place in line is still ours: `turn` tells if it is not.
            Err(Fault::Refused(refusal)) => {
                session.screen.warning(&format!("{holder} is not cancelled: {}; waiting for it", refusal.message));
                Observation::PreemptRefused { ticket }
            }
            Err(fault) => Observation::Faulted(fault),
        }
    }

    async fn await_turn(&mut self, ticket: DeploymentId) -> Observation {
        let place = self.held.as_ref().and_then(|held| held.queue_position).unwrap_or(1);
        let window = Duration::from_secs(place.clamp(*TURN_WINDOW_SECONDS.start(), *TURN_WINDOW_SECONDS.end()));
        let window = window.min(self.deadline.remaining()).max(Duration::from_secs(1));
        let session = self.session;
        let turn = tokio::select! {
            turn = session.connection.turn(self.project(), ticket, window) => turn,
            by = self.overtaken(ticket) => return Observation::Overtaken { id: ticket, by },
            never = self.watch_line(ticket, session.screen.is_live()) => match never {},
        };
        match turn {
            Ok(Turn::Come(deployment)) => {
                session.screen.waited();
                Observation::TurnCame(deployment)
            }
            Ok(Turn::Still { deployment, conflict }) => {
                // Who holds the slot may have changed since the conflict.
                self.held = conflict.or_else(|| self.held.take());
                if let Some(held) = &mut self.held {
                    held.hold.clone_from(&deployment.hold);
                    held.queue_position = Some(deployment.queue_position);
                    held.expected_start = deployment.expected_start;
                    held.start_unknown.clone_from(&deployment.start_unknown);
                }
                self.tell_waiting();
                tokio::time::sleep(TURN_PAUSE).await;
                Observation::StillWaiting { ticket, holder: self.held.as_ref().and_then(|held| held.holder_id()) }
            }
            Err(Fault::Refused(refusal)) => Observation::Refused(refusal),
            Err(fault) => Observation::Faulted(fault),
        }
    }

    async fn follow(&self, id: DeploymentId) -> Observation {
        let session = self.session;
        let project = self.project();
        let mut follower =
            Follower { connection: &session.connection, project, id, limits: FollowLimits::default(), after: 0 };
        let mut show = |update| session.screen.update(project, &update);
        let ended = tokio::select! {
            ended = follower.follow(how(self.args.submit.follow), &mut show) => ended,
            by = self.overtaken(id) => return Observation::Overtaken { id, by },
            never = self.watch_line(id, self.wish == Wish::Queue) => match never {},
            never = session.screen.break_silence() => match never {},
        };
        match ended {
            Ok(deployment) => Observation::Ended(Box::new(deployment)),
            Err(Fault::Refused(refusal)) => Observation::Refused(refusal),
            Err(fault) => Observation::Faulted(fault),
        }
    }

    /// The newer deployment that supersedes ours when it starts, as soon as there is one. Waits for ever without
    /// `--leave-when-overtaken`.
    async fn overtaken(&self, id: DeploymentId) -> Mention {
        if !self.args.submit.line.leave_when_overtaken {
            return std::future::pending().await;
        }
        let connection = &self.session.connection;
        loop {
            // A failed call is simply repeated; nothing here is needed for a correct end.
            if let Ok(page) = connection.events(self.project(), id, self.seen_event.get(), END_WINDOW).await {
                self.seen_event.set(page.last);
                if page.r#final {
                    // Whoever waits for its turn hears of its end.
                    return std::future::pending().await;
                }
                let is_told = page.events.iter().any(|event| event.get("willBeSupersededBy").is_some());
                // The newer one may have left the line since that was told.
                if is_told
                    && let Ok(ours) = connection.deployment(self.project(), &id.into()).await
                    && let Some(by) = ours.overtaker()
                {
                    return by;
                }
            }
            tokio::time::sleep(TURN_PAUSE).await;
        }
    }

    /// Shows who is before us, if that `is_wanted`.
    async fn watch_line(&self, id: DeploymentId, is_wanted: bool) -> std::convert::Infallible {
        let session = self.session;
        let pause = if session.screen.is_live() { LIVE_LINE_PAUSE } else { LINE_PAUSE };
        if is_wanted {
            while self.tell_line(id).await {
                tokio::time::sleep(pause).await;
            }
        }
        std::future::pending().await
    }

    /// Shows who is before us. Returns whether to ask again.
    async fn tell_line(&self, id: DeploymentId) -> bool {
        let session = self.session;
        // A failed call is repeated later; nothing here is needed for a correct end.
        let Ok(view) = session.connection.project(self.project()).await else { return true };
        match (&view.holder, view.line.iter().find(|waiting| waiting.id == id)) {
            (Some(holder), Some(own)) => {
                let ahead = LineAhead::of(holder, view.liveness, view.eta);
                session.screen.waiting(self.project(), Some(&ahead), &PlaceInLine::of(own));
                true
            }
            (None, Some(own)) => {
                session.screen.waiting(self.project(), None, &PlaceInLine::of(own));
                true
            }
            // Whoever has left the line never comes back to it; of a longer line only the front is told.
            (_, None) => view.line_length > view.line.len() as u64,
        }
    }

    /// Cancels our deployment, within a few seconds.
    async fn leave(
        &self,
        id: DeploymentId,
        until_final: bool,
        reason: String,
        stopped: Option<StopReason>,
    ) -> Observation {
        let session = self.session;
        if self.grant.is_some() {
            // Its worker is this process, which ends it by itself.
            return Observation::Left(None);
        }
        if until_final {
            session.screen.line(&format!("cancelling {}: {reason}", self.name_of(id)));
        }
        let body = CancelBody { superseded_by: None, reason: Some(reason), actor: None };
        let cancelled =
            tokio::time::timeout(LEAVE_LIMIT, session.connection.cancel(self.project(), &id.into(), &body)).await;
        let deployment = match cancelled {
            Ok(Ok((deployment, _))) => deployment,
            Ok(Err(fault)) => {
                session.screen.warning(&format!("{} could not be cancelled: {fault}", self.name_of(id)));
                return Observation::Left(None);
            }
            Err(_) => {
                session.screen.warning(&format!("{} could not be cancelled in time", self.name_of(id)));
                return Observation::Left(None);
            }
        };
        if deployment.status.is_final() || !until_final {
            return Observation::Left(Some(Box::new(deployment)));
        }
        let limit = match stopped {
            Some(StopReason::Deadline) => END_LIMIT,
            Some(StopReason::Signal) | None => LEAVE_LIMIT,
        };
        let end = tokio::time::timeout(limit, self.end(id)).await.ok().flatten();
        Observation::Left(Some(end.unwrap_or(Box::new(deployment))))
    }

    async fn end(&self, id: DeploymentId) -> Option<Box<Deployment>> {
        loop {
            match self.session.connection.completion(self.project(), id, END_WINDOW).await {
                Ok(Completion::Final(deployment)) => return Some(deployment),
                Ok(Completion::Still(_)) => tokio::time::sleep(TURN_PAUSE).await,
                Err(_) => return None,
            }
        }
    }

    /// Our deployment's name, for people.
    fn name_of(&self, id: DeploymentId) -> String {
        wire::name(self.project(), self.number, id)
    }

    fn project(&self) -> &ProjectName {
        &self.args.target.project
    }
}

pub fn wish(args: &DeployArgs) -> Wish {
    match args.submit.on_conflict {
        WhenHeld::Fail => Wish::Fail { detach: args.submit.detach },
        WhenHeld::Wait | WhenHeld::Queue if args.submit.detach => Wish::Detach,
        WhenHeld::Wait => Wish::Wait { preempt: args.submit.line.cancel_in_progress_deployment },
        WhenHeld::Queue => Wish::Queue,
    }
}

fn how(mode: FollowMode) -> How {
    match mode {
        FollowMode::Auto => How::Auto,
        FollowMode::Sse => How::Stream,
        FollowMode::Poll => How::Polls,
        FollowMode::None => How::EndOnly,
    }
}

/// The request: flags first, then values from the CI.
pub fn request(args: &DeployArgs, wish: Wish, ci: Option<&CiRun>) -> Result<SubmitRequest, Failure> {
    let inputs = args.inputs().map_err(|name| Failure::new(Exit::Usage, format!("--input {name} is given twice")))?;
    if args.submit.line.cancel_in_progress_deployment && args.submit.on_conflict != WhenHeld::Wait {
        return Err(Failure::new(Exit::Usage, "--cancel-in-progress-deployment waits for the slot")
            .hint("leave --on-conflict out, or the other flag"));
    }
    if args.submit.line.leave_when_overtaken && args.submit.on_conflict == WhenHeld::Fail {
        return Err(Failure::new(Exit::Usage, "--leave-when-overtaken is for a deployment that waits in line")
            .hint("leave --on-conflict out, or the other flag"));
    }
    let source = &args.source;
    // A redeploy takes its source from the earlier deployment; this job adds only its actor and its page.
    let source_ci = if args.retry_of.is_some() { None } else { ci };
    let from_ci = |ci: Option<&CiRun>, flag: &Option<String>, ci_says: fn(&CiRun) -> &Option<String>| {
        flag.clone().or_else(|| ci.and_then(|ci| ci_says(ci).clone()))
    };
    let order = if source.no_order { None } else { source.order.or(source_ci.and_then(|ci| ci.order)) };
    Ok(SubmitRequest {
        pipeline: args.pipeline.clone(),
        ref_name: from_ci(source_ci, &source.ref_name, |ci| &ci.ref_name),
        commit: from_ci(source_ci, &source.commit, |ci| &ci.commit),
        message: from_ci(source_ci, &source.origin.message, |ci| &ci.message),
        actor: actor(args, ci),
        url: from_ci(ci, &source.origin.url, |ci| &ci.url),
        order,
        inputs,
        on_conflict: match wish {
            Wish::Wait { .. } => OnConflict::Wait,
            Wish::Queue | Wish::Detach => OnConflict::Queue,
            Wish::Fail { .. } => OnConflict::Refuse,
        },
        // The whole `--timeout`, not the rest of it: a repeated step must send the same request.
        deadline_seconds: Some(args.submit.line.timeout.as_secs()),
        rollback: args.rollback,
        override_pause: args.submit.line.override_pause,
        resume: args.submit.line.resume,
        retry_of: args.retry_of.clone(),
        // Known once it is packed.
        artifact: None,
        // `run` claims the slot for itself.
        executor: RunBy::Worker,
        claim: false,
        lease_seconds: None,
    })
}

fn actor(args: &DeployArgs, ci: Option<&CiRun>) -> Option<String> {
    args.source.origin.actor.clone().or_else(|| actor_of(ci))
}
