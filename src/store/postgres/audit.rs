//! The audit log in PostgreSQL, which all servers of the database write and read alike.

use tokio_postgres::Row;

use super::{
    PostgresStore,
    fault::DatabaseFault,
    rows,
    session::{DatabaseSession, call},
    statements::Sql,
    text,
};
use crate::store::{
    BoxFuture, StoreError,
    audit::{self, AuditLine, AuditPage, AuditQuery, AuditRoom, NewAuditLine},
};

impl AuditRoom for PostgresStore {
    fn append(&self, lines: Vec<NewAuditLine>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move {
            // Tried once, because a line that was written twice would stay.
            let written = async { append(&mut *self.engine.session().await?, &lines).await };
            written.await.map_err(DatabaseFault::into_store_error)
        })
    }

    fn audit_page(&self, query: AuditQuery) -> BoxFuture<'_, Result<AuditPage, StoreError>> {
        super::read!(self, session => page(&mut session, &query))
    }
}

async fn append(session: &mut DatabaseSession, lines: &[NewAuditLine]) -> Result<(), DatabaseFault> {
    fn column<T>(lines: &[NewAuditLine], value: impl FnMut(&NewAuditLine) -> T) -> Vec<T> {
        lines.iter().map(value).collect()
    }
    session
        .write(call!(
            Sql::AppendAudit,
            column(lines, |line| line.at.as_millisecond()),
            column(lines, |line| line.project.as_ref().map(|project| project.as_str().to_owned())),
            column(lines, |line| line.action),
            column(lines, |line| line.deployment.map(rows::uuid)),
            column(lines, |line| text::escaped(&line.detail)),
            column(lines, |line| line.caller.as_ref().map(|caller| text::escaped(&caller.to_string()))),
            column(lines, |line| line.address.map(|address| address.to_string())),
            column(lines, |line| line.request.as_ref().map(ToString::to_string)),
            column(lines, |line| i64::try_from(line.count).unwrap_or(i64::MAX)),
        ))
        .await
        .map(|_| ())
}

async fn page(session: &mut DatabaseSession, query: &AuditQuery) -> Result<AuditPage, DatabaseFault> {
    let last = session.ask(call!(Sql::AuditLast)).await?;
    let last = last.first().map_or(Ok(0), |row| rows::number(row, 0))?;
    let (low, before) = audit::span(query, last);
    let sql = match (query.deployment, &query.project) {
        (Some(_), _) => Sql::AuditOfDeployment,
        (None, Some(_)) => Sql::AuditOfProject,
        (None, None) => Sql::Audit,
    };
    let wanted = call!(
        sql,
        rows::signed(low)?,
        rows::signed(before)?,
        query.project.as_ref().map(|project| project.as_str().to_owned()),
        query.deployment.map(rows::uuid),
        query.since.map(|since| since.as_millisecond()),
        query.until.map(|until| until.as_millisecond()),
        query.action.clone(),
        query.caller.as_deref().map(text::escaped),
        i64::try_from(query.limit).unwrap_or(i64::MAX),
    );
    let older = call!(Sql::AuditOlder, rows::signed(low)?);
    let mut found = session.ask_together(vec![wanted, older]).await?;
    let older = found.pop().unwrap_or_default().first().map(|row| rows::instant(row, 0)).transpose()?;
    let lines = found.pop().unwrap_or_default().iter().map(line).collect::<Result<_, _>>()?;
    Ok(audit::page(query, lines, low, older))
}

fn line(row: &Row) -> Result<AuditLine, DatabaseFault> {
    Ok(AuditLine {
        number: rows::number(row, 0)?,
        at: rows::instant(row, 1)?,
        project: rows::text_or_none(row, 2)?.and_then(|name| name.parse().ok()),
        action: rows::text(row, 3)?,
        deployment: rows::id_or_none(row, 4)?,
        detail: rows::text(row, 5)?,
        caller: rows::text_or_none(row, 6)?,
        address: rows::text_or_none(row, 7)?,
        request: rows::text_or_none(row, 8)?,
        count: rows::number(row, 9)?,
        deployment_number: rows::get::<Option<i64>>(row, 10)?.and_then(|number| number.try_into().ok()),
    })
}
