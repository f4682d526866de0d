//! Fills a database with all rows of another engine's store.
//!
//! It happens in one transaction. Before the commit, the rows are read again and compared with the sent ones. Until the
//! commit the rows are invisible, no server starts on the database, and an interruption leaves nothing behind.

use std::sync::Arc;

use futures_util::{TryStreamExt as _, pin_mut};
use tokio::sync::mpsc;
use tokio_postgres::{
    Client, Row, Transaction,
    binary_copy::BinaryCopyInWriter,
    error::SqlState,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::{
    connect::Connector,
    fault::{DatabaseFault, told},
    link::Link,
    rows, schema, text,
    wakes::served_key,
};
use crate::{
    config::PostgresUrl,
    store::{
        StoreError,
        copy::{CopiedTable, CopyPart, Progress, REVISION_LEAP, TABLES, Tally, Value, ValueKind},
        sqlite::Export,
    },
};

/// How long to wait for servers that are just shutting down.
const PATIENCE_MS: u32 = 5_000;
/// How many batches are read ahead.
const AHEAD: usize = 4;

/// An empty database.
pub struct Import {
    client: Client,
    schema: String,
}

impl Import {
    /// Connects to the database, makes its tables if needed, and checks that it is empty and that no server uses it.
    ///
    /// # Errors
    /// [`StoreError`] with what to do about it.
    pub async fn open(url: &PostgresUrl) -> Result<Import, StoreError> {
        let opened = async {
            let connector = Arc::new(Connector::new(url, 1)?);
            let (_, Link { mut client, .. }) = connector.first().await?;
            schema::migrate(&mut client, connector.schema()).await?;
            let mut import = Import { client, schema: connector.schema().to_owned() };
            import.lock().await?.rollback().await?;
            Ok(import)
        };
        opened.await.map_err(DatabaseFault::into_store_error)
    }

    /// Copies all rows. Returns the number of rows of each table.
    ///
    /// # Errors
    /// [`StoreError`] with what to do about it; then the database is unchanged. [`StoreError::Unknown`] if it is
    /// unknown whether the copy was committed.
    pub async fn copy_from(
        mut self,
        export: Export,
        progress: Progress<'_>,
    ) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let total = export.row_count()?;
        let (send, parts) = mpsc::channel(AHEAD);
        let sending = tokio::task::spawn_blocking(move || export.send(&send).map(|()| export));
        let filled = self.fill(parts, total, progress).await;
        let sent = sending.await.map_err(|error| StoreError::Unavailable(error.to_string()))?;
        match (filled, sent) {
            // Kept until here, because no server may use the file until the commit.
            (Ok(copied), Ok(_export)) => Ok(copied),
            // The side that failed first made the other one fail, too, and its error says more.
            (Err(DatabaseFault::Silent), Err(error)) => Err(error),
            (Err(fault), _) => Err(fault.into_store_error()),
            (Ok(_), Err(error)) => Err(error),
        }
    }

    async fn fill(
        &mut self,
        mut parts: mpsc::Receiver<CopyPart>,
        total: u64,
        progress: Progress<'_>,
    ) -> Result<Vec<(&'static str, u64)>, DatabaseFault> {
        let filling = self.lock().await?;
        // The numbers of events have gaps where output was cut. The trigger would refuse such gaps.
        filling.batch_execute("ALTER TABLE events DISABLE TRIGGER events_are_appended; DELETE FROM secrets; DELETE FROM revision_floor; DELETE FROM upkeep").await?;
        let (mut done, mut tallies) = (0, Vec::with_capacity(TABLES.len()));
        for table in TABLES {
            require_columns(&filling, table).await?;
            tallies.push(
                copy(&filling, table, &mut parts, &mut |count| {
                    done += count;
                    progress(done, total);
                })
                .await?,
            );
        }
        let mut copied = Vec::with_capacity(TABLES.len());
        for (table, sent) in TABLES.iter().zip(&tallies) {
            let found = tally(&filling, table).await?;
            if !found.agrees(sent) {
                return Err(unusable(format!(
                    "{}: {} rows were sent and {} came, or they came as others; nothing was copied",
                    table.name, sent.count, found.count
                )));
            }
            copied.push((table.name, found.count));
        }
        filling.batch_execute("ALTER TABLE events ENABLE TRIGGER events_are_appended").await?;
        // The file's server may be started once more. The revisions that it would hand out are not handed out here.
        for table in ["projects", "revision_floor"] {
            filling.execute(&format!("UPDATE {table} SET revision = revision + $1"), &[&REVISION_LEAP]).await?;
        }
        // From here on it is another store. A server behind a pooler in transaction mode holds no lock that would
        // reveal it. The missing row makes it stop, so that it does not continue with a secret that is no longer the
        // store's.
        filling.execute("DELETE FROM lineage", &[]).await?;
        for table in TABLES.iter().filter(|table| table.is_numbered) {
            let name = table.name;
            let follow = format!(
                "SELECT setval(pg_get_serial_sequence('{name}', 'number'), max(number)) FROM {name} HAVING count(*) > 0"
            );
            filling.batch_execute(&follow).await?;
        }
        filling.batch_execute("ANALYZE projects, deployments, events, idempotency_keys").await?;
        filling.commit().await.map_err(|error| match error.as_db_error() {
            Some(_) => DatabaseFault::Driver(error),
            None => DatabaseFault::Refused(StoreError::Unknown(format!(
                "{}; copy once more: it is refused if this was committed",
                told(&error)
            ))),
        })?;
        Ok(copied)
    }

    /// Begins a transaction that locks everybody else out of the database, which is empty.
    async fn lock(&mut self) -> Result<Transaction<'_>, DatabaseFault> {
        let schema = &self.schema;
        let settings = format!(
            "SET LOCAL search_path TO {schema}; SET LOCAL statement_timeout TO 0; \
             SET LOCAL lock_timeout TO {PATIENCE_MS}; SET LOCAL idle_in_transaction_session_timeout TO 0; \
             {}; SELECT pg_advisory_xact_lock({})",
            schema::lock(schema),
            served_key(schema)
        );
        let filling = self.client.transaction().await?;
        let locked = async {
            filling.batch_execute(&settings).await?;
            filling.batch_execute("LOCK TABLE projects IN EXCLUSIVE MODE").await
        };
        locked.await.map_err(|error| match error.code() {
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => {
                unusable("a server is running on the database; stop it first".to_owned())
            }
            Some(_) | None => DatabaseFault::Driver(error),
        })?;
        let used = filling
            .query_one(
                "SELECT (SELECT count(*) FROM projects), EXISTS (SELECT FROM deployments) OR EXISTS (SELECT FROM audit)",
                &[],
            )
            .await?;
        let (project_count, is_used): (i64, bool) = (rows::get(&used, 0)?, rows::get(&used, 1)?);
        if project_count > 0 || is_used {
            return Err(unusable(format!(
                "the database is not empty: it has {project_count} projects; give another one, or a schema of its own \
                 with ?schema="
            )));
        }
        Ok(filling)
    }
}

async fn require_columns(filling: &Transaction<'_>, table: &CopiedTable) -> Result<(), DatabaseFault> {
    let ask = "SELECT attname::text FROM pg_attribute \
        WHERE attrelid = to_regclass($1::text) AND attnum > 0 AND NOT attisdropped";
    let found = filling.query(ask, &[&table.name]).await?;
    let found: Vec<String> = found.iter().map(|row| rows::get(row, 0)).collect::<Result<_, _>>()?;
    Ok(table.require_columns(&found, false)?)
}

/// Writes a table's rows. Returns the tally of the sent rows.
async fn copy(
    filling: &Transaction<'_>,
    table: &CopiedTable,
    parts: &mut mpsc::Receiver<CopyPart>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<Tally, DatabaseFault> {
    let types: Vec<Type> = table.columns.iter().map(|column| type_of(column.kind)).collect();
    let sink = filling.copy_in(&format!("COPY {} ({}) FROM STDIN BINARY", table.name, table.names())).await?;
    let writer = BinaryCopyInWriter::new(sink, &types);
    pin_mut!(writer);
    loop {
        // The sender has failed, and reports why.
        match parts.recv().await.ok_or(DatabaseFault::Silent)? {
            CopyPart::Rows(rows) => {
                let count = rows.len() as u64;
                for row in rows {
                    let values = row.into_iter().zip(table.columns);
                    let values: Vec<_> =
                        values.map(|(value, column)| written(value, column.kind)).collect::<Result<_, _>>()?;
                    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| &**value as _).collect();
                    writer.as_mut().write(&values).await?;
                }
                progress(count);
            }
            CopyPart::End(tally) => {
                writer.finish().await?;
                return Ok(tally);
            }
        }
    }
}

/// The tally of the rows that a table contains.
async fn tally(filling: &Transaction<'_>, table: &CopiedTable) -> Result<Tally, DatabaseFault> {
    let ask = format!("SELECT {} FROM {} ORDER BY {}", table.names(), table.name, table.order);
    let found = filling.query_raw(&ask, std::iter::empty::<&(dyn ToSql + Sync)>()).await?;
    pin_mut!(found);
    let mut tally = Tally::new();
    while let Some(row) = found.try_next().await? {
        let values = table.columns.iter().enumerate().map(|(at, column)| read(&row, at, column.kind));
        tally.add(&values.collect::<Result<Vec<_>, _>>()?);
    }
    Ok(tally)
}

fn type_of(kind: ValueKind) -> Type {
    match kind {
        ValueKind::Integer => Type::INT8,
        ValueKind::Small => Type::INT2,
        ValueKind::Text | ValueKind::FreeText => Type::TEXT,
        ValueKind::Id => Type::UUID,
        ValueKind::Bytes => Type::BYTEA,
    }
}

fn written(value: Value, kind: ValueKind) -> Result<Box<dyn ToSql + Sync + Send>, DatabaseFault> {
    let other = || unusable("a row holds what does not belong there".to_owned());
    Ok(match (kind, value) {
        (ValueKind::Integer, Value::Null) => Box::new(None::<i64>),
        (ValueKind::Integer, Value::Integer(number)) => Box::new(number),
        (ValueKind::Small, Value::Null) => Box::new(None::<i16>),
        (ValueKind::Small, Value::Integer(number)) => Box::new(i16::try_from(number).map_err(|_| other())?),
        (ValueKind::Text | ValueKind::FreeText, Value::Null) => Box::new(None::<String>),
        (ValueKind::Text, Value::Text(text)) => Box::new(text),
        (ValueKind::FreeText, Value::Text(text)) => Box::new(text::escaped(&text)),
        (ValueKind::Id, Value::Null) => Box::new(None::<Uuid>),
        (ValueKind::Id, Value::Bytes(bytes)) => Box::new(Uuid::from_slice(&bytes).map_err(|_| other())?),
        (ValueKind::Bytes, Value::Null) => Box::new(None::<Vec<u8>>),
        (ValueKind::Bytes, Value::Bytes(bytes)) => Box::new(bytes),
        (ValueKind::Integer | ValueKind::Small, Value::Text(_) | Value::Bytes(_))
        | (ValueKind::Text | ValueKind::FreeText, Value::Integer(_) | Value::Bytes(_))
        | (ValueKind::Id | ValueKind::Bytes, Value::Integer(_) | Value::Text(_)) => return Err(other()),
    })
}

fn read(row: &Row, at: usize, kind: ValueKind) -> Result<Value, DatabaseFault> {
    Ok(match kind {
        ValueKind::Integer => rows::get::<Option<i64>>(row, at)?.map_or(Value::Null, Value::Integer),
        ValueKind::Small => {
            rows::get::<Option<i16>>(row, at)?.map_or(Value::Null, |number| Value::Integer(number.into()))
        }
        ValueKind::Text => rows::get::<Option<String>>(row, at)?.map_or(Value::Null, Value::Text),
        ValueKind::FreeText => {
            rows::get::<Option<&str>>(row, at)?.map_or(Value::Null, |text| Value::Text(text::unescaped(text)))
        }
        ValueKind::Id => {
            rows::get::<Option<Uuid>>(row, at)?.map_or(Value::Null, |id| Value::Bytes(id.into_bytes().to_vec()))
        }
        ValueKind::Bytes => rows::get::<Option<Vec<u8>>>(row, at)?.map_or(Value::Null, Value::Bytes),
    })
}

fn unusable(why: String) -> DatabaseFault {
    DatabaseFault::Refused(StoreError::Unusable(why))
}
