//! Artifacts in the database: one row for each artifact, and one for each piece.
//!
//! Pieces are written one by one. Each write is guarded by the writer's identity and by the length so far. So a
//! repeated piece is written once, and a piece of a writer that was overtaken is not written at all.

use std::{error::Error, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio_postgres::{
    Row,
    types::{IsNull, ToSql, Type, to_sql_checked},
};
use uuid::Uuid;

use super::{
    PostgresStore,
    fault::DatabaseFault,
    rows, schema,
    session::{self, DatabaseSession, call},
    statements::Sql,
    transact::Engine,
};
use crate::{
    model::Digest,
    store::{
        BoxFuture, StoreError,
        artifacts::{SharedArtifacts, StoredArtifact, UNFINISHED_LIMIT, UploadStart, WRITER_LEASE, Writing},
        columns::millis,
    },
};

/// How often it is tried again when another upload begins at the same moment.
const BEGIN_LIMIT: u32 = 3;

impl SharedArtifacts for PostgresStore {
    fn want(&self, digest: Digest) -> BoxFuture<'_, Result<Option<u64>, StoreError>> {
        super::read!(self, session => async {
            let found = session.write(call!(Sql::WantArtifact, text(&digest))).await?;
            found.first().map(|row| rows::number(row, 0)).transpose()
        })
    }

    fn offset(&self, digest: Digest) -> BoxFuture<'_, Result<u64, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::ArtifactOffset, text(&digest))).await?;
            found.first().map_or(Ok(0), |row| rows::number(row, 0))
        })
    }

    fn begin(
        &self,
        digest: Digest,
        writer: Uuid,
        start: Option<u64>,
    ) -> BoxFuture<'_, Result<UploadStart, StoreError>> {
        super::read!(self, session => begin(&mut session, &digest, writer, start))
    }

    fn add(&self, writing: Writing, piece: Vec<u8>) -> BoxFuture<'_, Result<bool, StoreError>> {
        let piece = Piece(piece.into());
        super::read!(self, session => add(&mut session, writing, piece.clone()))
    }

    fn hold(&self, writing: Writing) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let held = session.write(call!(Sql::HoldArtifact, writing.artifact, writing.writer, lease()?)).await?;
            Ok(!held.is_empty())
        })
    }

    fn let_go(&self, writing: Writing) {
        let engine = self.engine.clone();
        // The client is gone, so no request waits for this; but the store's end waits for it.
        self.under_way.spawn(async move {
            let let_go = async {
                let mut session = engine.session().await?;
                session.write(call!(Sql::LetGoOfArtifact, writing.artifact, writing.writer)).await
            };
            if let Err(fault) = let_go.await {
                tracing::debug!(?fault, "an upload could not be let go of; it lapses by itself");
            }
        });
    }

    fn finish(&self, writing: Writing) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let Writing { artifact, writer, length } = writing;
            let finish = call!(Sql::FinishArtifact, artifact, writer, rows::signed(length)?, schema::VERSION);
            let finished = session.write(finish).await?;
            if !finished.is_empty() {
                return Ok(true);
            }
            // The answer to a first attempt may have been lost.
            let found = session.ask(call!(Sql::ArtifactState, artifact)).await?;
            found.first().map_or(Ok(false), |row| rows::get(row, 0))
        })
    }

    fn finish_as(&self, writing: Writing, digest: Digest) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let Writing { artifact, writer, length } = writing;
            session.write(call!(Sql::DropOtherParts, text(&digest), artifact)).await?;
            let length = rows::signed(length)?;
            let finish = call!(Sql::FinishArtifactAs, artifact, writer, length, schema::VERSION, text(&digest));
            session.write(finish).await?;
            // It is there now: by this attempt, by a first one whose answer was lost, or by another upload.
            Ok(!session.write(call!(Sql::WantArtifact, text(&digest))).await?.is_empty())
        })
    }

    fn discard(&self, writing: Writing) -> BoxFuture<'_, Result<(), StoreError>> {
        super::read!(self, session => async {
            session.write(call!(Sql::DiscardArtifact, writing.artifact, writing.writer)).await?;
            sweep(&self.engine).await
        })
    }

    fn read(&self, digest: Digest, start: u64, limit: usize) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::ReadArtifact, text(&digest), rows::signed(start)?, at_most(limit))).await?;
            piece(&found)
        })
    }

    fn read_unfinished(
        &self,
        writing: Writing,
        start: u64,
        limit: usize,
    ) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        super::read!(self, session => async {
            let Writing { artifact, writer, length: _ } = writing;
            let read = call!(Sql::ReadUnfinished, artifact, writer, rows::signed(start)?, at_most(limit));
            piece(&session.ask(read).await?)
        })
    }

    fn kept(&self) -> BoxFuture<'_, Result<Vec<StoredArtifact>, StoreError>> {
        super::read!(self, session => async {
            session.ask(call!(Sql::Artifacts)).await?.iter().map(kept).collect()
        })
    }

    fn remove(&self, seen: StoredArtifact) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let removed = session.write(call!(Sql::RemoveArtifact, text(&seen.digest), seen.mark)).await?;
            Ok(!removed.is_empty())
        })
    }

    fn sweep(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { sweep(&self.engine).await.map_err(DatabaseFault::into_store_error) })
    }

    fn is_retention_due(&self, pause: Duration) -> BoxFuture<'_, Result<bool, StoreError>> {
        super::read!(self, session => async {
            let claimed = session.write(call!(Sql::ClaimChore, "retention", rows::signed(millis(pause))?)).await?;
            Ok(!claimed.is_empty())
        })
    }
}

async fn begin(
    session: &mut DatabaseSession,
    digest: &Digest,
    writer: Uuid,
    start: Option<u64>,
) -> Result<UploadStart, DatabaseFault> {
    for _ in 0..BEGIN_LIMIT {
        let begun = begin_once(session, digest, writer, start).await;
        match begun {
            Ok(Some(begun)) => return Ok(begun),
            Ok(None) => {}
            Err(fault) => {
                if !fault.breaks_connection() {
                    session.end(&[call!(Sql::Rollback)]).await?;
                }
                return Err(fault);
            }
        }
    }
    Ok(UploadStart::Busy)
}

/// `None`: another upload began at the same moment.
async fn begin_once(
    session: &mut DatabaseSession,
    digest: &Digest,
    writer: Uuid,
    start: Option<u64>,
) -> Result<Option<UploadStart>, DatabaseFault> {
    let looked = session
        .begin(&[
            call!(Sql::Begin),
            call!(Sql::HoldSchema),
            call!(Sql::TransactionNumber),
            call!(Sql::LockArtifact, text(digest)),
            call!(Sql::UnfinishedCount),
        ])
        .await?;
    let looked = session::rows(looked)?;
    let [_, _, version, known, count] = looked.as_slice() else {
        return Err(DatabaseFault::Mistaken("answers are missing"));
    };
    let first = |rows: &[Row]| rows.first().cloned().ok_or(DatabaseFault::Mistaken("the database tells nothing"));
    schema::require_version(rows::get(&first(version)?, 0)?)?;
    let (unfinished_count, idle_count) = (rows::number(&first(count)?, 0)?, rows::number(&first(count)?, 1)?);
    let (mut calls, mut offset, mut taken_over) = (Vec::new(), 0, None);
    if let Some(row) = known.first() {
        let (artifact, is_whole, is_held): (i64, bool, bool) =
            (rows::get(row, 0)?, rows::get(row, 1)?, rows::get(row, 3)?);
        let bytes = rows::number(row, 2)?;
        let answer = match (is_whole, is_held, start) {
            (true, _, _) => Some(UploadStart::Whole),
            (false, true, _) => Some(UploadStart::Busy),
            (false, false, Some(start)) if start != bytes => Some(UploadStart::Offset(bytes)),
            (false, false, Some(_)) => {
                (offset, taken_over) = (bytes, Some(artifact));
                None
            }
            (false, false, None) => {
                calls.push(call!(Sql::DropArtifact, artifact));
                None
            }
        };
        if answer.is_some() {
            session.end(&[call!(Sql::Rollback)]).await?;
            return Ok(answer);
        }
    } else {
        let refused = match start {
            Some(start) if start != 0 => Some(UploadStart::Offset(0)),
            Some(_) | None if unfinished_count < UNFINISHED_LIMIT => None,
            Some(_) | None if idle_count == 0 => Some(UploadStart::TooMany),
            Some(_) | None => {
                calls.push(call!(Sql::DropOldestPart));
                None
            }
        };
        if refused.is_some() {
            session.end(&[call!(Sql::Rollback)]).await?;
            return Ok(refused);
        }
    }
    calls.push(match taken_over {
        Some(artifact) => call!(Sql::TakeArtifact, artifact, writer, lease()?),
        None => call!(Sql::NewArtifact, text(digest), writer, lease()?),
    });
    let place = calls.len() - 1;
    calls.push(call!(Sql::Commit));
    let done = session::rows(session.end(&calls).await?)?;
    let number = done.get(place).and_then(|rows| rows.first());
    let number = number.map(|row| rows::get::<i64>(row, 0)).transpose()?;
    Ok(number.map(|artifact| UploadStart::Go(Writing { artifact, writer, length: offset })))
}

/// Bytes that are sent again, without a copy of them, if the connection turns out to be broken.
#[derive(Clone, Debug)]
struct Piece(Arc<Vec<u8>>);

impl ToSql for Piece {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        self.0.as_slice().to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BYTEA
    }

    to_sql_checked!();
}

async fn add(session: &mut DatabaseSession, writing: Writing, piece: Piece) -> Result<bool, DatabaseFault> {
    let Writing { artifact, writer, length } = writing;
    let start = rows::signed(length)?;
    let end = rows::signed(length + piece.0.len() as u64)?;
    let add = call!(Sql::AddPiece, artifact, writer, start, piece, lease()?, schema::VERSION);
    let added = session.write(add).await?;
    if !added.is_empty() {
        return Ok(true);
    }
    // The answer to a first attempt may have been lost.
    let found = session.ask(call!(Sql::ArtifactState, artifact)).await?;
    let Some(row) = found.first() else { return Ok(false) };
    Ok(rows::get::<Option<Uuid>>(row, 1)? == Some(writer) && rows::get::<i64>(row, 2)? == end)
}

/// Removes the pieces of removed artifacts, a few at a time, so that no single step takes long.
async fn sweep(engine: &Engine) -> Result<(), DatabaseFault> {
    loop {
        let mut session = engine.session().await?;
        let swept = session.write(call!(Sql::SweepPieces)).await?;
        let count: i64 = swept.first().map_or(Ok(0), |row| rows::get(row, 0))?;
        if count == 0 {
            return Ok(());
        }
    }
}

fn kept(row: &Row) -> Result<StoredArtifact, DatabaseFault> {
    let digest: &str = rows::get(row, 0)?;
    Ok(StoredArtifact {
        digest: digest.parse().map_err(|error| DatabaseFault::Row(format!("{error}")))?,
        is_whole: rows::get(row, 1)?,
        bytes: rows::number(row, 2)?,
        unwanted_for: Duration::from_millis(rows::number(row, 3)?),
        mark: rows::get(row, 4)?,
    })
}

fn piece(found: &[Row]) -> Result<Option<Vec<u8>>, DatabaseFault> {
    let piece = found.first().map(|row| rows::get::<Vec<u8>>(row, 0)).transpose()?;
    // Past its end.
    Ok(piece.filter(|piece| !piece.is_empty()))
}

fn at_most(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

fn text(digest: &Digest) -> String {
    digest.as_str().to_owned()
}

fn lease() -> Result<i64, DatabaseFault> {
    rows::signed(millis(WRITER_LEASE))
}
