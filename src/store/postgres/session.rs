//! One connection: its settings, and how many statements it sends in one flight.
//!
//! The driver sends a statement when its future is first polled, and answers come in the order of the statements. So a
//! flight of many statements costs one round trip.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::TryStreamExt;
use tokio::{sync::OwnedSemaphorePermit, time::timeout};
use tokio_postgres::{Client, Row, Statement, types::ToSql};
use uuid::Uuid;

use super::{
    facts::{self, first_row},
    fault::DatabaseFault,
    link::{Link, Wire},
    statements::Sql,
};

/// How long a statement may take. The longest are the load of a line of thousands, some 100 ms, and a wait for the
/// lock.
const STATEMENT_LIMIT: Duration = Duration::from_secs(12);
/// How long to wait for another replica that has locked a project. It is longer than `IDLE_LIMIT`, so a replica that is
/// stopped while it holds the lock does not block the others for good.
const LOCK_LIMIT: Duration = Duration::from_secs(8);
/// How long a transaction may wait for us. Between its two flights is only a decision.
const IDLE_LIMIT: Duration = Duration::from_secs(4);
/// How long a flight may take on our side, in case the database is stopped or unreachable.
const FLIGHT_LIMIT: Duration = Duration::from_secs(15);

/// A parameter of a statement.
pub(super) type Param = Box<dyn ToSql + Sync + Send>;

/// A statement with its parameters.
pub(super) struct BoundStatement {
    pub(super) sql: Sql,
    pub(super) params: Vec<Param>,
}

/// `call!(Sql::Line, name, 5)`
macro_rules! call {
    ($sql:expr $(, $param:expr)* $(,)?) => {
        $crate::store::postgres::session::BoundStatement {
            sql: $sql,
            params: vec![$(Box::new($param) as $crate::store::postgres::session::Param),*],
        }
    };
}
pub(super) use call;

/// The answers of a flight, in the order of its calls.
pub(super) type Answers = Vec<Result<Vec<Row>, DatabaseFault>>;

/// The settings of a session: set once, or with each transaction if sessions are shared.
///
/// Every statement finds its rows by an index, and they are few. A plan is made when a statement is first run, and kept
/// until the database has new statistics. So a plan that was made for empty tables must work for large ones.
pub(super) fn settings(schema: &str, scope: &str) -> String {
    format!(
        "SET {scope} search_path TO {schema}; SET {scope} statement_timeout TO {}; SET {scope} lock_timeout TO {}; \
         SET {scope} idle_in_transaction_session_timeout TO {}; SET {scope} plan_cache_mode TO force_generic_plan; \
         SET {scope} enable_seqscan TO off; SET {scope} enable_hashjoin TO off; SET {scope} enable_mergejoin TO off; \
         SET {scope} jit TO off; SET {scope} client_min_messages TO warning",
        STATEMENT_LIMIT.as_millis(),
        LOCK_LIMIT.as_millis(),
        IDLE_LIMIT.as_millis(),
    )
}

/// The database, and its life, to which the session was connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// Changes when a standby is promoted.
    pub(super) branch: Uuid,
    /// Changes when the database starts again.
    pub(super) life: String,
}

/// A connection with our statements.
pub(super) struct DatabaseSession {
    client: Client,
    /// By the numbers of [`Sql`]; empty if each statement may reach another session.
    prepared: Vec<Statement>,
    /// If sessions are shared: the additional beginning of each transaction.
    opening: Option<Opening>,
    wire: Arc<Wire>,
    origin: Origin,
    /// Whether a transaction is, or may be, open.
    is_dirty: bool,
}

/// The additional beginning of a transaction in a shared session.
struct Opening {
    settings: String,
    /// The timeline that the transaction must find, if the database tells it.
    timeline: Option<i64>,
}

impl DatabaseSession {
    /// A connection whose session is ours alone, so it is set up once.
    pub(super) async fn own(link: Link, schema: &str, origin: Origin) -> Result<DatabaseSession, DatabaseFault> {
        let Link { client, wire, facts: _ } = link;
        client.batch_execute(&settings(schema, "SESSION")).await?;
        let prepares = Sql::ALL.iter().map(|sql| Box::pin(client.prepare_typed(sql.text(), sql.types())));
        let prepared = in_order(prepares.collect()).await.into_iter().collect::<Result<_, _>>()?;
        Ok(DatabaseSession { client, prepared, opening: None, wire, origin, is_dirty: false })
    }

    /// A connection behind which each transaction may reach another session. So no session is changed for good, and
    /// each transaction checks which database it reached.
    pub(super) fn shared(link: Link, schema: &str, origin: Origin, timeline: Option<i64>) -> DatabaseSession {
        let Link { client, wire, facts: _ } = link;
        let opening = Some(Opening { settings: settings(schema, "LOCAL"), timeline });
        DatabaseSession { client, prepared: Vec::new(), opening, wire, origin, is_dirty: false }
    }

    /// Whether it can be used for a new request.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_dirty && !self.client.is_closed()
    }

    /// The database, and its life, to which this was connected.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Whether the database has warned, since the last call, that a commit is not replicated as its settings demand.
    pub(super) fn take_warning(&self) -> bool {
        self.wire.take_warning()
    }

    /// Lets it write, with the permit of [`Connector::leave_to_write`](super::connect::Connector::leave_to_write).
    pub(super) fn may_write(&self, leave: OwnedSemaphorePermit) {
        self.wire.may_write(leave);
    }

    /// Sends these together; the first of them begins a transaction. Each has an answer of its own.
    pub(super) async fn begin(&mut self, calls: &[BoundStatement]) -> Result<Answers, DatabaseFault> {
        self.wire.begin_writing().await?;
        self.is_dirty = true;
        self.send_all(calls).await
    }

    /// Sends these together, within the transaction.
    pub(super) async fn go_on(&self, calls: &[BoundStatement]) -> Result<Answers, DatabaseFault> {
        self.send_all(calls).await
    }

    /// Sends these together; the last of them ends the transaction.
    pub(super) async fn end(&mut self, calls: &[BoundStatement]) -> Result<Answers, DatabaseFault> {
        let answers = self.send_all(calls).await?;
        self.is_dirty = !matches!(answers.last(), Some(Ok(_)));
        self.wire.end_writing();
        Ok(answers)
    }

    /// Asks one question that needs no transaction of its own.
    pub(super) async fn ask(&mut self, call: BoundStatement) -> Result<Vec<Row>, DatabaseFault> {
        if self.opening.is_none() {
            let answers = self.send_all(&[call]).await?;
            return rows(answers).map(|mut answers| answers.pop().unwrap_or_default());
        }
        self.ask_together(vec![call]).await.map(|mut answers| answers.pop().unwrap_or_default())
    }

    /// Sends one statement that writes, as a transaction of its own.
    pub(super) async fn write(&mut self, call: BoundStatement) -> Result<Vec<Row>, DatabaseFault> {
        self.wire.begin_writing().await?;
        self.is_dirty = true;
        if self.opening.is_none() {
            let answers = self.send_all(&[call]).await?;
            self.is_dirty = false;
            self.wire.end_writing();
            return rows(answers).map(|mut answers| answers.pop().unwrap_or_default());
        }
        let answers = self.send_all(&[call!(Sql::Begin), call, call!(Sql::Commit)]).await?;
        // A commit also ends a transaction that failed.
        self.is_dirty = !matches!(answers.last(), Some(Ok(_)));
        self.wire.end_writing();
        rows(answers).map(|mut answers| answers.swap_remove(1))
    }

    /// Asks several questions on one snapshot, in one flight.
    pub(super) async fn ask_together(&mut self, calls: Vec<BoundStatement>) -> Result<Vec<Vec<Row>>, DatabaseFault> {
        let mut all = vec![call!(Sql::BeginSnapshot)];
        all.extend(calls);
        all.push(call!(Sql::Commit));
        self.is_dirty = true;
        let answers = self.send_all(&all).await?;
        // A commit also ends a transaction that failed.
        self.is_dirty = !matches!(answers.last(), Some(Ok(_)));
        let mut answers = rows(answers)?;
        answers.pop();
        answers.remove(0);
        Ok(answers)
    }

    async fn send_all(&self, calls: &[BoundStatement]) -> Result<Answers, DatabaseFault> {
        let sends = calls.iter().map(|call| Box::pin(self.send(call))).collect();
        timeout(FLIGHT_LIMIT, in_order(sends)).await.map_err(|_| DatabaseFault::Silent)
    }

    async fn send(&self, call: &BoundStatement) -> Result<Vec<Row>, DatabaseFault> {
        if let (Some(opening), Sql::Begin | Sql::BeginSnapshot) = (&self.opening, call.sql) {
            return self.open(call.sql, opening).await.map(|()| Vec::new());
        }
        let params = call.params.iter().map(|param| &**param as &(dyn ToSql + Sync));
        let rows = match self.prepared.get(call.sql as usize) {
            Some(statement) => self.client.query_raw(statement, params).await?,
            None => self.client.query_typed_raw(call.sql.text(), params.zip(call.sql.types().iter().cloned())).await?,
        };
        Ok(rows.try_collect().await?)
    }

    /// Begins a transaction in whichever session it reached, and checks that this is still the same database.
    async fn open(&self, begin: Sql, Opening { settings, timeline }: &Opening) -> Result<(), DatabaseFault> {
        let asked = if timeline.is_some() { facts::TIMELINE } else { "NULL" };
        let opening = format!("{}; {settings}; SELECT branch, {asked} FROM lineage", begin.text());
        let answer = self.client.simple_query(&opening).await?;
        let cells = first_row(&answer).unwrap_or_default();
        let is_same = |at: usize, wanted: Option<String>| cells.get(at).cloned().flatten() == wanted;
        let is_expected =
            is_same(0, Some(self.origin.branch.to_string())) && is_same(1, timeline.map(|it| it.to_string()));
        if is_expected { Ok(()) } else { Err(DatabaseFault::Moved) }
    }
}

/// The rows of each call, or the first error.
pub(super) fn rows(answers: Answers) -> Result<Vec<Vec<Row>>, DatabaseFault> {
    answers.into_iter().collect()
}

/// Starts all of them in this order, then waits for each.
async fn in_order<F: Future>(futures: Vec<Pin<Box<F>>>) -> Vec<F::Output> {
    enum Started<F: Future> {
        Pending(Pin<Box<F>>),
        Done(F::Output),
    }
    let mut started = Vec::with_capacity(futures.len());
    for mut future in futures {
        // Each is polled again, with a waker, when its turn to be awaited comes.
        started.push(match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => Started::Done(done),
            Poll::Pending => Started::Pending(future),
        });
    }
    let mut done = Vec::with_capacity(started.len());
    for each in started {
        done.push(match each {
            Started::Pending(future) => future.await,
            Started::Done(output) => output,
        });
    }
    done
}
