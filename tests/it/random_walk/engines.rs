//! The stores behind the production verbs, and what is asserted of them after every step.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use singletrack::{
    model::{
        BuildMark, Caller, CancelCause, Deployment, DeploymentId, EventBody, FailureCause, Lapse, LeaseHolder, Outcome,
        PhaseState, Place, Policy, ProjectName, Report, RunBy, SecretHash, Spec, State, Status, Stream, Verdict, Vital,
        admission::{Admission, Cancellation, OnConflict, Rejection, Submission},
        order,
    },
    queue::{
        Queue, WorkerError,
        mark::{MarkWish, Marked},
        pause::{PauseWish, Standing},
        release::Released,
    },
    store::{ListQuery, Store, memory::MemoryStore, postgres::PostgresStore, sqlite::SqliteStore},
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::reference::{Act, Cause, Conflict, Dep, End, Line, Proof, Seen, Stage, Told, Wish, World};
use crate::{
    harness::postgres,
    store_contract::assert_watches,
    store_trial::{HandClock, deaf, id, name, with_policies},
};

/// How many engines there are.
const ENGINE_COUNT: usize = 3;

/// The stores of all walks of a run. Each walk has projects and numbers of its own.
pub struct Engines {
    runtime: Runtime,
    clock: Arc<HandClock>,
    stores: [(&'static str, Arc<dyn Store>); ENGINE_COUNT],
    walk_count: AtomicU64,
    /// How often each answer was given: a walk that never gets anywhere proves nothing.
    answers: Mutex<BTreeMap<String, u64>>,
    _directory: TempDir,
}

thread_local! {
    // The test's own functions have no argument to hand it through.
    static CURRENT: RefCell<Option<Arc<Engines>>> = const { RefCell::new(None) };
}

pub fn set_current(engines: &Arc<Engines>) {
    CURRENT.set(Some(engines.clone()));
}

pub fn current() -> Arc<Engines> {
    CURRENT.with_borrow(|current| current.clone().expect("the test has set it"))
}

impl Engines {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let sqlite = SqliteStore::open(&directory.path().join("walk.db"), deaf()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let postgres = runtime.block_on(async {
            let cluster = postgres::shared();
            let url = cluster.url(&cluster.database().await).parse().unwrap();
            PostgresStore::open(&url, 4, deaf(), Arc::new(|_| {}), &singletrack::health::Health::default())
                .await
                .unwrap()
        });
        Engines {
            runtime,
            clock: HandClock::start(),
            stores: [
                ("sqlite", Arc::new(sqlite)),
                ("memory", Arc::new(MemoryStore::new(deaf()))),
                ("postgres", Arc::new(postgres)),
            ],
            walk_count: AtomicU64::new(0),
            answers: Mutex::default(),
            _directory: directory,
        }
    }

    /// Every kind of answer was given at least once.
    pub fn require_coverage(&self) {
        let answers = self.answers.lock().unwrap();
        let missing: Vec<_> = [
            "accepted",
            "replayed",
            "conflict",
            "rejected KeyReused",
            "rejected Paused",
            "rejected Outdated",
            "rejected LineFull",
            "rejected DeadlinePassed",
            "rejected SuccessorGone",
            "rejected NotOlder",
            "rejected NotTheNewest",
            "rejected PreemptionRefused",
            "rejected SuccessorHeld",
            "conflict None",
            "marked Some((#, Some(#))), changed false",
            "marked Some((#, None)), changed true, # outdated",
            "marked None, changed true",
            "was true, held true",
            "was true, held false",
            "was false, held true",
            "claimed",
            "nothing",
            "alive",
            "lease lost",
            "requested",
            "unchanged",
            "not found",
            "finished",
            "lapsed ABANDONED",
            "lapsed EXPIRED",
            "lapsed UNCLAIMED",
            "lapsed WORKER_LOST",
            "refused Alive",
            "refused Final",
            "refused WrongState",
            "released",
            "was free",
            "held by",
        ]
        .into_iter()
        .filter(|kind| !answers.keys().any(|answer| answer.starts_with(kind)))
        .collect();
        // A handful of walks need not meet everything; as many as an evening's run do.
        let steps: u64 = answers.values().sum();
        assert!(steps < 20_000 || missing.is_empty(), "never answered in {steps} steps: {missing:?} of {answers:?}");
    }
}

/// One walk through all stores.
pub struct Walk {
    engines: Arc<Engines>,
    number: u64,
    policies: [Policy; 2],
    secrets: [HashMap<u64, SecretHash>; ENGINE_COUNT],
    /// Deployments that were final, as they were then, per store.
    finals: RefCell<[HashMap<u64, Deployment>; ENGINE_COUNT]>,
    /// The numbers of events that were looked at, per store.
    looked_at: RefCell<[HashMap<u64, u64>; ENGINE_COUNT]>,
    /// Per project: its revision and its last fencing token after the step before.
    before: RefCell<[(u64, u64); 2]>,
    /// Whether the rules of a project held it, and nobody has settled its slot since they do not.
    was_held: RefCell<[bool; 2]>,
}

impl Walk {
    pub fn start(engines: Arc<Engines>, world: &World) -> Self {
        let number = engines.walk_count.fetch_add(1, Ordering::Relaxed);
        Walk {
            engines,
            number,
            policies: [world.projects[0].policy.clone(), world.projects[1].policy.clone()],
            secrets: Default::default(),
            finals: RefCell::default(),
            looked_at: RefCell::default(),
            before: RefCell::default(),
            was_held: RefCell::default(),
        }
    }

    fn project(&self, index: usize) -> ProjectName {
        name(&format!("walk-{}-{index}", self.number))
    }

    /// The id of a deployment of this walk.
    fn id(&self, number: u64) -> DeploymentId {
        id(self.number * 10_000 + number)
    }

    /// The number of an id of this walk.
    fn number(&self, id: DeploymentId) -> u64 {
        let number = u64::from_be_bytes(id.as_bytes()[8..].try_into().unwrap());
        assert_eq!(number / 10_000, self.number, "a deployment of another walk");
        number % 10_000
    }

    /// Does on all stores what the reference did, and compares the answers.
    pub fn step(&mut self, world: &World) {
        self.engines.clock.advance(Duration::from_millis(1));
        let Some((act, expected)) = &world.last else { return };
        if let Act::SetPolicy(project, policy) = act {
            self.was_held.borrow_mut()[*project] |= self.policies[*project].paused;
            self.policies[*project] = policy.clone();
        }
        if let Act::Submit(project, ..) | Act::Pause(project) | Act::Resume(project) | Act::Settle(project) = act {
            self.was_held.borrow_mut()[*project] = false;
        }
        for engine in 0..ENGINE_COUNT {
            let answer = self.engines.clone().runtime.block_on(self.act(engine, act));
            assert_eq!(&answer, expected, "{} answers {act:?} otherwise", self.engines.stores[engine].0);
        }
        let digits = |c: char| c.is_ascii_digit();
        *self.engines.answers.lock().unwrap().entry(expected.replace(digits, "#")).or_default() += 1;
    }

    /// The verbs on one store, under the policies as they are now.
    fn queue(&self, engine: usize) -> Queue {
        let policies = (0..2).map(|index| (self.project(index), self.policies[index].clone())).collect();
        let store = self.engines.stores[engine].1.clone();
        Queue::new(store, self.engines.clock.clone(), with_policies(policies))
    }

    async fn act(&mut self, engine: usize, act: &Act) -> String {
        let queue = self.queue(engine);
        match *act {
            Act::Submit(project, number, ref wish) => {
                let submission = Submission {
                    id: self.id(number),
                    project: self.project(project),
                    spec: spec(wish),
                    key: wish.key.map(|(key, body)| (format!("key-{key}").parse().unwrap(), [body; 32])),
                    on_conflict: match wish.on_conflict {
                        Conflict::Refuse => OnConflict::Refuse,
                        Conflict::Wait => OnConflict::Wait,
                        Conflict::Queue => OnConflict::Queue,
                    },
                    refusal: None,
                    sealed: None,
                    claim: None,
                };
                self.admission(queue.submit(&Caller::server(), submission).await.unwrap().admission)
            }
            Act::Attend(project, number) => {
                queue.attend(self.project(project), self.id(number), Duration::from_secs(9)).await.unwrap();
                "done".to_owned()
            }
            Act::Claim(project, number) => {
                match queue.claim(self.project(project), self.id(number), LeaseHolder::worker("w")).await.unwrap() {
                    Some(claimed) => {
                        self.secrets[engine].insert(number, claimed.secret.hash());
                        format!("claimed {}", claimed.deployment.lease().expect("it is leased").fencing_token)
                    }
                    None => "nothing".to_owned(),
                }
            }
            Act::Heartbeat(project, number, proof) => {
                let secret = self.secret(engine, number, proof);
                match queue.heartbeat(self.project(project), self.id(number), secret).await {
                    Ok(cancel) => {
                        format!("alive {:?}", cancel.map(|cancel| cancel.superseded_by.map(|by| self.number(by.id))))
                    }
                    Err(error) => lost(&error),
                }
            }
            Act::Report(project, number, proof, told) => {
                let secret = self.secret(engine, number, proof);
                match queue.report(self.project(project), self.id(number), secret, None, vec![report(told)]).await {
                    Ok(_) => "done".to_owned(),
                    Err(error) => lost(&error),
                }
            }
            Act::Cancel(project, number, successor) => {
                let successor = successor.map(|successor| self.id(successor));
                match queue
                    .cancel(
                        &Caller::server(),
                        self.project(project),
                        self.id(number),
                        Some("because".to_owned()),
                        successor,
                    )
                    .await
                    .unwrap()
                {
                    Cancellation::Requested(_) => "requested".to_owned(),
                    Cancellation::Unchanged(_) => "unchanged".to_owned(),
                    Cancellation::NotFound => "not found".to_owned(),
                    Cancellation::Rejected(rejection) => rejected(&rejection),
                }
            }
            Act::Finish(project, number, proof, end) => {
                let secret = self.secret(engine, number, proof);
                let verdict = match end {
                    End::Succeeded => Verdict::Succeeded { outputs: BTreeMap::new() },
                    End::Failed => {
                        Verdict::Failed { cause: FailureCause::PhaseFailed, message: "no".to_owned(), phase: None }
                    }
                    End::Stopped => Verdict::Stopped,
                };
                match queue.finish(self.project(project), self.id(number), secret, verdict).await {
                    Ok(deployment) => format!("finished {:?}", self.seen(&deployment).stage),
                    Err(error) => lost(&error),
                }
            }
            Act::Lapse(project, number, cause, seen) => {
                let vital = self.vital(engine, project, number, seen).await;
                let cause = match cause {
                    Cause::Silence => Lapse::Silence,
                    Cause::Deadline => Lapse::Deadline,
                    Cause::WorkerGone => Lapse::WorkerGone,
                };
                match queue
                    .reap(self.project(project), self.id(number), vital, cause, queue.clock().boot())
                    .await
                    .unwrap()
                {
                    Ok(deployment) => match self.seen(&deployment).stage {
                        Stage::Done(code, _) => format!("lapsed {code}"),
                        stage => format!("lapsed, and is {stage:?}"),
                    },
                    Err(refusal) => format!("refused {refusal:?}"),
                }
            }
            Act::Release(project, only) => {
                let only = only.map(|only| self.id(only));
                match queue.release(&Caller::server(), self.project(project), "stuck".to_owned(), only).await.unwrap() {
                    Released::Ended(deployment) => format!("released {}", self.number(deployment.id)),
                    Released::WasFree => "was free".to_owned(),
                    Released::Alive(holder) => panic!("{} was not to be spared", self.number(holder.id)),
                    Released::HolderChanged(holder) => format!("held by {}", self.number(holder.id)),
                }
            }
            Act::SetPolicy(..) => "done".to_owned(),
            Act::Pause(project) => {
                let wish = PauseWish { actor: None, reason: "a trial".to_owned(), until: None };
                let standing = queue.pause(&Caller::server(), self.project(project), wish).await.unwrap();
                format!("was {}, {}", standing.before.is_some(), self.standing(&standing))
            }
            Act::Resume(project) => {
                let standing = queue.resume(&Caller::server(), self.project(project), None).await.unwrap();
                format!("was {}, {}", standing.before.is_some(), self.standing(&standing))
            }
            Act::Settle(project) => self.standing(&queue.settle(self.project(project)).await.unwrap()),
            Act::Mark(project, order) => {
                let wish = MarkWish { order, reason: None, actor: None };
                let marked = queue.set_mark(&Caller::server(), self.project(project), wish).await.unwrap();
                let Marked { mark, is_changed, outdated_count, .. } = marked;
                format!("marked {:?}, changed {is_changed}, {outdated_count} outdated", mark.map(|it| self.mark(&it)))
            }
        }
    }

    fn mark(&self, mark: &BuildMark) -> (u64, Option<u64>) {
        match mark {
            BuildMark::Started(started) => (started.order, Some(self.number(started.deployment.id))),
            BuildMark::Set(set) => (set.order, None),
        }
    }

    fn standing(&self, standing: &Standing) -> String {
        let holder = standing.holder.as_ref().map(|holder| self.number(holder.id));
        format!("held {}, slot {holder:?}, {} wait", standing.hold.is_some(), standing.waiting_count)
    }

    fn admission(&self, admission: Admission) -> String {
        match admission {
            Admission::Accepted(id) => format!("accepted {}", self.number(id)),
            Admission::Replayed(id) => format!("replayed {}", self.number(id)),
            Admission::Conflict { blocker, ticket } => {
                let holds = blocker.as_ref().is_none_or(|blocker| blocker.holds_slot());
                assert!(holds, "I1: a conflict names who holds the slot: {blocker:?}");
                let ticket = ticket.map(|ticket| self.number(ticket));
                format!("conflict {:?} ticket {ticket:?}", blocker.map(|blocker| self.number(blocker.id)))
            }
            Admission::Rejected(rejection) => rejected(&rejection),
        }
    }

    /// The secret that a worker shows; one that nobody ever had where there was no lease.
    fn secret(&self, engine: usize, number: u64, proof: Proof) -> SecretHash {
        let of = match proof {
            Proof::Own => number,
            Proof::Foreign(other) => other,
        };
        self.secrets[engine].get(&of).copied().unwrap_or(SecretHash([0xaa; 32]))
    }

    /// What an observer saw, now or a moment ago.
    async fn vital(&self, engine: usize, project: usize, number: u64, seen: Seen) -> Vital {
        let found = self.engines.stores[engine].1.deployment(self.project(project), self.id(number)).await.unwrap();
        let Some(placed) = found else { return Vital { revision: Default::default(), pulse: 0 } };
        let mut vital = placed.deployment.vital();
        match seen {
            Seen::Now => {}
            Seen::EarlierPulse => vital.pulse = vital.pulse.wrapping_sub(1),
            Seen::EarlierRevision => vital.revision.0 -= 1,
        }
        vital
    }

    /// Asserts that all stores stand where the reference stands, and what must always hold.
    pub fn compare(&self, world: &World) {
        self.engines.runtime.block_on(async {
            for index in 0..2 {
                let first = self.look(0, index, world).await;
                for engine in 1..ENGINE_COUNT {
                    assert_eq!(first, self.look(engine, index, world).await, "the stores differ");
                }
                self.before.borrow_mut()[index].0 = world.projects[index].revision;
            }
        });
    }

    /// Asserts what is asked of all projects at once, and frees the slots for the walks to come.
    pub fn end(&self) {
        self.engines.runtime.block_on(async {
            for (engine, (_, store)) in self.engines.stores.iter().enumerate() {
                for index in 0..2 {
                    let name = self.project(index);
                    let query = ListQuery { status: None, before: None, limit: usize::MAX };
                    let mut all = store.list(name.clone(), query).await.unwrap();
                    all.reverse();
                    self.check_attention(store, &name, &all).await;
                    for deployment in all.iter().rev().filter(|it| !it.is_final()) {
                        self.queue(engine)
                            .cancel(&Caller::server(), name.clone(), deployment.id, None, None)
                            .await
                            .unwrap();
                    }
                    self.queue(engine).release(&Caller::server(), name.clone(), "over".to_owned(), None).await.unwrap();
                    let left = store.project(name, 9).await.unwrap();
                    assert!(left.is_none_or(|left| left.holder.is_none() && left.line.is_empty()));
                }
            }
        });
    }

    /// One project of one store, after it was held against the reference.
    async fn look(&self, engine: usize, index: usize, world: &World) -> Vec<Deployment> {
        let (engine_name, store) = &self.engines.stores[engine];
        let (name, line) = (self.project(index), &world.projects[index]);
        let query = ListQuery { status: None, before: None, limit: usize::MAX };
        let mut all = store.list(name.clone(), query).await.unwrap();
        all.reverse();
        let seen: Vec<Dep> = all.iter().map(|deployment| self.seen(deployment)).collect();
        let expected: Vec<Dep> = line.all.iter().map(Dep::comparable).collect();
        assert_eq!(seen, expected, "{engine_name} and the reference differ after {:?}", world.last);

        let Some(state) = store.project(name.clone(), usize::MAX).await.unwrap() else {
            assert!(line.all.is_empty());
            return all;
        };
        let project = &state.project;
        assert_eq!(project.revision.0, line.revision, "revision");
        // Numbers are counted in the order of arrival, and each names its deployment.
        assert_eq!(project.deployment_count, line.all.len() as u64, "deployment_count");
        if let Some(last) = all.last() {
            assert_eq!(store.numbered(name.clone(), last.number).await.unwrap(), Some(last.id));
            assert_eq!(store.numbered(name.clone(), last.number + 1).await.unwrap(), None);
        }
        for deployment in &all {
            // Whoever is named beside it is named as it is.
            let successor = deployment.cancel.as_ref().and_then(|cancel| cancel.superseded_by.as_ref());
            let known = successor.and_then(|by| all.iter().find(|it| it.id == by.id));
            assert_eq!(successor.filter(|_| known.is_some()), known.map(Deployment::mention).as_ref());
        }
        assert_eq!(project.preempted_count, line.preempted, "preempted");
        assert_eq!(project.mark().map(|mark| self.mark(&mark)), line.mark);
        assert_eq!(project.last_outcome.map(|last| self.number(last)), line.last_outcome);
        assert_eq!(state.last_outcome.map(|last| last.id), project.last_outcome);
        assert_eq!(project.last_success.map(|last| self.number(last)), line.last_success);
        assert_eq!(state.last_success.map(|last| last.id), project.last_success);

        // I1, and that nobody waits for a free slot who is not held.
        let holders: Vec<_> = all.iter().filter(|it| it.holds_slot()).collect();
        assert!(holders.len() <= 1, "I1: {holders:?}");
        assert_eq!(state.holder.as_ref(), holders.first().copied());
        let waiting: Vec<_> = line.line.iter().map(|at| &all[*at]).collect();
        assert_eq!(state.line.iter().collect::<Vec<_>>(), waiting, "the line is served in this order");
        assert_eq!(all.iter().filter(|it| it.is_waiting()).count(), waiting.len());
        assert_eq!(project.waiting_count, waiting.len() as u64);
        assert_eq!(project.pause.is_some(), line.paused);
        let is_head_held = self.was_held.borrow()[index] || line.paused || line.policy.paused;
        let is_served = state.holder.is_some() || waiting.is_empty() || is_head_held;
        assert!(is_served, "a free slot before a line of which nobody is held");
        // I8: those that are put before nobody are served as they arrived.
        let arrivals: Vec<_> = waiting.iter().filter(|it| it.line_rank.is_none()).map(|it| it.ticket).collect();
        assert!(arrivals.is_sorted(), "I8: {arrivals:?}");
        for (position, deployment) in (1..).zip(&waiting) {
            let placed = store.deployment(name.clone(), deployment.id).await.unwrap().expect("it is there");
            assert_eq!((placed.position, &placed.deployment), (position, *deployment));
        }
        self.check_changes(engine, index, store, &all, line).await;
        // Each worker's secret is random, so the stores differ in it.
        all.into_iter().map(without_secret).collect()
    }

    /// What one step may have changed.
    async fn check_changes(
        &self,
        engine: usize,
        index: usize,
        store: &Arc<dyn Store>,
        all: &[Deployment],
        line: &Line,
    ) {
        let (revision_before, token_before) = self.before.borrow()[index];
        assert!(line.revision >= revision_before, "a revision fell");
        let mut token = token_before;
        for deployment in all {
            let number = self.number(deployment.id);
            // I2: what is final stays as it was.
            let was = self.finals.borrow()[engine].get(&number).cloned();
            if let Some(was) = was {
                assert_eq!(&was, deployment, "I2");
            } else if deployment.is_final() {
                self.finals.borrow_mut()[engine].insert(number, deployment.clone());
            }
            let State::Finished { outcome, .. } = &deployment.state else { continue };
            assert!(deployment.ended_at().is_some());
            assert_eq!(*outcome == Outcome::Succeeded, deployment.status() == Status::Succeeded);
        }
        // I4: tokens grow; I10: so do orders, declared rollbacks aside.
        for deployment in all.iter().filter(|it| it.revision.0 > revision_before) {
            if let State::Running(lease) = &deployment.state {
                assert_eq!(lease.fencing_token, deployment.revision);
                assert!(lease.fencing_token.0 > token, "I4: {lease:?} after {token}");
                token = lease.fencing_token.0;
                if let (Some(order), false) = (deployment.spec.order, deployment.spec.rollback) {
                    assert_eq!(line.mark.map(|(newest, _)| newest), Some(order), "I10");
                }
            }
            if let State::Finished { outcome: Outcome::Cancelled { cause, .. }, .. } = &deployment.state
                && let CancelCause::Superseded { by } = cause
                && let Some(by) = all.iter().position(|it| it.id == *by)
            {
                let ended = all.iter().position(|it| it.id == deployment.id).expect("it is there");
                assert!(line.is_newer(by, ended), "I10: {deployment:?} is superseded by one that is not newer");
                let waited = deployment.cancel.as_ref().is_some_and(|cancel| cancel.reason.is_none());
                assert!(!waited || all[by].started_at.is_some(), "superseded by what did not start");
            }
        }
        let mut revisions: Vec<_> = all.iter().map(|it| it.revision).collect();
        revisions.sort_unstable();
        assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "I17: one revision, one change");
        // I9: one key, one deployment.
        let mut keys: Vec<_> = line.all.iter().filter_map(|dep| dep.wish.key.map(|(key, _)| key)).collect();
        let known = keys.len();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), known, "I9");
        if engine == ENGINE_COUNT - 1 {
            self.before.borrow_mut()[index].1 = token;
        }
        // I5: where something was told, all of it is there, once and in order, and the end comes last.
        for deployment in all {
            let number = self.number(deployment.id);
            if self.looked_at.borrow()[engine].get(&number) == Some(&deployment.event_count) {
                continue;
            }
            let events = store.events(deployment.id, 0, usize::MAX).await.unwrap();
            assert!(events.iter().map(|event| event.seq).eq(1..=deployment.event_count), "I5: {events:?}");
            let ends: Vec<_> =
                events.iter().filter(|it| it.body == EventBody::Complete).map(|event| event.seq).collect();
            let expected: &[u64] = if deployment.is_final() { &[deployment.event_count] } else { &[] };
            assert_eq!(ends, expected, "I5: one end, and last");
            self.looked_at.borrow_mut()[engine].insert(number, deployment.event_count);
        }
    }

    /// Who is watched, and what can be claimed.
    async fn check_attention(&self, store: &Arc<dyn Store>, name: &ProjectName, all: &[Deployment]) {
        let watched = store.watched().await.unwrap();
        let mut watched: Vec<_> = watched.into_iter().filter(|it| it.project == *name).collect();
        let ticket = |id| all.iter().find(|it| it.id == id).map(|it| it.ticket);
        watched.sort_by_key(|it| ticket(it.id));
        let mut expected: Vec<_> = all
            .iter()
            .filter(|it| match it.state {
                State::Waiting(Place::Queued) => it.spec.deadline_seconds.is_some(),
                _ => !it.is_final(),
            })
            .collect();
        expected.sort_by_key(|it| it.ticket);
        assert_eq!(watched.len(), expected.len(), "watched: {watched:?}");
        watched.iter().zip(expected).for_each(|(watched, stored)| assert_watches(watched, stored));
        let offers = [(name.clone(), all.iter().map(|it| it.spec.pipeline.clone()).collect())].into();
        let claimable = store.claimable(Arc::new(offers), usize::MAX).await.unwrap();
        let claimable: Vec<_> = claimable.into_iter().map(|it| it.id).collect();
        let expected = all.iter().filter(|it| it.state == State::Ready && it.spec.executor == RunBy::Worker);
        assert!(claimable.into_iter().eq(expected.map(|it| it.id)), "claimable");
    }

    /// A stored deployment in the reference's words.
    fn seen(&self, deployment: &Deployment) -> Dep {
        let stage = match &deployment.state {
            State::Waiting(Place::Ticket { .. }) => Stage::Ticket,
            State::Waiting(Place::Queued) => Stage::Queued,
            State::Reserved => Stage::Reserved,
            State::Ready => Stage::Ready,
            State::Running(_) => Stage::Running,
            State::Finished { outcome, .. } => {
                let by = match outcome {
                    Outcome::Cancelled { cause: CancelCause::Superseded { by }, .. } => Some(self.number(*by)),
                    Outcome::Succeeded | Outcome::Failed { .. } | Outcome::Cancelled { .. } => None,
                };
                Stage::Done(outcome.error_code().unwrap_or("SUCCEEDED"), by)
            }
        };
        Dep {
            number: self.number(deployment.id),
            short_number: deployment.number,
            wish: Wish::default(),
            ticket: deployment.ticket.0,
            revision: deployment.revision.0,
            stage,
            pulse: deployment.pulse,
            progress: deployment.progress,
            events: deployment.event_count,
            has_output: !deployment.outputs.is_empty(),
            cancel: deployment.cancel.as_ref().map(|cancel| cancel.superseded_by.as_ref().map(|by| self.number(by.id))),
            started: deployment.started_at.is_some(),
            put_ahead: deployment.line_rank.is_some_and(|rank| !order::is_overriding(rank)),
            passes: deployment.line_rank.is_some_and(order::is_overriding),
        }
    }
}

impl Dep {
    /// Without what the stores are not asked for.
    fn comparable(&self) -> Dep {
        Dep { wish: Wish::default(), ..self.clone() }
    }
}

fn without_secret(mut deployment: Deployment) -> Deployment {
    let lease = match &mut deployment.state {
        State::Running(lease) => Some(lease),
        State::Finished { lease, .. } => lease.as_mut(),
        State::Waiting(_) | State::Reserved | State::Ready => None,
    };
    if let Some(lease) = lease {
        lease.secret = SecretHash([0; 32]);
    }
    deployment
}

fn spec(wish: &Wish) -> Spec {
    Spec {
        pipeline: "deploy".to_owned(),
        order: wish.order,
        rollback: wish.rollback,
        override_pause: wish.overrides,
        url: wish.run.map(|run| format!("https://ci.example/run/{run}")),
        deadline_seconds: wish.deadline.then_some(60),
        executor: if wish.client { RunBy::Submitter } else { RunBy::Worker },
        ..Spec::default()
    }
}

fn report(told: Told) -> Report {
    match told {
        Told::Phase => Report::Phase { name: "migrate".to_owned(), state: PhaseState::Started, message: None },
        Told::Progress(progress) => Report::Progress { progress: Some(progress), message: None },
        Told::Output => Report::Output { name: "url".to_owned(), value: "https://x".to_owned() },
        Told::Log => Report::Log { stream: Stream::Stdout, phase: None, lines: vec!["a line".to_owned()] },
    }
}

fn lost(error: &WorkerError) -> String {
    match error {
        WorkerError::NotFound => "not found".to_owned(),
        WorkerError::LeaseLost => "lease lost".to_owned(),
        WorkerError::OutputsFull => "outputs full".to_owned(),
        WorkerError::ReportGap { last } => format!("gap after {last}"),
        WorkerError::Store(error) => format!("the store failed: {error}"),
    }
}

fn rejected(rejection: &Rejection) -> String {
    let word = format!("{rejection:?}");
    format!("rejected {}", word.split([' ', '{', '(']).next().unwrap_or_default())
}
