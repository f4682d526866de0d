//! The one thread that writes: all waiting callers share the next commit. See decision 0013.
//!
//! A request that cannot be recorded, a full disk and a failing file all take the whole batch back. Then the decisions
//! of the other requests are recorded anew, one by one. (A savepoint for each request would take back that request
//! alone, but makes every request 10 % dearer, and serves only mistakes in the program.)

use std::{
    collections::{HashSet, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::{Connection, Statement};
use tokio::sync::{mpsc, oneshot};

use super::{
    acts::{self, Act, ActEnd},
    awaiting::{Answer, AwaitingCommit, Made, refuse, tell},
    ballast::Ballast,
    checkpoints::{self, Checkpoints, Look},
    fault::{Reach, end_displaced, reach, store_error},
    lineage::Lineage,
    open,
    place::OwnFile,
    queue::{closed, receive_within, send_blocking},
    record::Recorder,
};
use crate::{
    health::{end_process, or_end_process},
    model::{Changes, Load, ProjectName},
    store::{CommitCounter, Decide, OnCommit, StoreError},
};

/// How many requests may wait for the next commit. Four batches: with more, the answer would come late anyway, so the
/// senders wait for room, and memory stays bounded.
const QUEUE_LIMIT: usize = 1024;

/// How many requests are taken out of the queue at once.
const TAKE_LIMIT: usize = 256;

/// How many requests share one commit at most: enough that the fsync costs each of them next to nothing, few enough
/// that the first one need not wait for more than some 10 ms of the others' work.
const BATCH_LIMIT: usize = 512;

/// A batch stops admitting requests after this many times the duration of the last commit (decision 0023). On a slow
/// disk all requests are in before that. On a fast disk there is little to share: it is better to answer the first
/// callers, which ask again while the next are served, than to make them wait for all the others.
const WORK_PER_COMMIT: u32 = 2;

/// The assumed duration of a commit before there was one: that of a slow disk.
const FIRST_COMMIT: Duration = Duration::from_millis(4);

/// How long the queue must be empty before the log is moved.
const IDLE: Duration = Duration::from_secs(1);

enum Request {
    Transact { project: ProjectName, load: Load, decide: Decide, answer: Answer },
    Try { answer: Answer },
    Act(Box<dyn Act>),
    Scrub { answer: oneshot::Sender<Result<bool, StoreError>> },
    Close,
}

/// The thread and its queue.
pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<Request>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    pub(super) commits: Arc<CommitCounter>,
    log_pages: Arc<AtomicU32>,
}

impl Writer {
    pub(super) fn start(
        mut db: Connection,
        path: &Path,
        file: Arc<OwnFile>,
        lineage: Lineage,
        mut ballast: Ballast,
        readers: Arc<RwLock<()>>,
        on_commit: OnCommit,
    ) -> Result<Self, StoreError> {
        let (queue, requests) = mpsc::channel(QUEUE_LIMIT);
        ballast.take();
        let checkpoints = Checkpoints::start(&mut db, path, Arc::clone(&file), readers)?;
        let log_pages = checkpoints.log_pages();
        file.watch_beside()?;
        let commits = Arc::new(CommitCounter::default());
        let counted = commits.clone();
        let thread = thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                let upkeep = FileCare { lineage, ballast, checkpoints };
                let body = || run(&db, &file, upkeep, requests, on_commit, &counted);
                if let Err(error) = or_end_process("store-writer", body) {
                    tracing::error!(%error, "the store's log could not be moved into its file");
                }
            })
            .map_err(|error| StoreError::Unavailable(format!("cannot start a thread: {error}")))?;
        Ok(Writer { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), commits, log_pages })
    }

    pub(super) fn transact(
        &self,
        project: ProjectName,
        load: Load,
        decide: Decide,
    ) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, answered) = oneshot::channel();
        async move {
            let request = Request::Transact { project, load, decide, answer };
            queue.ok_or_else(closed)?.send(request).await.map_err(|_| closed())?;
            answered.await.map_err(|_| StoreError::Unavailable("the store's writer ended".to_owned()))?
        }
    }

    /// Writes something, to find out whether it becomes durable.
    pub(super) fn try_write(&self) -> impl Future<Output = Result<(), StoreError>> + Send + use<> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, answered) = oneshot::channel();
        async move {
            queue.ok_or_else(closed)?.send(Request::Try { answer }).await.map_err(|_| closed())?;
            answered.await.map_err(|_| StoreError::Unavailable("the store's writer ended".to_owned()))?
        }
    }

    /// Carries out a small administrative write in a transaction of its own, between two batches (see [`acts`]). The
    /// answer comes after the commit is durable; with an error, nothing is left of it. `write` is called again where the
    /// disk was full and room that was kept back could be given up.
    pub(super) fn act<T, W>(&self, write: W) -> impl Future<Output = Result<T, StoreError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (act, answered) = acts::act(write);
        async move {
            queue.ok_or_else(closed)?.send(Request::Act(act)).await.map_err(|_| closed())?;
            answered.await.map_err(|_| StoreError::Unavailable("the store's writer ended".to_owned()))?
        }
    }

    /// Empties the log and overwrites it. `false`: somebody reads from it, so that it is kept for now.
    pub(super) fn scrub(&self) -> impl Future<Output = Result<bool, StoreError>> + Send + use<> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (answer, answered) = oneshot::channel();
        async move {
            queue.ok_or_else(closed)?.send(Request::Scrub { answer }).await.map_err(|_| closed())?;
            answered.await.map_err(|_| StoreError::Unavailable("the store's writer ended".to_owned()))?
        }
    }

    /// How long the log is.
    pub(super) fn log_bytes(&self) -> u64 {
        u64::from(self.log_pages.load(Ordering::Relaxed)) * checkpoints::PAGE_BYTES
    }

    /// Finishes the queued requests, and ends.
    pub(super) fn stop(&self) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(queue) = queue {
            send_blocking(&queue, || Request::Close);
        }
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the store ended by a panic");
        }
    }
}

/// The data with which the writer's thread works.
struct Batches<'c> {
    db: &'c Connection,
    file: &'c OwnFile,
    recorder: Recorder<'c>,
    begin: Statement<'c>,
    commit: Statement<'c>,
    lineage: Lineage,
    /// Records that a log begins.
    begin_log: Statement<'c>,
    /// Writes a value that is there already.
    trial: Statement<'c>,
    /// The callers that wait for a trial.
    trials: Vec<Answer>,
    /// The administrative writes that wait for their turn.
    acts: VecDeque<Box<dyn Act>>,
    /// The callers that wait for the log to be overwritten.
    scrubs: Vec<oneshot::Sender<Result<bool, StoreError>>>,
    requests: mpsc::Receiver<Request>,
    on_commit: OnCommit,
    commits: &'c CommitCounter,
    ballast: Ballast,
    checkpoints: Checkpoints,
    /// How long the last commit took.
    commit_took: Duration,
    is_closing: bool,
    /// Whether nothing was decided since the idle thread moved the log.
    is_settled: bool,
}

/// Writes a value that is there already, and fails where a table is gone that every call needs.
const TRIAL: &str = "UPDATE secrets SET value = value \
    WHERE (SELECT count(*) FROM (SELECT 1 FROM deployments JOIN projects LIMIT 1)) >= 0";

/// The parts that keep the file and its log in order.
struct FileCare {
    lineage: Lineage,
    ballast: Ballast,
    checkpoints: Checkpoints,
}

fn run(
    db: &Connection,
    file: &OwnFile,
    FileCare { lineage, ballast, checkpoints }: FileCare,
    requests: mpsc::Receiver<Request>,
    on_commit: OnCommit,
    commits: &CommitCounter,
) -> rusqlite::Result<()> {
    let prepared = || {
        let trial = db.prepare(TRIAL)?;
        let begin_log = db.prepare("UPDATE lineage SET epoch = ?1")?;
        let (begin, commit) = (db.prepare("BEGIN IMMEDIATE")?, db.prepare("COMMIT")?);
        Ok::<_, rusqlite::Error>((Recorder::prepare(db)?, begin, commit, trial, begin_log))
    };
    let (recorder, begin, commit, trial, begin_log) = match prepared() {
        Ok(prepared) => prepared,
        // No other thread writes: without this thread, every change would be refused for ever.
        Err(error) => end_process(&format!("the store's writer cannot begin: {error}")),
    };
    let mut batches = Batches {
        db,
        file,
        recorder,
        begin,
        commit,
        lineage,
        begin_log,
        trial,
        trials: Vec::new(),
        acts: VecDeque::new(),
        scrubs: Vec::new(),
        requests,
        on_commit,
        commits,
        ballast,
        checkpoints,
        commit_took: FIRST_COMMIT,
        is_closing: false,
        is_settled: false,
    };
    batches.serve();
    let Batches { checkpoints, lineage, .. } = batches;
    checkpoints.stop();
    lineage.sync();
    // Leaves one file and an empty log, where that can be done.
    open::empty_log(db);
    Ok(())
}

impl Batches<'_> {
    fn serve(&mut self) {
        let mut taken = Vec::with_capacity(TAKE_LIMIT);
        let mut queue = VecDeque::with_capacity(TAKE_LIMIT);
        while !self.is_closing && self.receive(&mut taken) > 0 {
            queue.extend(taken.drain(..));
            while !queue.is_empty() || !self.acts.is_empty() {
                self.ballast.retake(self.checkpoints.log_bytes());
                self.batch(&mut queue);
                self.answer_trials();
                if let Some(act) = self.acts.pop_front() {
                    self.carry_out(act);
                }
                for answer in std::mem::take(&mut self.scrubs) {
                    // The caller may be gone; the log is overwritten all the same.
                    let _ = answer.send(Ok(self.checkpoints.scrub(self.db)));
                }
                self.look_at_log();
            }
        }
    }

    /// Waits for requests. When none has come for a moment, everything is moved into the file, so that a copy of the
    /// file is complete.
    fn receive(&mut self, taken: &mut Vec<Request>) -> usize {
        if self.is_settled {
            return self.requests.blocking_recv_many(taken, TAKE_LIMIT);
        }
        if let Some(count) = receive_within(&mut self.requests, taken, TAKE_LIMIT, IDLE) {
            return count;
        }
        // Where a reader or a full disk prevents the move, it is tried again after the next commit.
        self.is_settled = true;
        self.checkpoints.settle(self.db);
        self.lineage.sync();
        self.requests.blocking_recv_many(taken, TAKE_LIMIT)
    }

    /// Starts the move of the log when it is due. On a full disk, the move needs the room that was kept back.
    fn look_at_log(&mut self) {
        if self.checkpoints.look(self.db) == Look::Full && self.ballast.release() {
            // The rest that is left to move is tried again at the next look.
            let _ = self.checkpoints.look(self.db);
        }
        if self.checkpoints.is_short() {
            self.ballast.shrink();
        }
    }

    /// One small commit for all callers that asked whether a commit is possible.
    fn answer_trials(&mut self) {
        if self.trials.is_empty() {
            return;
        }
        let mut tried = self.trial.raw_execute();
        if let Err(error) = &tried
            && reach(self.db, error) == Reach::Full
            && self.ballast.release()
        {
            tried = self.trial.raw_execute();
        }
        let told = tried.map(|_| ()).map_err(|error| store_error(self.db, &error));
        if told.is_ok() {
            self.require_in_place();
        }
        for answer in self.trials.drain(..) {
            tell(answer, told.clone());
        }
    }

    /// One administrative write, and its commit.
    fn carry_out(&mut self, mut act: Box<dyn Act>) {
        let mut tried = self.try_act(&mut *act);
        if tried == Err(StoreError::Full) && self.ballast.release() {
            tried = self.try_act(&mut *act);
        }
        act.answer(tried);
    }

    fn try_act(&mut self, act: &mut dyn Act) -> Result<(), StoreError> {
        let written = self.begin.raw_execute().map_or_else(ActEnd::Failed, |_| acts::write(act, self.db));
        let worked = Instant::now();
        let tried = match written {
            // Not all that it may write is counted as a change of a row.
            ActEnd::Done => self.commit(true),
            ActEnd::Failed(error) => Err(error),
            ActEnd::Panicked => {
                self.roll_back();
                tracing::error!("an administrative write panicked; nothing of it is recorded");
                return Err(StoreError::Unavailable("the act failed".to_owned()));
            }
        };
        if let Err(error) = tried {
            // Before the rollback: the error is the connection's last one.
            let told = store_error(self.db, &error);
            self.roll_back();
            tracing::error!(%error, "an administrative write cannot be recorded");
            return Err(told);
        }
        self.require_in_place();
        self.is_settled = false;
        self.commits.count(1, worked.elapsed());
        // It may have raised the revision from which new projects begin.
        self.recorder.look_at_floor(self.db);
        Ok(())
    }

    /// One commit for the requests in `queue` and all others that are ready by the time these are done, for as long as
    /// sharing it pays: if the others waited for the next commit, two groups of callers would take turns at half the
    /// speed.
    fn batch(&mut self, queue: &mut VecDeque<Request>) {
        if let Err(error) = self.begin.raw_execute() {
            tracing::error!(%error, "the store cannot begin a transaction");
            reach(self.db, &error);
            for request in queue.drain(..) {
                match request {
                    Request::Transact { answer, .. } => tell(answer, Err(store_error(self.db, &error))),
                    Request::Try { answer } => tell(answer, Err(store_error(self.db, &error))),
                    Request::Act(act) => self.acts.push_back(act),
                    Request::Scrub { answer } => self.scrubs.push(answer),
                    Request::Close => self.is_closing = true,
                }
            }
            return;
        }
        let mut decided = Vec::with_capacity(queue.len());
        let (begun, work_limit) = (Instant::now(), self.commit_took * WORK_PER_COMMIT);
        while decided.len() < BATCH_LIMIT && (decided.is_empty() || begun.elapsed() < work_limit) {
            let request = match queue.pop_front() {
                Some(request) => request,
                None => match self.requests.try_recv() {
                    Ok(request) => request,
                    Err(_) => break,
                },
            };
            let made = match request {
                Request::Transact { project, load, decide, answer } => self.make(project, load, decide, answer),
                Request::Try { answer } => {
                    self.trials.push(answer);
                    continue;
                }
                Request::Act(act) => {
                    self.acts.push_back(act);
                    continue;
                }
                Request::Scrub { answer } => {
                    self.scrubs.push(answer);
                    continue;
                }
                Request::Close => {
                    // No further request gets in; the requests that are in already are served.
                    self.is_closing = true;
                    self.requests.close();
                    continue;
                }
            };
            match made {
                Made::Decided(made) => decided.push(made),
                Made::Refused => {}
                Made::Lost(failed, error) => return self.recover(decided, Some(failed), &error),
            }
        }
        let worked = Instant::now();
        let is_changed = decided.iter().any(|decided| !decided.changes.is_empty());
        match self.commit(is_changed) {
            Ok(()) => {
                // A commit that wrote nothing synced nothing.
                if is_changed {
                    self.commit_took = worked.elapsed();
                }
                self.publish(decided);
            }
            Err(error) => self.recover(decided, None, &error),
        }
    }

    /// Commits. A commit that begins a log also records that, so that an older copy of the file can be told from the
    /// file.
    fn commit(&mut self, is_changed: bool) -> rusqlite::Result<()> {
        let begins = is_changed && self.checkpoints.begins_log();
        if begins {
            self.begin_log.execute([self.lineage.next_epoch()])?;
        }
        self.commit.raw_execute()?;
        if !begins && is_changed && self.checkpoints.begins_log() {
            // All of the former log was moved just before this commit. Nobody is answered yet.
            if let Err(error) = self.begin_log.execute([self.lineage.next_epoch()]) {
                tracing::warn!(%error, "the store cannot record that its log began anew; the next commit does");
                reach(self.db, &error);
                return Ok(());
            }
        } else if !begins {
            return Ok(());
        }
        self.checkpoints.began_log();
        self.lineage.began();
        Ok(())
    }

    /// Lets one request decide, and writes its changes.
    fn make(&mut self, project: ProjectName, load: Load, decide: Decide, answer: Answer) -> Made {
        let (loaded, mut located) = match self.recorder.load(&project, &load) {
            Ok(loaded) => loaded,
            Err(error) => {
                tracing::error!(%error, project.name = %project, "the store cannot load a project");
                reach(self.db, &error);
                let told = store_error(self.db, &error);
                if self.db.is_autocommit() {
                    let decided = AwaitingCommit { project, load, changes: Changes::default(), answer };
                    return Made::Lost(decided, error);
                }
                return refuse(answer, told);
            }
        };
        // A decision that panics has written nothing yet, so there is nothing to take back.
        let Ok(changes) = catch_unwind(AssertUnwindSafe(|| decide(loaded))) else {
            tracing::error!(project.name = %project, "a decision panicked; nothing of it is recorded");
            return refuse(answer, StoreError::Unavailable("the decision failed".to_owned()));
        };
        let decided = AwaitingCommit { project, load, changes, answer };
        if decided.changes.is_empty() {
            return Made::Decided(decided);
        }
        if !self.ballast.is_held() && decided.is_output_only() {
            return refuse(decided.answer, StoreError::Full);
        }
        match self.recorder.record(self.db, &decided.project, &mut located, &decided.changes) {
            Ok(()) => Made::Decided(decided),
            Err(error) => Made::Lost(decided, error),
        }
    }

    /// Wakes the waiters of these projects, then answers. Where the commits would be lost at the next start, nobody is
    /// answered.
    fn publish(&mut self, decided: Vec<AwaitingCommit>) {
        if decided.iter().any(|decided| !decided.changes.is_empty()) {
            self.require_in_place();
            self.is_settled = false;
        }
        let changed_count = decided.iter().filter(|decided| !decided.changes.is_empty()).count();
        self.commits.count(changed_count, self.commit_took);
        for AwaitingCommit { project, changes, .. } in decided.iter().filter(|decided| !decided.changes.is_empty()) {
            // The changes are durable, so a failure in there must not keep the answers back.
            if catch_unwind(AssertUnwindSafe(|| (self.on_commit)(project, changes))).is_err() {
                tracing::error!(project.name = %project, "a wake-up panicked");
            }
        }
        decided.into_iter().for_each(|decided| tell(decided.answer, Ok(())));
    }

    /// Ends the process where the store's files are not in their places any more.
    fn require_in_place(&self) {
        let Err(displaced) = self.file.require_in_place() else { return };
        if displaced.is_the_log {
            // The file itself is still ours, so the commits in the log can be saved.
            self.checkpoints.save(self.db, self.file);
        }
        end_displaced(&displaced.what)
    }

    /// Recovers after a batch that cannot be committed, because of the decision `failed`, or because of the whole
    /// batch.
    fn recover(&mut self, mut decided: Vec<AwaitingCommit>, failed: Option<AwaitingCommit>, error: &rusqlite::Error) {
        self.roll_back();
        match (reach(self.db, error), failed) {
            (Reach::Request, Some(failed)) => {
                tracing::error!(%error, project.name = %failed.project, "a decision cannot be recorded");
                tell(failed.answer, Err(store_error(self.db, error)));
                self.record_anew(decided);
            }
            (Reach::Full, failed) => {
                decided.extend(failed);
                self.ballast.release();
                self.record_anew(decided);
            }
            (Reach::Request | Reach::File, failed) => {
                tracing::error!(%error, "the store cannot commit");
                decided.extend(failed);
                decided.into_iter().for_each(|decided| tell(decided.answer, Err(store_error(self.db, error))));
            }
        }
    }

    /// Records each decision in a commit of its own, so that as many as possible get through. While the disk is full,
    /// output gives way to the rest, which gets the room that was kept back.
    ///
    /// A decision stays right as long as all earlier decisions of its project are recorded too.
    fn record_anew(&mut self, decided: Vec<AwaitingCommit>) {
        let mut dropped: HashSet<ProjectName> = HashSet::new();
        for decided in decided {
            let recorded = if !self.ballast.is_held() && decided.is_output_only() {
                Err(StoreError::Full)
            } else if dropped.contains(&decided.project) {
                Err(StoreError::Unavailable("what this was based on could not be kept".to_owned()))
            } else {
                self.retry(&decided).map_err(|error| {
                    self.roll_back();
                    reach(self.db, &error);
                    store_error(self.db, &error)
                })
            };
            match recorded {
                Ok(()) => self.publish(vec![decided]),
                Err(error) => {
                    dropped.insert(decided.project);
                    tell(decided.answer, Err(error));
                }
            }
        }
    }

    fn retry(&mut self, decided: &AwaitingCommit) -> rusqlite::Result<()> {
        if decided.changes.is_empty() {
            return Ok(());
        }
        self.begin.raw_execute()?;
        // The rows may have other numbers this time.
        let (_, mut located) = self.recorder.load(&decided.project, &decided.load)?;
        self.recorder.record(self.db, &decided.project, &mut located, &decided.changes)?;
        self.commit(true)
    }

    fn roll_back(&self) {
        // SQLite may have rolled back by itself.
        if !self.db.is_autocommit()
            && let Err(error) = self.db.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the store cannot take back a transaction");
        }
    }
}
