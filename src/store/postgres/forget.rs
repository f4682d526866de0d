//! Forgetting a project, in the database.

use super::{
    PostgresStore,
    fault::DatabaseFault,
    rows,
    session::{self, DatabaseSession, call},
    statements::Sql,
    text::escaped,
    upkeep::begin_permitted,
};
use crate::{
    model::ProjectName,
    store::{
        BoxFuture, StoreError,
        audit::NewAuditLine,
        forget::{ForgetOutcome, ForgetRoom, told},
    },
};

impl ForgetRoom for PostgresStore {
    fn forget(&self, project: ProjectName, line: NewAuditLine) -> BoxFuture<'_, Result<ForgetOutcome, StoreError>> {
        Box::pin(async move {
            let (name, line) = (&project, &line);
            let forgotten: BoxFuture<'_, _> = super::read!(self, session => forget(&mut session, name, line));
            let outcome = forgotten.await?;
            if matches!(outcome, ForgetOutcome::Forgotten { .. }) {
                let changes = told(name);
                (self.engine.on_commit)(name, &changes);
                self.engine.wakes.tell(&changes);
            }
            Ok(outcome)
        })
    }
}

async fn forget(
    session: &mut DatabaseSession,
    project: &ProjectName,
    line: &NewAuditLine,
) -> Result<ForgetOutcome, DatabaseFault> {
    begin_permitted(session, "forget").await?;
    let name = || project.as_str().to_owned();
    // The second statement sees whatever was committed before the first one had the lock.
    let look = [call!(Sql::LockToForget, name()), call!(Sql::LookToForget, name())];
    let found = session::rows(session.go_on(&look).await?).and_then(|found| {
        let row = found.get(1).and_then(|rows| rows.first());
        row.map(|row| Ok((rows::number(row, 0)?, rows::get::<bool>(row, 1)?))).transpose()
    });
    let deployment_count = match found {
        Ok(Some((deployment_count, false))) => deployment_count,
        other => {
            session.end(&[call!(Sql::Rollback)]).await?;
            return other.map(|found| found.map_or(ForgetOutcome::Unknown, |_| ForgetOutcome::InUse));
        }
    };
    let who = line.caller.as_ref().map(|caller| escaped(&caller.to_string()));
    let (address, request) = (line.address.map(|it| it.to_string()), line.request.as_ref().map(ToString::to_string));
    let (at, detail) = (line.at.as_millisecond(), escaped(&line.detail));
    let calls = [
        call!(Sql::RaiseFloor, name()),
        call!(Sql::TakeName, name()),
        call!(Sql::InsertAudit, at, name(), line.action, None::<uuid::Uuid>, detail, who, address, request),
        call!(Sql::Commit),
    ];
    session::rows(session.end(&calls).await?)?;
    Ok(ForgetOutcome::Forgotten { deployment_count })
}
