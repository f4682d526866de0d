//! One transaction: two flights with the decision in between.
//!
//! ```text
//! turn ─▶ BEGIN · lock the project · load ─▶ decide ─▶ write · COMMIT ─▶ tell ─▶ answer
//!          └── nothing has happened: tried again ──┘    └── lost? ask what became of it ──┘
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
    connect::Sessions,
    fault::Fault,
    record::{self, Locked, Sighted},
    rows,
    schema::require_version,
    session::{self, Answers, Origin, Session, call},
    statements::Sql,
    turns::Turns,
    wakes::Wakes,
};
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
    pub(super) on_commit: OnCommit,
    pub(super) commits: CommitCounter,
    pub(super) wakes: Arc<Wakes>,
}

/// A transaction that has locked its project and loaded what was asked for.
struct Begun {
    session: Object<Sessions>,
    loaded: Loaded,
    sighted: Sighted,
    /// Its number in the database, once it has one.
    number: Option<i64>,
}

/// What became of a transaction.
enum Outcome {
    Committed,
    Aborted,
    Unknown,
}

pub(super) type Answer = oneshot::Sender<Result<(), StoreError>>;

impl Engine {
    /// A connection.
    pub(super) async fn session(&self) -> Result<Object<Sessions>, Fault> {
        Ok(self.pool.get().await?)
    }

    /// Whether a question, or a transaction that did nothing yet, may be put again.
    pub(super) fn may_retry(&self, fault: &Fault, attempt: u32) -> bool {
        if fault.is_lost_statement() {
            self.pool.manager().0.share_sessions();
            // The other connections expect prepared statements, too.
            self.pool.retain(|_, _| false);
            return attempt < BEGIN_LIMIT;
        }
        fault.breaks_connection() && !matches!(fault, Fault::Silent) && attempt < BEGIN_LIMIT
    }

    /// Decides and records, and tells of it. Whoever asked may be gone by then.
    pub(super) async fn transact(self: Arc<Self>, project: ProjectName, load: Load, decide: Decide, answer: Answer) {
        let Ok(_turn) = timeout(TURN_LIMIT, self.turns.take(project.clone())).await else {
            return tell(answer, Err(StoreError::Unavailable("too many wait for this project".to_owned())));
        };
        let mut attempt = 1;
        let begun = loop {
            match self.begin(&project, &load).await {
                Ok(begun) => break begun,
                Err(fault) if self.may_retry(&fault, attempt) => attempt += 1,
                Err(fault) => return tell(answer, Err(fault.into_store_error())),
            }
        };
        let Begun { mut session, loaded, sighted, mut number } = begun;
        // It has written nothing yet when it panics.
        let Ok(changes) = catch_unwind(AssertUnwindSafe(|| decide(loaded))) else {
            tracing::error!(project.name = %project, "a decision panicked; nothing of it is recorded");
            roll_back(&mut session).await;
            return tell(answer, Err(StoreError::Unavailable("the decision failed".to_owned())));
        };
        if changes.is_empty() {
            // What it saw was durable before it could be seen.
            tell(answer, Ok(()));
            return roll_back(&mut session).await;
        }
        let recorded = self.record(&project, session, &sighted, &mut number, &changes).await;
        if recorded.is_ok() {
            self.commits.count(1);
            // It is durable, so nothing that happens in there may keep the answer back.
            if catch_unwind(AssertUnwindSafe(|| (self.on_commit)(&project, &changes))).is_err() {
                tracing::error!(project.name = %project, "a wake-up panicked");
            }
            self.wakes.tell(&changes);
        }
        tell(answer, recorded);
    }

    async fn begin(&self, name: &ProjectName, load: &Load) -> Result<Begun, Fault> {
        let mut session = self.session().await?;
        match begin_on(&mut session, name, load).await {
            Ok((loaded, sighted, number)) => Ok(Begun { session, loaded, sighted, number }),
            Err(fault) => {
                if !fault.breaks_connection() {
                    roll_back(&mut session).await;
                }
                Err(fault)
            }
        }
    }

    async fn record(
        &self,
        name: &ProjectName,
        mut session: Object<Sessions>,
        sighted: &Sighted,
        number: &mut Option<i64>,
        changes: &Changes,
    ) -> Result<(), StoreError> {
        let prepared = async {
            if number.is_none() {
                // No row was locked, so nobody looked at the schema or asked for a number yet.
                let answers = session.go_on(&[call!(Sql::TransactionNumber)]).await?;
                let answers = session::rows(answers)?;
                let row = answers.first().and_then(|rows| rows.first());
                let row = row.ok_or(Fault::Mistaken("the database tells no number"))?;
                require_version(rows::get(row, 0)?)?;
                *number = Some(rows::get(row, 1)?);
            }
            record::record(name, sighted, changes)
        };
        let mut calls = match prepared.await {
            Ok(calls) => calls,
            Err(fault) => {
                tracing::error!(project.name = %name, ?fault, "a decision cannot be recorded");
                roll_back(&mut session).await;
                return Err(fault.into_store_error());
            }
        };
        calls.push(call!(Sql::Commit));
        let lost = match session.end(&calls).await {
            Ok(answers) => match committed(answers) {
                Ok(()) => return Ok(()),
                Err(fault) if !fault.breaks_connection() => {
                    // It was refused, and the COMMIT behind it took everything back.
                    tracing::error!(project.name = %name, ?fault, "a decision cannot be recorded");
                    return Err(fault.into_store_error());
                }
                Err(fault) => fault,
            },
            Err(fault) => fault,
        };
        let origin = session.origin().clone();
        // The connection is broken; its place goes to another one.
        drop(Object::take(session));
        tracing::warn!(project.name = %name, fault = ?lost, "a commit was not answered; looking for what became of it");
        match self.outcome(number.unwrap_or_default(), &origin).await {
            Outcome::Committed => Ok(()),
            Outcome::Aborted => {
                Err(StoreError::Unavailable("the connection broke, and the transaction was taken back".to_owned()))
            }
            Outcome::Unknown => Err(StoreError::Unknown("the connection broke while it was committed".to_owned())),
        }
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
                let now = Origin { timeline: rows::get(row, 1)?, life: rows::get(row, 2)? };
                Ok::<_, Fault>((rows::get::<Option<String>>(row, 0)?, now))
            };
            match asked.await {
                // Another server was promoted meanwhile. What it had not heard of is lost, and the number may be
                // somebody else's by now.
                Ok((_, now)) if now.timeline != origin.timeline => return Outcome::Unknown,
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

/// The first flight; and a second one for a project that has no row yet by which it could be locked.
async fn begin_on(
    session: &mut Session,
    name: &ProjectName,
    load: &Load,
) -> Result<(Loaded, Sighted, Option<i64>), Fault> {
    let text = || name.as_str().to_owned();
    let mut calls = vec![call!(Sql::Begin), call!(Sql::Lock, text())];
    calls.extend(record::load(name, load));
    let mut answers = session::rows(session.begin(&calls).await?)?.split_off(1);
    let mut locked = answers.remove(0);
    if locked.is_empty() && load.line != LineLoad::None {
        let no_runs = crate::store::columns::recent_runs_to_json(&[]).unwrap_or_default();
        let mut calls = vec![call!(Sql::NewProject, text(), no_runs), call!(Sql::Lock, text())];
        calls.extend(record::load(name, load));
        answers = session::rows(session.go_on(&calls).await?)?.split_off(1);
        locked = answers.remove(0);
    }
    let locked = locked.first().map(|row| Locked::of(row, name)).transpose()?;
    let (project, number) = match locked {
        Some(Locked { project, version, transaction }) => {
            require_version(version)?;
            (Some(project), Some(transaction))
        }
        None => (None, None),
    };
    let (loaded, sighted) = record::loaded(name, load, project, answers)?;
    Ok((loaded, sighted, number))
}

/// Whether all of a flight that ends with COMMIT was done.
fn committed(answers: Answers) -> Result<(), Fault> {
    // The first error tells; what follows it in a transaction only says that it was aborted.
    session::rows(answers).map(|_| ())
}

async fn roll_back(session: &mut Session) {
    if let Err(fault) = session.end(&[call!(Sql::Rollback)]).await {
        // It is not used again, and its end takes everything back.
        tracing::debug!(?fault, "a transaction could not be taken back");
    }
}

fn tell(answer: Answer, result: Result<(), StoreError>) {
    // Who asked may be gone; it is recorded, or not, all the same.
    let _ = answer.send(result);
}
