//! A client that races for a slot with the project's own code: its connection, its pure decisions, its lease keeper.
//! Two parts of `singletrack run` are left out: the command line and the command.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use singletrack::{
    client::{
        calls::{Connection, Credentials, Fault, Patience, Submitted, Turn, Worker},
        lease::HttpLessor,
        resolve::{Action, Ending, Observation, Resolver, Wish},
    },
    clock::{BootInstant, Clock, SystemClock},
    exec::lease::{Keeper, Lost, Times},
    model::{DeploymentId, Eta, IdempotencyKey, ProjectName, Revision, RunBy, Status, Verdict},
    wire::{CancelBody, Lease, OnConflict, SubmitRequest},
};

use crate::{
    server::Server,
    subject::{Locker, Work},
};

/// How long a poll of `turn` is parked: as the client does it.
const TURN_WINDOW: Duration = Duration::from_secs(10);

/// What a client did on the wire.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub submits: u64,
    /// 409s that named a holder.
    pub conflicts: u64,
    pub polls: u64,
    pub cancels: u64,
    /// Calls that had to be tried again, with the reason of the last one.
    pub retries: u64,
    pub last_trouble: Option<String>,
    /// When its own start was expected, as it was told: at which moment, and how long from then.
    pub starts: Vec<(Instant, Eta)>,
}

/// What a client did so far, to be read by others.
#[derive(Clone, Default)]
pub struct Tallied(Arc<Mutex<Tally>>);

impl Tallied {
    pub fn read(&self) -> Tally {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// One client.
pub struct Racer {
    connection: Connection,
    clock: Arc<dyn Clock>,
    actor: String,
    held: Option<Grant>,
    tallied: Tallied,
    turn_window: Duration,
}

/// A slot that is this client's own.
#[derive(Clone, Debug)]
pub struct Grant {
    pub project: ProjectName,
    pub id: DeploymentId,
    pub lease: Lease,
    /// When the submit that brought it was sent.
    sent_at: BootInstant,
}

impl Grant {
    pub fn token(&self) -> Revision {
        self.lease.fencing_token
    }
}

/// How a try to get the slot ended.
#[derive(Debug)]
pub enum Taken {
    Got(Grant),
    /// Held by another, and waiting was not wished for.
    Blocked,
    /// The place in line was lost: cancelled, superseded, abandoned.
    Lost(String),
    Refused(String),
}

impl Taken {
    /// The slot; whatever else it is, is an error.
    pub fn grant(self) -> Result<Grant> {
        match self {
            Taken::Got(grant) => Ok(grant),
            Taken::Blocked => bail!("the slot was held"),
            Taken::Lost(code) => bail!("the place in line was lost: {code}"),
            Taken::Refused(why) => bail!("the submit was refused: {why}"),
        }
    }
}

/// How a hold ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    Succeeded,
    /// It was asked to stop, and did.
    Cancelled,
    /// The lease was over before the end was told.
    TooLate,
}

impl Racer {
    pub fn connect(server: &Server, number: usize) -> Result<Racer> {
        let tallied = Tallied::default();
        let heard = tallied.clone();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let notice = Box::new(move |text: &str| {
            heard.count(|tally| {
                tally.retries += 1;
                tally.last_trouble = Some(text.to_owned());
            });
        });
        let connection = Connection::new(
            server.url().parse()?,
            Credentials::default(),
            None,
            Patience::DEADLINE,
            notice,
            clock.clone(),
        )
        .map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Racer { connection, clock, actor: format!("racer-{number}"), held: None, tallied, turn_window: TURN_WINDOW })
    }

    /// The same, which asks for its turn as often as this.
    #[must_use]
    pub fn asking_every(self, turn_window: Duration) -> Racer {
        Racer { turn_window, ..self }
    }

    /// What it does, while it does it.
    pub fn tallied(&self) -> Tallied {
        self.tallied.clone()
    }

    /// From the first submit to the slot, or to whatever keeps this client from it.
    pub async fn compete(&mut self, slot: &str, wish: Wish) -> Result<Taken> {
        let project: ProjectName = slot.parse()?;
        let on_conflict = match wish {
            Wish::Wait { .. } => OnConflict::Wait,
            Wish::Queue | Wish::Detach => OnConflict::Queue,
            Wish::Fail { .. } => OnConflict::Refuse,
        };
        let request = SubmitRequest {
            actor: Some(self.actor.clone()),
            ref_name: Some("main".to_owned()),
            executor: RunBy::Submitter,
            claim: true,
            lease_seconds: Some(60),
            on_conflict,
            ..SubmitRequest::default()
        };
        let body = serde_json::to_vec(&request)?;
        let key: IdempotencyKey = format!("load-{}", uuid::Uuid::now_v7().simple()).parse()?;
        let mut grant = None;
        let (mut resolver, mut action) = Resolver::new(wish, None);
        loop {
            let seen = match &action {
                Action::Submit => self.submit(&project, &key, &body, &mut grant).await,
                Action::Preempt { target, ticket } => self.preempt(&project, *target, *ticket).await,
                Action::AwaitTurn(ticket) => self.await_turn(&project, *ticket).await,
                Action::Follow(id) => match grant.take() {
                    Some(grant) => return Ok(Taken::Got(grant)),
                    None => bail!("deployment {id} got the slot without a lease"),
                },
                Action::Leave { id, .. } => bail!("it leaves {id}, and nobody asked it to"),
                Action::Finish(_) => match action {
                    Action::Finish(verdict) => return verdict_of(*verdict),
                    _ => unreachable!("it was a verdict"),
                },
            };
            action = resolver.next(seen);
        }
    }

    async fn submit(
        &self,
        project: &ProjectName,
        key: &IdempotencyKey,
        body: &[u8],
        grant: &mut Option<Grant>,
    ) -> Observation {
        self.tallied.count(|tally| tally.submits += 1);
        let sent_at = self.clock.boot();
        match self.connection.submit(project, key, body).await {
            Ok(Submitted::Accepted { deployment, replayed, lease, .. }) => {
                *grant = lease.map(|lease| Grant { project: project.clone(), id: deployment.id, lease, sent_at });
                Observation::Accepted { deployment, replayed }
            }
            Ok(Submitted::Conflict { conflict, .. }) => {
                let told = conflict.expected_start.flatten().map(|start| (Instant::now(), start));
                self.tallied.count(|tally| {
                    tally.conflicts += 1;
                    tally.starts.extend(told);
                });
                Observation::Held(conflict)
            }
            Ok(Submitted::Refused(refusal)) => Observation::Refused(refusal),
            Err(fault) => Observation::Faulted(fault),
        }
    }

    async fn preempt(&self, project: &ProjectName, target: DeploymentId, ticket: DeploymentId) -> Observation {
        self.tallied.count(|tally| tally.cancels += 1);
        let body = CancelBody { superseded_by: Some(ticket.into()), reason: None, actor: None };
        match self.connection.cancel(project, &target.into(), &body).await {
            Ok(_) => Observation::Preempted { ticket },
            Err(Fault::Refused(_)) => Observation::PreemptRefused { ticket },
            Err(fault) => Observation::Faulted(fault),
        }
    }

    async fn await_turn(&self, project: &ProjectName, ticket: DeploymentId) -> Observation {
        self.tallied.count(|tally| tally.polls += 1);
        match self.connection.turn(project, ticket, self.turn_window).await {
            Ok(Turn::Come(deployment)) => Observation::TurnCame(deployment),
            Ok(Turn::Still { conflict, deployment }) => {
                let told = deployment.expected_start.flatten().map(|start| (Instant::now(), start));
                self.tallied.count(|tally| tally.starts.extend(told));
                Observation::StillWaiting { ticket, holder: conflict.and_then(|conflict| conflict.holder_id()) }
            }
            Err(Fault::Refused(refusal)) => Observation::Refused(refusal),
            Err(fault) => Observation::Faulted(fault),
        }
    }

    /// Holds the slot for this long, unless it is asked to stop, with heartbeats as `run` sends them; then tells its end.
    /// Answers when that was begun to be told, too: until then it believed to hold the slot.
    pub async fn hold(&self, grant: &Grant, hold: Duration) -> (Held, Instant) {
        let worker = Worker { project: &grant.project, id: grant.id, secret: &grant.lease.secret };
        let lessor = HttpLessor::new(&self.connection, worker);
        let times = Times::of_length(grant.lease.length());
        let keeper = Keeper::new(lessor, self.clock.clone(), grant.id, times, grant.sent_at);
        let mut stop = keeper.stop();
        let stopped = tokio::select! {
            () = tokio::time::sleep(hold) => false,
            stopped = stop.wait_for(Option::is_some) => stopped.is_ok(),
            never = keeper.keep() => match never {},
        };
        let gave = Instant::now();
        let verdict = if stopped { Verdict::Stopped } else { Verdict::Succeeded { outputs: BTreeMap::new() } };
        match (keeper.finish_in_time(std::future::ready(()), verdict).await, stopped) {
            (Err(Lost), _) => (Held::TooLate, gave),
            (Ok(()), true) => (Held::Cancelled, gave),
            (Ok(()), false) => (Held::Succeeded, gave),
        }
    }
}

fn verdict_of(verdict: Ending) -> Result<Taken> {
    Ok(match verdict {
        Ending::Blocked(_) => Taken::Blocked,
        Ending::Ended { deployment, .. } if deployment.status != Status::Succeeded => {
            Taken::Lost(deployment.error.map(|error| error.code).unwrap_or_default())
        }
        Ending::Refused(refusal) => {
            let code = refusal.body["errorCode"].as_str().unwrap_or("?");
            Taken::Refused(format!("{code}: {}", refusal.message))
        }
        Ending::Faulted(fault) => return Err(anyhow::anyhow!("{fault}")),
        other => bail!("it ended otherwise than it should: {other:?}"),
    })
}

impl Locker for Racer {
    fn take<'a>(&'a mut self, slot: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            self.held = Some(self.compete(slot, Wish::Wait { preempt: false }).await?.grant()?);
            Ok(())
        })
    }

    fn give<'a>(&'a mut self, _: &'a str) -> Work<'a, ()> {
        Box::pin(async move {
            let grant = self.held.take().context("it holds the slot")?;
            match self.hold(&grant, Duration::ZERO).await.0 {
                Held::Succeeded => Ok(()),
                other => bail!("the end was not recorded: {other:?}"),
            }
        })
    }
}
