//! One transaction: two flights with the decisions in between. See decision 0016.
//!
//! ```text
//! turn ─▶ lane ─▶ BEGIN · lock the projects · load ─▶ decide ─▶ write · COMMIT ─▶ tell ─▶ answer
//!                 └─── nothing has happened: again ───┘    └── lost? ask what became of it ──┘
//! ```
//!
//! Decisions on different projects share a transaction where they can ([`super::group`]). What could hold others up goes
//! alone: a project that another server has locked, and the load of a long line.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use deadpool::managed::{Object, Pool};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};

use super::{
    connect::{Connector, Sessions},
    fault::Fault,
    group::Lanes,
    record::{self, Locked, Records, Sighted},
    rows,
    schema::require_version,
    session::{self, Answers, Origin, Session, call},
    statements::Sql,
    turns::{Turn, Turns},
    wakes::Wakes,
};
use tokio_util::task::TaskTracker;

use crate::{
    model::{Changes, LineLoad, Load, Loaded, ProjectName},
    store::{CommitCounter, Decide, OnCommit, StoreError},
};

/// How long to wait until it is a request's turn in its project: as long as those before it may take at worst.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// How often a transaction that did nothing yet is begun at most: connections that broke unseen are found one by one.
const BEGIN_LIMIT: u32 = 4;
/// How long to look for what became of a transaction.
const OUTCOME_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before it is asked for again; doubled each time.
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// What transactions are made with.
pub(super) struct Engine {
    pub(super) pool: Pool<Sessions>,
    pub(super) turns: Arc<Turns>,
    pub(super) lanes: Arc<Lanes>,
    /// Everything that must be ended before the store is.
    pub(super) under_way: TaskTracker,
    pub(super) on_commit: OnCommit,
    pub(super) commits: CommitCounter,
    pub(super) wakes: Arc<Wakes>,
}

/// A transaction that has locked its project and loaded what was asked for.
pub(super) struct Begun {
    loaded: Loaded,
    sighted: Sighted,
    /// Its number in the database, once it has one.
    number: Option<i64>,
}

/// What a transaction can begin with.
pub(super) trait Begin {
    /// What is known then.
    type Begun;

    /// Begins it, and locks and loads. Nothing of it is left when that fails.
    fn begin_on(&self, session: &mut Session) -> impl Future<Output = Result<Self::Begun, Fault>> + Send;
}

/// What became of a transaction.
enum Outcome {
    Committed,
    Aborted,
    Unknown,
}

/// Why a transaction was not committed.
pub(super) enum Denied {
    /// The database refused something of it, and nothing has happened.
    Refused(Fault),
    /// The connection broke; this is what became of it.
    Lost(StoreError),
}

pub(super) type Answer = oneshot::Sender<Result<(), StoreError>>;

/// What a decision is about.
#[derive(Clone)]
pub(super) struct Wish {
    pub(super) project: ProjectName,
    pub(super) load: Load,
}

/// A decision that is to be made.
pub(super) struct Job {
    pub(super) wish: Wish,
    pub(super) decide: Decide,
    pub(super) asker: Asker,
}

/// A decision that was made, and is not recorded yet.
pub(super) struct Decided {
    pub(super) project: ProjectName,
    pub(super) sighted: Sighted,
    pub(super) changes: Changes,
    pub(super) asker: Asker,
}

/// Who waits for a decision. Nobody else of this server decides on the project before this is told or dropped.
pub(super) struct Asker {
    answer: Answer,
    turn: Turn,
}

impl Asker {
    /// Whoever asked may be gone; it is recorded, or not, all the same.
    pub(super) fn tell(self, result: Result<(), StoreError>) {
        let Asker { answer, turn } = self;
        tell(answer, result);
        drop(turn);
    }
}

impl Engine {
    /// Who makes the connections.
    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.pool.manager().0
    }

    /// A connection.
    pub(super) async fn session(&self) -> Result<Object<Sessions>, Fault> {
        Ok(self.pool.get().await?)
    }

    /// Whether a question, or a transaction that did nothing yet, may be put again.
    pub(super) fn may_retry(&self, fault: &Fault, attempt: u32) -> bool {
        if fault.is_lost_statement() {
            self.connector().share_sessions();
            // The other connections expect prepared statements, too.
            self.pool.retain(|_, _| false);
            return attempt < BEGIN_LIMIT;
        }
        fault.breaks_connection() && !matches!(fault, Fault::Silent) && attempt < BEGIN_LIMIT
    }

    /// Decides and records, and tells of it. Whoever asked may be gone by then.
    pub(super) async fn transact(self: Arc<Self>, project: ProjectName, load: Load, decide: Decide, answer: Answer) {
        let Ok(turn) = timeout(TURN_LIMIT, self.turns.take(project.clone())).await else {
            return tell(answer, Err(StoreError::Unavailable("too many wait for this project".to_owned())));
        };
        let job = Job { wish: Wish { project, load }, decide, asker: Asker { answer, turn } };
        if job.may_share() { self.share(job).await } else { self.alone(job).await }
    }

    /// A transaction of its own, which waits for the project's lock.
    pub(super) async fn alone(self: Arc<Self>, job: Job) {
        let Job { wish, decide, asker } = job;
        let (mut session, Begun { loaded, sighted, number }) = match self.begin(&wish).await {
            Ok(begun) => begun,
            Err(fault) => return asker.tell(Err(fault.into_store_error())),
        };
        let project = wish.project;
        match decided(&project, decide, loaded) {
            Err(error) => {
                asker.tell(Err(error));
                roll_back(&mut session).await;
            }
            Ok(changes) if changes.is_empty() => {
                // What it saw was durable before it could be seen.
                asker.tell(Ok(()));
                roll_back(&mut session).await;
            }
            Ok(changes) => self.record_alone(session, number, Decided { project, sighted, changes, asker }).await,
        }
    }

    /// Records a decision whose transaction with others was refused, unless what it rests on has changed meanwhile.
    pub(super) async fn record_again(self: Arc<Self>, decided: Decided) {
        let lock = Wish { project: decided.project.clone(), load: Load::default() };
        match self.begin(&lock).await {
            Ok((session, Begun { number, .. })) => self.record_alone(session, number, decided).await,
            Err(fault) => decided.asker.tell(Err(fault.into_store_error())),
        }
    }

    /// Begins a transaction; again, where the connection turned out to be broken.
    pub(super) async fn begin<T: Begin>(&self, what: &T) -> Result<(Object<Sessions>, T::Begun), Fault> {
        let mut attempt = 1;
        loop {
            let mut session = self.session().await?;
            let fault = match what.begin_on(&mut session).await {
                Ok(begun) => return Ok((session, begun)),
                Err(fault) => fault,
            };
            if !fault.breaks_connection() {
                roll_back(&mut session).await;
            }
            drop(session);
            if !self.may_retry(&fault, attempt) {
                return Err(fault);
            }
            attempt += 1;
        }
    }

    async fn record_alone(&self, mut session: Object<Sessions>, number: Option<i64>, decided: Decided) {
        let name = &decided.project;
        let prepared = async {
            let number = match number {
                Some(number) => number,
                // No row was locked, so nobody looked at the schema or asked for a number yet.
                None => transaction_number(&session).await?,
            };
            let mut records = Records::new();
            records.add(name, &decided.sighted, &decided.changes)?;
            Ok::<_, Fault>((number, records))
        };
        let refused = match prepared.await {
            Ok((number, records)) => match self.commit(session, number, records).await {
                Ok(()) => {
                    self.commits.count(1);
                    return self.tell_of(decided);
                }
                Err(Denied::Lost(error)) => return decided.asker.tell(Err(error)),
                Err(Denied::Refused(fault)) => fault,
            },
            Err(fault) => {
                roll_back(&mut session).await;
                fault
            }
        };
        tracing::error!(project.name = %name, fault = ?refused, "a decision cannot be recorded");
        decided.asker.tell(Err(refused.into_store_error()));
    }

    /// Writes and commits. A commit that is not answered, or not replicated as it should be, is looked up.
    pub(super) async fn commit(
        &self,
        mut session: Object<Sessions>,
        number: i64,
        records: Records,
    ) -> Result<(), Denied> {
        let connector = self.connector().clone();
        let origin = session.origin().clone();
        if !connector.is_current(origin.branch) {
            // Nothing was written yet, and the end of the connection takes the locks back.
            drop(Object::take(session));
            return Err(Denied::Lost(Fault::Moved.into_store_error()));
        }
        let mut calls = records.into_calls();
        calls.push(call!(Sql::Commit));
        session.take_warning();
        let answered = session.end(&calls).await;
        let lost = match answered {
            Ok(answers) => match committed(answers) {
                Ok(()) if session.take_warning() => None,
                Ok(()) if connector.is_current(origin.branch) => return Ok(()),
                Ok(()) => {
                    let why = "it was committed to a database that was failed over meanwhile".to_owned();
                    return Err(Denied::Lost(StoreError::Unknown(why)));
                }
                // The COMMIT behind it took everything back.
                Err(fault) if !fault.breaks_connection() => return Err(Denied::Refused(fault)),
                Err(fault) => Some(fault),
            },
            Err(fault) => Some(fault),
        };
        // The connection is broken, or stuck; its place goes to another one once it is gone.
        drop(Object::take(session));
        match &lost {
            Some(fault) => tracing::warn!(?fault, "a commit was not answered; looking for what became of it"),
            None => tracing::warn!("a commit was answered that its standby may not have; looking whether it has"),
        }
        Err(Denied::Lost(match self.outcome(number, &origin).await {
            Outcome::Committed => return Ok(()),
            Outcome::Aborted => {
                StoreError::Unavailable("the connection broke, and the transaction was taken back".to_owned())
            }
            Outcome::Unknown => StoreError::Unknown("the connection broke while it was committed".to_owned()),
        }))
    }

    /// Tells whoever waits for it of something that is durable, and whoever asked.
    pub(super) fn tell_of(&self, decided: Decided) {
        let Decided { project, changes, asker, .. } = decided;
        // It is durable, so nothing that happens in there may keep the answer back.
        if catch_unwind(AssertUnwindSafe(|| (self.on_commit)(&project, &changes))).is_err() {
            tracing::error!(project.name = %project, "a wake-up panicked");
        }
        self.wakes.tell(&changes);
        asker.tell(Ok(()));
    }

    /// What became of a transaction whose commit was not answered.
    async fn outcome(&self, number: i64, origin: &Origin) -> Outcome {
        let deadline = Instant::now() + OUTCOME_LIMIT;
        let mut pause = OUTCOME_PAUSE;
        while Instant::now() < deadline {
            let asked = async {
                let mut session = self.session().await?;
                let rows = session.ask(call!(Sql::Outcome, number.to_string())).await?;
                let row = rows.first().ok_or(Fault::Mistaken("the database tells no outcome"))?;
                let status = rows::get::<Option<String>>(row, 0)?;
                let now = Origin { branch: rows::get(row, 1)?, life: session.origin().life.clone() };
                if status.as_deref() == Some("committed") && now == *origin {
                    // It is here; whether it is wherever it must be before it is believed, a commit after it shows.
                    session.take_warning();
                    session.write(call!(Sql::Fence)).await?;
                    if session.take_warning() {
                        return Err(Fault::Mistaken("the database does not wait for its standby"));
                    }
                }
                Ok::<_, Fault>((status, now))
            };
            match asked.await {
                // Another server was promoted meanwhile. What it had not heard of is lost, and the number may be
                // somebody else's by now.
                Ok((_, now)) if now.branch != origin.branch => return Outcome::Unknown,
                // After a crash a number whose transaction left no trace on the disk is given out again, so that another's
                // commit may be told for ours; but none that was committed is ever told as aborted.
                Ok((Some(status), now)) if status == "committed" && now != *origin => return Outcome::Unknown,
                Ok((Some(status), _)) if status == "committed" => return Outcome::Committed,
                Ok((Some(status), _)) if status == "aborted" => return Outcome::Aborted,
                // Still in progress: the database has not noticed yet that we are gone.
                Ok((Some(_), _)) => {}
                Ok((None, _)) => return Outcome::Unknown,
                Err(fault) => tracing::debug!(?fault, "cannot ask what became of a transaction yet"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Outcome::Unknown
    }
}

impl Begin for Wish {
    type Begun = Begun;

    fn begin_on(&self, session: &mut Session) -> impl Future<Output = Result<Begun, Fault>> + Send {
        begin_alone(session, self)
    }
}

/// The first flight; and a second one for a project that has no row yet by which it could be locked.
async fn begin_alone(session: &mut Session, Wish { project: name, load }: &Wish) -> Result<Begun, Fault> {
    let text = || name.as_str().to_owned();
    let mut calls = vec![call!(Sql::Begin), call!(Sql::Lock, text())];
    calls.extend(record::load(name, load)?);
    let mut answers = session::rows(session.begin(&calls).await?)?.split_off(1);
    let mut locked = answers.remove(0);
    if locked.is_empty() && load.line != LineLoad::None {
        let no_runs = crate::store::columns::recent_runs_to_json(&[]).unwrap_or_default();
        let mut calls = vec![call!(Sql::NewProject, text(), no_runs), call!(Sql::Lock, text())];
        calls.extend(record::load(name, load)?);
        answers = session::rows(session.go_on(&calls).await?)?.split_off(1);
        locked = answers.remove(0);
    }
    let locked = locked.first().map(|row| Locked::of(row, name)).transpose()?;
    let (project, number) = match locked {
        Some(Locked { project, version, transaction }) => {
            require_version(version)?;
            (Some(project?), Some(transaction))
        }
        None => (None, None),
    };
    let (loaded, sighted) = record::loaded(name, load, project, answers)?;
    Ok(Begun { loaded, sighted, number })
}

/// What is decided. It has written nothing yet, should it panic.
pub(super) fn decided(project: &ProjectName, decide: Decide, loaded: Loaded) -> Result<Changes, StoreError> {
    catch_unwind(AssertUnwindSafe(|| decide(loaded))).map_err(|_| {
        tracing::error!(project.name = %project, "a decision panicked; nothing of it is recorded");
        StoreError::Unavailable("the decision failed".to_owned())
    })
}

/// The number of a transaction that has locked no project.
async fn transaction_number(session: &Session) -> Result<i64, Fault> {
    let answers = session::rows(session.go_on(&[call!(Sql::TransactionNumber)]).await?)?;
    let row = answers.first().and_then(|rows| rows.first());
    let row = row.ok_or(Fault::Mistaken("the database tells no number"))?;
    require_version(rows::get(row, 0)?)?;
    rows::get(row, 1)
}

/// Whether all of a flight that ends with COMMIT was done.
fn committed(answers: Answers) -> Result<(), Fault> {
    // The first error tells; what follows it in a transaction only says that it was aborted.
    session::rows(answers).map(|_| ())
}

pub(super) async fn roll_back(session: &mut Session) {
    if let Err(fault) = session.end(&[call!(Sql::Rollback)]).await {
        // It is not used again, and its end takes everything back.
        tracing::debug!(?fault, "a transaction could not be taken back");
    }
}

fn tell(answer: Answer, result: Result<(), StoreError>) {
    let _ = answer.send(result);
}
