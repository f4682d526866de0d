//! The outbox of notifications in PostgreSQL, from which every server of the database sends. Times are the database's.

use std::time::Duration;

use jiff::Timestamp;
use tokio_postgres::Row;

use super::{PostgresStore, fault::DatabaseFault, rows, session::call, statements::Sql, text};
use crate::{
    model::{Caller, NotificationEvent, NotificationId},
    store::{
        BoxFuture, StoreError,
        notifications::{
            NO_RULE, NextDue, Notification, NotificationCounts, NotificationQuery, NotificationRoom, NotificationState,
            Settlement, kept_error, retried_entry,
        },
    },
};

impl NotificationRoom for PostgresStore {
    fn next_due(&self, rules: Vec<String>, _: Timestamp) -> BoxFuture<'_, Result<Vec<NextDue>, StoreError>> {
        super::read!(self, session => async {
            let due = |row: &Row| {
                let wait = Duration::from_millis(rows::number(row, 1)?);
                Ok(NextDue { rule: rows::get(row, 0)?, wait })
            };
            session.ask(call!(Sql::NextDueNotifications, rules.clone())).await?.iter().map(due).collect()
        })
    }

    fn claim(
        &self,
        rule: String,
        limit: usize,
        lease: Duration,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        Box::pin(async move {
            // Tried once: the claims of an attempt whose answer was lost run out.
            let claimed = async {
                let mut session = self.engine.session().await?;
                let found =
                    session.write(call!(Sql::ClaimNotifications, rule, limit, rows::bigint_millis(lease))).await?;
                let mut claimed = found.iter().map(notification).collect::<Result<Vec<_>, DatabaseFault>>()?;
                claimed.sort_by_key(|row| row.number);
                Ok(claimed)
            };
            claimed.await.map_err(DatabaseFault::into_store_error)
        })
    }

    fn settle(
        &self,
        claimed: Notification,
        settlement: Settlement,
        _: Timestamp,
    ) -> BoxFuture<'_, Result<bool, StoreError>> {
        let settle = move || {
            let id = claimed.id.to_string();
            let (number, claim_number) = (rows::signed(claimed.number)?, rows::signed(claimed.claim_number)?);
            let kept = |error: &str| text::escaped(&kept_error(error));
            Ok::<_, DatabaseFault>(match &settlement {
                Settlement::Done => call!(Sql::NotificationDone, number, claim_number, id),
                Settlement::Later { wait, error } => {
                    let error = error.as_deref().map(kept);
                    call!(Sql::NotificationLater, number, claim_number, id, rows::bigint_millis(*wait), error)
                }
                Settlement::Dead { error } => call!(Sql::NotificationDead, number, claim_number, id, kept(error)),
            })
        };
        // A second attempt after a lost answer finds another claim, or no row.
        super::read!(self, session => async { Ok(!session.write(settle()?).await?.is_empty()) })
    }

    fn end_claims(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        // The claims may be those of other servers, and run out by themselves.
        Box::pin(async { Ok(()) })
    }

    fn give_up(&self, rules: Vec<String>, before: Timestamp, _: Timestamp) -> BoxFuture<'_, Result<u64, StoreError>> {
        super::read!(self, session => async {
            let give_up = call!(Sql::GiveUpNotifications, rules.clone(), before.as_millisecond(), NO_RULE);
            Ok(session.write(give_up).await?.len() as u64)
        })
    }

    fn prune(&self, before: Option<Timestamp>, keep: usize) -> BoxFuture<'_, Result<u64, StoreError>> {
        let keep = i64::try_from(keep).unwrap_or(i64::MAX);
        super::read!(self, session => async {
            let prune = call!(Sql::PruneNotifications, before.map(Timestamp::as_millisecond), keep);
            Ok(session.write(prune).await?.len() as u64)
        })
    }

    fn counts(&self) -> BoxFuture<'_, Result<NotificationCounts, StoreError>> {
        super::read!(self, session => async {
            let found = session.ask(call!(Sql::CountNotifications)).await?;
            let row = found.first().ok_or(DatabaseFault::Mistaken("the database counts nothing"))?;
            Ok(NotificationCounts { pending_count: rows::number(row, 0)?, dead_count: rows::number(row, 1)? })
        })
    }

    fn page(&self, query: NotificationQuery) -> BoxFuture<'_, Result<Vec<Notification>, StoreError>> {
        let NotificationQuery { state, before, limit } = query;
        let before = before.and_then(|before| i64::try_from(before).ok()).unwrap_or(i64::MAX);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        super::read!(self, session => async {
            let wanted = match state {
                None => call!(Sql::Notifications, before, limit),
                Some(NotificationState::Pending) => call!(Sql::PendingNotifications, before, limit),
                Some(NotificationState::Dead) => call!(Sql::DeadNotifications, before, limit),
            };
            session.ask(wanted).await?.iter().map(notification).collect()
        })
    }

    fn by_id(&self, id: NotificationId) -> BoxFuture<'_, Result<Option<Notification>, StoreError>> {
        super::read!(self, session => async {
            session.ask(call!(Sql::NotificationById, id.to_string())).await?.first().map(notification).transpose()
        })
    }

    fn retry(
        &self,
        id: NotificationId,
        caller: Caller,
        now: Timestamp,
    ) -> BoxFuture<'_, Result<Option<Notification>, StoreError>> {
        Box::pin(async move {
            let (id, caller) = (&id, &caller);
            let retried: BoxFuture<'_, _> = super::read!(self, session => async {
                let by_id = || call!(Sql::NotificationById, id.to_string());
                let Some(row) = session.ask(by_id()).await?.first().map(notification).transpose()? else {
                    return Ok(None);
                };
                let entry = retried_entry(&row, caller.clone(), now);
                let (who, detail) = (text::escaped(&caller.identity.to_string()), text::escaped(&entry.detail));
                let address = caller.address.map(|address| address.to_string());
                let request = caller.request.as_ref().map(ToString::to_string);
                let at = now.as_millisecond();
                session
                    .write(call!(
                        Sql::RetryNotification,
                        id.to_string(),
                        at,
                        entry.action,
                        detail,
                        who,
                        address,
                        request
                    ))
                    .await?;
                session.ask(by_id()).await?.first().map(notification).transpose()
            });
            retried.await
        })
    }
}

fn notification(row: &Row) -> Result<Notification, DatabaseFault> {
    let unknown = |column: usize| rows::broken(column, "a word that this version does not know");
    let word = |column: usize| rows::get::<&str>(row, column);
    Ok(Notification {
        number: rows::number(row, 0)?,
        id: NotificationId::parse(word(1)?).ok_or_else(|| unknown(1))?,
        rule: rows::get(row, 2)?,
        event: NotificationEvent::of(word(3)?).ok_or_else(|| unknown(3))?,
        project: rows::name(row, 4)?,
        deployment: rows::id_or_none(row, 5)?,
        detail: rows::text_or_none(row, 6)?,
        at: rows::instant(row, 7)?,
        state: NotificationState::of(word(8)?).ok_or_else(|| unknown(8))?,
        attempt_count: rows::number(row, 9)?,
        claim_number: rows::number(row, 10)?,
        due_at: rows::instant(row, 11)?,
        error: rows::text_or_none(row, 12)?,
        dead_at: rows::instant_or_none(row, 13)?,
    })
}
