//! One transaction: two flights with the decision in between. See decisions 0016 and 0064.
//!
//! ```text
//! turn ─▶ BEGIN · lock the project · load ─▶ decide ─▶ write · COMMIT ─▶ tell ─▶ answer
//!         └─── nothing has happened: again ───┘   └── lost? look up its outcome ────┘
//! ```

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
    fault::DatabaseFault,
    record::{self, Locked, Sighted},
    rows,
    schema::require_version,
    session::{self, Answers, BoundStatement, DatabaseSession, Origin, call},
    statements::Sql,
    turns::Turns,
    wakes::Wakes,
};
use crate::{
    model::{Changes, LineLoad, Load, Loaded, ProjectName},
    store::{CommitCounter, Decide, OnCommit, StoreError},
};

/// How long to wait for a request's turn in its project: as long as the requests before it may take in the worst case.
const TURN_LIMIT: Duration = Duration::from_secs(10);
/// How often a transaction without effect so far is begun at most, because broken connections are found one by one.
const BEGIN_LIMIT: u32 = 4;
/// How long to look for the outcome of a transaction.
const OUTCOME_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait before the outcome is asked for again; doubled each time.
const OUTCOME_PAUSE: Duration = Duration::from_millis(20);

/// The parts that transactions need.
pub(super) struct Engine {
    pub(super) pool: Pool<Sessions>,
    pub(super) turns: Arc<Turns>,
    pub(super) on_commit: OnCommit,
    pub(super) commits: CommitCounter,
    pub(super) wakes: Arc<Wakes>,
}

/// A transaction that has locked its project and loaded its data.
struct Begun {
    loaded: Loaded,
    sighted: Sighted,
    /// Its number in the database, if it has one yet.
    number: Option<i64>,
}

/// The outcome of a transaction.
enum TransactionOutcome {
    Committed,
    Aborted,
    Unknown,
}

/// Why a transaction was not committed.
enum Denied {
    /// The database refused a statement of it, and nothing was written.
    Refused(DatabaseFault),
    /// The connection broke; the error tells the outcome.
    Lost(StoreError),
}

pub(super) type Answer = oneshot::Sender<Result<(), StoreError>>;

impl Engine {
    pub(super) fn connector(&self) -> &Arc<Connector> {
        &self.pool.manager().0
    }

    pub(super) async fn session(&self) -> Result<Object<Sessions>, DatabaseFault> {
        Ok(self.pool.get().await?)
    }

    /// Whether a question, or a transaction without effect so far, may be sent again.
    pub(super) fn may_retry(&self, fault: &DatabaseFault, attempt: u32) -> bool {
        if fault.is_lost_statement() {
            self.connector().share_sessions();
            // The other connections rely on prepared statements, too.
            self.pool.retain(|_, _| false);
            return attempt < BEGIN_LIMIT;
        }
        fault.breaks_connection() && !matches!(fault, DatabaseFault::Silent) && attempt < BEGIN_LIMIT
    }

    /// Decides, records, and announces the commit. The caller may be gone by then; the decision is recorded, or not,
    /// all the same.
    pub(super) async fn transact(self: Arc<Self>, project: ProjectName, load: Load, decide: Decide, answer: Answer) {
        let Ok(turn) = timeout(TURN_LIMIT, self.turns.take(project.clone())).await else {
            let _ = answer.send(Err(StoreError::Unavailable("too many wait for this project".to_owned())));
            return;
        };
        let mut unfinished = None;
        let result = self.decide(&project, &load, decide, &mut unfinished).await;
        let _ = answer.send(result);
        drop(turn);
        if let Some(mut session) = unfinished {
            roll_back(&mut session).await;
        }
    }

    /// Decides, records, and announces the commit. A transaction that wrote nothing stays in `unfinished`, because
    /// nobody needs to wait for its end.
    async fn decide(
        &self,
        project: &ProjectName,
        load: &Load,
        decide: Decide,
        unfinished: &mut Option<Object<Sessions>>,
    ) -> Result<(), StoreError> {
        let (session, begun) = self.begin(project, load).await.map_err(DatabaseFault::into_store_error)?;
        let Begun { loaded, sighted, number } = begun;
        let changes = match decided(project, decide, loaded) {
            Ok(changes) if !changes.is_empty() => changes,
            // It wrote nothing, and all that it read was durable before.
            nothing => {
                *unfinished = Some(session);
                return nothing.map(|_| ());
            }
        };
        let prepared = async {
            let number = match number {
                Some(number) => number,
                // No row was locked, so the schema's version and the transaction's number were not read yet.
                None => transaction_number(&session).await?,
            };
            Ok::<_, DatabaseFault>((number, record::calls(project, &sighted, &changes)?))
        };
        let prepared = prepared.await;
        let begun = Instant::now();
        let committed = match prepared {
            Ok((number, calls)) => self.commit(session, number, calls).await,
            Err(fault) => {
                *unfinished = Some(session);
                Err(Denied::Refused(fault))
            }
        };
        match committed {
            Ok(()) => {}
            Err(Denied::Lost(error)) => return Err(error),
            Err(Denied::Refused(fault)) => {
                tracing::error!(project.name = %project, ?fault, "a decision cannot be recorded");
                return Err(fault.into_store_error());
            }
        }
        self.commits.count(1, begun.elapsed());
        // The commit is durable, so a panic in the callback must not withhold the answer.
        if catch_unwind(AssertUnwindSafe(|| (self.on_commit)(project, &changes))).is_err() {
            tracing::error!(project.name = %project, "a wake-up panicked");
        }
        self.wakes.tell(&changes);
        Ok(())
    }

    /// Begins a transaction, locks and loads; again, if the connection turned out to be broken.
    async fn begin(&self, project: &ProjectName, load: &Load) -> Result<(Object<Sessions>, Begun), DatabaseFault> {
        let mut attempt = 1;
        loop {
            let leave = self.connector().leave_to_write().await?;
            let mut session = self.session().await?;
            session.may_write(leave);
            let fault = match begin(&mut session, project, load).await {
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

    /// Writes and commits. If the commit is not answered, or not replicated as it should be, its outcome is looked up.
    async fn commit(
        &self,
        mut session: Object<Sessions>,
        number: i64,
        mut calls: Vec<BoundStatement>,
    ) -> Result<(), Denied> {
        let connector = self.connector().clone();
        let origin = session.origin().clone();
        if !connector.is_current(origin.branch) {
            // Nothing was written yet, and the end of the connection releases the locks.
            drop(Object::take(session));
            return Err(Denied::Lost(DatabaseFault::Moved.into_store_error()));
        }
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
                // The COMMIT after it rolled everything back.
                Err(fault) if !fault.breaks_connection() => return Err(Denied::Refused(fault)),
                Err(fault) => Some(fault),
            },
            Err(fault) => Some(fault),
        };
        // The connection is broken or stuck. Its place goes to another connection once it is gone.
        drop(Object::take(session));
        match &lost {
            Some(fault) => tracing::warn!(?fault, "a commit was not answered; looking for what became of it"),
            None => tracing::warn!("a commit was answered that its standby may not have; looking whether it has"),
        }
        Err(Denied::Lost(match self.outcome(number, &origin).await {
            TransactionOutcome::Committed => return Ok(()),
            TransactionOutcome::Aborted => {
                StoreError::Unavailable("the connection broke, and the transaction was taken back".to_owned())
            }
            TransactionOutcome::Unknown => {
                StoreError::Unknown("the connection broke while it was committed".to_owned())
            }
        }))
    }

    /// The outcome of a transaction whose commit was not answered.
    async fn outcome(&self, number: i64, origin: &Origin) -> TransactionOutcome {
        let deadline = Instant::now() + OUTCOME_LIMIT;
        let mut pause = OUTCOME_PAUSE;
        while Instant::now() < deadline {
            let asked = async {
                let mut session = self.session().await?;
                let rows = session.ask(call!(Sql::Outcome, number.to_string())).await?;
                let row = rows.first().ok_or(DatabaseFault::Mistaken("the database tells no outcome"))?;
                let status = rows::get::<Option<String>>(row, 0)?;
                let now = Origin { branch: rows::get(row, 1)?, life: session.origin().life.clone() };
                if status.as_deref() == Some("committed") && now == *origin {
                    // It is here. A later commit shows whether it is also wherever the settings demand it.
                    session.take_warning();
                    session.write(call!(Sql::Fence)).await?;
                    if session.take_warning() {
                        return Err(DatabaseFault::Mistaken("the database does not wait for its standby"));
                    }
                }
                Ok::<_, DatabaseFault>((status, now))
            };
            match asked.await {
                // Another database was promoted meanwhile. Commits that it had not received are lost, and another
                // transaction may have the number by now.
                Ok((_, now)) if now.branch != origin.branch => return TransactionOutcome::Unknown,
                // After a crash, a number whose transaction left no trace on the disk is given out again. So another
                // transaction's commit may be reported as ours; but a committed one is never reported as aborted.
                Ok((Some(status), now)) if status == "committed" && now != *origin => {
                    return TransactionOutcome::Unknown;
                }
                Ok((Some(status), _)) if status == "committed" => return TransactionOutcome::Committed,
                Ok((Some(status), _)) if status == "aborted" => return TransactionOutcome::Aborted,
                // Still in progress: the database has not noticed yet that our connection is gone.
                Ok((Some(_), _)) => {}
                Ok((None, _)) => return TransactionOutcome::Unknown,
                Err(fault) => tracing::debug!(?fault, "cannot ask what became of a transaction yet"),
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        TransactionOutcome::Unknown
    }
}

/// The first flight; and a second one for a project that has no row to lock yet.
async fn begin(session: &mut DatabaseSession, name: &ProjectName, load: &Load) -> Result<Begun, DatabaseFault> {
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

/// The decision. If it panics, nothing has been written yet.
fn decided(project: &ProjectName, decide: Decide, loaded: Loaded) -> Result<Changes, StoreError> {
    catch_unwind(AssertUnwindSafe(|| decide(loaded))).map_err(|_| {
        tracing::error!(project.name = %project, "a decision panicked; nothing of it is recorded");
        StoreError::Unavailable("the decision failed".to_owned())
    })
}

/// The number of a transaction that locked no project.
async fn transaction_number(session: &DatabaseSession) -> Result<i64, DatabaseFault> {
    let answers = session::rows(session.go_on(&[call!(Sql::TransactionNumber)]).await?)?;
    let row = answers.first().and_then(|rows| rows.first());
    let row = row.ok_or(DatabaseFault::Mistaken("the database tells no number"))?;
    require_version(rows::get(row, 0)?)?;
    rows::get(row, 1)
}

/// Whether every statement of a flight that ends with COMMIT succeeded.
fn committed(answers: Answers) -> Result<(), DatabaseFault> {
    // The first error says the cause; the errors after it only say that the transaction was aborted.
    session::rows(answers).map(|_| ())
}

async fn roll_back(session: &mut DatabaseSession) {
    if let Err(fault) = session.end(&[call!(Sql::Rollback)]).await {
        // The connection is not used again, and its end rolls everything back.
        tracing::debug!(?fault, "a transaction could not be taken back");
    }
}
