//! Every change of a deployment, decided by one pure function.
//!
//! `Deployment::step` takes a command and answers the deployment as it is afterwards, with the events that tell of it, or
//! refuses. A [`Step`] cannot be made anywhere else, and a store can only record one.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    bounds,
    command::{Command, Lapse, Refusal, Report, Verdict, Vital},
    deployment::{
        CancelCause, CancelRequest, Deployment, FailureCause, LogAccount, Outcome, Place, Spec, State, Status,
    },
    event::{Event, EventBody},
    hold::Hold,
    identity::Party,
    ids::{DeploymentId, ProjectName, Revision},
    lease::{Lease, LeaseHolder, SecretHash},
    mention::Mention,
    phase::{PhaseState, Stream},
    rollbacks::Rollbacks,
};

/// Output that is kept from the beginning of a deployment, in bytes of text: 2 MiB hold the set-up of most builds.
pub const LOG_HEAD_LIMIT: u64 = 2 << 20;
/// Output that is kept from the end of a deployment, in bytes of text: where the reason for a failure stands.
pub const LOG_TAIL_LIMIT: u64 = 6 << 20;

/// A deployment with this many events gets no more events of its work. A day of output, line by line, makes this many.
pub const EVENTS_LIMIT: u64 = 1_000_000;
/// The last text of such a deployment before its end.
const EVENTS_FULL: &str = "this deployment has 1,000,000 events; more output, phases and progress are not kept";

/// One accepted change, ready to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a step that is not recorded did not happen"]
pub struct Step {
    after: Deployment,
    events: Vec<Event>,
    created: bool,
    stirs: bool,
    is_put_ahead: bool,
    trim: Option<LogTrim>,
}

/// Output that is no longer kept: log events after `after_seq` whose text ended at or before `up_to_bytes` of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTrim {
    /// The end of the head.
    pub after_seq: u64,
    /// The begin of the tail, in bytes of all output.
    pub up_to_bytes: u64,
}

impl Step {
    /// The deployment as it is afterwards.
    pub fn deployment(&self) -> &Deployment {
        &self.after
    }

    /// The events that tell of it, in order.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether the deployment did not exist before.
    pub fn is_creation(&self) -> bool {
        self.created
    }

    /// The events, each with the amount of output at that moment, its own included: [`LogTrim`] cuts by this amount.
    pub fn events_with_log_end(&self) -> impl Iterator<Item = (&Event, u64)> {
        let written: u64 = self.events.iter().map(|event| event.body.log_bytes()).sum();
        self.events.iter().scan(self.after.logs.total_bytes - written, |log_end, event| {
            *log_end += event.body.log_bytes();
            Some((event, *log_end))
        })
    }

    /// Whether its place in line was set.
    pub fn is_put_ahead(&self) -> bool {
        self.is_put_ahead
    }

    /// Output to cut.
    pub fn trim(&self) -> Option<LogTrim> {
        self.trim
    }

    /// Whether it changed the deployment's state, or asked its worker to stop: parked polls wait for these. Output and
    /// signs of life are neither.
    pub fn is_state_change(&self) -> bool {
        self.stirs
    }
}

/// The moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// For display only.
    pub now: Timestamp,
    /// The revision that a slot change takes.
    pub revision: Revision,
}

/// How a deployment enters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it is made once for each submit, and used at once")]
pub enum Entry {
    /// The slot is free: it holds it at once.
    Ready,
    /// It waits.
    Waiting {
        /// How.
        place: Place,
        /// How many are served before it, itself included.
        position: u64,
        /// The deployment that holds the slot; `None` where the slot is free and the newcomer is held.
        blocker: Option<Mention>,
        /// Its rank, where it is put before older ones.
        rank: Option<i64>,
        /// The newer deployment ahead of it that supersedes it when the newer one starts.
        overtaker: Option<Mention>,
        /// What holds it.
        hold: Option<Hold>,
    },
}

/// The first step of a deployment.
pub(super) fn create(
    id: DeploymentId,
    project: ProjectName,
    number: u64,
    spec: Spec,
    entry: Entry,
    at: Moment,
) -> Step {
    let (state, line_rank, queue) = match entry {
        Entry::Ready => (State::Ready, None, at_the_slot()),
        Entry::Waiting { place, position, blocker, rank, overtaker, hold } => {
            (State::Waiting(place), rank, EventBody::held(position, blocker, overtaker, hold))
        }
    };
    let after = Deployment {
        id,
        project,
        number,
        spec,
        state,
        ticket: at.revision,
        line_rank,
        revision: at.revision,
        pulse: 0,
        progress: 0,
        message: None,
        phase: None,
        outputs: BTreeMap::new(),
        rollbacks: None,
        cancel: None,
        released_by: None,
        event_count: 0,
        report_count: 0,
        logs: LogAccount::default(),
        created_at: at.now,
        started_at: None,
        last_heartbeat_at: None,
    };
    let mut draft = Draft::of(after, at);
    draft.tell(EventBody::Status { status: Status::Pending });
    draft.tell(queue);
    Step { created: true, stirs: true, is_put_ahead: line_rank.is_some(), ..draft.step() }
}

/// The event of a deployment that holds the slot.
fn at_the_slot() -> EventBody {
    EventBody::queue(0, None, None)
}

impl Deployment {
    /// The values that an observer compares to detect silence.
    pub fn vital(&self) -> Vital {
        Vital { revision: self.revision, pulse: self.pulse }
    }

    /// The deployment after `command`, or why nothing changes.
    ///
    /// # Errors
    /// A [`Refusal`]: nothing changed, and nothing will if it is tried again.
    pub fn step(&self, command: Command, at: Moment) -> Result<Step, Refusal> {
        let mut draft = Draft::of(self.clone(), at);
        match command {
            Command::Promote => draft.promote()?,
            Command::PutAhead { rank, position, blocker } => draft.put_ahead(rank, position, blocker)?,
            Command::Overtaken { position, blocker, by } => draft.overtaken(position, blocker, by)?,
            Command::Attend { window } => draft.attend(window)?,
            Command::TakeUp => match self.state {
                State::Reserved => draft.enter(State::Ready),
                State::Finished { .. } => return Err(Refusal::Final),
                State::Waiting(_) | State::Ready | State::Running(_) => return Err(Refusal::WrongState),
            },
            Command::TakeBack { position, hold } => draft.take_back(position, hold)?,
            Command::Claim { secret, ttl, holder } => draft.claim(secret, ttl, holder)?,
            Command::Postpone { why } => draft.postpone(why)?,
            Command::Heartbeat { secret } => {
                draft.require_lease(secret)?;
                draft.heard();
            }
            Command::Report { secret, first, reports } => {
                draft.require_lease(secret)?;
                let known_count = draft.known_reports(first)?;
                reports.into_iter().skip(known_count).for_each(|report| draft.report(report));
                draft.require_outputs(&self.outputs)?;
                draft.trim_logs();
            }
            Command::Cancel { reason, superseded_by, by } => draft.cancel(reason, superseded_by, by)?,
            Command::Finish { secret, verdict } => {
                draft.require_lease(secret)?;
                draft.finish(verdict);
                draft.require_outputs(&self.outputs)?;
            }
            Command::Lapse { seen, cause } => draft.lapse(seen, cause)?,
            Command::Unclaimed { seen, absence } => draft.unclaimed(seen, &absence)?,
            Command::Release { reason, by } => draft.release(&reason, by)?,
        }
        Ok(draft.step())
    }
}

/// A deployment that is being changed.
struct Draft {
    after: Deployment,
    at: Moment,
    events: Vec<Event>,
    stirs: bool,
    is_put_ahead: bool,
    trim: Option<LogTrim>,
}

impl Draft {
    fn of(after: Deployment, at: Moment) -> Self {
        Draft { after, at, events: Vec::new(), stirs: false, is_put_ahead: false, trim: None }
    }

    fn step(self) -> Step {
        let Draft { after, at: _, events, stirs, is_put_ahead, trim } = self;
        Step { after, events, created: false, stirs, is_put_ahead, trim }
    }

    fn tell(&mut self, body: EventBody) {
        self.after.event_count += 1;
        self.events.push(Event { seq: self.after.event_count, at: self.at.now, body });
    }

    /// Moves to a state that holds the slot, or waits for it.
    fn enter(&mut self, state: State) {
        self.after.state = state;
        self.after.revision = self.at.revision;
        self.stirs = true;
    }

    fn end(&mut self, outcome: Outcome) {
        let lease = self.after.lease().cloned();
        let status = outcome.status();
        if self.after.started_at.is_none() {
            self.after.message = None;
        }
        self.enter(State::Finished { outcome, at: self.at.now, lease });
        self.tell(EventBody::Status { status });
        self.tell(EventBody::Complete);
    }

    fn promote(&mut self) -> Result<(), Refusal> {
        let state = match self.after.state {
            State::Waiting(Place::Ticket { .. }) => State::Reserved,
            State::Waiting(Place::Queued) => State::Ready,
            State::Finished { .. } => return Err(Refusal::Final),
            State::Reserved | State::Ready | State::Running(_) => return Err(Refusal::WrongState),
        };
        self.enter(state);
        self.tell(at_the_slot());
        Ok(())
    }

    fn put_ahead(&mut self, rank: i64, position: u64, blocker: Option<Mention>) -> Result<(), Refusal> {
        match self.after.state {
            State::Waiting(_) | State::Reserved | State::Ready => {}
            State::Finished { .. } => return Err(Refusal::Final),
            State::Running(_) => return Err(Refusal::WrongState),
        }
        self.after.line_rank = Some(rank);
        self.after.revision = self.at.revision;
        self.stirs = true;
        self.is_put_ahead = true;
        self.tell(EventBody::queue(position, blocker, None));
        Ok(())
    }

    fn overtaken(&mut self, position: u64, blocker: Option<Mention>, by: Mention) -> Result<(), Refusal> {
        match self.after.state {
            State::Waiting(_) => {}
            State::Finished { .. } => return Err(Refusal::Final),
            State::Reserved | State::Ready | State::Running(_) => return Err(Refusal::WrongState),
        }
        self.tell(EventBody::queue(position, blocker, Some(by)));
        Ok(())
    }

    fn attend(&mut self, window: Duration) -> Result<(), Refusal> {
        match &mut self.after.state {
            State::Waiting(Place::Ticket { window: current }) => *current = window,
            State::Finished { .. } => return Err(Refusal::Final),
            // Queued deployments, and those that have the slot already, have no client that must poll.
            State::Waiting(Place::Queued) | State::Reserved | State::Ready | State::Running(_) => {
                return Err(Refusal::WrongState);
            }
        }
        self.after.pulse += 1;
        Ok(())
    }

    /// A ticket is a ticket again, whose client must poll. A deployment that waits for a worker has no client that must
    /// poll, so it is queued.
    fn take_back(&mut self, position: u64, hold: Hold) -> Result<(), Refusal> {
        let place = match self.after.state {
            State::Reserved => Place::Ticket { window: Duration::ZERO },
            State::Ready => Place::Queued,
            State::Finished { .. } => return Err(Refusal::Final),
            State::Waiting(_) | State::Running(_) => return Err(Refusal::WrongState),
        };
        // The message said what it waited for, and it waits for something else now.
        self.after.message = None;
        self.enter(State::Waiting(place));
        self.tell(EventBody::held(position, None, None, Some(hold)));
        Ok(())
    }

    fn claim(&mut self, secret: SecretHash, ttl: Duration, holder: LeaseHolder) -> Result<(), Refusal> {
        match self.after.state {
            State::Ready => {}
            State::Finished { .. } => return Err(Refusal::Final),
            State::Waiting(_) | State::Reserved | State::Running(_) => return Err(Refusal::WrongState),
        }
        self.enter(State::Running(Lease { secret, fencing_token: self.at.revision, ttl, holder }));
        self.after.started_at = Some(self.at.now);
        // The message said what it waited for, and that wait is over.
        self.after.message = None;
        self.heard();
        self.tell(EventBody::Status { status: Status::Running });
        Ok(())
    }

    /// A sign of life: the deployment is not taken for unclaimed. Where several workers have no free place, the first
    /// one's message stands: it is told once.
    fn postpone(&mut self, why: String) -> Result<(), Refusal> {
        match self.after.state {
            State::Ready => {}
            State::Finished { .. } => return Err(Refusal::Final),
            State::Waiting(_) | State::Reserved | State::Running(_) => return Err(Refusal::WrongState),
        }
        self.after.pulse += 1;
        if self.after.message.is_none() {
            self.after.message = Some(why);
            let message = self.after.message.clone();
            self.tell(EventBody::Progress { status: Status::Pending, progress: self.after.progress, message });
        }
        Ok(())
    }

    fn require_lease(&self, secret: SecretHash) -> Result<(), Refusal> {
        match &self.after.state {
            State::Running(lease) if lease.secret == secret => Ok(()),
            State::Waiting(_) | State::Reserved | State::Ready | State::Running(_) | State::Finished { .. } => {
                Err(Refusal::LeaseLost)
            }
        }
    }

    fn heard(&mut self) {
        self.after.pulse += 1;
        self.after.last_heartbeat_at = Some(self.at.now);
    }

    /// How many of the reports that begin with number `first` are recorded already.
    fn known_reports(&self, first: Option<u64>) -> Result<usize, Refusal> {
        let next = self.after.report_count + 1;
        match first {
            Some(first) if first > next => Err(Refusal::ReportGap { last: self.after.report_count }),
            Some(first) => Ok(usize::try_from(next - first).unwrap_or(usize::MAX)),
            None => Ok(0),
        }
    }

    /// Fails where the outputs grew beyond their limit. Outputs of an older version may be beyond it, but do not grow.
    fn require_outputs(&self, before: &BTreeMap<String, String>) -> Result<(), Refusal> {
        let after = &self.after.outputs;
        let has_grown = after.len() > before.len() || bounds::size(after) > bounds::size(before);
        if has_grown && !bounds::outputs_fit(after) { Err(Refusal::OutputsFull) } else { Ok(()) }
    }

    fn report(&mut self, report: Report) {
        self.after.report_count += 1;
        match report {
            Report::Phase { name, state, message } => {
                if matches!(state, PhaseState::Started | PhaseState::RollingBack) {
                    self.after.phase = Some(name.clone());
                    // The message was about the phase before, which is over.
                    self.after.message = None;
                }
                self.after.rollbacks = Rollbacks::after(self.after.rollbacks.take(), &name, state, message.as_deref());
                self.tell_of_work(EventBody::Phase { name, state, message });
            }
            Report::Progress { progress, message } => {
                self.after.progress = self.after.progress.max(progress.unwrap_or(0).min(100));
                if message.is_some() {
                    self.after.message = message;
                }
                let (progress, message) = (self.after.progress, self.after.message.clone());
                self.tell_of_work(EventBody::Progress { status: Status::Running, progress, message });
            }
            Report::Output { name, value } => self.output(name, value),
            // An event without a line would never be cut, however many there are.
            Report::Log { lines, .. } if lines.is_empty() => {}
            Report::Log { stream, phase, lines } => self.tell_of_work(EventBody::Log { stream, phase, lines }),
        }
    }

    /// Adds an event of the worker's work, up to the limit of events. The deployment itself is updated in any case.
    fn tell_of_work(&mut self, body: EventBody) {
        let body = match self.after.event_count.cmp(&EVENTS_LIMIT) {
            Ordering::Less => body,
            Ordering::Equal => {
                EventBody::Log { stream: Stream::Stderr, phase: None, lines: vec![EVENTS_FULL.to_owned()] }
            }
            Ordering::Greater => return,
        };
        let is_log = body.is_log();
        self.after.logs.total_bytes += body.log_bytes();
        self.tell(body);
        if is_log && self.after.logs.total_bytes <= LOG_HEAD_LIMIT {
            self.after.logs.head_end_seq = self.after.event_count;
        }
    }

    /// An output is told at once, where it is news, because a deployment that fails later has produced it all the same.
    fn output(&mut self, name: String, value: String) {
        if self.after.outputs.get(&name) != Some(&value) {
            self.after.outputs.insert(name.clone(), value.clone());
            self.tell_of_work(EventBody::Output { name, value });
        }
    }

    /// Cuts the middle of the output once it has outgrown head and tail by 25 % of the tail, so that cutting is rare.
    fn trim_logs(&mut self) {
        let logs = &mut self.after.logs;
        let kept = LOG_HEAD_LIMIT + LOG_TAIL_LIMIT;
        if logs.total_bytes > kept && logs.total_bytes >= logs.trimmed_at_bytes + LOG_TAIL_LIMIT / 4 {
            logs.trimmed_at_bytes = logs.total_bytes;
            self.trim = Some(LogTrim { after_seq: logs.head_end_seq, up_to_bytes: logs.total_bytes - LOG_TAIL_LIMIT });
        }
    }

    fn cancel(
        &mut self,
        reason: Option<String>,
        superseded_by: Option<Mention>,
        by: Option<Party>,
    ) -> Result<(), Refusal> {
        let request = CancelRequest { at: self.at.now, reason, superseded_by: superseded_by.clone(), by };
        let told = EventBody::cancel(request.reason.clone(), superseded_by.clone(), request.by.clone());
        match self.after.state {
            State::Finished { .. } => return Err(Refusal::Final),
            State::Running(_) => {
                // The first request stands, but a request without a successor may still get one.
                let known = self.after.cancel.as_ref().map(|cancel| cancel.superseded_by.is_some());
                if known.is_some_and(|has_successor| has_successor || superseded_by.is_none()) {
                    return Err(Refusal::WrongState);
                }
                self.after.cancel = Some(match self.after.cancel.take() {
                    Some(first) => CancelRequest { superseded_by, ..first },
                    None => request,
                });
                self.stirs = true;
                self.tell(told);
            }
            State::Waiting(_) | State::Reserved | State::Ready => {
                self.after.cancel = Some(request);
                self.tell(told);
                self.end_cancelled();
            }
        }
        Ok(())
    }

    /// Ends as the cancel request says.
    fn end_cancelled(&mut self) {
        let (cause, message) = match &self.after.cancel {
            Some(CancelRequest { superseded_by: Some(by), .. }) => {
                (CancelCause::Superseded { by: by.id }, format!("superseded by {by}"))
            }
            Some(CancelRequest { reason: Some(reason), .. }) => {
                (CancelCause::Requested, format!("cancelled: {reason}"))
            }
            Some(_) => (CancelCause::Requested, "cancelled".to_owned()),
            None => (CancelCause::Requested, "stopped by its own worker".to_owned()),
        };
        self.end(Outcome::Cancelled { cause, message });
    }

    fn finish(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Succeeded { outputs } => {
                outputs.into_iter().for_each(|(name, value)| self.output(name, value));
                self.after.progress = 100;
                self.end(Outcome::Succeeded);
            }
            Verdict::Failed { cause, message, phase } => self.end(Outcome::Failed { cause, message, phase }),
            Verdict::Stopped => self.end_cancelled(),
        }
    }

    fn lapse(&mut self, seen: Vital, cause: Lapse) -> Result<(), Refusal> {
        if self.after.vital() != seen && cause != Lapse::Deadline {
            return Err(Refusal::Alive);
        }
        let abandoned =
            |message: &str| Outcome::Cancelled { cause: CancelCause::Abandoned, message: message.to_owned() };
        let lost = |message: String, phase: Option<String>| Outcome::Failed {
            cause: FailureCause::WorkerLost,
            message,
            phase,
        };
        let outcome = match (&self.after.state, cause) {
            (State::Finished { .. }, _) => return Err(Refusal::Final),
            (State::Waiting(_), Lapse::Deadline) => Outcome::Cancelled {
                cause: CancelCause::Expired,
                message: "its deadline passed before its turn came".to_owned(),
            },
            (State::Waiting(Place::Ticket { .. }), Lapse::Silence) => abandoned("its client stopped polling"),
            (State::Reserved, Lapse::Silence) => abandoned("its client did not come back for the slot"),
            (State::Ready, Lapse::Silence) => {
                Outcome::Failed { cause: FailureCause::Unclaimed, message: "no worker took it".to_owned(), phase: None }
            }
            (State::Running(lease), Lapse::Silence) => {
                lost(format!("its worker {} fell silent", lease.holder.worker_name()), self.after.phase.clone())
            }
            (State::Running(lease), Lapse::WorkerGone) => lost(
                format!("its worker {} ended before it was done", lease.holder.worker_name()),
                self.after.phase.clone(),
            ),
            (State::Waiting(Place::Queued), Lapse::Silence)
            | (State::Reserved | State::Ready | State::Running(_), Lapse::Deadline)
            | (State::Waiting(_) | State::Reserved | State::Ready, Lapse::WorkerGone) => {
                return Err(Refusal::WrongState);
            }
        };
        self.end(outcome);
        Ok(())
    }

    fn unclaimed(&mut self, seen: Vital, absence: &str) -> Result<(), Refusal> {
        match self.after.state {
            State::Ready if self.after.vital() == seen => {}
            State::Finished { .. } => return Err(Refusal::Final),
            // A worker has taken it since, or has said that it will.
            State::Ready | State::Waiting(_) | State::Reserved | State::Running(_) => return Err(Refusal::Alive),
        }
        let message = format!("no worker took it: {absence}");
        self.end(Outcome::Failed { cause: FailureCause::Unclaimed, message, phase: None });
        Ok(())
    }

    fn release(&mut self, reason: &str, by: Option<Party>) -> Result<(), Refusal> {
        let operator = by.as_ref().map_or_else(|| "an operator".to_owned(), Party::to_string);
        let message = format!("released by {operator}: {reason}");
        let outcome = match self.after.state {
            State::Running(_) => {
                Outcome::Failed { cause: FailureCause::Released, message, phase: self.after.phase.clone() }
            }
            State::Reserved | State::Ready => Outcome::Cancelled { cause: CancelCause::Released, message },
            State::Waiting(_) => return Err(Refusal::WrongState),
            State::Finished { .. } => return Err(Refusal::Final),
        };
        self.after.released_by = by;
        self.end(outcome);
        Ok(())
    }
}
