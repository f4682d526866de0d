//! The upkeep of the database: finished output goes into blocks, and old deployments go. The room in the tables is
//! given back by PostgreSQL's own autovacuum.

use std::{sync::Arc, time::Duration};

use tokio_postgres::Row;

use super::{
    PostgresStore,
    fault::DatabaseFault,
    rows, schema,
    session::{self, BoundStatement, DatabaseSession, call},
    statements::Sql,
    transact::Engine,
};
use crate::{
    model::{ProjectName, Revision},
    store::{
        BoxFuture, StoreError,
        blocks::{BLOCK_BYTES, BLOCK_EVENTS, Block, StoredEvent},
        columns::millis,
        upkeep::{AgedDeployment, AgedHistory, Arrival, KeptAs, KeptDeployments, Upkeep, UpkeepMark},
    },
};

/// How many blocks, and how many rows of output, one transaction removes at most.
const BLOCKS_AT_ONCE: i64 = 8;
const ROWS_AT_ONCE: i64 = 500;

impl AgedHistory for PostgresStore {
    fn mark(&self, mark: UpkeepMark) -> BoxFuture<'_, Result<Option<i64>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::UpkeepMark, mark.as_str())).await?;
            found.first().map(|row| rows::get(row, 0)).transpose()
        })
    }

    fn newest(&self) -> BoxFuture<'_, Result<Option<(i64, i64)>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::Newest)).await?;
            found.first().map(|row| Ok((rows::get(row, 0)?, rows::get(row, 1)?))).transpose()
        })
    }

    fn project_rows(&self) -> BoxFuture<'_, Result<Vec<(i64, ProjectName)>, StoreError>> {
        super::read!(self, session => async {
            let project = |row: &Row| Ok((rows::get(row, 0)?, rows::name(row, 1)?));
            session.ask(call!(Sql::ProjectRows)).await?.iter().map(project).collect()
        })
    }

    fn forgotten_rows(&self) -> BoxFuture<'_, Result<Vec<i64>, StoreError>> {
        super::read!(self, session => async {
            session.ask(call!(Sql::ForgottenRows)).await?.iter().map(|row| rows::get(row, 0)).collect()
        })
    }

    fn kept(&self, project: i64, newest: u32) -> BoxFuture<'_, Result<KeptDeployments, StoreError>> {
        super::read!(self, session => async {
            let offset = i64::from(newest.saturating_sub(1));
            let calls = vec![call!(Sql::NewestFrom, project, offset), call!(Sql::Live, project)];
            let found = session.ask_together(calls).await?;
            let [newest_from, live] = found.as_slice() else {
                return Err(DatabaseFault::Mistaken("answers are missing"));
            };
            let newest_from = newest_from.first().map(|row| rows::number(row, 0).map(Revision)).transpose()?;
            let kept = |row: &Row| Ok((rows::get(row, 0)?, KeptAs::of(rows::get(row, 1)?)));
            Ok(KeptDeployments { newest_from, rows: live.iter().map(kept).collect::<Result<_, DatabaseFault>>()? })
        })
    }

    fn aged(
        &self,
        project: i64,
        after: Revision,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgedDeployment>, StoreError>> {
        super::read!(self, session => async {
            let aged = call!(Sql::Aged, project, rows::signed(after.0)?, bound(limit));
            session.ask(aged).await?.iter().map(deployment).collect()
        })
    }

    fn aged_outputs(
        &self,
        project: i64,
        after: Revision,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgedDeployment>, StoreError>> {
        super::read!(self, session => async {
            let aged = call!(Sql::AgedOutputs, project, rows::signed(after.0)?, bound(limit));
            session.ask(aged).await?.iter().map(deployment).collect()
        })
    }
}

impl Upkeep for PostgresStore {
    fn history(&self) -> &dyn AgedHistory {
        self
    }

    fn take_turn(&self, pause: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let claimed = session.write(call!(Sql::ClaimChore, "upkeep", rows::signed(millis(pause))?)).await?;
            Ok(!claimed.is_empty())
        })
    }

    fn set_mark(&self, mark: UpkeepMark, value: i64) -> BoxFuture<'_, Result<(), StoreError>> {
        super::read!(self, session => async {
            session.write(call!(Sql::SetUpkeepMark, mark.as_str(), value)).await.map(|_| ())
        })
    }

    fn arrivals(&self, after: i64, limit: usize) -> BoxFuture<'_, Result<Vec<Arrival>, StoreError>> {
        super::read!(self, session => async {
            let arrival = |row: &Row| {
                Ok(Arrival { row: rows::get(row, 0)?, is_final: rows::get(row, 1)?, is_unpacked: rows::get(row, 2)? })
            };
            session.ask(call!(Sql::Arrivals, after, bound(limit))).await?.iter().map(arrival).collect()
        })
    }

    fn unpacked(&self, row: i64) -> BoxFuture<'_, Result<Vec<StoredEvent>, StoreError>> {
        super::read!(self, session => async {
            let event = |row: &Row| {
                Ok(StoredEvent { seq: rows::number(row, 0)?, at: rows::get(row, 1)?, body: rows::get(row, 2)? })
            };
            session.ask(unpacked(row)).await?.iter().map(event).collect()
        })
    }

    fn pack(&self, row: i64, block: Block) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let Block { first_seq, last_seq, event_count, raw_bytes, body } = &block;
            let [first, last] = [rows::signed(*first_seq)?, rows::signed(*last_seq)?];
            let [raw_bytes, count] = [rows::signed(*raw_bytes)?, rows::signed(*event_count)?];
            let pack = call!(Sql::Pack, row, first, last, raw_bytes, body.clone(), count, schema::VERSION);
            match session.write(pack).await {
                Ok(_) => Ok(true),
                // The statement took itself back.
                Err(DatabaseFault::Driver(error)) if error.code().is_some_and(|code| code.code().starts_with("23")) => {
                    Ok(false)
                }
                Err(fault) => Err(fault),
            }
        })
    }

    fn finish_packing(&self, row: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            session.write(call!(Sql::FinishPacking, row)).await?;
            Ok(session.ask(unpacked(row)).await?.is_empty())
        })
    }

    fn remove_output(&self, row: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let calls = || {
                vec![
                    call!(Sql::DropBlocks, row, BLOCKS_AT_ONCE),
                    call!(Sql::DropOutput, row, ROWS_AT_ONCE),
                    call!(Sql::DropPacked, row),
                ]
            };
            let done = permitted(&self.engine, "remove", calls).await.map_err(DatabaseFault::into_store_error)?;
            let count: usize = done.iter().map(Vec::len).sum();
            Ok(count > 0)
        })
    }

    fn remove(&self, rows: Vec<i64>) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move {
            let calls = || {
                let of =
                    [Sql::DropKeysOf, Sql::DropBlocksOf, Sql::DropPackedOf, Sql::DropEventsOf, Sql::DropDeployments];
                of.map(|sql| call!(sql, rows.clone())).into()
            };
            let done = permitted(&self.engine, "remove", calls).await.map_err(DatabaseFault::into_store_error)?;
            Ok(done.last().map_or(0, Vec::len) as u64)
        })
    }

    fn drop_forgotten(&self, project: i64) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async move {
            let calls = || vec![call!(Sql::DropForgotten, project)];
            let done = permitted(&self.engine, "forget", calls).await.map_err(DatabaseFault::into_store_error)?;
            Ok(done.iter().any(|rows| !rows.is_empty()))
        })
    }

    fn give_back(&self) -> BoxFuture<'_, Result<bool, StoreError>> {
        Box::pin(async { Ok(false) })
    }
}

/// Carries these out in one transaction with a permit, which ends with it. They may be carried out twice, where an answer
/// is lost.
pub(super) async fn permitted(
    engine: &Arc<Engine>,
    permit: &'static str,
    calls: impl Fn() -> Vec<BoundStatement>,
) -> Result<Vec<Vec<Row>>, DatabaseFault> {
    let mut attempt = 1;
    loop {
        match once(engine, permit, calls()).await {
            Err(fault) if engine.may_retry(&fault, attempt) => attempt += 1,
            done => return done,
        }
    }
}

async fn once(
    engine: &Engine,
    permit: &'static str,
    mut calls: Vec<BoundStatement>,
) -> Result<Vec<Vec<Row>>, DatabaseFault> {
    let mut session = engine.session().await?;
    begin_permitted(&mut session, permit).await?;
    calls.push(call!(Sql::Commit));
    // The COMMIT after a statement that failed takes everything back.
    let mut done = session::rows(session.end(&calls).await?)?;
    done.pop();
    Ok(done)
}

/// Begins a transaction with a permit. After an error, none is open.
pub(super) async fn begin_permitted(session: &mut DatabaseSession, permit: &'static str) -> Result<(), DatabaseFault> {
    let begin = [call!(Sql::Begin), call!(Sql::HoldSchema), call!(Sql::TransactionNumber), call!(Sql::Permit, permit)];
    let begun = session.begin(&begin).await?;
    let allowed = session::rows(begun).and_then(|begun| {
        let version = begun.get(2).and_then(|rows| rows.first());
        schema::require_version(rows::get(version.ok_or(DatabaseFault::Mistaken("the database tells nothing"))?, 0)?)
    });
    if let Err(fault) = allowed {
        if !fault.breaks_connection() {
            session.end(&[call!(Sql::Rollback)]).await?;
        }
        return Err(fault);
    }
    Ok(())
}

fn unpacked(row: i64) -> BoundStatement {
    call!(Sql::Unpacked, row, bound(BLOCK_EVENTS), bound(BLOCK_BYTES))
}

fn deployment(row: &Row) -> Result<AgedDeployment, DatabaseFault> {
    Ok(AgedDeployment {
        row: rows::get(row, 0)?,
        ticket: Revision(rows::number(row, 1)?),
        created_at: rows::get(row, 2)?,
        ended_at: rows::get(row, 3)?,
        bytes: rows::number(row, 4)?,
        output_bytes: rows::number(row, 5)?,
    })
}

fn bound(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
