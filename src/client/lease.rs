//! A lease that is kept over HTTP: heartbeats renew it and bring a cancel at once, reports tell how far the work is, and
//! `finish` ends it. `run` and agents keep theirs here.
//!
//! The lease is trusted until its deadline: boot time when the last heartbeat that was answered was *sent*, plus the
//! lease's length. The server waits longer than that before it frees the slot, so a server that restarts, or a cut
//! network, is ridden out until then without the work noticing.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};

use super::calls::{Connection, Fault, Worker};
use crate::{
    clock::{BootInstant, Clock},
    exec::Stop,
    model::{DeploymentId, ProjectName, Report, Status},
    wire::{ErrorCode, FinishError, FinishRequest, Lease, ReportsRequest},
};

/// How many heartbeats there are in a lease: five may be lost.
const BEATS: u32 = 6;
/// The longest pause between attempts while the server does not answer.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);
/// The first pause after an attempt that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// How long everything may take to stop before the lease is over, unless the lease is short.
const KILL_BUDGET: Duration = Duration::from_secs(10);
/// How many reports wait for the server; what comes on top waits in the outbox, which cuts lines.
pub const REPORT_QUEUE_LIMIT: usize = 64;
/// How much text goes into one call: well below what a server takes, and enough for 100 MiB/s on a slow link.
const BATCH_BYTES_LIMIT: usize = 1 << 20;
/// How long the last reports may hold up the end: a server that is there takes them in much less.
const LAST_REPORTS_LIMIT: Duration = Duration::from_secs(10);

/// Keeps one lease.
pub struct Keeper<'a> {
    connection: &'a Connection,
    clock: Arc<dyn Clock>,
    project: &'a ProjectName,
    id: DeploymentId,
    secret: String,
    ttl: Duration,
    stop: watch::Sender<Option<Stop>>,
    deadline: watch::Sender<BootInstant>,
    reason: watch::Sender<Option<String>>,
}

/// What became of the work, as it is told to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it should.
    Succeeded,
    /// It failed.
    Failed {
        /// One of the protocol's codes.
        code: String,
        /// For people.
        message: String,
        /// Where it happened.
        phase: Option<String>,
    },
    /// It was stopped.
    Cancelled,
}

/// How telling the end went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The server knows it.
    Recorded,
    /// The lease was over before the server knew it; what the server says of the deployment holds.
    TooLate,
}

impl<'a> Keeper<'a> {
    /// Keeps this lease; `sent_at` is when the call that brought it was sent.
    pub fn new(
        connection: &'a Connection,
        clock: Arc<dyn Clock>,
        project: &'a ProjectName,
        id: DeploymentId,
        lease: Lease,
        sent_at: BootInstant,
    ) -> Self {
        let ttl = Duration::from_secs(lease.ttl_seconds.max(1));
        Keeper {
            connection,
            clock,
            project,
            id,
            secret: lease.secret,
            ttl,
            stop: watch::Sender::new(None),
            deadline: watch::Sender::new(sent_at.after(ttl)),
            reason: watch::Sender::new(None),
        }
    }

    /// Whether, and why, the work should stop.
    pub fn stop(&self) -> watch::Receiver<Option<Stop>> {
        self.stop.subscribe()
    }

    /// Until when the lease is trusted. Whoever owns the processes must end them by then, renewed or not.
    pub fn deadline(&self) -> watch::Receiver<BootInstant> {
        self.deadline.subscribe()
    }

    /// Why the work was cancelled, as far as that was told.
    pub fn reason(&self) -> Option<String> {
        self.reason.borrow().clone()
    }

    /// How long everything may take to stop before the lease is over.
    pub fn kill_budget(&self) -> Duration {
        kill_budget(self.ttl)
    }

    /// Renews the lease and passes on what asks the work to stop, for as long as it is polled.
    pub async fn keep(&self) -> Infallible {
        let beat = self.ttl / BEATS;
        // A heartbeat parks, so that a cancel comes at once; the wire counts whole seconds.
        let window = Duration::from_secs(beat.as_secs().clamp(1, 30));
        // An answer that takes longer counts as lost, so that there is time for another attempt.
        let limit = beat.clamp(Duration::from_millis(500), Duration::from_secs(10));
        let mut pause = FIRST_PAUSE;
        // A command that ends at once costs no heartbeat, unless the claim took long.
        let early = self.deadline.borrow().since(self.clock.boot()) > self.ttl - beat;
        self.pause(if early { FIRST_PAUSE } else { Duration::ZERO }).await;
        loop {
            let sent_at = self.clock.boot();
            let parks = if self.stop.borrow().is_none() { window } else { Duration::ZERO };
            let answer = self.connection.heartbeat(self.worker(), parks, limit);
            let answer = tokio::select! {
                answer = answer => answer,
                never = self.watch_deadline() => match never {},
            };
            match answer {
                Ok(answer) => {
                    self.deadline.send_replace(sent_at.after(self.ttl));
                    if answer.cancel_requested {
                        self.reason.send_replace(answer.reason);
                        Stop::Cancel.ask(&self.stop);
                    }
                    pause = FIRST_PAUSE;
                    // A server that answers at once, parked or not, is not asked without end.
                    let spent = self.clock.boot().since(sent_at);
                    let rest = if parks.is_zero() { beat } else { FIRST_PAUSE };
                    self.pause(rest.saturating_sub(spent)).await;
                }
                Err(Fault::Refused(refusal)) if is_lost(refusal.code) => {
                    let soon = self.clock.boot().after(self.kill_budget());
                    let deadline = (*self.deadline.borrow()).min(soon);
                    Stop::LeaseLost { deadline }.ask(&self.stop);
                    std::future::pending().await
                }
                Err(_) => {
                    self.pause(pause).await;
                    pause = (pause * 2).min(PAUSE_LIMIT);
                }
            }
        }
    }

    /// Tells when the lease could not be renewed in time.
    async fn watch_deadline(&self) -> Infallible {
        loop {
            let deadline = *self.deadline.borrow();
            let left = deadline.since(self.clock.boot().after(self.kill_budget()));
            if left.is_zero() {
                Stop::LeaseLost { deadline }.ask(&self.stop);
                std::future::pending::<()>().await;
            }
            // Timers stand still while a machine sleeps and the boot clock does not.
            sleep(left.min(Duration::from_secs(1))).await;
        }
    }

    async fn pause(&self, length: Duration) {
        tokio::select! {
            () = sleep(length) => {}
            never = self.watch_deadline() => match never {},
        }
    }

    /// Passes reports on until their sender is gone. Each has a number, so that none counts twice, however often a call
    /// is repeated.
    pub async fn report(&self, mut reported: mpsc::Receiver<Report>) {
        let mut first = 1;
        let mut batch = Vec::with_capacity(REPORT_QUEUE_LIMIT);
        while reported.recv_many(&mut batch, REPORT_QUEUE_LIMIT).await > 0 {
            let mut reports: Vec<Report> = std::mem::take(&mut batch);
            while !reports.is_empty() {
                let rest = reports.split_off(fitting(&reports));
                let count = reports.len() as u64;
                let Some(last) = self.send_reports(ReportsRequest { first, reports }).await else { return };
                first = last.unwrap_or(first + count - 1) + 1;
                reports = rest;
            }
        }
    }

    /// Sends until there is an answer; `None` if no answer will come any more.
    async fn send_reports(&self, mut request: ReportsRequest) -> Option<Option<u64>> {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connection.reports(self.worker(), &request).await {
                Ok(answer) => return Some(Some(answer.last)),
                Err(Fault::Refused(refusal)) if is_lost(refusal.code) => return None,
                Err(Fault::Refused(refusal)) => {
                    let last = refusal.body.get("last").and_then(serde_json::Value::as_u64);
                    match last {
                        // The server counts otherwise: its count is the one that goes on.
                        Some(last) if last + 1 != request.first => request.first = last + 1,
                        // What it will not take is dropped, or nothing after it would ever get there: only that one.
                        Some(_) | None if request.reports.len() == 1 => return Some(Some(request.first - 1)),
                        Some(_) | None => {
                            let first = request.first;
                            return self.send_each(first, request.reports).await;
                        }
                    }
                }
                Err(_) => {
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_LIMIT);
                }
            }
        }
    }

    /// Sends each of these by itself, since the server does not take one of them.
    fn send_each(
        &self,
        mut first: u64,
        reports: Vec<Report>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Option<Option<u64>>> + Send + '_>> {
        Box::pin(async move {
            for report in reports {
                let last = self.send_reports(ReportsRequest { first, reports: vec![report] }).await?;
                first = last.unwrap_or(first) + 1;
            }
            Some(Some(first - 1))
        })
    }

    /// Tells how the work ended, until the server has it or the lease is over. `last_reports` is what still tells
    /// reports; it comes first, if it ends in time.
    pub async fn finish(&self, last_reports: impl Future<Output = ()>, outcome: Outcome) -> Told {
        let beating = self.keep();
        let telling = async {
            // A server that is away needs the end more than the last lines.
            let _ = timeout(LAST_REPORTS_LIMIT.min(self.ttl / 2), last_reports).await;
            self.tell_end(outcome).await
        };
        tokio::select! {
            told = telling => told,
            never = beating => match never {},
        }
    }

    /// Tells how the work ended, as [`Keeper::finish`] does, without renewing the lease meanwhile.
    pub async fn tell_end(&self, outcome: Outcome) -> Told {
        let mut request = FinishRequest::from(outcome);
        let mut pause = FIRST_PAUSE;
        loop {
            match self.connection.finish(self.worker(), &request).await {
                Ok(_) => return Told::Recorded,
                // Nothing that it says may hold up that it is over.
                Err(Fault::Refused(refusal)) if !is_lost(refusal.code) && request != request.bare() => {
                    request = request.bare();
                    continue;
                }
                Err(Fault::Refused(_)) => return Told::TooLate,
                Err(_) => {}
            }
            if self.deadline.borrow().since(self.clock.boot()).is_zero() {
                return Told::TooLate;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_LIMIT);
        }
    }

    fn worker(&self) -> Worker<'_> {
        Worker { project: self.project, id: self.id, secret: &self.secret }
    }
}

/// How long everything may take to stop before a lease of this length is over.
pub fn kill_budget(ttl: Duration) -> Duration {
    KILL_BUDGET.min(ttl / 4)
}

impl From<Outcome> for FinishRequest {
    fn from(outcome: Outcome) -> Self {
        let (status, error) = match outcome {
            Outcome::Succeeded => (Status::Succeeded, None),
            Outcome::Failed { code, message, phase } => (Status::Failed, Some(FinishError { code, message, phase })),
            Outcome::Cancelled => (Status::Cancelled, None),
        };
        FinishRequest { status, outputs: BTreeMap::new(), error }
    }
}

/// The deployment is not ours any more, or not at all.
fn is_lost(code: Option<ErrorCode>) -> bool {
    matches!(code, Some(ErrorCode::LeaseLost | ErrorCode::NotFound))
}

/// How many of the reports, one at least, go into one call.
fn fitting(reports: &[Report]) -> usize {
    let mut bytes = 0;
    let size = |report: &Report| match report {
        Report::Log { lines, .. } => lines.iter().map(|line| line.len() + 4).sum::<usize>(),
        Report::Output { value, .. } => value.len(),
        Report::Phase { .. } | Report::Progress { .. } => 64,
    };
    let fits = |report: &&Report| {
        bytes += size(report);
        bytes <= BATCH_BYTES_LIMIT
    };
    reports.iter().take_while(fits).count().max(1)
}
